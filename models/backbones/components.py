"""Where a backbone's parts come from: a diffusers folder, or (models/backbones/tiny.py) random tiny ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


class Components(Protocol):
    """Each call makes a new instance; the backbone keeps what it asked for."""

    def transformer(self) -> Any: ...
    def vae(self) -> Any: ...
    def text_encoder(self) -> Any: ...
    def tokenizer(self) -> Any: ...
    def scheduler_config(self) -> dict[str, Any]: ...


class FolderComponents:
    """The parts of a pipeline that diffusers saved in ``folder``, read from disk only, safetensors only."""

    def __init__(self, folder: Path, transformer_class: str, vae_classes: tuple[str, ...], dtype: torch.dtype) -> None:
        self._folder = folder
        self._transformer_class = transformer_class
        self._dtype = dtype
        missing = [part for part in PARTS if not (folder / part).is_dir()]
        if missing:
            raise ValueError(
                f"{folder} is not a diffusers pipeline folder: {', '.join(missing)} missing; it should hold "
                f"{', '.join(PARTS)}, as DiffusionPipeline.save_pretrained writes them"
            )
        found = {part: _read_json(folder / part / "config.json").get("_class_name") for part in ("transformer", "vae")}
        for part, expected in (("transformer", (transformer_class,)), ("vae", vae_classes)):
            if found[part] not in expected:
                raise ValueError(
                    f"{folder / part} holds a {found[part]}, not a {' or '.join(expected)}: choose the family that fits it"
                )
        self._vae_class = str(found["vae"])

    def transformer(self) -> Any:
        import diffusers

        cls = getattr(diffusers, self._transformer_class)
        return cls.from_pretrained(self._folder / "transformer", torch_dtype=self._dtype, **_DISK_ONLY)

    def vae(self) -> Any:
        import diffusers

        from models.backbones.linear_codec import LinearVideoCodec

        own = {"LinearVideoCodec": LinearVideoCodec}
        cls = own.get(self._vae_class) or getattr(diffusers, self._vae_class)
        return cls.from_pretrained(self._folder / "vae", torch_dtype=self._dtype, **_DISK_ONLY)

    def text_encoder(self) -> Any:
        from transformers import T5EncoderModel

        return T5EncoderModel.from_pretrained(self._folder / "text_encoder", dtype=self._dtype, **_DISK_ONLY)

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._folder / "tokenizer", local_files_only=True)

    def scheduler_config(self) -> dict[str, Any]:
        return _read_json(self._folder / "scheduler" / "scheduler_config.json")


_DISK_ONLY: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold one JSON object")
    return content

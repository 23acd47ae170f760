"""Where a backbone's parts come from: a diffusers folder, or (models/backbones/tiny.py) random tiny ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
FURTHER_PARTS = ("text_encoder_2", "tokenizer_2")
"""What some families have beside the usual parts."""
_INDEX = "model_index.json"


class Components(Protocol):
    """Each call makes a new instance; the backbone keeps what it asked for."""

    def load(self, part: str, dtype: torch.dtype) -> Any:
        """A module with its weights, about in ``dtype``, or a tokenizer."""

    def skeleton(self, part: str) -> Any:
        """The module of the same shape with weights that mean nothing."""

    def scheduler_config(self) -> dict[str, Any]: ...

    def settings(self) -> dict[str, Any]:
        """What the pipeline itself was configured with, beside its parts."""


class FolderComponents:
    """The parts of a pipeline that diffusers saved in ``folder``, read from disk only, safetensors only.

    ``part_classes`` names the classes that may stand for each part; ValueError where the folder holds others.
    """

    def __init__(self, folder: Path, part_classes: Mapping[str, tuple[str, ...]], remedy: str = "") -> None:
        self._folder, self._classes = folder, dict(part_classes)
        wanted = {*PARTS, *part_classes}
        missing = [part for part in (*PARTS, *FURTHER_PARTS) if part in wanted and not (folder / part).is_dir()]
        if missing:
            raise ValueError(
                f"{folder} is not a diffusers pipeline folder: {', '.join(missing)} missing; it should hold "
                f"{', '.join(part for part in (*PARTS, *FURTHER_PARTS) if part in wanted)}, as "
                "DiffusionPipeline.save_pretrained writes them"
            )
        for part in ("transformer", "vae"):
            found, allowed = str(class_of(folder, part)), self._classes[part]
            if found not in allowed:
                raise ValueError(f"{folder / part} holds a {found}, not a {' or '.join(allowed)}{remedy}")
            self._classes[part] = (found,)

    def load(self, part: str, dtype: torch.dtype) -> Any:
        folder = self._folder / part
        if part.startswith("tokenizer"):
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        cls = part_class(self._classes[part][0])
        return cls.from_pretrained(folder, local_files_only=True, use_safetensors=True, **_in_dtype(part, dtype))

    def skeleton(self, part: str) -> Any:
        cls = part_class(self._classes[part][0])
        return cls.from_config(_read_json(self._folder / part / "config.json"))

    def scheduler_config(self) -> dict[str, Any]:
        return _read_json(self._folder / "scheduler" / "scheduler_config.json")

    def settings(self) -> dict[str, Any]:
        return settings_of(self._folder)


def part_class(name: str) -> Any:
    """A class by its name: our linear codec, a diffusers model or a transformers encoder."""
    import diffusers
    import transformers

    from models.backbones.linear_codec import LinearVideoCodec

    if name == "LinearVideoCodec":
        return LinearVideoCodec
    return getattr(diffusers, name, None) or getattr(transformers, name)


def cast_as_loaded(module: Any, dtype: torch.dtype) -> Any:
    """``module`` in the dtypes that from_pretrained would give it: what its class keeps in float32 stays so, and buffers
    stay as they were computed."""
    import torch
    from diffusers import ModelMixin

    # transformers keeps such modules in float32 beside float16 alone.
    keeps = isinstance(module, ModelMixin) or dtype == torch.float16
    keep = getattr(module, "_keep_in_fp32_modules", None) or () if keeps else ()
    for name, parameter in module.named_parameters():
        wanted = torch.float32 if any(part in name.split(".") for part in keep) else dtype
        if parameter.is_floating_point() and parameter.dtype != wanted:
            parameter.data = parameter.data.to(wanted)
    return module


def class_of(folder: Path, part: str) -> str | None:
    """The class that ``folder`` names for a part; None where it names none."""
    return _read_json(folder / part / "config.json").get("_class_name")


def settings_of(folder: Path) -> dict[str, Any]:
    """What model_index.json configures beside its parts, such as ``expand_timesteps``; empty without that file."""
    path = folder / _INDEX
    if not path.is_file():
        return {}
    return {
        key: value
        for key, value in _read_json(path).items()
        if not key.startswith("_") and not isinstance(value, list) and value is not None
    }


def _in_dtype(part: str, dtype: torch.dtype) -> dict[str, Any]:
    return {"dtype" if part.startswith("text_encoder") else "torch_dtype": dtype}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold one JSON object")
    return content

"""The CLIP encoder of the curation scores: image and text towers of open_clip, and a linear aesthetic head upon them.

Weights come from a file that the caller names; a missing file is an error, never a silently random model. ``tiny-random``
is the one exception, and says so in its name: open_clip's own CLIP class at toy size with seeded random weights, to run
the whole road on machines without weights. Its scores mean nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from models import embedded

TINY = "tiny-random"
LOCAL = "local-dir:"  # open_clip's own scheme: a folder with open_clip_config.json and weights

# A CLIP small enough to build in a blink; pictures of 64 px in 16 px patches keep a trace of layout
_TINY_EMBED = 64
_TINY_VISION = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 64}
_TINY_TEXT = {"layers": 2, "width": 64, "heads": 2}


class EncoderError(ValueError):
    """The encoder cannot be loaded as asked; the message names the file or model and the remedy."""


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder.

    ``model``: ``tiny-random``, a name of ``open_clip.list_models()`` (then ``weights`` is a file), ``local-dir:FOLDER`` in
    open_clip's layout, or ``embedded:tinyworld``, the encoder of the rendered world (as ``aesthetic_head``: its head).
    ``sha256`` pins the weights file, ``aesthetic_sha256`` the head. ``aesthetic_head``: a file with a linear map from the
    unit image embedding to a score of 1..10, as the LAION predictors have. ``precision``: fp32 or bf16
    weights. ``seed`` is used by ``tiny-random`` alone.
    """

    model: str = TINY
    weights: str | None = None
    sha256: str | None = None
    aesthetic_head: str | None = None
    aesthetic_sha256: str | None = None
    precision: str = "fp32"
    seed: int = 0


def _located(spec: EncoderSpec) -> EncoderSpec:
    """The spec with the embedded encoder's name turned into the folder and file that it stands for."""
    if embedded.NAME in (spec.model, spec.aesthetic_head) and not embedded.ENCODER.is_dir():
        raise EncoderError(f"encoder {embedded.NAME} is not trained yet; make embedded trains it.")
    if spec.model == embedded.NAME:
        spec = replace(spec, model=f"{LOCAL}{embedded.ENCODER}")
    if spec.aesthetic_head == embedded.NAME:
        spec = replace(spec, aesthetic_head=str(embedded.AESTHETIC_HEAD))
    return spec


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_file(spec: EncoderSpec) -> Path | None:
    """The weights file of a spec, or None for ``tiny-random``. Raises ``EncoderError`` when it is not there."""
    spec = _located(spec)
    if spec.model == TINY:
        if spec.weights:
            raise EncoderError(
                f"encoder {TINY} takes no weights, but weights={spec.weights} is set. Name the real model."
            )
        return None
    if spec.model.startswith(LOCAL):
        folder = Path(spec.model[len(LOCAL) :])
        if not (folder / "open_clip_config.json").is_file():
            raise EncoderError(f"encoder {spec.model}: {folder} holds no open_clip_config.json. Check the path.")
        for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"):
            if (folder / name).is_file():
                return folder / name
        raise EncoderError(f"encoder {spec.model}: {folder} holds no open_clip_model.safetensors.")
    if not spec.weights:
        raise EncoderError(
            f"encoder {spec.model} has no weights. Set weights to the checkpoint's file; without one its scores would be "
            f"random. To run without weights on purpose, set model to {TINY}."
        )
    if not Path(spec.weights).is_file():
        raise EncoderError(f"encoder {spec.model}: the weights file {spec.weights} does not exist. Check the path.")
    return Path(spec.weights)


def encoder_digests(spec: EncoderSpec) -> dict[str, str]:
    """Digests of the files behind a spec, and checks of its pins; imports no torch.

    Keys ``encoder`` and, with a head, ``aesthetic_head``. Raises ``EncoderError`` for a missing file, a wrong digest or an
    unknown precision.
    """
    spec = _located(spec)
    if spec.precision not in ("fp32", "bf16"):
        raise EncoderError(f"encoder precision {spec.precision} is not known; use fp32 or bf16.")
    digests = {}
    file = weights_file(spec)
    if file is None:
        digests["encoder"] = f"{TINY} seed {spec.seed}"
    else:
        digests["encoder"] = _pinned(file, spec.sha256, "weights")
        if spec.model.startswith(LOCAL):
            digests["encoder_config"] = file_sha256(file.parent / "open_clip_config.json")
    if spec.aesthetic_head is not None:
        if not Path(spec.aesthetic_head).is_file():
            raise EncoderError(
                f"the aesthetic head {spec.aesthetic_head} does not exist. Check the path, or leave it out."
            )
        digests["aesthetic_head"] = _pinned(Path(spec.aesthetic_head), spec.aesthetic_sha256, "aesthetic head")
    return digests


def _pinned(file: Path, pin: str | None, what: str) -> str:
    found = file_sha256(file)
    if pin is not None and found != pin.lower():
        raise EncoderError(
            f"the {what} {file} has sha256 {found}, but {pin} was asked for. Fetch the right file or fix the pin."
        )
    return found


def encoder_name(spec: EncoderSpec) -> str:
    """Name and weights of the encoder as the ``encoder`` column holds it."""
    suffix = "" if spec.precision == "fp32" else f", {spec.precision}"
    if spec.model == TINY:
        return f"{TINY} (random weights, seed {spec.seed}{suffix})"
    name = Path(spec.model[len(LOCAL) :]).name if spec.model.startswith(LOCAL) else spec.model
    return f"{name} (sha256 {encoder_digests(spec)['encoder'][:16]}{suffix})"


class ClipTower:
    """Image and text towers in one process. Building it checks the pins and loads the weights strictly."""

    def __init__(self, spec: EncoderSpec, device: str = "cpu", batch: int = 32) -> None:
        from models.compat import prepare

        prepare()
        import open_clip
        import torch

        encoder_digests(spec)
        self.device, self.batch = device, batch
        self.dtype = torch.float32 if spec.precision == "fp32" else torch.bfloat16
        self.model = _build(spec).to(device=device, dtype=self.dtype).eval().requires_grad_(False)
        preprocess = open_clip.transform.PreprocessCfg(**self.model.visual.preprocess_cfg)
        self.transform = open_clip.transform.image_transform_v2(preprocess, is_train=False)
        self.tokenizer = _tokenizer(spec)

    def images(self, pictures: Sequence[bytes]) -> np.ndarray:
        """Unit embeddings of encoded pictures (JPEG, PNG): float32, shape (N, D). A picture that does not decode raises."""
        import torch
        from PIL import Image

        parts = []
        for start in range(0, len(pictures), self.batch):
            tensors = [
                self.transform(Image.open(io.BytesIO(raw)).convert("RGB"))
                for raw in pictures[start : start + self.batch]
            ]
            with torch.inference_mode():
                pixels_BCHW = torch.stack(tensors).to(device=self.device, dtype=self.dtype)
                parts.append(_unit(self.model.encode_image(pixels_BCHW)))
        return _stack(parts, self.dim)

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Unit embeddings of captions: float32, shape (N, D). Text beyond the context length is cut by the tokenizer."""
        import torch

        parts = []
        for start in range(0, len(captions), self.batch):
            tokens_BL = self.tokenizer(list(captions[start : start + self.batch])).to(self.device)
            with torch.inference_mode():
                parts.append(_unit(self.model.encode_text(tokens_BL)))
        return _stack(parts, self.dim)

    @property
    def dim(self) -> int:
        projection: Any = getattr(self.model, "text_projection", None)
        return int(projection.shape[-1]) if hasattr(projection, "shape") else int(self.model.visual.output_dim)


def _unit(features_BD: Any) -> np.ndarray:
    values = features_BD.float()
    return np.asarray((values / values.norm(dim=-1, keepdim=True)).cpu().numpy(), dtype=np.float32)


def _stack(parts: list[np.ndarray], dim: int) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros((0, dim), np.float32)


def _build(spec: EncoderSpec) -> Any:
    import open_clip
    import torch

    spec = _located(spec)
    if spec.model == TINY:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            model = open_clip.CLIP(
                _TINY_EMBED, open_clip.CLIPVisionCfg(**_TINY_VISION), open_clip.CLIPTextCfg(**_TINY_TEXT)
            )
        size = _TINY_VISION["image_size"]
        open_clip.model.set_model_preprocess_cfg(
            model, {**open_clip.transform.PreprocessCfg().__dict__, "size": (size, size)}
        )
        return model
    try:
        if spec.model.startswith(LOCAL):
            return open_clip.create_model(spec.model, require_pretrained=True, weights_only=True)
        return open_clip.create_model(spec.model, pretrained=spec.weights, require_pretrained=True, weights_only=True)
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise EncoderError(
            f"encoder {spec.model}: open_clip cannot load it from {weights_file(spec)}: {error}. "
            "The model name must be one of open_clip.list_models() and the weights must be of that model."
        ) from error


def _tokenizer(spec: EncoderSpec) -> Any:
    import open_clip

    if spec.model == TINY:
        return open_clip.SimpleTokenizer()
    return open_clip.get_tokenizer(_located(spec).model)


# -- aesthetic head --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearHead:
    """``score = embedding @ weight + bias``; weight float32 of shape (D,)."""

    weight: np.ndarray
    bias: float

    def __call__(self, embeddings_ND: np.ndarray) -> np.ndarray:
        return np.asarray(embeddings_ND.astype(np.float64) @ self.weight.astype(np.float64) + self.bias)


def load_head(path: str | Path) -> LinearHead:
    """Read an aesthetic head: one linear layer, or a stack of linear layers with nothing between them.

    Both forms of LAION's aesthetic predictors are linear: the first is one layer, the "improved" one five layers whose
    activations were left out (github.com/christophschuhmann/improved-aesthetic-predictor), which multiply to one map.
    Accepts safetensors, or a torch file read with ``weights_only``. Raises ``EncoderError``.
    """
    state = _state(embedded.AESTHETIC_HEAD if path == embedded.NAME else Path(path))
    layers = sorted(
        {name.rsplit(".", 1)[0] for name in state if name.endswith(".weight") or name == "weight"}, key=_layer_order
    )
    try:
        weight, bias = None, None
        for layer in layers:
            prefix = "" if layer == "weight" else f"{layer}."
            w, b = state[f"{prefix}weight"].astype(np.float64), state[f"{prefix}bias"].astype(np.float64)
            weight, bias = (w, b) if weight is None or bias is None else (w @ weight, w @ bias + b)
        if weight is None or bias is None or weight.shape[0] != 1:
            raise ValueError("no linear map to one score")
    except (KeyError, ValueError) as error:
        raise EncoderError(
            f"the aesthetic head {path} is not a stack of linear layers to one score ({error}); its tensors are "
            f"{json.dumps({k: list(v.shape) for k, v in state.items()})}."
        ) from error
    return LinearHead(weight[0].astype(np.float32), float(bias[0]))


def _layer_order(name: str) -> tuple[int, str]:
    digits = "".join(c for c in name if c.isdigit())
    return (int(digits) if digits else 0, name)


def _state(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return dict(load_file(path))
        import torch

        return {k: v.float().numpy() for k, v in torch.load(path, map_location="cpu", weights_only=True).items()}
    except Exception as error:  # each reader has its own family of errors; the user needs the file's name
        raise EncoderError(f"the aesthetic head {path} cannot be read: {error}") from error

"""Scores by any network a user has as an exported program or as TorchScript, e.g. a video-quality model in the manner of DOVER."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.dear.base import DearSpec, Pictures, dear_digests, model_path, per_picture
from models.scorers.errors import ScorerError

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which most networks were trained with


class Network:
    """A file of ``torch.export.save`` (suffix .pt2) or of TorchScript, which torch calls deprecated: float32 RGB in, scores out.

    Options: ``size`` (px, the picture's short side is scaled to it and the middle square cut out; default 224), ``mean`` and
    ``std`` a channel (default ImageNet's), ``input``: ``pictures`` for networks that take [N, 3, S, S] and ``clip`` for those
    that take the key frames of a clip as [N, 3, T, S, S]. The network returns [N] or [N, columns]; ``labels`` names the columns
    of the latter, as ``model_<name>_<label>``.
    """

    version: ClassVar[str] = "1"

    def __init__(self, spec: DearSpec, device: str, batch: int) -> None:
        import torch

        path = model_path(spec)
        dear_digests(spec)  # before it is opened, for opening it runs it
        self.spec, self.device, self.batch = spec, device, batch
        self.size = int(spec.options.get("size", 224))
        self.whole_clips = spec.options.get("input", "pictures") == "clip"
        shape = (1, 3, 1, 1)
        self.mean = torch.tensor(spec.options.get("mean", _MEAN), dtype=torch.float32).reshape(shape)
        self.std = torch.tensor(spec.options.get("std", _STD), dtype=torch.float32).reshape(shape)
        try:
            if path.suffix == ".pt2":
                self.model: Any = torch.export.load(path).module().to(device)
            else:
                self.model = torch.jit.load(path, map_location=device).eval()
        except (OSError, RuntimeError, ValueError) as error:
            raise ScorerError(f"scorer {spec.name}: torch cannot load {path}: {error}") from error

    @staticmethod
    def columns(spec: DearSpec) -> tuple[Field, ...]:
        by = f"by {spec.model}" + ("" if spec.options.get("input") == "clip" else f", {spec.reduce} over key frames")
        names = {f"{spec.column}_{label}": label for label in spec.labels} or {spec.column: spec.name}
        return tuple(Field(name, pa.float64(), f"{label} {by}", "the model's own") for name, label in names.items())

    def __call__(self, clips: Sequence[Pictures]) -> np.ndarray:
        if not self.whole_clips:
            return per_picture(clips, self.batch, self.spec.reduce, self._pictures, self._width)
        out = np.full((len(clips), self._width), np.nan)
        for length in sorted({len(clip) for clip in clips} - {0}):  # clips of as many key frames go through together
            places = [n for n, clip in enumerate(clips) if len(clip) == length]
            for start in range(0, len(places), max(1, self.batch // length)):
                part = places[start : start + max(1, self.batch // length)]
                out[part] = self._clips([clips[n] for n in part])
        return out

    @property
    def _width(self) -> int:
        return max(1, len(self.spec.labels))

    def _pictures(self, pictures: Pictures) -> np.ndarray:
        return self._forward(self._tensor(pictures))

    def _clips(self, clips: Sequence[Pictures]) -> np.ndarray:
        import torch

        return self._forward(torch.stack([self._tensor(clip).movedim(0, 1) for clip in clips]))

    def _tensor(self, pictures: Pictures) -> Any:
        import torch

        squares = np.stack([_square(picture, self.size) for picture in pictures])
        return (torch.from_numpy(squares).movedim(-1, 1).float() / 255.0 - self.mean) / self.std

    def _forward(self, values: Any) -> np.ndarray:
        import torch

        with torch.inference_mode():
            scores = self.model(values.to(self.device))
        if not isinstance(scores, torch.Tensor) or scores.numel() != len(values) * self._width:
            shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise ScorerError(
                f"scorer {self.spec.name}: the network returned {shape} for {len(values)} inputs; "
                f"{self._width} number(s) for each are expected (name the columns with labels)"
            )
        return np.asarray(scores.reshape(len(values), self._width).double().cpu().numpy())


def _square(picture: np.ndarray, size: int) -> np.ndarray:
    """The middle square, uint8 [size, size, 3]."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = picture[top : top + side, left : left + side]
    return cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)

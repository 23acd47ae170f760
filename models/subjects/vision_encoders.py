"""DINOv2 (arXiv 2304.07193) and CLIP (arXiv 2103.00020) as identity encoders, by transformers' own classes."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.subjects.protocols import F32, U8
from models.subjects.weights import Weights


class _Encoder(abc.ABC):
    """Crops with what lies outside their mask painted in the mean colour that the model is normalised by."""

    kind: str
    width_key: str

    def __init__(self, weights: Weights, model: Any, processor: Any, *, device: str, batch: int) -> None:
        self.name = weights.name(self.kind)
        self.model, self.processor = weights.load(model, device), weights.processor(processor)
        self.device, self.batch = device, batch
        self.width = int(getattr(self.model.config, self.width_key))
        self.fill = np.round(np.asarray(self.processor.image_mean) * 255).astype(np.uint8)

    def encode(self, pictures: Sequence[U8], masks: Sequence[U8]) -> F32:
        """See ``IdentityEncoder.encode``. Raises ``ValueError`` for an empty mask or one of another size than its picture."""
        import torch

        if len(pictures) != len(masks):
            raise ValueError(f"{len(pictures)} pictures but {len(masks)} masks: each picture needs its mask")
        shown = [self._shown(p, m) for p, m in zip(pictures, masks, strict=True)]
        parts = []
        for start in range(0, len(shown), self.batch):
            inputs = self.processor(images=shown[start : start + self.batch], return_tensors="pt").to(self.device)
            with torch.inference_mode():
                parts.append(self._features(self.model(pixel_values=inputs["pixel_values"])).float().cpu().numpy())
        if not parts:
            return np.zeros((0, self.width), np.float32)
        values = np.concatenate(parts).astype(np.float32)
        return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12), np.float32)

    def _shown(self, picture: U8, mask: U8) -> U8:
        if picture.shape[:2] != mask.shape[:2]:
            raise ValueError(f"picture is {picture.shape[:2]}, its mask {mask.shape[:2]}: they must have one size")
        if not (mask > 127).any():
            raise ValueError("the mask is empty: there is no subject to describe")
        return np.where((mask > 127)[..., None], picture, self.fill).astype(np.uint8)

    @abc.abstractmethod
    def _features(self, output: Any) -> Any:
        """The embedding in a model's output: (N, width)."""


class Dinov2Encoder(_Encoder):
    """The class token of the last layer."""

    kind, width_key = "dinov2", "hidden_size"

    def __init__(self, weights: Weights, *, device: str = "cpu", batch: int = 32) -> None:
        from models.compat import prepare

        prepare()
        from transformers import BitImageProcessor, Dinov2Model

        super().__init__(weights, Dinov2Model, BitImageProcessor, device=device, batch=batch)

    def _features(self, output: Any) -> Any:
        return output.last_hidden_state[:, 0]


class ClipEncoder(_Encoder):
    """The projected image embedding."""

    kind, width_key = "clip", "projection_dim"

    def __init__(self, weights: Weights, *, device: str = "cpu", batch: int = 32) -> None:
        from models.compat import prepare

        prepare()
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        super().__init__(weights, CLIPVisionModelWithProjection, CLIPImageProcessor, device=device, batch=batch)

    def _features(self, output: Any) -> Any:
        return output.image_embeds

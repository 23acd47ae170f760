"""DINO's image encoder from a folder of a user's: DINO (``facebook/dino-vits16`` and its kin) or DINOv2, by transformers.

Pictures are brought to a shorter side of 256 px (bicubic), cut to the middle 224 px and normalised by ImageNet's statistics,
as DreamBooth's evaluation and DINOv2's own processor do; the class token after the last norm is the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.metrics.tools import PictureEncoder
from models.scorers.clip_tower import file_sha256
from models.subjects.protocols import F32, U8

RESIZED, CUT = 256, 224
MEAN, SPREAD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
BATCH = 32
WEIGHTS = "model.safetensors"
FAMILIES = ("vit", "dinov2", "dinov2_with_registers")  # of transformers; DINO's first version is a plain ViT


def dino_digest(folder: str) -> str:
    """sha256 of the weights in a folder. ``ValueError`` when there are none; imports no torch."""
    weights = Path(folder) / WEIGHTS
    if not weights.is_file() or not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"dino {folder}: there is no config.json beside a {WEIGHTS}. Name the folder of a DINO or DINOv2 model as the hub "
            "stores it (pickled weights are not read)."
        )
    return file_sha256(weights)


class DinoEncoder:
    """Satisfies ``PictureEncoder``. Building it loads the weights strictly: a head is left out, nothing may be missing."""

    def __init__(self, folder: str) -> None:
        from models.compat import prepare

        prepare()
        from transformers import AutoConfig, AutoModel

        self.name = f"dino {Path(folder).name} (sha256 {dino_digest(folder)[:16]})"
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type not in FAMILIES:
            raise ValueError(f"dino {folder}: a {config.model_type} model, not one of {', '.join(FAMILIES)}")
        # A pooling layer, which DINO has not and transformers would make up at random, is not asked for.
        extra = {"add_pooling_layer": False} if config.model_type == "vit" else {}
        model, loaded = AutoModel.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True, **extra
        )
        missing = sorted(loaded["missing_keys"])
        if missing:
            raise ValueError(
                f"dino {folder}: the weights lack {', '.join(missing[:3])}{' and more' * (len(missing) > 3)}"
            )
        self.model: Any = model.eval().requires_grad_(False)

    def encode(self, pictures: Sequence[U8]) -> F32:
        import torch

        parts = []
        for start in range(0, len(pictures), BATCH):
            pixels = np.stack([_prepared(p) for p in pictures[start : start + BATCH]])
            with torch.inference_mode():
                tokens = self.model(pixel_values=torch.from_numpy(pixels)).last_hidden_state[:, 0].float().numpy()
            parts.append(tokens / np.linalg.norm(tokens, axis=1, keepdims=True))
        return np.concatenate(parts).astype(np.float32)


class CachedEncoder:
    """An encoder that remembers the pictures of the video at hand, so that several metrics cost one pass."""

    def __init__(self, encoder: PictureEncoder) -> None:
        self.encoder, self.name = encoder, encoder.name
        self._known: dict[tuple[bytes, tuple[int, ...]], F32] = {}

    def encode(self, pictures: Sequence[U8]) -> F32:
        import hashlib

        keys = [(hashlib.sha256(p.tobytes()).digest(), p.shape) for p in pictures]
        new = {k: p for k, p in zip(keys, pictures, strict=True) if k not in self._known}
        if new:
            self._known.update(zip(new, self.encoder.encode(list(new.values())), strict=True))
        return np.stack([self._known[k] for k in keys])


def _prepared(picture_HWC: U8) -> F32:
    from PIL import Image

    height, width = picture_HWC.shape[:2]
    scale = RESIZED / min(height, width)
    size = (max(RESIZED, round(width * scale)), max(RESIZED, round(height * scale)))
    whole = np.asarray(Image.fromarray(picture_HWC).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - CUT) // 2, (size[0] - CUT) // 2
    cut = whole[top : top + CUT, left : left + CUT].astype(np.float32) / 255.0
    return np.ascontiguousarray(((cut - MEAN) / SPREAD).transpose(2, 0, 1))

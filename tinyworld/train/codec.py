"""Fits the linear codec: principal components of patches, those of the subject counting fourfold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.linear_codec import LinearVideoCodec
from tinyworld.train.scenes import any_scene, render

CHANNELS = 48
CLIPS = 3000
SUBJECT_WEIGHT = 3.0
"""What a patch counts more when the subject covers a twentieth of it or more."""


def to_unit(videos: Iterable[Any]) -> Tensor:
    """uint8 FHWC videos to (B, 3, F, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.stack(list(videos)).astype(np.float32) / 127.5 - 1.0).permute(0, 4, 1, 2, 3).contiguous()


def from_unit(videos_BCFHW: Tensor) -> np.ndarray:
    """(B, 3, F, H, W) in about [-1, 1] to uint8 (B, F, H, W, 3)."""
    scaled = ((videos_BCFHW.detach().float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.permute(0, 2, 3, 4, 1).contiguous().to(torch.uint8).numpy()


def mask_share(masks_BFHW: Tensor) -> Tensor:
    """(B, F, H, W) share of each latent pixel that the subject covers, from (B, frames, H, W) masks in 0..1."""
    whole = torch.cat([masks_BFHW[:, :1].expand(-1, 4, -1, -1), masks_BFHW[:, 1:]], dim=1)
    return F.avg_pool3d(whole[:, None], 4)[:, 0]


def fit(clips: int = CLIPS, channels: int = CHANNELS) -> LinearVideoCodec:
    """The codec fitted to ``clips`` training scenes; deterministic, in about half a minute."""
    codec = LinearVideoCodec(latent_channels=channels)
    size = codec.mean.numel()
    total, first, second = 0.0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for start in range(0, clips, 250):
        shown = [render(any_scene(seed, purpose="codec")) for seed in range(start, min(clips, start + 250))]
        patches = codec.patches(to_unit(clip.video for clip in shown)).flatten(0, 3).double()
        share = mask_share(torch.from_numpy(np.stack([clip.mask for clip in shown]).astype(np.float32) / 255)).flatten()
        weight = (1 + SUBJECT_WEIGHT * (share > 0.05)).double()[:, None]
        total += float(weight.sum())
        first += (weight * patches).sum(0)
        second += (weight * patches).T @ patches
    mean = first / total
    values, vectors = torch.linalg.eigh(second / total - torch.outer(mean, mean))
    scale = values.flip(0)[:channels].clamp_min(1e-8).sqrt()
    basis = vectors.flip(1)[:, :channels]
    # eigh leaves signs open; fixed ones make two fits alike on every machine.
    basis = basis * basis[basis.abs().argmax(0), torch.arange(channels)].sign()
    gain = scale**-0.5
    fitted = LinearVideoCodec(
        latent_channels=channels, scaling_factor=round(float((gain * scale).square().mean() ** -0.5), 6)
    )
    fitted.load_state_dict(
        {"mean": mean.float(), "basis": basis.float(), "gain": gain.float(), "anchor": torch.zeros(1)}
    )
    return fitted

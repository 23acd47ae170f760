"""A linear video codec with the interface of diffusers' CogVideoX VAE: each patch of pixels against a fixed basis.

It stands where ``AutoencoderKLCogVideoX`` stands and has its latent geometry: the first frame alone, then four frames to
a latent frame, and 4 x 4 pixels to a latent pixel. At 32 pixels a principal-component basis, which is fitted in seconds,
reconstructs better than a convolutional autoencoder that trains for minutes.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class PointPosterior:
    """A posterior without spread: the codec is deterministic, so its mode is its only sample."""

    def __init__(self, latents_BCFHW: Tensor) -> None:
        self._latents = latents_BCFHW

    def mode(self) -> Tensor:
        return self._latents

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self._latents


class LinearVideoCodec(ModelMixin, ConfigMixin):
    """z = gain * basis^T (patch - mean) and back; patches are (3, 4, 4, 4) pixels: channel, frame, row, column.

    A video of 1 + 4k frames (B, 3, frames, H, W) in [-1, 1] has latents (B, latent_channels, 1 + k, H / 4, W / 4). The
    first frame, or a single picture, fills its patch by being repeated; decoding it averages the four copies. ``basis`` is
    orthonormal (192, latent_channels) and ``gain`` (latent_channels,) brings strong components nearer to weak ones, the
    square root of their scale. ``block_out_channels`` says nothing but the spatial factor, 2^(length - 1): it is where
    CogVideoX pipelines read it.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 48,
        block_out_channels: tuple[int, ...] = (3, 3, 3),
        temporal_compression_ratio: int = 4,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self._side, self._time = 2 ** (len(block_out_channels) - 1), temporal_compression_ratio
        size = 3 * self._time * self._side**2
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.eye(size, latent_channels))
        self.register_buffer("gain", torch.ones(latent_channels))
        # from_pretrained reads dtype and device off the parameters; this one is never trained.
        self.anchor = nn.Parameter(torch.zeros(1), requires_grad=False)

    def encode(self, video_BCFHW: Tensor) -> AutoencoderKLOutput:
        """``latent_dist`` holds latents before ``scaling_factor``. Raises ValueError for sizes that do not fit."""
        centred = self.patches(video_BCFHW) - self.mean
        latents = torch.einsum("bfhwp,pc->bcfhw", centred, self.basis * self.gain)
        return AutoencoderKLOutput(latent_dist=PointPosterior(latents.contiguous()))

    def decode(self, latents_BCFHW: Tensor, return_dict: bool = True) -> Any:
        """``sample`` is (B, 3, 1 + 4 (F - 1), H, W)."""
        patches = torch.einsum("bcfhw,pc->bfhwp", latents_BCFHW, self.basis / self.gain) + self.mean
        batch, frames, rows, columns, _ = patches.shape
        cut = patches.reshape(batch, frames, rows, columns, 3, self._time, self._side, self._side)
        video = cut.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(
            batch, 3, frames * self._time, rows * self._side, columns * self._side
        )
        first = video[:, :, : self._time].mean(dim=2, keepdim=True)
        whole = torch.cat([first, video[:, :, self._time :]], dim=2)
        return DecoderOutput(sample=whole) if return_dict else (whole,)

    def patches(self, video_BCFHW: Tensor) -> Tensor:
        """(B, F, H, W, 192): the pixels behind each latent pixel."""
        batch, channels, frames, height, width = video_BCFHW.shape
        if channels != 3 or (frames - 1) % self._time or height % self._side or width % self._side:
            raise ValueError(
                f"the codec takes (B, 3, 1 + {self._time} k frames, H, W) with H and W multiples of {self._side}, "
                f"not {tuple(video_BCFHW.shape)}"
            )
        whole = torch.cat([video_BCFHW[:, :, :1].expand(-1, -1, self._time, -1, -1), video_BCFHW[:, :, 1:]], dim=2)
        cut = whole.reshape(batch, 3, -1, self._time, height // self._side, self._side, width // self._side, self._side)
        return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)

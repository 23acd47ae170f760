"""LTX-Video text-to-video: flow matching on packed tokens, positions in seconds and pixels."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from models.backbones.flow import FlowFamily
from models.backbones.rope import Layout, RopeGrid

FRAME_RATE = 25.0
"""Frames per second that positions are computed for: diffusers' default."""


class Ltx(FlowFamily):
    """diffusers' LTXVideoTransformer3DModel, AutoencoderKLLTXVideo and T5EncoderModel behind ``Backbone``.

    The transformer takes coordinates as an argument, fractions included, so references need no module of ours. They
    share the video's timestep. A text's zero rows are the tokens that the attention masks.
    """

    family = "ltx"
    title = "LTX-Video"
    part_classes: ClassVar[dict[str, tuple[str, ...]]] = {
        "transformer": ("LTXVideoTransformer3DModel",),
        "vae": ("AutoencoderKLLTXVideo",),
        "text_encoder": ("T5EncoderModel",),
    }

    def _check_transformer(self, transformer: Any) -> None:
        if transformer.config.in_channels != transformer.config.out_channels:
            raise ValueError(f"{self.weights_note}: not a text-to-video transformer; use LTX-Video itself")

    # Facts

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    @property
    def spatial_factor(self) -> int:
        return int(self._codec.spatial_compression_ratio)

    @property
    def temporal_factor(self) -> int:
        return int(self._codec.temporal_compression_ratio)

    @cached_property
    def _codec(self) -> Any:
        """The codec's shape without its weights: positions need its factors, and training holds no codec."""
        return self._skeleton("vae")

    @property
    def patch(self) -> tuple[int, int, int]:
        config = self._config
        return int(config.patch_size_t), int(config.patch_size), int(config.patch_size)

    @property
    def text_length(self) -> int:
        return 128

    @property
    def text_width(self) -> int:
        return int(self._config.caption_channels)

    # Codec and text

    def _normalise(self, latents: Tensor) -> Tensor:
        mean, scale = self._statistics(latents)
        return (latents - mean) * scale

    def _denormalise(self, latents: Tensor) -> Tensor:
        mean, scale = self._statistics(latents)
        return latents / scale + mean

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            part.to(latents.device, torch.float32).view(1, -1, 1, 1, 1)
            for part in (self.vae.latents_mean, self.vae.latents_std)
        )
        return mean, self.vae.config.scaling_factor / std

    def _decode(self, latents: Tensor) -> Tensor:
        # Later codecs denoise while they decode; diffusers' default tells them that there is nothing to denoise.
        timestep = latents.new_zeros(len(latents)) if self.vae.config.timestep_conditioning else None
        decoded: Tensor = self.vae.decode(latents, timestep).sample
        return decoded

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        tokens = self._tokens(self.tokenizer, texts, self.text_length)
        # Embedded without a mask, as diffusers does; the mask acts inside the transformer.
        hidden = self.text_encoder(tokens.input_ids.to(self.device))[0].to(self.dtype)
        return torch.where(tokens.attention_mask.to(self.device).bool()[..., None], hidden, 0.0)

    # Denoising

    def _forward(
        self, x_BCFHW: Tensor, t_B: Tensor, text_BLD: Tensor, layout: Layout | None, embedded_guidance: float
    ) -> Tensor:
        from diffusers import LTXPipeline

        time, rows, columns = self.patch
        frames, height, width = x_BCFHW.shape[2] // time, x_BCFHW.shape[3] // rows, x_BCFHW.shape[4] // columns
        packed: Tensor = self.transformer(
            hidden_states=LTXPipeline._pack_latents(x_BCFHW, rows, time),
            encoder_hidden_states=text_BLD,
            timestep=t_B,
            encoder_attention_mask=text_BLD.ne(0).any(dim=2),
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=self._units(),
            video_coords=self.coordinates(layout, height, width)[None].expand(len(x_BCFHW), -1, -1) if layout else None,
            return_dict=False,
        )[0]
        unpacked: Tensor = LTXPipeline._unpack_latents(packed, frames, height, width, rows, time)
        return unpacked

    def coordinates(self, layout: Layout, rows: int, columns: int) -> Tensor:
        """(3, tokens): seconds, pixel rows and pixel columns of the video's tokens and then the references'."""
        grid = RopeGrid.whole(layout.frames, rows, columns, self.device)
        units = torch.tensor(
            [unit * part for unit, part in zip(self._units(), self.patch, strict=True)], device=self.device
        )
        tokens = [
            torch.stack(torch.meshgrid(part.times, part.rows, part.columns, indexing="ij")).flatten(1)
            for part in (grid, grid.references(layout))
        ]
        return torch.cat(tokens, dim=1) * units[:, None]

    def _units(self) -> tuple[float, float, float]:
        """Seconds per latent frame and pixels per latent row and column."""
        return self.temporal_factor / FRAME_RATE, float(self.spatial_factor), float(self.spatial_factor)

    def _timesteps(self, steps: int, shape: tuple[int, int, int, int]) -> dict[str, Any]:
        from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift

        config = self._scheduler_config
        shift = calculate_shift(
            shape[1] * shape[2] * shape[3],
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        return {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": shift}

    def pipeline(self) -> Any:
        from diffusers import LTXPipeline

        return LTXPipeline(
            scheduler=self.new_scheduler(),
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            transformer=self.transformer,
        )

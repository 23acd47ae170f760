"""Wan 2.1 (1.3B, 14B) and Wan 2.2 TI2V-5B text-to-video: flow matching, text by cross-attention."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from models.backbones.flow import FlowFamily
from models.backbones.rope import Layout, ReferenceRope, RopeGrid, RopeTable, axial_table


class Wan(FlowFamily):
    """diffusers' WanTransformer3DModel, AutoencoderKLWan and UMT5EncoderModel behind ``Backbone``.

    In 2.1 references share the video's timestep, as in Phantom-Wan. TI2V-5B takes a timestep per token (its folder says
    ``expand_timesteps``), and clean references get 0, as that model's own first-frame condition does. Texts are embedded
    without padding and then padded with zeros, which the cross-attention sees.
    """

    family = "wan"
    title = "Wan"
    part_classes: ClassVar[dict[str, tuple[str, ...]]] = {
        "transformer": ("WanTransformer3DModel",),
        "vae": ("AutoencoderKLWan",),
        "text_encoder": ("UMT5EncoderModel",),
    }
    # diffusers' own pipelines keep it in float32: the published normalisation was fitted there.
    vae_dtype: ClassVar[torch.dtype | None] = torch.float32

    def _check_transformer(self, transformer: Any) -> None:
        config = transformer.config
        if config.image_dim or config.in_channels != config.out_channels:
            raise ValueError(
                f"{self.weights_note}: this transformer is an image-to-video or VACE variant ({config.in_channels} "
                f"channels in, {config.out_channels} out); use Wan 2.1 T2V or Wan 2.2 TI2V-5B"
            )
        if self._components.settings().get("boundary_ratio") is not None:
            raise ValueError(
                f"{self.weights_note}: Wan 2.2 A14B denoises with two transformers, one for each half of the noise, and "
                "one adapter cannot belong to both; use Wan 2.1 or Wan 2.2 TI2V-5B"
            )

    def _prepare_transformer(self, transformer: Any) -> None:
        transformer.rope = ReferenceRope(transformer.rope, self.patch, self._table, token_dim=1)

    # Facts

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.z_dim)

    @property
    def spatial_factor(self) -> int:
        return int(self.vae.config.scale_factor_spatial)

    @property
    def temporal_factor(self) -> int:
        return int(self.vae.config.scale_factor_temporal)

    @property
    def patch(self) -> tuple[int, int, int]:
        frames, rows, columns = self._config.patch_size
        return int(frames), int(rows), int(columns)

    @property
    def text_length(self) -> int:
        return 512  # the context length of every Wan, which none of its configurations states

    @property
    def text_width(self) -> int:
        return int(self._config.text_dim)

    @property
    def expands_timesteps(self) -> bool:
        """Whether the transformer was trained with a timestep per token (TI2V-5B)."""
        return bool(self._components.settings().get("expand_timesteps"))

    # Codec and text

    def _normalise(self, latents: Tensor) -> Tensor:
        mean, inverse = self._statistics(latents)
        return (latents - mean) * inverse

    def _denormalise(self, latents: Tensor) -> Tensor:
        mean, inverse = self._statistics(latents)
        return latents / inverse + mean

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=latents.device).view(1, -1, 1, 1, 1)
            for values in (self.vae.config.latents_mean, self.vae.config.latents_std)
        )
        return mean, 1.0 / std

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        tokens = self._tokens(self.tokenizer, [prompt_clean(text) for text in texts], self.text_length)
        mask = tokens.attention_mask.to(self.device)
        hidden = self.text_encoder(tokens.input_ids.to(self.device), mask).last_hidden_state.to(self.dtype)
        return torch.where(mask.bool()[..., None], hidden, 0.0)

    # Denoising

    def _forward(
        self, x_BCFHW: Tensor, t_B: Tensor, text_BLD: Tensor, layout: Layout | None, embedded_guidance: float
    ) -> Tensor:
        timestep = self._per_token(x_BCFHW, t_B, layout) if self.expands_timesteps else t_B
        with self.transformer.rope.at(layout):
            out: Tensor = self.transformer(
                hidden_states=x_BCFHW, timestep=timestep, encoder_hidden_states=text_BLD, return_dict=False
            )[0]
        return out

    def _per_token(self, x_BCFHW: Tensor, t_B: Tensor, layout: Layout | None) -> Tensor:
        """(B, tokens): the video's timestep, and 0 for references."""
        frames, rows, columns = (size // part for size, part in zip(x_BCFHW.shape[2:], self.patch, strict=True))
        timestep = t_B[:, None].expand(-1, frames * rows * columns).clone()
        if layout is not None:
            timestep[:, layout.frames * rows * columns :] = 0
        return timestep

    def _table(self, grid: RopeGrid) -> RopeTable:
        head = int(self._config.attention_head_dim)
        side = 2 * (head // 6)
        # Wan computes its angles in float64.
        cos, sin = axial_table(grid, (head - 2 * side, side, side), freqs_dtype=torch.float64)
        return cos[None, :, None], sin[None, :, None]

    def pipeline(self) -> Any:
        from diffusers import WanPipeline

        return WanPipeline(
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
            vae=self.vae,
            transformer=self.transformer,
            scheduler=self.new_scheduler(),
            expand_timesteps=self.expands_timesteps,
        )

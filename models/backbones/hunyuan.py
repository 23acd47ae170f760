"""HunyuanVideo text-to-video: flow matching, double-stream MM-DiT, guidance distilled into an embedding."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from models.backbones.flow import FlowFamily
from models.backbones.rope import Layout, ReferenceRope, RopeGrid, RopeTable, axial_table

_LLAMA_TOKENS = 256
_CLIP_TOKENS = 77
_SKIPPED_LAYERS = 2


class HunyuanVideo(FlowFamily):
    """diffusers' HunyuanVideoTransformer3DModel, AutoencoderKLHunyuanVideo, LlamaModel and CLIPTextModel.

    A text is one row that holds CLIP's pooled embedding, zeros behind it up to Llama's width, and then Llama's rows; its
    zero rows are the tokens that the attention masks. The model is told its guidance scale: 1 while it is fine-tuned,
    as musubi-tuner and diffusion-pipe do, and 6 while it samples, diffusers' default.
    """

    family = "hunyuan"
    title = "HunyuanVideo"
    embedded_guidance: ClassVar[float] = 6.0
    part_classes: ClassVar[dict[str, tuple[str, ...]]] = {
        "transformer": ("HunyuanVideoTransformer3DModel",),
        "vae": ("AutoencoderKLHunyuanVideo",),
        "text_encoder": ("LlamaModel",),
        "text_encoder_2": ("CLIPTextModel",),
    }

    @cached_property
    def text_encoder_2(self) -> Any:
        return self._part("text_encoder_2", self.dtype)

    @cached_property
    def tokenizer_2(self) -> Any:
        return self._components.load("tokenizer_2", self.dtype)

    def _check_transformer(self, transformer: Any) -> None:
        config = transformer.config
        if config.image_condition_type or config.in_channels != config.out_channels:
            raise ValueError(
                f"{self.weights_note}: this transformer is an image-to-video variant "
                f"({config.image_condition_type or 'more channels in than out'}); use the text-to-video HunyuanVideo"
            )

    def _prepare_transformer(self, transformer: Any) -> None:
        transformer.rope = ReferenceRope(transformer.rope, self.patch, self._table, token_dim=0)

    # Facts

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    @property
    def spatial_factor(self) -> int:
        return int(self.vae.config.spatial_compression_ratio)

    @property
    def temporal_factor(self) -> int:
        return int(self.vae.config.temporal_compression_ratio)

    @property
    def patch(self) -> tuple[int, int, int]:
        return int(self._config.patch_size_t), int(self._config.patch_size), int(self._config.patch_size)

    @property
    def text_length(self) -> int:
        return 1 + _LLAMA_TOKENS

    @property
    def text_width(self) -> int:
        return int(self._config.text_embed_dim)

    @property
    def guidance_distilled(self) -> bool:
        return bool(self._config.guidance_embeds)

    # Codec and text

    def _normalise(self, latents: Tensor) -> Tensor:
        scaled: Tensor = latents * self.vae.config.scaling_factor
        return scaled

    def _denormalise(self, latents: Tensor) -> Tensor:
        return latents / self.vae.config.scaling_factor

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

        template, crop = DEFAULT_PROMPT_TEMPLATE["template"], DEFAULT_PROMPT_TEMPLATE["crop_start"]
        tokens = self._tokens(self.tokenizer, [template.format(text) for text in texts], _LLAMA_TOKENS + crop)
        mask = tokens.attention_mask.to(self.device)
        states = self.text_encoder(
            input_ids=tokens.input_ids.to(self.device), attention_mask=mask, output_hidden_states=True
        ).hidden_states[-(_SKIPPED_LAYERS + 1)]
        llama = torch.where(mask[:, crop:, None].bool(), states[:, crop:].to(self.dtype), 0.0)
        short = self._tokens(self.tokenizer_2, texts, _CLIP_TOKENS)
        pooled = self.text_encoder_2(short.input_ids.to(self.device)).pooler_output.to(self.dtype)
        head = torch.nn.functional.pad(pooled, (0, llama.shape[-1] - pooled.shape[-1]))
        return torch.cat([head[:, None], llama], dim=1)

    # Denoising

    def _forward(
        self, x_BCFHW: Tensor, t_B: Tensor, text_BLD: Tensor, layout: Layout | None, embedded_guidance: float
    ) -> Tensor:
        pooled = text_BLD[:, 0, : int(self._config.pooled_projection_dim)]
        tokens = text_BLD[:, 1:]
        guidance = torch.full_like(t_B, 1000.0 * embedded_guidance, dtype=self.dtype)
        with self.transformer.rope.at(layout):
            out: Tensor = self.transformer(
                hidden_states=x_BCFHW,
                timestep=t_B.to(torch.float32),
                encoder_hidden_states=tokens,
                encoder_attention_mask=tokens.ne(0).any(dim=2).to(self.dtype),
                pooled_projections=pooled,
                guidance=guidance if self.guidance_distilled else None,
                return_dict=False,
            )[0]
        return out

    def _table(self, grid: RopeGrid) -> RopeTable:
        config = self._config
        frames, rows, columns = config.rope_axes_dim
        return axial_table(grid, (frames, rows, columns), theta=config.rope_theta)

    def _timesteps(self, steps: int, shape: tuple[int, int, int, int]) -> dict[str, Any]:
        return {"sigmas": np.linspace(1.0, 0.0, steps + 1)[:-1]}

    def pipeline(self) -> Any:
        from diffusers import HunyuanVideoPipeline

        return HunyuanVideoPipeline(
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            transformer=self.transformer,
            vae=self.vae,
            scheduler=self.new_scheduler(),
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
        )

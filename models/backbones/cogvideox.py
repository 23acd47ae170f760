"""CogVideoX (2B, 5B, 1.5): v-prediction, joint text-video attention, references as clean latents in the sequence."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from models.backbones.base import NO_OFFSET, Offset, Scheduler
from models.backbones.family import Family
from models.backbones.offsets import REASON, rotates
from models.backbones.rope import Layout, RopeGrid, RopeTable, axial_table, join


class CogVideoX(Family):
    """diffusers' CogVideoXTransformer3DModel, AutoencoderKLCogVideoX and T5EncoderModel behind ``Backbone``.

    References share the video's timestep and modulation (the released code of arXiv 2504.17816 does the same); the
    transformer takes its rotary table as an argument, so the references' positions go in there. CogVideoX attends to all
    text positions and its encoder embeds padding as well, so its texts have no zero rows.
    """

    family = "cogvideox"
    title = "CogVideoX"
    prediction: ClassVar[Literal["v", "flow"]] = "v"
    part_classes: ClassVar[dict[str, tuple[str, ...]]] = {
        "transformer": ("CogVideoXTransformer3DModel",),
        "vae": ("AutoencoderKLCogVideoX", "LinearVideoCodec"),
        "text_encoder": ("T5EncoderModel",),
    }

    def _check_transformer(self, transformer: Any) -> None:
        config = transformer.config
        if config.in_channels != config.out_channels or config.ofs_embed_dim:
            raise ValueError(
                f"{self.weights_note}: this transformer takes {config.in_channels} channels and gives "
                f"{config.out_channels}: an image-to-video variant, which cannot be a subject-to-video backbone; "
                "use a text-to-video CogVideoX"
            )

    @cached_property
    def _noise_schedule(self) -> Any:
        schedule = self.new_scheduler()
        if schedule.config.prediction_type != "v_prediction":
            raise ValueError(
                f"{self.weights_note}: its scheduler predicts {schedule.config.prediction_type!r}; CogVideoX is a "
                "v_prediction model, so scheduler/scheduler_config.json does not belong to it"
            )
        return schedule

    # Facts

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    @property
    def spatial_factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def temporal_factor(self) -> int:
        return int(self.vae.config.temporal_compression_ratio)

    @property
    def patch(self) -> tuple[int, int, int]:
        return int(self._config.patch_size_t or 1), int(self._config.patch_size), int(self._config.patch_size)

    @property
    def text_length(self) -> int:
        return int(self._config.max_text_seq_length)

    @property
    def text_width(self) -> int:
        return int(self._config.text_embed_dim)

    @property
    def num_train_timesteps(self) -> int:
        return int(self._noise_schedule.config.num_train_timesteps)

    @property
    def supports_rope_offset(self) -> bool:
        return rotates("cogvideox", self._config)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        channels, latent_frames, *size = super().latent_shape(frames, height, width)
        return channels, latent_frames + self._lead(latent_frames), size[0], size[1]

    def _lead(self, latent_frames: int) -> int:
        """Latent frames put before a video so that CogVideoX 1.5 can patch two frames to a token."""
        return -latent_frames % self.patch[0]

    # Codec and text

    def encode_video(self, video_BCFHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        latents = super().encode_video(video_BCFHW, generator)
        # 1.5 was trained with its first latent frame repeated, and diffusers drops as many again before decoding.
        lead = latents[:, :, :1].expand(-1, -1, self._lead(latents.shape[2]), -1, -1)
        return torch.cat([lead, latents], dim=2)

    def decode_video(self, latents_BCFHW: Tensor) -> Tensor:
        # The codec gives lengths back only for odd numbers of latent frames, so an even number has a lead.
        lead = 1 if self.patch[0] == 2 and latents_BCFHW.shape[2] % 2 == 0 else 0
        return super().decode_video(latents_BCFHW[:, :, lead:])

    def _normalise(self, latents: Tensor) -> Tensor:
        # Always multiplied: decoding divides. The VAE's invert_scale_latents (CogVideoX 1.5) speaks of the first-frame
        # condition of the image-to-video variants alone; references share the patch embedding of the video's latents
        # and therefore their scale.
        scaled: Tensor = latents * self.vae.config.scaling_factor
        return scaled

    def _denormalise(self, latents: Tensor) -> Tensor:
        return latents / self.vae.config.scaling_factor

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        tokens = self._tokens(self.tokenizer, texts, self.text_length)
        # No attention mask: CogVideoX was trained on embeddings of padding too, and diffusers feeds them the same way.
        embeddings: Tensor = self.text_encoder(tokens.input_ids.to(self.device))[0].to(self.dtype)
        return embeddings

    # Denoising

    def _forward(
        self, x_BCFHW: Tensor, t_B: Tensor, text_BLD: Tensor, layout: Layout | None, embedded_guidance: float
    ) -> Tensor:
        frames, (height, width) = layout.frames if layout else x_BCFHW.shape[2] // self.patch[0], x_BCFHW.shape[3:]
        references, offset = (layout.references, layout.offset) if layout else (0, NO_OFFSET)
        out_BFCHW: Tensor = self.transformer(
            hidden_states=x_BCFHW.transpose(1, 2),
            encoder_hidden_states=text_BLD,
            timestep=t_B,
            image_rotary_emb=self.rope_table(frames * self.patch[0], height, width, references, offset),
            return_dict=False,
        )[0]
        return out_BFCHW.transpose(1, 2)

    def rope_table(
        self, frames: int, height: int, width: int, references: int = 0, rope_offset: Offset = NO_OFFSET
    ) -> RopeTable | None:
        """Rotary (cos, sin) of the video's tokens and then the references'; None for the 2B, which has none.

        ``frames``, ``height`` and ``width`` are latent sizes before patching.
        """
        if not self.supports_rope_offset:
            return None
        video = self._video_grid(frames // self.patch[0], height, width)
        grids = [video]
        if references:
            grids.append(video.references(Layout(len(video.times), references, rope_offset, self.placement)))
        # A quarter of the head rotates with time and three eighths with rows and with columns each.
        head = int(self._config.attention_head_dim)
        return join([axial_table(grid, (head // 4, head // 8 * 3, head // 8 * 3)) for grid in grids])

    def _video_grid(self, frames: int, height: int, width: int) -> RopeGrid:
        """The positions that diffusers' pipeline gives the video: rescaled to the training size, or plain in 1.5."""
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        config = self._config
        rows, columns = height // config.patch_size, width // config.patch_size
        base_columns, base_rows = config.sample_width // config.patch_size, config.sample_height // config.patch_size

        def spread(start: float, stop: float, count: int) -> Tensor:
            return torch.linspace(start, stop, count, device=self.device, dtype=torch.float32)

        if config.patch_size_t is not None:
            if rows > base_rows or columns > base_columns:
                raise ValueError(
                    f"{self.name} 1.5 has rotary positions for at most {base_rows}x{base_columns} patches, "
                    f"not {rows}x{columns}: choose a smaller resolution"
                )
            row_positions, column_positions = spread(0, rows - 1, rows), spread(0, columns - 1, columns)
        else:
            (top, left), (bottom, right) = get_resize_crop_region_for_grid((rows, columns), base_columns, base_rows)
            row_positions = spread(top, bottom * (rows - 1) / rows, rows)
            column_positions = spread(left, right * (columns - 1) / columns, columns)
        return RopeGrid(spread(0, frames - 1, frames), row_positions, column_positions)

    def _check(self, x: Tensor, t: Tensor, text: Tensor, references: Tensor | None, offset: Offset) -> None:
        super()._check(x, t, text, references, offset)
        if any(offset) and not self.supports_rope_offset:
            raise ValueError(f"{self.name}: {REASON}")

    # Diffusion

    def add_noise(self, x0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        noised: Tensor = self._noise_schedule.add_noise(x0.float(), noise.float(), t_B)
        return noised

    def target(self, x0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        velocity: Tensor = self._noise_schedule.get_velocity(x0.float(), noise.float(), t_B)
        return velocity

    def signal_and_noise(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self._noise_schedule.alphas_cumprod.to(t_B.device)[t_B]
        return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()

    def new_scheduler(self) -> Any:
        from diffusers import CogVideoXDDIMScheduler

        # from_config keeps what DDIM understands, also of a folder whose default is the DPM solver.
        return CogVideoXDDIMScheduler.from_config(self._components.scheduler_config())

    def sampler(self, steps: int, shape: tuple[int, int, int, int]) -> Scheduler:
        scheduler: Any = self.new_scheduler()
        scheduler.set_timesteps(steps)
        started: Scheduler = scheduler
        return started

    def pipeline(self) -> Any:
        from diffusers import CogVideoXPipeline

        return CogVideoXPipeline(
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
            vae=self.vae,
            transformer=self.transformer,
            scheduler=self.new_scheduler(),
        )

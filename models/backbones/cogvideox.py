"""CogVideoX (2B, 5B, 1.5): v-prediction, joint text-video attention, references as clean latents in the sequence."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from models.backbones.base import NO_OFFSET, Backbone, Offset, ReferencePlacement
from models.backbones.rope import RopeGrid, RopeTable, rotary_table

if TYPE_CHECKING:
    from models.backbones.components import Components

_log = logging.getLogger(__name__)


class CogVideoX(Backbone):
    """diffusers' CogVideoXTransformer3DModel, AutoencoderKLCogVideoX and T5EncoderModel behind ``Backbone``.

    References join the transformer's own frame axis, so they pass its patch embedding and every block untouched by any
    code of ours; only the rotary table tells them apart. They share the video's timestep and modulation (the released
    code of arXiv 2504.17816 does the same), and their outputs are dropped. CogVideoX attends to all text positions,
    padding included, so text embeddings keep their full length.
    """

    family = "cogvideox"
    prediction: ClassVar[Literal["v", "flow"]] = "v"
    transformer_class = "CogVideoXTransformer3DModel"
    vae_classes = ("AutoencoderKLCogVideoX", "LinearVideoCodec")

    def __init__(
        self,
        components: Components,
        *,
        device: torch.device,
        dtype: torch.dtype,
        config_digest: str,
        weights_note: str,
        placement: ReferencePlacement | None = None,
    ) -> None:
        self._components = components
        self.name = "CogVideoX"
        self.device = device
        self.dtype = dtype
        self.config_digest = config_digest
        self.weights_note = weights_note
        self.placement = placement or ReferencePlacement()
        self._tables: dict[tuple[Any, ...], RopeTable] = {}

    # The parts

    @cached_property
    def transformer(self) -> Any:
        transformer = self._ready(self._components.transformer())
        config = transformer.config
        if config.in_channels != config.out_channels or config.ofs_embed_dim:
            raise ValueError(
                f"{self.weights_note}: this transformer takes {config.in_channels} channels and gives "
                f"{config.out_channels}: an image-to-video variant, which cannot be a subject-to-video backbone; "
                "use a text-to-video CogVideoX"
            )
        return transformer

    @cached_property
    def vae(self) -> Any:
        return self._ready(self._components.vae())

    @cached_property
    def text_encoder(self) -> Any:
        return self._ready(self._components.text_encoder())

    @cached_property
    def tokenizer(self) -> Any:
        return self._components.tokenizer()

    @cached_property
    def _noise_schedule(self) -> Any:
        schedule = self.new_scheduler()
        if schedule.config.prediction_type != "v_prediction":
            raise ValueError(
                f"{self.weights_note}: its scheduler predicts {schedule.config.prediction_type!r}; CogVideoX is a "
                "v_prediction model, so scheduler/scheduler_config.json does not belong to it"
            )
        return schedule

    def _ready(self, module: Any) -> Any:
        if module.dtype != self.dtype:
            module = module.to(self.dtype)
        return module.to(self.device).eval().requires_grad_(False)

    # Facts

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    @property
    def spatial_factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def spatial_multiple(self) -> int:
        return self.spatial_factor * int(self.transformer.config.patch_size)

    @property
    def temporal_factor(self) -> int:
        return int(self.vae.config.temporal_compression_ratio)

    @property
    def text_length(self) -> int:
        return int(self.transformer.config.max_text_seq_length)

    @property
    def num_train_timesteps(self) -> int:
        return int(self._noise_schedule.config.num_train_timesteps)

    @property
    def supports_rope_offset(self) -> bool:
        return bool(self.transformer.config.use_rotary_positional_embeddings)

    # Codec and text

    @torch.no_grad()
    def encode_video(self, video_BCFHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if video_BCFHW.ndim != 5 or video_BCFHW.shape[1] != 3:
            raise ValueError(f"{self.name}: a video is (B, 3, frames, height, width), not {tuple(video_BCFHW.shape)}")
        self.latent_shape(*video_BCFHW.shape[2:])
        posterior = self.vae.encode(video_BCFHW.to(self.device, self.dtype)).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        # Always multiplied: decoding divides. The VAE's invert_scale_latents (CogVideoX 1.5) speaks of the first-frame
        # condition of the image-to-video variants alone; references share the patch embedding of the video's latents
        # and therefore their scale.
        return latents.float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode_video(self, latents_BCFHW: Tensor) -> Tensor:
        latents = latents_BCFHW.to(self.device).float() / self.vae.config.scaling_factor
        return self.vae.decode(latents.to(self.dtype)).sample.float()

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        if not texts:
            raise ValueError(f"{self.name}: encode_text needs at least one text")
        length = self.text_length
        whole = [len(ids) for ids in self.tokenizer(texts).input_ids]
        for text, tokens in zip(texts, whole, strict=True):
            if tokens > length:
                _log.warning("text cut from %d to %d tokens: %.60r...", tokens, length, text)
        tokens = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        # No attention mask: CogVideoX was trained on embeddings of padding too, and diffusers feeds them the same way.
        return self.text_encoder(tokens.input_ids.to(self.device))[0].to(self.dtype)

    # Denoising

    def predict(
        self,
        x_BCFHW: Tensor,
        t_B: Tensor,
        text_BLD: Tensor,
        references_BRCHW: Tensor | None = None,
        rope_offset: Offset = NO_OFFSET,
    ) -> Tensor:
        self._check(x_BCFHW, t_B, text_BLD, references_BRCHW, rope_offset)
        frames_BFCHW = x_BCFHW.to(self.device, self.dtype).transpose(1, 2)
        video_frames, _, height, width = frames_BFCHW.shape[1:]
        references = 0
        if references_BRCHW is not None and references_BRCHW.shape[1]:
            references = references_BRCHW.shape[1]
            clean = references_BRCHW.to(self.device, self.dtype)
            # CogVideoX 1.5 patches two latent frames into one token; a reference fills both.
            clean = clean.repeat_interleave(self._temporal_patch, dim=1)
            frames_BFCHW = torch.cat([frames_BFCHW, clean], dim=1)
        out_BFCHW = self.transformer(
            hidden_states=frames_BFCHW,
            encoder_hidden_states=text_BLD.to(self.device, self.dtype),
            timestep=t_B.to(self.device),
            image_rotary_emb=self.rope_table(video_frames, height, width, references, rope_offset),
            return_dict=False,
        )[0]
        return out_BFCHW[:, :video_frames].transpose(1, 2)

    def rope_table(
        self, frames: int, height: int, width: int, references: int = 0, rope_offset: Offset = NO_OFFSET
    ) -> RopeTable | None:
        """Rotary (cos, sin) of the video's tokens and then the references'; None for the 2B, which has none.

        ``frames``, ``height`` and ``width`` are latent sizes before patching.
        """
        if not self.supports_rope_offset:
            return None
        key = (frames, height, width, references, *rope_offset)
        if key not in self._tables:
            if len(self._tables) >= 32:  # a few buckets are in use at a time; an offset sweep must not grow for ever
                self._tables.clear()
            video = self._video_grid(frames // self._temporal_patch, height, width)
            grids = [video]
            if references:
                times = [self.placement.time(index, len(video.times)) for index in range(references)]
                grids.append(video.shifted(times, rope_offset))
            self._tables[key] = rotary_table(grids, self.transformer.config.attention_head_dim)
        return self._tables[key]

    def _video_grid(self, frames: int, height: int, width: int) -> RopeGrid:
        """The positions that diffusers' pipeline gives the video: rescaled to the training size, or plain in 1.5."""
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        config = self.transformer.config
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

    @property
    def _temporal_patch(self) -> int:
        return int(self.transformer.config.patch_size_t or 1)

    def _check(self, x: Tensor, t: Tensor, text: Tensor, references: Tensor | None, offset: Offset) -> None:
        batch, patch = x.shape[0], self.transformer.config.patch_size
        if x.ndim != 5 or x.shape[1] != self.transformer.config.in_channels:
            raise ValueError(
                f"{self.name}: latents should be (B, {self.transformer.config.in_channels}, F, H, W), "
                f"not {tuple(x.shape)}"
            )
        if x.shape[2] % self._temporal_patch or x.shape[3] % patch or x.shape[4] % patch:
            raise ValueError(
                f"{self.name}: latent frames, rows and columns {tuple(x.shape[2:])} should be multiples "
                f"of {(self._temporal_patch, patch, patch)}"
            )
        if t.shape != (batch,) or t.is_floating_point():
            raise ValueError(f"{self.name}: t_B should be {batch} integer timesteps, not {t.dtype} {tuple(t.shape)}")
        if text.ndim != 3 or text.shape[0] != batch:
            raise ValueError(f"{self.name}: text_BLD should hold {batch} texts, not {tuple(text.shape)}")
        if references is not None:
            fits = (batch, x.shape[1], *x.shape[3:])
            if references.ndim != 5 or (references.shape[0], *references.shape[2:]) != fits:
                raise ValueError(
                    f"{self.name}: references_BRCHW {tuple(references.shape)} do not fit latents {tuple(x.shape)}; "
                    "a reference is one latent frame of the video's own height and width"
                )
            if references.shape[1] > self.max_references:
                raise ValueError(f"{self.name}: {references.shape[1]} references, at most {self.max_references}")
        if any(offset) and not self.supports_rope_offset:
            raise ValueError(
                f"{self.name}: this variant (2B) adds sine positions instead of rotating by them, so there is no RoPE "
                "to offset and Consis-DPO cannot make its losers; use CogVideoX 5B or 1.5"
            )

    # Diffusion

    def add_noise(self, x0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        return self._noise_schedule.add_noise(x0.float(), noise.float(), t_B)

    def target(self, x0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        return self._noise_schedule.get_velocity(x0.float(), noise.float(), t_B)

    def signal_and_noise(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self._noise_schedule.alphas_cumprod.to(t_B.device)[t_B]
        return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()

    def new_scheduler(self) -> Any:
        from diffusers import CogVideoXDDIMScheduler

        # from_config keeps what DDIM understands, also of a folder whose default is the DPM solver.
        return CogVideoXDDIMScheduler.from_config(self._components.scheduler_config())

    def pipeline(self) -> Any:
        from diffusers import CogVideoXPipeline

        return CogVideoXPipeline(
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
            vae=self.vae,
            transformer=self.transformer,
            scheduler=self.new_scheduler(),
        )

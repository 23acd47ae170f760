"""What every family of diffusers transformers has in common; a family's own file says the rest."""

from __future__ import annotations

import abc
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from models.backbones.base import NO_OFFSET, Backbone, Offset, ReferencePlacement
from models.backbones.components import cast_as_loaded
from models.backbones.rope import Layout

if TYPE_CHECKING:
    from models.backbones.components import Components

_log = logging.getLogger(__name__)


class Family(Backbone):
    """diffusers' own modules behind ``Backbone``; references join the transformer's frame axis as clean latent frames.

    So references pass the patch embedding and every block untouched by any code of ours, and their outputs are dropped;
    only the rotary positions (``Layout``) tell them from the video.
    """

    title: ClassVar[str]
    """What messages call the family."""
    part_classes: ClassVar[dict[str, tuple[str, ...]]]
    """The classes that may stand for each part of the pipeline; the first is the usual one."""
    vae_dtype: ClassVar[torch.dtype | None] = None
    """Where the codec loses too much in the transformer's dtype: the dtype that it keeps instead."""

    def __init__(
        self,
        components: Components,
        *,
        device: torch.device,
        dtype: torch.dtype,
        config_digest: str,
        weights_note: str,
        placement: ReferencePlacement,
    ) -> None:
        self._components = components
        self.name = self.title
        self.device = device
        self.dtype = dtype
        self.config_digest = config_digest
        self.weights_note = weights_note
        self.placement = placement

    # What a family says

    @property
    @abc.abstractmethod
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns that make one token."""

    @abc.abstractmethod
    def _check_transformer(self, transformer: Any) -> None:
        """ValueError for weights of this class that cannot be a subject-to-video backbone, such as image-to-video."""

    @abc.abstractmethod
    def _forward(
        self, x_BCFHW: Tensor, t_B: Tensor, text_BLD: Tensor, layout: Layout | None, embedded_guidance: float
    ) -> Tensor:
        """diffusers' own forward, BCFHW in and out. With a layout, its references are the last latent frames."""

    @abc.abstractmethod
    def _normalise(self, latents: Tensor) -> Tensor:
        """The codec's latents, float32, as the transformer wants them."""

    @abc.abstractmethod
    def _denormalise(self, latents: Tensor) -> Tensor:
        """The inverse of ``_normalise``."""

    @abc.abstractmethod
    def new_scheduler(self) -> Any:
        """A fresh deterministic diffusers scheduler, without timesteps."""

    # The parts

    @cached_property
    def transformer(self) -> Any:
        transformer = self._part("transformer", self.dtype)
        self._check_transformer(transformer)
        self._prepare_transformer(transformer)
        return transformer

    @cached_property
    def vae(self) -> Any:
        return self._part("vae", self.vae_dtype or self.dtype)

    @cached_property
    def text_encoder(self) -> Any:
        return self._part("text_encoder", self.dtype)

    @cached_property
    def tokenizer(self) -> Any:
        return self._components.load("tokenizer", self.dtype)

    def _prepare_transformer(self, transformer: Any) -> None:
        """Puts a replaceable rotary module in place, where the family has one."""

    def _part(self, name: str, dtype: torch.dtype) -> Any:
        on_meta = self.device.type == "meta"
        module = cast_as_loaded(self._skeleton(name), dtype) if on_meta else self._components.load(name, dtype)
        if any(parameter.device != self.device for parameter in module.parameters()):
            module.to(self.device)
        return module.eval().requires_grad_(False)

    def _skeleton(self, name: str) -> Any:
        with torch.device("meta"):
            return self._components.skeleton(name)

    @cached_property
    def _config(self) -> Any:
        """The transformer's configuration; read without its weights, for a worker that encodes holds no transformer."""
        return (
            self.__dict__["transformer"].config
            if "transformer" in self.__dict__
            else self._skeleton("transformer").config
        )

    # Facts

    @property
    def spatial_multiple(self) -> int:
        return self.spatial_factor * self.patch[1]

    @property
    def supports_rope_offset(self) -> bool:
        return True

    # Codec and text

    @torch.no_grad()
    def encode_video(self, video_BCFHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if video_BCFHW.ndim != 5 or video_BCFHW.shape[1] != 3:
            raise ValueError(f"{self.name}: a video is (B, 3, frames, height, width), not {tuple(video_BCFHW.shape)}")
        self.latent_shape(*video_BCFHW.shape[2:])
        posterior = self.vae.encode(video_BCFHW.to(self.device, self.vae.dtype)).latent_dist
        return self._normalise((posterior.mode() if generator is None else posterior.sample(generator)).float())

    @torch.no_grad()
    def decode_video(self, latents_BCFHW: Tensor) -> Tensor:
        latents = self._denormalise(latents_BCFHW.to(self.device).float())
        return self._decode(latents.to(self.vae.dtype)).float()

    def _decode(self, latents: Tensor) -> Tensor:
        decoded: Tensor = self.vae.decode(latents).sample
        return decoded

    def _tokens(self, tokenizer: Any, texts: list[str], length: int) -> Any:
        """Token ids and mask, padded and cut to ``length``; a text that is cut is told of."""
        if not texts:
            raise ValueError(f"{self.name}: encode_text needs at least one text")
        for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True):
            if len(ids) > length:
                _log.warning("text cut from %d to %d tokens: %.60r...", len(ids), length, text)
        return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")

    # Denoising

    def predict(
        self,
        x_BCFHW: Tensor,
        t_B: Tensor,
        text_BLD: Tensor,
        references_BRCHW: Tensor | None = None,
        rope_offset: Offset = NO_OFFSET,
        *,
        embedded_guidance: float = 1.0,
    ) -> Tensor:
        self._check(x_BCFHW, t_B, text_BLD, references_BRCHW, rope_offset)
        x = x_BCFHW.to(self.device, self.dtype)
        frames, layout = x.shape[2], None
        if references_BRCHW is not None and references_BRCHW.shape[1]:
            layout = Layout(frames // self.patch[0], references_BRCHW.shape[1], rope_offset, self.placement)
            clean = references_BRCHW.to(self.device, self.dtype).transpose(1, 2)
            # Where a token takes several latent frames (CogVideoX 1.5), a reference fills all of them.
            x = torch.cat([x, clean.repeat_interleave(self.patch[0], dim=2)], dim=2)
        text = text_BLD.to(self.device, self.dtype)
        return self._forward(x, t_B.to(self.device), text, layout, embedded_guidance)[:, :, :frames]

    def _check(self, x: Tensor, t: Tensor, text: Tensor, references: Tensor | None, offset: Offset) -> None:
        batch, channels = x.shape[0], int(self._config.in_channels)
        if x.ndim != 5 or x.shape[1] != channels:
            raise ValueError(f"{self.name}: latents should be (B, {channels}, F, H, W), not {tuple(x.shape)}")
        if any(size % part for size, part in zip(x.shape[2:], self.patch, strict=True)):
            raise ValueError(
                f"{self.name}: latent frames, rows and columns {tuple(x.shape[2:])} should be multiples of {self.patch}"
            )
        if t.shape != (batch,) or (self.prediction == "v" and t.is_floating_point()):
            raise ValueError(f"{self.name}: t_B should be {batch} integer timesteps, not {t.dtype} {tuple(t.shape)}")
        if text.ndim != 3 or text.shape[0] != batch:
            raise ValueError(f"{self.name}: text_BLD should hold {batch} texts, not {tuple(text.shape)}")
        if references is not None:
            fits = (batch, channels, *x.shape[3:])
            if references.ndim != 5 or (references.shape[0], *references.shape[2:]) != fits:
                raise ValueError(
                    f"{self.name}: references_BRCHW {tuple(references.shape)} do not fit latents {tuple(x.shape)}; "
                    "a reference is one latent frame of the video's own height and width"
                )
            if references.shape[1] > self.max_references:
                raise ValueError(f"{self.name}: {references.shape[1]} references, at most {self.max_references}")

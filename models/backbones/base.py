"""The one interface behind which every video diffusion transformer stands.

Legend of shape suffixes: B batch, C channel, F latent frame, H W latent rows and columns, L text tokens, D text width,
R references. Pixel videos are (B, 3, frames, height, width) float32 in [-1, 1].

A text is one tensor (L, D) in its family's own layout, and rows at its end that are all zero are padding: they may be
cut off to store it (``trim_text``) and put back (``pad_text``) without changing what the model sees.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

Offset = tuple[float, float, float]
NO_OFFSET: Offset = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class ReferencePlacement:
    """Where reference latents sit in RoPE space: on the video's own spatial grid, at time positions of their own.

    ``after``: reference i at F + gap + i, so that no reference is read as a start frame (Phantom and HuMo place them
    so). ``before``: reference i at -1 - gap - i (the released code of arXiv 2504.17816 has one reference right before
    the video). Positions count latent frames after patching; ``gap`` may be fractional.
    """

    side: Literal["after", "before"] = "after"
    gap: float = 0.0

    def time(self, index: int, frames: int) -> float:
        """Time position of reference ``index`` for a video of ``frames`` latent frames."""
        return frames + self.gap + index if self.side == "after" else -1.0 - self.gap - index


def trim_text(text_LD: Tensor) -> Tensor:
    """The text without the zero rows at its end; at least one row stays."""
    used = text_LD.ne(0).any(dim=1).nonzero()
    return text_LD[: int(used[-1]) + 1 if len(used) else 1]


def pad_text(text_LD: Tensor, length: int) -> Tensor:
    """Zero rows up to ``length``; ValueError for a text that is longer."""
    if len(text_LD) > length:
        raise ValueError(f"a text of {len(text_LD)} rows does not fit {length}: it comes from another text encoder")
    padded = text_LD.new_zeros(length, text_LD.shape[1])
    padded[: len(text_LD)] = text_LD
    return padded


class Scheduler(Protocol):
    """What sampling needs of a diffusers scheduler whose timesteps are set."""

    timesteps: Tensor

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *, return_dict: bool) -> tuple[Tensor, ...]: ...


class Backbone(abc.ABC):
    """A text-to-video transformer with its codec and text encoder, conditioned on references as extra clean tokens.

    ``transformer``, ``vae`` and the text encoder load on first use, so a worker that only encodes never holds the
    transformer and a worker that trains on cached latents never holds the rest. All are frozen and in eval mode.

    On the device ``meta`` the modules have shapes and no weights, read from the configurations alone.

    ``embedded_guidance`` is the guidance scale that a guidance-distilled model is told while it samples.
    """

    family: ClassVar[str]
    prediction: ClassVar[Literal["v", "flow"]]
    max_references: ClassVar[int] = 4
    embedded_guidance: ClassVar[float] = 1.0

    name: str
    device: torch.device
    dtype: torch.dtype
    config_digest: str
    weights_note: str
    placement: ReferencePlacement

    @property
    @abc.abstractmethod
    def transformer(self) -> nn.Module:
        """The diffusers transformer; adapters are injected into it."""

    @property
    @abc.abstractmethod
    def vae(self) -> nn.Module:
        """The diffusers autoencoder."""

    @property
    @abc.abstractmethod
    def latent_channels(self) -> int: ...

    @property
    @abc.abstractmethod
    def spatial_factor(self) -> int:
        """Pixels per latent row or column."""

    @property
    @abc.abstractmethod
    def spatial_multiple(self) -> int:
        """Height and width in pixels must be multiples of this."""

    @property
    @abc.abstractmethod
    def temporal_factor(self) -> int:
        """A video of 1 + k * temporal_factor pixel frames has 1 + k latent frames."""

    @property
    @abc.abstractmethod
    def text_length(self) -> int:
        """L: the rows that a whole text has, padding included."""

    @property
    @abc.abstractmethod
    def text_width(self) -> int:
        """D: the width of a text embedding."""

    @property
    @abc.abstractmethod
    def num_train_timesteps(self) -> int:
        """Timesteps lie in [0, num_train_timesteps], larger is noisier; training draws integers below the end."""

    @property
    @abc.abstractmethod
    def supports_rope_offset(self) -> bool:
        """False where references have no rotary positions to shift; Consis-DPO cannot make its losers there."""

    @property
    def guidance_distilled(self) -> bool:
        """True where the model takes a guidance scale as an input, so that one forward is guided already."""
        return False

    @abc.abstractmethod
    def encode_video(self, video_BCFHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pixel frames to normalised latents_BCFHW (float32); the posterior's mode, or a sample with ``generator``."""

    @abc.abstractmethod
    def decode_video(self, latents_BCFHW: Tensor) -> Tensor:
        """Normalised latents to pixel frames (B, 3, frames, height, width) float32, about [-1, 1], not clamped."""

    @abc.abstractmethod
    def encode_text(self, texts: list[str]) -> Tensor:
        """text_BLD in the transformer's dtype, L = ``text_length``; zero rows at the end are padding."""

    @abc.abstractmethod
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
        """The transformer's prediction at the video's positions only, BCFHW.

        References are clean latents of the video's own height and width, one latent frame each. ``rope_offset`` =
        (frames, rows, columns) after patching shifts the references' positions and nothing else; fractions are allowed.
        ``t_B`` are integers, or fractions as a flow model's sampler gives them. ``embedded_guidance`` is read by
        guidance-distilled models alone; 1 is what they are fine-tuned at. Without references this is the base's own
        forward, bit for bit. Raises ValueError for shapes that do not fit.
        """

    @abc.abstractmethod
    def add_noise(self, x0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """x_t = alpha_t x0 + sigma_t noise."""

    @abc.abstractmethod
    def target(self, x0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """What ``predict`` should give: v = alpha_t noise - sigma_t x0, or noise - x0 for flow matching."""

    @abc.abstractmethod
    def signal_and_noise(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t), each (B,) float32."""

    @abc.abstractmethod
    def sampler(self, steps: int, shape: tuple[int, int, int, int]) -> Scheduler:
        """A fresh deterministic scheduler, set to ``steps`` steps for latents of ``shape`` (C, F, H, W)."""

    @abc.abstractmethod
    def pipeline(self) -> Any:
        """A plain diffusers pipeline around these very modules."""

    def encode_reference(self, image_BCHW: Tensor) -> Tensor:
        """One picture (B, 3, height, width) in [-1, 1], of the video's size, to one latent frame BCHW."""
        return self.encode_video(image_BCHW.unsqueeze(2))[:, :, -1]

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, F, H, W) of a video's latents; ValueError names the nearest sizes that fit."""
        multiple, factor = self.spatial_multiple, self.temporal_factor
        if height % multiple or width % multiple or min(height, width) < multiple:
            raise ValueError(
                f"{self.name}: {width}x{height} pixels do not fit; width and height must be multiples of {multiple}, "
                f"for example {_nearest(width, multiple)}x{_nearest(height, multiple)}"
            )
        if frames < 1 or (frames - 1) % factor:
            fits = max(0, round((frames - 1) / factor)) * factor + 1
            raise ValueError(
                f"{self.name}: {frames} frames do not fit; use 1 + a multiple of {factor}, for example {fits}"
            )
        side = self.spatial_factor
        return self.latent_channels, 1 + (frames - 1) // factor, height // side, width // side


def _nearest(size: int, multiple: int) -> int:
    return max(1, round(size / multiple)) * multiple

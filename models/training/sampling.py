"""Deterministic sampling: initial noise from each item's own seed, guidance, and RoPE offsets at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.backbones.base import NO_OFFSET, Backbone, Offset
from models.training.guidance import Guidance


def initial_noise(seeds: Sequence[int], shape: tuple[int, int, int, int]) -> Tensor:
    """z_T of (B, *shape), float32, on the CPU: row i depends on seeds[i] alone, not on its neighbours or the device."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


@torch.no_grad()
def sample(
    backbone: Backbone,
    text_BLD: Tensor,
    null_text_LD: Tensor,
    references_BRCHW: Tensor | None,
    shape: tuple[int, int, int, int],
    seed: int | Sequence[int],
    steps: int = 50,
    guidance: Guidance | None = None,
    rope_offset: Offset = NO_OFFSET,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Latents (B, C, F, H, W) float32 from the adapters that are active now.

    ``shape`` is (C, F, H, W) of Backbone.latent_shape; ``null_text_LD`` the embedding of the empty or negative prompt
    (a leading dimension of 1 is fine); ``seed`` one seed for the batch's single item, or one per item. The same seed
    with and without ``rope_offset`` starts from the same noise: that is how Consis-DPO's pairs are made. Deterministic
    (DDIM with eta 0, Euler or UniPC, as the family samples): the same call gives the same latents on the same machine.
    """
    guidance = (guidance or Guidance.none()).of(distilled=backbone.guidance_distilled)
    count = len(text_BLD)
    seeds = list(seed) if isinstance(seed, Sequence) else [seed]
    if len(seeds) != count:
        raise ValueError(f"sampling {count} texts needs {count} seeds, one per item, not {len(seeds)}")
    if steps < 1:
        raise ValueError(f"sampling needs at least 1 step, not {steps}")
    if references_BRCHW is not None and references_BRCHW.shape[1] == 0:
        references_BRCHW = None
    null_BLD = null_text_LD.reshape(-1, *text_BLD.shape[1:])[:1].expand_as(text_BLD)
    scheduler = backbone.sampler(steps, shape)
    x = initial_noise(seeds, shape).to(backbone.device)
    denoiser = _Denoiser(backbone, text_BLD, null_BLD, references_BRCHW, rope_offset, guidance.null_reference)
    for index, t in enumerate(scheduler.timesteps):
        denoiser.x, denoiser.t = x, t
        level = float(t) / backbone.num_train_timesteps
        prediction = guidance.combine(level, index / steps, references_BRCHW is not None, denoiser.predict)
        x = scheduler.step(prediction, t, x, return_dict=False)[0]
        if on_step is not None:
            on_step(index, x)
    return x


class _Denoiser:
    """Predicts guidance branches at the current x and t, those of one shape together in one forward."""

    x: Tensor
    t: Tensor

    def __init__(
        self,
        backbone: Backbone,
        text: Tensor,
        null_text: Tensor,
        references: Tensor | None,
        rope_offset: Offset,
        null_reference: str,
    ) -> None:
        self._backbone = backbone
        self._texts = {True: text, False: null_text}
        self._references = {True: references, False: None}
        if null_reference == "zeros" and references is not None:
            self._references[False] = torch.zeros_like(references)
        self._offset = rope_offset

    def predict(self, branches: list[tuple[bool, bool]]) -> list[Tensor]:
        found: dict[tuple[bool, bool], Tensor] = {}
        for with_tokens in (False, True):
            group = [branch for branch in branches if (self._references[branch[1]] is not None) is with_tokens]
            if group:
                found.update(zip(group, self._forward(group, with_tokens), strict=True))
        return [found[branch] for branch in branches]

    def _forward(self, group: list[tuple[bool, bool]], with_tokens: bool) -> list[Tensor]:
        many = len(group)
        references = [self._references[with_references] for _, with_references in group]
        prediction = self._backbone.predict(
            torch.cat([self.x] * many),
            self.t.expand(many * len(self.x)),
            torch.cat([self._texts[with_text] for with_text, _ in group]),
            torch.cat([part for part in references if part is not None]) if with_tokens else None,
            self._offset if with_tokens else NO_OFFSET,
            embedded_guidance=self._backbone.embedded_guidance,
        )
        return list(prediction.chunk(many))

"""Sampling and guidance: diffusers' own sampler where the two overlap, and no forward in vain where they do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone
from models.training.guidance import Guidance, Schedule
from models.training.sampling import initial_noise, sample

SHAPE = (4, 2, 8, 8)
NULL, TEXT, REFS, BOTH = (False, False), (True, False), (False, True), (True, True)
Randn = Callable[..., Tensor]


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_plain_guidance_is_diffusers_own_sampler_bit_for_bit(backbone: Backbone, scale: float) -> None:
    text, null = backbone.encode_text(["a dog runs"]), backbone.encode_text([""])
    ours = sample(backbone, text, null, None, SHAPE, seed=3, steps=4, guidance=Guidance.plain(scale))
    theirs = backbone.pipeline()(
        prompt_embeds=text,
        negative_prompt_embeds=null,
        height=64,
        width=64,
        num_frames=5,
        num_inference_steps=4,
        guidance_scale=scale,
        latents=initial_noise([3], SHAPE).transpose(1, 2),
        output_type="latent",
    ).frames
    assert torch.equal(ours.transpose(1, 2), theirs)


def test_sampling_twice_gives_the_same_latents(backbone: Backbone, text: Tensor, randn: Randn) -> None:
    references = randn(1, 2, 1, 4, 8, 8)

    def once() -> Tensor:
        torch.rand(3)  # the global generator plays no part
        return sample(backbone, text, text[:1], references, SHAPE, [5, 6], 3, Guidance.dynamic(clock="share", at=0.5))

    assert torch.equal(once(), once())


def test_an_items_noise_depends_on_its_seed_and_not_on_its_neighbours() -> None:
    assert torch.equal(initial_noise([5, 6], SHAPE)[1], initial_noise([6], SHAPE)[0])
    assert not torch.equal(*initial_noise([5, 6], SHAPE))


def test_a_rope_offset_acts_at_every_step_from_the_same_noise(
    backbone: Backbone, text: Tensor, randn: Randn, monkeypatch: pytest.MonkeyPatch
) -> None:
    references, offset = randn(1, 2, 1, 4, 8, 8), (1.5, 0.0, 0.0)
    seen: list[tuple[Tensor, object]] = []
    predict = type(backbone).predict

    def spy(
        self: Backbone, x: Tensor, t: Tensor, text: Tensor, refs: Tensor | None, offset: object, **more: Any
    ) -> Tensor:
        seen.append((x, offset))
        return predict(self, x, t, text, refs, offset, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(type(backbone), "predict", spy)
    winner = sample(backbone, text, text[:1], references, SHAPE, [5, 6], 3)
    loser = sample(backbone, text, text[:1], references, SHAPE, [5, 6], 3, rope_offset=offset)
    assert [o for _, o in seen] == [(0.0, 0.0, 0.0)] * 3 + [offset] * 3
    assert torch.equal(seen[0][0], seen[3][0])
    assert not torch.equal(winner, loser)


@pytest.mark.parametrize(
    ("guidance", "references", "expected"),
    [
        (Guidance.none(), True, [BOTH]),
        (Guidance.plain(6.0), True, [REFS, BOTH]),
        (Guidance.plain(6.0), False, [NULL, TEXT]),
        (Guidance(Schedule.constant(3), Schedule.constant(3)), True, [NULL, BOTH]),
        (Guidance(Schedule.constant(3), Schedule.constant(3), "text-first"), True, [NULL, BOTH]),
        (Guidance(Schedule.constant(3), Schedule.constant(2)), True, [NULL, REFS, BOTH]),
        (Guidance(Schedule.constant(3), Schedule.constant(2), "text-first"), True, [NULL, TEXT, BOTH]),
        (Guidance(Schedule.constant(1), Schedule.constant(2), "text-first"), True, [TEXT, BOTH]),
        (Guidance(Schedule.constant(3), Schedule.constant(0), "text-first"), True, [NULL, TEXT]),
        (Guidance(Schedule.constant(0), Schedule.constant(0)), True, [NULL]),
    ],
)
def test_no_branch_is_computed_in_vain(guidance: Guidance, references: bool, expected: list[tuple[bool, bool]]) -> None:
    assert [branch for _, branch in guidance.branches(0.5, 0.5, references)] == expected


@pytest.mark.parametrize("order", ["text-first", "reference-first"])
@pytest.mark.parametrize(("w_text", "w_ref"), [(3.0, 2.0), (2.5, 2.5), (4.0, 1.0), (1.0, 4.0), (2.0, 0.0), (0.0, 2.0)])
def test_the_shortened_sum_is_the_whole_factorisation(order: str, w_text: float, w_ref: float, randn: Randn) -> None:
    branch = {name: randn(index, 2, 3) for index, name in enumerate((NULL, TEXT, REFS, BOTH))}
    guidance = Guidance(Schedule.constant(w_text), Schedule.constant(w_ref), order)  # type: ignore[arg-type]
    got = guidance.combine(0.5, 0.5, True, lambda asked: [branch[name] for name in asked])
    v0, vt, vr, vtr = (branch[name] for name in (NULL, TEXT, REFS, BOTH))
    if order == "text-first":
        whole = v0 + w_text * (vt - v0) + w_ref * (vtr - vt)
    else:
        whole = v0 + w_ref * (vr - v0) + w_text * (vtr - vr)
    torch.testing.assert_close(got, whole)


def test_zero_latents_as_null_reference_put_all_branches_into_one_forward(
    backbone: Backbone, text: Tensor, randn: Randn, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_sizes: list[int] = []
    predict = type(backbone).predict

    def spy(self: Backbone, x: Tensor, *rest: Any, **more: Any) -> Tensor:
        batch_sizes.append(len(x))
        return predict(self, x, *rest, **more)

    monkeypatch.setattr(type(backbone), "predict", spy)
    for null in ("absent", "zeros"):
        guidance = Guidance(Schedule.constant(3), Schedule.constant(2), null_reference=null)  # type: ignore[arg-type]
        sample(backbone, text, text[:1], randn(1, 2, 1, 4, 8, 8), SHAPE, [5, 6], 1, guidance)
    assert batch_sizes == [2, 4, 6]  # absent: {null} then {references, both}; zeros: all three


def test_schedules_take_the_values_they_say() -> None:
    step = Schedule("step", start=5, end=3, at=0.98)
    assert [step.value(t, 0) for t in (0.999, 0.981, 0.98, 0.5)] == [5, 5, 3, 3]
    by_share = Schedule("step", start=5, end=3, at=0.1, clock="share")
    assert [by_share.value(0.999, share) for share in (0.0, 0.08, 0.1, 0.9)] == [5, 5, 3, 3]
    assert Schedule("linear", start=1, end=3).value(t=0.25, share=0) == 2.5
    assert Schedule("linear", start=1, end=3, clock="share").value(t=0.25, share=0.5) == 2.0
    # half-way along the cosine is the middle; a third of the way, (1 - cos 60 degrees) / 2 = 1/4
    assert Schedule("cosine", start=0, end=4, clock="share").value(0, 0.5) == pytest.approx(2.0)
    assert Schedule("cosine", start=0, end=4, clock="share").value(0, 1 / 3) == pytest.approx(1.0)
    table = Schedule("table", table=((0.0, 2.0), (0.5, 4.0), (1.0, 0.0)))
    assert [table.value(t, 0) for t in (-1, 0.25, 0.5, 0.75, 2)] == [2.0, 3.0, 4.0, 2.0, 0.0]


def test_dynamic_guidance_leads_with_text_and_then_with_both_at_two_forwards_a_step() -> None:
    guidance = Guidance.dynamic()
    assert guidance.branches(0.999, 0.0, True) == [(1.0, REFS), (5.0, BOTH)]
    assert guidance.branches(0.979, 0.02, True) == [(1.0, NULL), (3.0, BOTH)]


def test_wrong_settings_are_named(backbone: Backbone, text: Tensor) -> None:
    with pytest.raises(ValueError, match="'stepp'"):
        Schedule("stepp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not in \\[0, 1\\]"):
        Schedule("step", at=980)
    with pytest.raises(ValueError, match="'refs-first'"):
        Guidance(order="refs-first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs 2 seeds"):
        sample(backbone, text, text[:1], None, SHAPE, seed=1)


def test_latents_have_the_spread_of_the_data_and_are_finite(backbone: Backbone, text: Tensor) -> None:
    latents = sample(backbone, text, text[:1], None, SHAPE, [1, 2], steps=5)
    assert latents.dtype == torch.float32
    assert latents.isfinite().all()
    assert math.isclose(float(latents.std()), 1.0, abs_tol=0.5)  # an untrained v-predictor leaves the noise's scale

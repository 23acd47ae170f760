"""Time-dependent guidance: separate text and reference scales, each a schedule over the denoising."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

Predict = Callable[[list[tuple[bool, bool]]], list[Tensor]]
"""Predictions for the asked (text on, references on) branches, in order."""


@dataclass(frozen=True)
class Schedule:
    """A guidance scale over the denoising.

    ``clock`` says what ``position`` is. "t": the noise level t / num_train_timesteps in [0, 1], which runs from about 1
    (noise) down to 0. "share": the share of steps already done, from 0 up to 1. A constant needs neither.

    - constant: ``start``
    - step: ``start`` before ``at`` is reached, ``end`` from there on
    - linear, cosine: from ``start`` to ``end`` over the whole denoising
    - table: (position, value) pairs, linear in between, constant outside
    """

    kind: Literal["constant", "step", "linear", "cosine", "table"] = "constant"
    start: float = 1.0
    end: float = 1.0
    at: float = 0.98
    clock: Literal["t", "share"] = "t"
    table: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "step", "linear", "cosine", "table"):
            raise ValueError(f"guidance schedule {self.kind!r}: known are constant, step, linear, cosine, table")
        if self.clock not in ("t", "share"):
            raise ValueError(f"guidance clock {self.clock!r} is neither 't' nor 'share'")
        if self.kind == "table" and not self.table:
            raise ValueError("a guidance table needs at least one (position, value) pair")
        if self.kind == "step" and not 0.0 <= self.at <= 1.0:
            raise ValueError(f"guidance step at {self.at} is not in [0, 1]; give t* as t / num_train_timesteps")

    @classmethod
    def constant(cls, value: float) -> Schedule:
        return cls(start=value)

    def value(self, t: float, share: float) -> float:
        """The scale at noise level ``t`` in [0, 1] and ``share`` in [0, 1] of the steps done."""
        if self.kind == "constant":
            return self.start
        if self.kind == "table":
            return _interpolate(sorted(self.table), t if self.clock == "t" else share)
        if self.kind == "step":
            reached = t <= self.at if self.clock == "t" else share >= self.at
            return self.end if reached else self.start
        done = 1.0 - t if self.clock == "t" else share
        if self.kind == "cosine":
            done = (1.0 - math.cos(math.pi * done)) / 2.0
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True)
class Guidance:
    """Two scales and the order in which text and references are added.

    text-first:       v = v_0 + w_text (v_T - v_0) + w_ref (v_TR - v_T)
    reference-first:  v = v_0 + w_ref (v_R - v_0) + w_text (v_TR - v_R)

    v_0 sees neither, v_T the text, v_R the references, v_TR both. Steps compute the fewest branches that give this sum:
    equal scales need v_0 and v_TR alone, a first scale of 1 drops v_0, a second scale of 0 drops v_TR, and both 1 is one
    unguided forward. ``null_reference`` says what "no references" is: their tokens absent, or zero latents in their
    place (Phantom-Wan's code; all branches then have one shape and go through in one batch).

    A guidance-distilled model (HunyuanVideo) is guided by a scale that it is told, in one forward. These scales would
    guide it a second time, so they act on it only where ``true_cfg`` is True; None leaves it on for every other model.
    """

    text: Schedule = Schedule()
    reference: Schedule = Schedule()
    order: Literal["text-first", "reference-first"] = "reference-first"
    null_reference: Literal["absent", "zeros"] = "absent"
    true_cfg: bool | None = None

    def __post_init__(self) -> None:
        if self.order not in ("text-first", "reference-first"):
            raise ValueError(f"guidance order {self.order!r} is neither 'text-first' nor 'reference-first'")
        if self.null_reference not in ("absent", "zeros"):
            raise ValueError(f"null_reference {self.null_reference!r} is neither 'absent' nor 'zeros'")

    def of(self, *, distilled: bool) -> Guidance:
        """What of this acts on a model: none of it on one that is guided already, unless ``true_cfg`` says so."""
        on = not distilled if self.true_cfg is None else self.true_cfg
        return self if on else Guidance.none()

    @classmethod
    def none(cls) -> Guidance:
        """The bare prediction."""
        return cls()

    @classmethod
    def plain(cls, scale: float) -> Guidance:
        """Classifier-free guidance on the text, references in both branches: v_R + scale (v_TR - v_R)."""
        return cls(text=Schedule.constant(scale))

    @classmethod
    def dynamic(
        cls, at: float = 0.98, early_text: float = 5.0, late: float = 3.0, clock: Literal["t", "share"] = "t"
    ) -> Guidance:
        """Text alone while t > ``at`` (layout), text and references together after: HuMo's released numbers.

        LibraGen publishes neither its scales nor its schedule; HuMo (arXiv 2509.08519) is the closest published one. In
        HuMo's shifted schedule t > 0.98 is the first 5 of 50 steps; in an unshifted one it is the first alone, and
        ``clock="share", at=0.1`` gives its share of steps. Two forwards a step throughout.
        """
        return cls(
            text=Schedule("step", start=early_text, end=late, at=at, clock=clock),
            reference=Schedule("step", start=1.0, end=late, at=at, clock=clock),
        )

    def branches(self, t: float, share: float, has_references: bool) -> list[tuple[float, tuple[bool, bool]]]:
        """The chain to sum: [(1, branch 0), (w, branch 1), ...] for v = b_0 + sum of w_i (b_i - b_(i-1)).

        A branch is (text on, references on). Nothing in it is computed in vain.
        """
        text, reference = self.text.value(t, share), self.reference.value(t, share)
        if not has_references:
            chain = [(1.0, (False, False)), (text, (True, False))]
        elif self.order == "text-first":
            chain = [(1.0, (False, False)), (text, (True, False)), (reference, (True, True))]
        else:
            chain = [(1.0, (False, False)), (reference, (False, True)), (text, (True, True))]
        return _shortened(chain)

    def combine(self, t: float, share: float, has_references: bool, predict: Predict) -> Tensor:
        """The guided prediction, float32."""
        chain = self.branches(t, share, has_references)
        predictions = [prediction.float() for prediction in predict([branch for _, branch in chain])]
        guided = predictions[0]
        for (scale, _), here, before in zip(chain[1:], predictions[1:], predictions[:-1], strict=True):
            guided = guided + scale * (here - before)
        return guided


def _shortened(chain: list[tuple[float, tuple[bool, bool]]]) -> list[tuple[float, tuple[bool, bool]]]:
    while len(chain) > 1 and chain[-1][0] == 0.0:
        chain = chain[:-1]
    while len(chain) > 1 and chain[1][0] == 1.0:
        chain = chain[1:]
    if len(chain) == 3 and chain[1][0] == chain[2][0]:
        chain = [chain[0], chain[2]]
    return chain


def _interpolate(table: list[tuple[float, float]], position: float) -> float:
    if position <= table[0][0]:
        return table[0][1]
    for (left, low), (right, high) in pairwise(table):
        if position <= right:
            return high if right == left else low + (high - low) * (position - left) / (right - left)
    return table[-1][1]

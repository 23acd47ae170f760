"""What the two papers claim, as differences between marks that a table of cells can answer; written down before the first cell.

A hypothesis is a weighted sum of marks per question and seed. It holds when the 95% interval of its mean, bootstrapped by
question, lies above ``above`` and every seed's mean does too; it does not hold when the interval lies below; else it cannot be
told at this size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from models.metrics.bootstrap import Interval, bootstrap
from tinyworld import difficulty as d

LIBRAGEN, DISENTANGLED = "arXiv 2603.13506", "arXiv 2504.17816"
TRAVELS = ("left", "right", "up", "down")
MARGIN = 0.05
"""What may be lost where a claim says that nothing is."""

Term = tuple[float, str, str]
"""Weight, system and mark. ``prompt`` is the mean of motion and background as told; ``moves`` the way where one is asked for."""
Marks = Mapping[str, Sequence[float]]
Verdict = Literal["holds", "does not hold", "cannot be told", "not run"]


@dataclass(frozen=True)
class Hypothesis:
    """``terms`` sum to something above ``above``, says ``paper``."""

    row: str
    claim: str
    paper: str
    terms: tuple[Term, ...]
    above: float = 0.0

    @property
    def systems(self) -> set[str]:
        return {system for _, system, _ in self.terms}


def _more(row: str, claim: str, paper: str, one: str, other: str, mark: str, above: float = 0.0) -> Hypothesis:
    return Hypothesis(row, claim, paper, ((1.0, one, mark), (-1.0, other, mark)), above)


def _line(mark: str) -> tuple[Term, ...]:
    return ((1.0, "merged", mark), (-0.5, "in", mark), (-0.5, "cross", mark))


SFT = "in-pair, cross-pair, merged SFT"
DPO = "Consis, Real-Fake, merged DPO"
SWITCH = "switching between images and videos"
ABLATION = "ablations of switching at p = 0.2"
HYPOTHESES: tuple[Hypothesis, ...] = (
    _more(SFT, "in-pair has more identity than cross-pair", LIBRAGEN, "in", "cross", "identity"),
    _more(SFT, "cross-pair follows motion better than in-pair", LIBRAGEN, "cross", "in", "motion"),
    _more(SFT, "cross-pair follows the background better than in-pair", LIBRAGEN, "cross", "in", "background"),
    Hypothesis(SFT, "merged lies above the straight line between them (identity + prompt)", LIBRAGEN,
               (*_line("identity"), *_line("prompt"))),
    _more("quality against quantity", "the curated set gives more identity than all of it", LIBRAGEN, "cross", "noisy", "identity"),
    _more("quality against quantity", "the curated set gives better prompt following", LIBRAGEN, "cross", "noisy", "prompt"),
    _more(DPO, "Consis-DPO raises identity", LIBRAGEN, "consis", "sft", "identity"),
    _more(DPO, "Consis-DPO loses no motion", LIBRAGEN, "consis", "sft", "motion", -MARGIN),
    _more(DPO, "Real-Fake DPO raises motion", LIBRAGEN, "real_fake", "sft", "motion"),
    _more(DPO, "Real-Fake DPO raises visual quality", LIBRAGEN, "real_fake", "sft", "cleanness"),
    _more(DPO, "merged DPO keeps the identity", LIBRAGEN, "final", "sft", "identity"),
    _more(DPO, "merged DPO keeps the motion", LIBRAGEN, "final", "sft", "motion"),
    _more("dynamic against static guidance", "dynamic follows the prompt better", LIBRAGEN, "dynamic", "static", "prompt"),
    _more("dynamic against static guidance", "dynamic loses no identity", LIBRAGEN, "dynamic", "static", "identity", -MARGIN),
    _more("dynamic against static guidance", "dynamic loses no motion", LIBRAGEN, "dynamic", "static", "motion", -MARGIN),
    _more("dynamic against static guidance", "dynamic loses no visual quality", LIBRAGEN, "dynamic", "static", "cleanness", -MARGIN),
    Hypothesis(SWITCH, "image-only freezes the subject (way below 0.1 where told to move)", DISENTANGLED, ((-1.0, "p0", "moves"),), -0.1),
    _more(SWITCH, "p = 0.2 moves more than image-only", DISENTANGLED, "p20", "p0", "moves"),
    _more(SWITCH, "two-stage has more identity than p = 0.2", DISENTANGLED, "two_stage", "p20", "identity"),
    _more(SWITCH, "p = 0.2 follows the prompt better than two-stage", DISENTANGLED, "p20", "two_stage", "prompt"),
    _more(SWITCH, "p = 0.2 has more identity than joint T2I and T2V", DISENTANGLED, "p20", "joint", "identity"),
    _more(SWITCH, "p = 0.2 follows the prompt better than p = 0.4", DISENTANGLED, "p20", "p40", "prompt"),
    _more(SWITCH, "p = 0.2 follows the prompt better than p = 0.6", DISENTANGLED, "p20", "p60", "prompt"),
    _more(SWITCH, "p = 0.2 has more identity than image-only", DISENTANGLED, "p20", "p0", "identity"),
    _more(SWITCH, "p = 0.2 has more identity than p = 0.4", DISENTANGLED, "p20", "p40", "identity"),
    _more(SWITCH, "p = 0.2 moves more than p = 0.6", DISENTANGLED, "p20", "p60", "moves"),
    _more(ABLATION, "a reference token raises identity", DISENTANGLED, "token", "p20", "identity"),
    _more(ABLATION, "without token drop the reference's background is copied", DISENTANGLED, "p20", "no_token_drop", "background"),
    _more(ABLATION, "with first frames alone the reference's background is copied", DISENTANGLED, "p20", "first_frame", "background"),
    _more(ABLATION, "all videos give more identity than a quarter of them", DISENTANGLED, "p20", "videos25", "identity"),
    _more(ABLATION, "all videos give more identity than half of them", DISENTANGLED, "p20", "videos50", "identity"),
    _more(ABLATION, "all videos give more identity than three quarters of them", DISENTANGLED, "p20", "videos75", "identity"),
    _more(ABLATION, "all videos move no less than a quarter of them", DISENTANGLED, "p20", "videos25", "moves", -MARGIN),
)  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """How gradients of image and video steps agree in a cell: the mean cosine from step ``SETTLED`` on, of every seed, lies within."""

    claim: str
    cell: str
    low: float
    high: float
    row: str = "agreement of gradients"
    paper: str = DISENTANGLED
    above: float = 0.0


SETTLED = 100
AGREEMENTS = (
    Agreement(f"near zero at p = 0.2 (cosine within 0.1 of 0 from step {SETTLED} on)", "p20", -0.1, 0.1),
    Agreement(f"high at p = 0 (cosine above 0.3 from step {SETTLED} on)", "p0", 0.3, 1.0),
)


@dataclass(frozen=True)
class Found:
    """A claim with its numbers; ``seeds`` are the means by seed."""

    hypothesis: Hypothesis | Agreement
    verdict: Verdict
    interval: Interval | None = None
    seeds: Mapping[int, float] = field(default_factory=dict)


def values(marks: Marks, mark: str) -> list[float | None]:
    """One mark of each question; None where the question does not ask for it."""
    if mark == "prompt":
        return [(a + b) / 2 for a, b in zip(marks["motion"], marks["background"], strict=True)]
    if mark == "moves":
        return [way if d.MOTIONS[i % len(d.MOTIONS)] in TRAVELS else None for i, way in enumerate(marks["travel"])]
    return list(marks[mark])


def judge(hypothesis: Hypothesis, table: Mapping[int, Mapping[str, Marks]]) -> Found:
    """``table``: by seed, the marks of every system that was examined; seeds that lack a system do not count."""
    sums: list[float | None] = []
    questions: list[str] = []
    seeds: dict[int, float] = {}
    for seed, systems in sorted(table.items()):
        if not hypothesis.systems <= set(systems):
            continue
        parts = [(weight, values(systems[system], mark)) for weight, system, mark in hypothesis.terms]
        here: list[float | None] = []
        for index in range(len(parts[0][1])):
            asked = [(weight, found[index]) for weight, found in parts]
            here.append(None if any(v is None for _, v in asked) else sum(w * v for w, v in asked if v is not None))
        sums += here
        questions += [str(index) for index in range(len(here))]
        seeds[seed] = float(np.mean([v for v in here if v is not None]))
    if not seeds:
        return Found(hypothesis, "not run")
    interval = bootstrap(sums, questions)
    return Found(hypothesis, _verdict(hypothesis.above, interval, list(seeds.values())), interval, seeds)


def judge_agreement(agreement: Agreement, curves: Mapping[int, Sequence[Sequence[float]]]) -> Found:
    """``curves``: by seed, rows of step and cosine (and more)."""
    settled = {seed: [row[1] for row in rows if row[0] >= SETTLED] for seed, rows in curves.items()}
    seeds = {seed: float(np.mean(cosines)) for seed, cosines in settled.items() if cosines}
    if not seeds:
        return Found(agreement, "not run")
    within = [agreement.low <= mean <= agreement.high for mean in seeds.values()]
    return Found(
        agreement, "holds" if all(within) else "cannot be told" if any(within) else "does not hold", None, seeds
    )


def _verdict(above: float, interval: Interval, seeds: Sequence[float]) -> Verdict:
    if interval.low is None or interval.high is None:
        return "cannot be told"
    if interval.low > above and all(mean > above for mean in seeds):
        return "holds"
    return "does not hold" if interval.high < above else "cannot be told"

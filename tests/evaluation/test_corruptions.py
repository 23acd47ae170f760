"""Every metric does with every corruption what is declared of it, on rendered clips."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch

from models.metrics.catalogue import METRICS
from tests.evaluation.corruptions import CORRUPTIONS, Clip, declared, reference_of, rendered, tools

torch.set_num_threads(1)
DOC = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
Values = dict[str, float | None]


def test_the_matrix_is_whole() -> None:
    rows = declared()
    assert set(rows) == set(METRICS)
    assert all(list(signs) == list(CORRUPTIONS) for _, signs in rows.values())


def test_the_documented_matrix_is_the_one_that_is_checked() -> None:
    table = DOC.read_text(encoding="utf-8").partition("| metric | within |")[2].partition("\n\n")[0]
    head, _, *rows = (line.strip(" |").split(" | ") for line in table.splitlines())
    assert head == list(CORRUPTIONS)
    assert {row[0].strip("`"): (float(row[1]), dict(zip(head, row[2:], strict=True))) for row in rows} == declared()


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    cv2.setNumThreads(1)
    return [rendered(24), rendered(8)]  # nothing of either is clipped: blur would mend that


def measure(clip: Clip, corruption: str | None, other: Clip) -> Values:
    shown = clip if corruption is None else CORRUPTIONS[corruption](clip, other)
    shared = tools([clip, other])
    return {key: METRICS[key].run(shown.video, shown.prompt, reference_of(shown), shared) for key in declared()}


@pytest.fixture(scope="module")
def untouched(clips: list[Clip]) -> list[Values]:
    return [measure(clip, None, clips[index - 1]) for index, clip in enumerate(clips)]


def test_every_metric_measures_a_clip_that_was_left_alone(untouched: list[Values]) -> None:
    assert {key for key in declared() if any(values[key] is not None for values in untouched)} == set(declared())


@pytest.mark.parametrize("corruption", list(CORRUPTIONS))
def test_a_corruption_moves_what_it_must_and_leaves_the_rest(
    corruption: str, clips: list[Clip], untouched: list[Values]
) -> None:
    wrong = []
    for index, clip in enumerate(clips):
        found = measure(clip, corruption, clips[index - 1])
        for key, (within, signs) in declared().items():
            before, after, sign = untouched[index][key], found[key], signs[corruption]
            if before is None or after is None:
                assert sign == "?" or before is after, f"{key} is missing on one side of {corruption} alone"
                continue
            change = after - before
            if {"-": change >= 0, "+": change <= 0, "=": abs(change) > within}.get(sign):
                wrong.append(f"{key} {sign}: {before:.3f} to {after:.3f}")
    assert not wrong, wrong

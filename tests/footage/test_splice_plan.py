"""What the splices are made of, and how found boundaries are held against true ones."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from benchmarks.boundaries import Count, matched
from benchmarks.splices import CANVASES, SUBJECTS, WIPES, FootageError, Plan, plan

_SUBJECT = {name: subject for half in SUBJECTS.values() for subject, files in half.items() for name in files}


def _kinds(plans: list[Plan]) -> set[str]:
    return {kind for one in plans for kind, _, _ in one.transitions}


def test_no_source_is_in_both_halves() -> None:
    tuning, held_out = ({f for files in SUBJECTS[half].values() for f in files} for half in ("tuning", "held-out"))
    assert not tuning & held_out
    assert not set(SUBJECTS["tuning"]) & set(SUBJECTS["held-out"])


def test_every_source_is_a_single_shot_by_the_manifest_and_none_is_in_the_list_of_cuts(footage: Path) -> None:
    cuts = json.loads((footage / "cuts.json").read_text())
    assert not set(_SUBJECT) & set(cuts)
    assert len(plan(footage, "tuning", 8, 0)) == 1  # raises where the manifest says otherwise


def test_a_source_with_more_shots_than_one_is_refused(tmp_path: Path, footage: Path) -> None:
    rows = json.loads((footage / "manifest.json").read_text())
    names = [f for files in SUBJECTS["held-out"].values() for f in files]
    for row in rows:
        row["shots"] = 3 if row["file"] == names[-1] else row.get("shots")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    with pytest.raises(FootageError, match=names[-1]):
        plan(tmp_path, "held-out", 8, 0)


@pytest.mark.parametrize("half", ["tuning", "held-out"])
def test_five_hundred_boundaries_of_every_kind_between_different_subjects(footage: Path, half: str) -> None:
    plans = plan(footage, half, 520, seed=1)  # type: ignore[arg-type]
    assert sum(len(one.transitions) for one in plans) == 520
    assert _kinds(plans) == {"cut", "dissolve", "fade to black", "fade to white", "wipe"}
    assert {d.split()[0] for one in plans for kind, _, d in one.transitions if kind == "wipe"} == set(WIPES)
    assert {p.trap for one in plans for p in one.pieces} == {"", "flash", "whip"}
    assert {(one.width, one.height, one.fps) for one in plans} == set(CANVASES)
    for one in plans:
        assert len(one.pieces) == len(one.transitions) + 1
        for a, b in itertools.pairwise(one.pieces):
            assert _SUBJECT[a.source] != _SUBJECT[b.source]


def test_a_plan_is_the_seeds_own(footage: Path) -> None:
    assert plan(footage, "tuning", 40, seed=3) == plan(footage, "tuning", 40, seed=3)
    assert plan(footage, "tuning", 40, seed=3) != plan(footage, "tuning", 40, seed=4)


_POINTS = st.lists(st.integers(0, 60), max_size=7)
_SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), max_size=7)


@given(_POINTS, _SPANS, st.integers(0, 5))
def test_the_matching_is_one_to_one_within_tolerance_and_as_large_as_any(
    points: list[int], starts: list[tuple[int, int]], tolerance: int
) -> None:
    spans = [(float(s), float(s + length)) for s, length in starts]
    used_points, used_spans = matched([float(p) for p in points], spans, float(tolerance))
    assert len(used_points) == len(used_spans)
    fits = np.array([[s - tolerance <= p <= e + tolerance for s, e in spans] for p in points]).reshape(
        len(points), len(spans)
    )
    rows, columns = linear_sum_assignment(fits, maximize=True)
    assert len(used_spans) == int(fits[rows, columns].sum())
    assert all(fits[p].any() for p in used_points)
    assert all(fits[:, s].any() for s in used_spans)


def test_two_found_boundaries_explain_one_true_one_once() -> None:
    assert matched([10, 11], [(10, 10)], 2) == ({0}, {0})
    assert matched([10, 12], [(10, 10), (11, 11)], 2) == ({0, 1}, {0, 1})
    assert matched([13], [(10, 10)], 2) == (set(), set())
    assert matched([25], [(10, 30)], 0) == ({0}, {0})


def test_precision_recall_and_f1() -> None:
    count = Count(hit=6, missed=2, false=3)
    assert count.precision == pytest.approx(6 / 9)
    assert count.recall == pytest.approx(6 / 8)
    assert count.f1 == pytest.approx(2 * (6 / 9) * (6 / 8) / (6 / 9 + 6 / 8))
    assert (Count().precision, Count().recall, Count().f1) == (None, None, None)

"""Retrieval of references: bounds, exclusions and reasons."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.subjects.identities import Identities
from stages.subjects.retrieve import NONE, REASONS, Bounds, Candidates, candidates, settle, why_none


def rows(
    vectors: list[list[float]],
    *,
    clip: list[int] | None = None,
    video: list[int] | None = None,
    group: list[int] | None = None,
    name: list[int] | None = None,
    background: list[list[float]] | None = None,
    start: list[float] | None = None,
    end: list[float] | None = None,
) -> Identities:
    n = len(vectors)
    unit = np.asarray(vectors, np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    ground = np.asarray(background or np.zeros((n, 0)), np.float32)
    clips = np.asarray(clip or range(n), np.int64)
    return Identities(
        vector=unit,
        background=ground / np.maximum(np.linalg.norm(ground, axis=1, keepdims=True), 1e-9),
        clip=clips,
        video=np.asarray(video or range(n), np.int64),
        source=np.where(clips >= 0, clips, 1000 + np.arange(n)),
        group=np.asarray(group or [-1] * n, np.int64),
        name=np.asarray(name or [-1] * n, np.int64),
        subject=np.zeros(n, np.int64),
        start=np.asarray(start or [0.0] * n),
        end=np.asarray(end or [1.0] * n),
        best=np.arange(n),
    )


def paired(
    ids: Identities,
    *,
    lower: float = 0.5,
    upper: float = 0.99,
    background: float = 0.9,
    source: str = "any",
    held_out: list[int] | None = None,
    most: int = 3,
    k: int = 32,
    block: int = 1024,
) -> Candidates:
    bounds = Bounds(lower, upper, background, source)  # type: ignore[arg-type]
    held = np.zeros(len(ids), bool)
    held[held_out or []] = True
    return settle(candidates(ids, bounds, k, block=block), ids, held, most)


def why(ids: Identities, **how: object) -> tuple[list[int], str | None]:
    """What the first row gets as a target among all rows."""
    found = paired(ids, **how)  # type: ignore[arg-type]
    return found.row[0][found.reason[0] == 0].tolist(), why_none(found.reason[0])


ALIKE = [[1.0, 0.2], [1.0, 0.0], [0.0, 1.0]]


def test_the_most_alike_within_the_bounds_is_taken_and_never_the_clip_itself() -> None:
    assert why(rows(ALIKE)) == ([1], None)


def test_a_copy_above_the_upper_bound_is_no_reference() -> None:
    assert why(rows([[1, 0], [1, 0.001], [0, 1]])) == ([], "above_upper_bound")


def test_another_identity_below_the_lower_bound_is_no_reference() -> None:
    assert why(rows([[1, 0], [0, 1], [0.1, 1]])) == ([], "below_lower_bound")


def test_a_member_of_the_dedupe_group_is_never_paired() -> None:
    assert why(rows(ALIKE, group=[4, 4, -1])) == ([], "near_duplicate")
    assert why(rows(ALIKE, group=[-1, -1, -1])) == ([1], None)  # no group is not a group


def test_the_split_is_never_crossed() -> None:
    assert why(rows(ALIKE), held_out=[1, 2]) == ([], "other_split")


def test_what_is_called_otherwise_is_not_the_same() -> None:
    assert why(rows(ALIKE, name=[0, 1, 0])) == ([], "named_otherwise")
    assert why(rows(ALIKE, name=[0, -1, 0])) == ([1], None)  # unnamed agrees with every name


def test_an_overlapping_stretch_of_the_same_source_is_the_same_shot() -> None:
    two = ALIKE[:2]
    assert why(rows(two, video=[7, 7], start=[0, 0.5], end=[1, 1.5])) == ([], "same_shot")
    assert why(rows(two, video=[7, 7], start=[0, 1.0], end=[1, 2.0])) == ([1], None)


def test_one_background_is_refused_and_an_unmeasured_one_is_not() -> None:
    assert why(rows(ALIKE, background=[[1, 0], [1, 0.1], [0, 1]])) == ([], "same_background")
    assert why(rows(ALIKE, background=[[1, 0], [0, 0], [0, 1]])) == ([1], None)


@pytest.mark.parametrize(("source", "taken"), [("same", [1]), ("other", [2]), ("any", [1, 2])])
def test_the_source_of_references_is_chosen(source: str, taken: list[int]) -> None:
    three = rows([[1, 0.6], [1, 0.3], [1, 0.0]], video=[5, 5, 6], start=[0, 2, 0], end=[1, 3, 1])
    assert why(three, source=source)[0] == taken


def test_of_one_clip_only_the_best_subject_is_taken() -> None:
    # Cosines with row 0: row 1 0.982, row 3 0.977, row 2 0.958; rows 1 and 2 are subjects of one clip.
    five = rows([[1, 0.3], [1, 0.1], [1, 0], [0.9, 0.5], [0, 1]], clip=[0, 1, 1, 2, 3], video=[0, 1, 1, 2, 3])
    assert why(five)[0] == [1, 3]
    assert why(five, most=1)[0] == [1]


def test_alone_means_alone() -> None:
    assert why(rows([[1.0, 0.0]])) == ([], "alone")


def test_behind_many_excluded_ones_a_reference_is_still_found() -> None:
    """Forty copies of one group stand before the one that may be taken; four candidates are looked at at first."""
    many = [[1.0, 0.001 * i] for i in range(41)]
    ids = rows([*many, [1.0, 0.4]], group=[7] * 41 + [-1])
    assert why(ids, k=4, upper=1.0) == ([41], None)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.integers(1, 7))
def test_what_is_chosen_obeys_every_rule_whatever_the_block(n: int, seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rows(
        rng.normal(size=(n, 3)).tolist(),
        clip=rng.integers(0, n, n).tolist(),
        video=rng.integers(0, 5, n).tolist(),
        group=rng.integers(-1, 3, n).tolist(),
        name=rng.integers(-1, 3, n).tolist(),
        background=rng.normal(size=(n, 2)).tolist(),
    )
    held = np.flatnonzero(rng.random(n) < 0.4).tolist()
    whole = paired(ids, lower=0.2, upper=0.95, held_out=held, most=2)
    parts = paired(ids, lower=0.2, upper=0.95, held_out=held, most=2, block=block)
    for name in ("row", "cosine", "reason"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
    assert ((whole.reason == NONE) == (whole.row < 0)).all()
    assert whole.reason.max(initial=0) <= len(REASONS)
    for target in range(n):
        chosen = whole.row[target][whole.reason[target] == 0]
        assert len(chosen) <= 2
        assert len(set(ids.source[chosen])) == len(chosen)
        for row in chosen:
            cosine = float(ids.vector[target] @ ids.vector[row])
            assert 0.2 - 1e-5 <= cosine <= 0.95 + 1e-5
            assert ids.source[row] != ids.source[target]
            assert (row in held) == (target in held)
            assert ids.group[row] == -1 or ids.group[row] != ids.group[target]
            assert float(ids.background[target] @ ids.background[row]) <= 0.9 + 1e-5

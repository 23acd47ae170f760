"""Retrieval of references: bounds, exclusions, reasons and the leak-free split."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.subjects.match import REASONS, Candidates, held_out_videos, match


def rows(
    vectors: list[list[float]],
    clip: list[int] | None = None,
    video: list[int] | None = None,
    group: list[int] | None = None,
    split: list[int] | None = None,
    name: list[int] | None = None,
    start: list[float] | None = None,
    end: list[float] | None = None,
) -> Candidates:
    n = len(vectors)
    unit = np.asarray(vectors, np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    ints = [np.asarray(v, np.int64) for v in (clip or range(n), video or range(n), group or [-1] * n, split or [0] * n)]
    return Candidates(
        unit,
        *ints,
        np.asarray(name or [-1] * n, np.int64),
        np.asarray(start or [0.0] * n),
        np.asarray(end or [1.0] * n),
    )


def why(candidates: Candidates, lower: float = 0.5, upper: float = 0.99) -> tuple[list[int], str | None]:
    """What the first row gets as a target among all rows."""
    found = next(iter(match(candidates.rows(np.array([0])), candidates, lower=lower, upper=upper, most=3)))
    return [row for row, _ in found.chosen], found.reason


ALIKE = [[1.0, 0.2], [1.0, 0.0], [0.0, 1.0]]


def test_the_most_alike_within_the_bounds_is_taken_and_never_the_clip_itself() -> None:
    assert why(rows(ALIKE)) == ([1], None)


def test_a_copy_above_the_upper_bound_is_no_reference() -> None:
    assert why(rows([[1, 0], [1, 0.001], [0, 1]])) == ([], "above_upper_bound")


def test_another_identity_below_the_lower_bound_is_no_reference() -> None:
    assert why(rows([[1, 0], [0, 1], [0.1, 1]])) == ([], "below_lower_bound")


def test_a_member_of_the_dedupe_group_is_never_paired() -> None:
    assert why(rows(ALIKE, group=[4, 4, -1])) == ([], "only_near_duplicates")
    assert why(rows(ALIKE, group=[-1, -1, -1])) == ([1], None)  # no group is not a group


def test_the_split_is_never_crossed() -> None:
    assert why(rows(ALIKE, split=[0, 1, 1])) == ([], "only_in_the_other_split")


def test_what_is_called_otherwise_is_not_the_same() -> None:
    assert why(rows(ALIKE, name=[0, 1, 0])) == ([], "only_named_otherwise")
    assert why(rows(ALIKE, name=[0, -1, 0])) == ([1], None)  # unnamed agrees with every name


def test_an_overlapping_stretch_of_the_same_source_is_the_same_shot() -> None:
    assert why(rows(ALIKE, video=[7, 7, 8], start=[0, 0.5, 0], end=[1, 1.5, 1])) == ([], "below_lower_bound")
    assert why(rows(ALIKE, video=[7, 7, 8], start=[0, 1.0, 0], end=[1, 2.0, 1])) == ([1], None)


def test_of_one_clip_only_the_best_row_is_taken() -> None:
    five = rows([[1, 0.3], [1, 0.1], [1, 0], [0.9, 0.5], [0, 1]], clip=[0, 1, 1, 2, 3], video=[0, 1, 1, 2, 3])
    # Cosines with the target: row 3 0.977, row 1 0.982, row 2 0.958; rows 1 and 2 are one clip.
    assert why(five)[0] == [1, 3]


def test_alone_means_alone() -> None:
    assert why(rows([[1.0, 0.0]])) == ([], "alone")


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.integers(1, 7))
def test_blocks_give_what_one_block_gives_and_every_miss_has_a_reason(n: int, seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    table = rows(
        rng.normal(size=(n, 3)).tolist(),
        clip=rng.integers(0, n, n).tolist(),
        video=rng.integers(0, 5, n).tolist(),
        group=rng.integers(-1, 3, n).tolist(),
        split=rng.integers(0, 2, n).tolist(),
        name=rng.integers(-1, 3, n).tolist(),
    )
    whole = list(match(table, table, lower=0.2, upper=0.95, most=2))
    assert whole == list(match(table, table, lower=0.2, upper=0.95, most=2, block=block))
    assert [m.target for m in whole] == list(range(n))
    for m in whole:
        assert bool(m.chosen) != (m.reason in REASONS)
        for row, cosine in m.chosen:
            assert table.clip[row] != table.clip[m.target]
            assert table.split[row] == table.split[m.target]
            assert table.group[row] == -1 or table.group[row] != table.group[m.target]
            assert 0.2 <= cosine <= 0.95


def test_the_split_is_drawn_video_by_video() -> None:
    videos = [f"v{i}" for i in range(300)]
    drawn = held_out_videos(videos, [], 0, 0.1)
    # 300 draws at 0.1: mean 30, standard deviation 5.2
    assert 12 <= len(drawn) <= 48
    assert drawn <= held_out_videos([*videos, "new"], [], 0, 0.1)
    assert drawn != held_out_videos(videos, [], 1, 0.1)


def test_a_small_collection_still_holds_one_video_out_but_never_its_only_one() -> None:
    assert len(held_out_videos(["a", "b"], [], 0, 0.01)) == 1
    assert held_out_videos(["a"], ["p", "q"], 0, 0.01) == set()
    assert held_out_videos(["a", "b"], [], 0, 0.0) == set()

"""The split leaks neither footage nor identities."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.subjects.retrieve import Bounds, candidates, settle
from stages.subjects.split import components, links, split
from tests.subjects.test_retrieve import rows

NONE = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def edges(*pairs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([a for a, _ in pairs], np.int64), np.array([b for _, b in pairs], np.int64)


def drawn(count: int, share: float, seed: int = 0, component: np.ndarray | None = None) -> set[int]:
    names, target = pa.array([f"v{i}" for i in range(count)]), np.ones(count, bool)
    label = np.arange(count) if component is None else component
    return set(np.flatnonzero(split(names, target, label, 0, seed=seed, share=share).held_out).tolist())


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10_000), st.sampled_from([0.3, 0.5, 1.0]), st.sampled_from([0.1, 0.3, 0.5]))
def test_no_sample_copy_or_identity_is_on_both_sides(n: int, seed: int, largest: float, share: float) -> None:
    """With any footage: no reference crosses; groups of copies stay whole; where no link is cut, no identity crosses either."""
    rng = np.random.default_rng(seed)
    ids = rows(
        rng.normal(size=(n, 3)).tolist(),
        video=rng.integers(0, max(2, n // 2), n).tolist(),
        group=rng.integers(-1, 4, n).tolist(),
    )
    videos = int(ids.video.max()) + 1
    found = candidates(ids, Bounds(0.6, 0.97, 0.9, "any"), 32)
    must, same, cosine = links(found, ids)
    component, cut = components(videos, must, same, cosine, largest)
    target = np.bincount(ids.video, minlength=videos) > 0
    side = split(pa.array([f"v{i}" for i in range(videos)]), target, component, cut, seed=seed, share=share).held_out
    final = settle(found, ids, side[ids.video], 2)
    query, place = np.nonzero(final.reason == 0)
    assert (side[ids.video[query]] == side[ids.video[final.row[query, place]]]).all()
    assert (side[must[0]] == side[must[1]]).all()
    crossing = int((side[same[0]] != side[same[1]]).sum())
    assert crossing <= cut
    if largest == 1.0:
        assert cut == 0
    if len(np.unique(component[target])) > 1:
        assert set(side[target]) == {True, False}


def test_identities_join_videos_through_a_third() -> None:
    component, cut = components(5, NONE, edges((0, 1), (1, 2)), np.array([0.7, 0.9], np.float32), 1.0)
    assert cut == 0
    assert len(set(component[:3])) == 1
    assert len(set(component)) == 3


def test_the_strongest_links_hold_where_all_would_tie_everything_together() -> None:
    chain = edges((0, 1), (1, 2), (2, 3))
    component, cut = components(4, NONE, chain, np.array([0.9, 0.7, 0.8], np.float32), 0.5)
    assert component[0] == component[1] != component[2] == component[3]
    assert cut == 1


def test_copies_stay_together_however_many_they_are() -> None:
    component, _ = components(4, edges((0, 1), (1, 2), (2, 3)), NONE, np.zeros(0, np.float32), 0.25)
    assert len(set(component)) == 1


def test_the_split_is_drawn_component_by_component() -> None:
    held = drawn(300, 0.1)
    # 300 draws at 0.1: mean 30, standard deviation 5.2
    assert 12 <= len(held) <= 48
    assert held <= drawn(301, 0.1)  # one more video moves no other
    assert held != drawn(300, 0.1, seed=1)


def test_a_component_that_holds_much_of_the_data_trains() -> None:
    big = np.array([0] * 60 + list(range(1, 41)))
    assert all(not drawn(100, 0.1, seed, big) & set(range(60)) for seed in range(30))


def test_a_small_collection_still_holds_one_out_but_never_its_only_one() -> None:
    assert len(drawn(2, 0.01)) == 1
    assert drawn(1, 0.01) == set()
    assert drawn(2, 0.0) == set()

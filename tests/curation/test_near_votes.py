"""One wrong verdict joins nothing, and verdicts that are missing take nothing apart."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.curation.near_growth import Link
from stages.curation.near_votes import agreed, ballots


def link(one: int, two: int, difference: float = 0.1, mirrored: bool = False) -> Link:
    return Link(one, two, 0.0, 1.0, mirrored, difference)


def chain(rows: list[int], difference: float = 0.1) -> list[Link]:
    return [link(one, two, difference) for one, two in pairwise(rows)]


def names(rows: list[int]) -> dict[int, str]:
    return {row: f"{row * 7919 % 104729:06d}" for row in rows}


def groups(links: list[Link], kept: list[bool]) -> set[frozenset[int]]:
    found: list[set[int]] = []
    for one, two in ((k.one, k.two) for k, keep in zip(links, kept, strict=True) if keep):
        touched = [g for g in found if one in g or two in g]
        found = [g for g in found if g not in touched] + [{one, two}.union(*touched)]
    return {frozenset(g) for g in found}


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(4, 25), min_size=2, max_size=2),
    wrong=st.floats(0.01, 0.5),
    missed=st.sampled_from([0, 0, 0.1, 0.25]),
    seed=st.integers(0, 10**6),
)
def test_scenes_that_a_single_wrong_link_joins_come_apart_and_nothing_else_does(
    sizes: list[int], wrong: float, missed: float, seed: int
) -> None:
    draw = random.Random(seed)
    rows = list(range(sum(sizes)))
    draw.shuffle(rows)
    scenes = [rows[: sizes[0]], rows[sizes[0] :]]
    scene = {row: k for k, members in enumerate(scenes) for row in members}
    right = [made for members in scenes for made in chain(members)]
    bridges = [link(draw.choice(a), draw.choice(b), wrong) for a, b in pairwise(scenes)]
    links = [*right, *bridges]
    draw.shuffle(links)
    pairs, turned = ballots(links, names(rows))
    assert not turned.any()
    linked = {(min(k.one, k.two), max(k.one, k.two)) for k in links}
    said = {
        (one, two): scene[one] == scene[two] and draw.random() >= missed
        for one, two in map(tuple, pairs.tolist())
        if (one, two) not in linked
    }
    kept = agreed(links, said, 0.1)
    after = groups(links, kept)
    if missed == 0:
        assert after == {frozenset(members) for members in scenes}
    assert kept == agreed(links, said, 0.1)
    assert after == groups(links[::-1], agreed(links[::-1], said, 0.1))


def test_two_clips_that_match_have_nobody_else_to_ask() -> None:
    links = [link(3, 8)]
    assert not len(ballots(links, names([3, 8]))[0])
    assert agreed(links, {}, 0.1) == [True]
    assert agreed([], {}, 0.1) == []


def test_every_clip_of_a_group_is_asked_about_eight_others_at_most() -> None:
    rows = list(range(40))
    pairs, _ = ballots(chain(rows), names(rows))
    assert {sum(row in pair for pair in pairs.tolist()) for row in rows} == {8}
    three, _ = ballots(chain([1, 2, 3]), names([1, 2, 3]))
    assert three.tolist() == [[1, 2], [1, 3], [2, 3]]


def test_a_clip_and_the_mirror_of_its_mirror_are_compared_as_they_are() -> None:
    links = [link(0, 1, mirrored=True), link(1, 2, mirrored=True), link(2, 3)]
    pairs, turned = ballots(links, names([0, 1, 2, 3]))
    assert dict(zip(map(tuple, pairs.tolist()), turned.tolist(), strict=True)) == {
        (0, 1): True, (0, 2): False, (0, 3): False, (1, 2): True, (1, 3): True, (2, 3): False,
    }  # fmt: skip


def test_half_of_the_votes_missing_takes_no_group_apart() -> None:
    rows = list(range(12))
    links = chain(rows)
    pairs, _ = ballots(links, names(rows))
    said = {tuple(pair): number % 2 == 0 for number, pair in enumerate(pairs.tolist())}
    assert all(agreed(links, {(one, two): same for (one, two), same in said.items()}, 0.1))

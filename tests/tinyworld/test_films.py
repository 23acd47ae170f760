"""Plans of raw videos: every defect occurs, identities return, captions are true, spans add up."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from tinyworld import difficulty as d
from tinyworld.films import BROKEN_KINDS, COPY_KINDS, Film, Plan, plan_world
from tinyworld.truth import world_truth

SEEDS = range(12)


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return [plan_world(seed, d.SMALLEST_WHOLE_WORLD) for seed in SEEDS]


def test_a_plan_and_its_truth_are_pure_functions_of_seed_and_count() -> None:
    assert plan_world(4, 30) == plan_world(4, 30)
    assert world_truth(plan_world(4, 30)) == world_truth(plan_world(4, 30))
    assert plan_world(4, 30) != plan_world(5, 30)


def test_every_defect_join_copy_and_broken_file_occurs_in_each_small_world(plans: list[Plan]) -> None:
    for plan in plans:
        shots = [shot for film in plan.films for shot in film.shots]
        defects = {shot.defect.kind for shot in shots if shot.defect is not None}
        assert defects == {*d.SHOT_DEFECTS, "letterbox"}
        assert {join.kind for film in plan.films for join in film.joins} == {"cut", "dissolve", "fade"}
        assert {copy.how for copy in plan.copies} == set(COPY_KINDS)
        assert {broken.how for broken in plan.broken} == set(BROKEN_KINDS)
        assert {film.codec for film in plan.films} == {"h264", "vp9"}
        files = [video["file"] for video in world_truth(plan)["videos"]]
        assert len(set(files)) == plan.count == len(files)


@pytest.mark.parametrize("count", [1, 2, 5, 23, 60])
def test_a_world_of_any_size_has_as_many_files_as_asked_for(count: int) -> None:
    assert len(world_truth(plan_world(2, count))["videos"]) == count


def test_a_world_without_videos_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one video, not 0"):
        plan_world(1, 0)


def test_every_identity_plays_in_two_unboxed_films_over_different_backgrounds(plans: list[Plan]) -> None:
    for plan in plans:
        where: dict[str, list[str]] = defaultdict(list)
        for film in plan.films:
            assert not film.identity.held_out
            assert film.identity.base not in d.CLASHES[film.background]
            if any(shot.defect is None for shot in film.shots):
                where[film.identity.id].append(film.background)
        assert len(where) == 8  # 24 files: 3 broken, 3 copies, 18 films of which 2 are letterboxed, 16 // 2
        for backgrounds in where.values():
            assert len(backgrounds) >= 2
            assert len(set(backgrounds)) == len(backgrounds)


def test_a_films_caption_is_true_of_each_of_its_shots(plans: list[Plan]) -> None:
    for plan in plans:
        for film in plan.films:
            for shot in film.shots:
                (actor,) = shot.scene.actors
                assert (actor.identity, actor.motion) == (film.identity, film.motion)
                assert shot.scene.backdrop.kind == film.background
                assert actor.identity.phrase in film.caption
                assert film.caption.endswith(f"over {film.background}")


def test_subjects_of_films_are_large_and_something_always_moves(plans: list[Plan]) -> None:
    for plan in plans:
        for shot in (shot for film in plan.films for shot in film.shots):
            (actor,) = shot.scene.actors
            assert min(actor.start.side, actor.end.side) >= 0.32
            assert max(actor.start.side, actor.end.side) <= 0.58
            assert actor.motion != "still" or shot.scene.camera.kind != "fixed"


def _check_spans(film: Film) -> None:
    spans, cleans, joins = film.shot_spans(), film.clean_spans(), film.transitions()
    assert spans[0].start == 0
    assert spans[-1].end == film.frames
    assert all(a.end == b.start for a, b in pairwise(spans))
    for span, clean in zip(spans, cleans, strict=True):
        assert span.start <= clean.start < clean.end <= span.end
    for index, (join, span) in enumerate(zip(film.joins, joins, strict=True)):
        assert span.end - span.start == join.frames
        assert (join.frames == 0) == (join.kind == "cut")
        assert cleans[index].end == span.start
        assert cleans[index + 1].start == span.end


def test_spans_of_shots_and_joins_partition_each_film(plans: list[Plan]) -> None:
    for plan in plans:
        for film in plan.films:
            _check_spans(film)
            low, high = d.SHOT_SECONDS
            assert all(low * film.fps - 1 <= c.end - c.start <= high * film.fps + 1 for c in film.clean_spans())


def test_slides_and_darkness_are_entered_and_left_by_cuts_alone(plans: list[Plan]) -> None:
    for film in (film for plan in plans for film in plan.films):
        for index, join in enumerate(film.joins):
            around = [shot.defect.kind for shot in film.shots[index : index + 2] if shot.defect is not None]
            if {"static", "dark"} & set(around):
                assert join.kind == "cut"


def test_truth_keeps_exactly_the_shots_without_a_defect_and_says_why_not(plans: list[Plan]) -> None:
    truth = world_truth(plans[0])
    kinds = Counter(video["kind"] for video in truth["videos"])
    assert kinds == {"film": 18, "copy": 3, "broken": 3}
    for shot in (shot for video in truth["videos"] for shot in video["shots"]):
        assert shot["keep"] == (not shot["defects"]) == (shot["why_not"] is None)
    assert all(len(group) == 2 for group in truth["duplicates"])
    assert len(truth["duplicates"]) == 3
    assert len(truth["broken"]) == 3

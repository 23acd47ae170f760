"""Stillness against slides whose number and lengths are known."""

from __future__ import annotations

import numpy as np
import pytest

from models.scorers.base import VideoInfo
from models.scorers.catalog import scorer_class
from tests.footage.media import pan, still
from tests.footage.test_scorers import feed, score


@pytest.mark.parametrize("seconds", [(2.0, 2.0, 2.0), (1.2, 4.0), (3.0,), (1.5, 1.0, 2.5, 3.0)])
def test_slides_are_counted_and_their_length_is_right(seconds: tuple[float, ...]) -> None:
    frames = np.concatenate([still(n, round(25 * s)) for n, s in enumerate(seconds)])
    values = score("static", frames)
    assert values["slides"] == len(seconds)
    assert values["slide_s"] == pytest.approx(np.mean(seconds), abs=0.5)  # a sample every 0.25 s at either end
    assert values["static_share"] > 0.7


def test_films_and_short_holds_are_no_slides() -> None:
    assert score("static", pan(2, 0, 75)) == {"static_share": 0.0, "slides": 0.0, "slide_s": None}
    animation = np.concatenate([still(n, 15) for n in range(6)])  # every picture is held for 0.6 s
    assert score("static", animation)["slides"] == 0.0


def test_slides_between_moving_parts_count_alone() -> None:
    frames = np.concatenate([pan(2, 0, 50, seed=1), still(7, 50), pan(3, 1, 50, seed=2)])
    values = score("static", frames)
    assert values["slides"] == 1.0
    assert values["slide_s"] == pytest.approx(2.0, abs=0.5)


def test_two_clips_of_one_video_have_their_own_slides() -> None:
    frames = np.concatenate([still(1, 50), still(2, 50), pan(2, 0, 50)])
    scorer = scorer_class("static")()
    scorer.start(VideoInfo(320, 180, 25))
    feed(scorer, frames)
    first, second = scorer.clip(0, 100), scorer.clip(100, 150)
    assert (first["slides"], second["slides"]) == (2.0, 0.0)


def test_a_slide_at_the_end_of_one_shot_is_not_carried_into_the_next() -> None:
    frames = np.concatenate([pan(2, 0, 50), still(3, 100)])
    scorer = scorer_class("static")()
    scorer.start(VideoInfo(320, 180, 25))
    feed(scorer, frames[:100])
    assert scorer.clip(0, 100)["slides"] == 1.0  # announced while the picture still stands
    feed(scorer, frames[100:], first=100)
    rest = scorer.clip(100, 150)
    assert rest["slides"] == 1.0
    assert rest["slide_s"] == pytest.approx(2.0, abs=0.5)

"""Shares with intervals, the oracles' closed forms, and the exam's questions."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyworld import difficulty as d
from tinyworld.exam import Mark, mark, question, sheet
from tinyworld.oracles import HEADS, WINDOW, Seen, attributes_right, distractors, path_of, retrieved, window_of
from tinyworld.shares import Share
from tinyworld.world import Identity


@settings(deadline=None)
@given(st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share_and_lies_in_0_to_1(counts: tuple[int, int]) -> None:
    share = Share(*counts)
    assert 0.0 <= share.low <= share.high <= 1.0
    if share.n:
        assert share.low - 1e-12 <= share.value <= share.high + 1e-12


def test_wilsons_interval_has_its_textbook_values() -> None:
    # 10 of 20 at z = 1.96: (0.5 + 0.04802) / 1.19208 -+ ... = 0.2993 to 0.7007 (Newcombe 1998, method 3).
    share = Share(10, 20)
    assert share.low == pytest.approx(0.2993, abs=1e-3)
    assert share.high == pytest.approx(0.7007, abs=1e-3)
    assert Share(0, 0).told() == {"value": None, "low": None, "high": None, "n": 0}
    assert math.isnan(Share(0, 0).value)


def test_travel_and_growth_follow_the_mask() -> None:
    mask = torch.zeros(2, 24, 24)
    mask[0, 2:6, 2:6] = 1.0
    mask[1, 10:18, 8:16] = 1.0
    travel, growth = path_of(mask)
    # Centres (4, 4) and (14, 12) of 24: (10, 8) / 24; sides 4 and 8: one doubling.
    assert travel == pytest.approx(math.hypot(10, 8) / 24, abs=1e-4)
    assert growth == pytest.approx(1.0, abs=1e-4)


def test_the_window_lies_around_the_subject_at_one_size() -> None:
    frames, masks = torch.zeros(2, 1, 48, 48), torch.zeros(2, 48, 48)
    axis = torch.arange(48.0)
    for n, (x, y, radius) in enumerate([(14, 30, 10), (33, 20, 6)]):
        masks[n] = ((axis - x) ** 2 + (axis[:, None] - y) ** 2 < radius**2).float()
        frames[n, 0] = masks[n]
    shown = window_of(frames, masks)
    assert shown.shape == (2, 1, WINDOW, WINDOW)
    # A disc in a window of 1.3 radii covers pi / (4 * 1.3^2) of it, wherever it was and however large.
    assert shown.mean((1, 2, 3)).tolist() == pytest.approx([math.pi / 4 / 1.69] * 2, abs=0.03)
    assert torch.allclose(shown[0], shown[0].flip(2), atol=0.3)


def seen(identity: Identity, sure: float = 0.9) -> Seen:
    told = {"shape": identity.shape, "pattern": identity.pattern, "base": identity.base, "accent": identity.accent}
    told |= {"background": "grass", "motion": "left"}
    logs = {}
    for name, options in HEADS.items():
        p = np.full(len(options), (1 - sure) / (len(options) - 1), np.float32)
        p[options.index(told[name])] = sure
        logs[name] = np.log(p)
    return Seen(**told, travel=0.3, growth=0.0, cleanness=1.0, log_probabilities=logs)


def test_a_subject_is_retrieved_when_it_scores_highest_and_not_on_a_tie() -> None:
    star, heart = Identity("star", "striped", "red", "white"), Identity("heart", "striped", "red", "white")
    assert retrieved(seen(star), star, [heart])
    assert not retrieved(seen(heart), star, [heart])
    assert not retrieved(seen(Identity("ring", "striped", "red", "white")), star, [heart])
    assert attributes_right(seen(star), heart) == 0.75


def test_questions_are_about_unseen_subjects_and_never_tell_the_pattern() -> None:
    asked = [question(index) for index in range(64)]
    assert all(q.identity.held_out for q in asked)
    assert not any(set(d.PATTERNS) & set(re.findall(r"\w+", q.prompt)) for q in asked)
    assert {q.motion for q in asked} == set(d.MOTIONS)
    assert {q.background for q in asked} == set(d.BACKGROUNDS)
    assert all(f"over {q.background}" in q.prompt and "Ref 1[" in q.prompt for q in asked)
    again = question(7)
    assert np.array_equal(again.crop, asked[7].crop)
    assert asked[7].mask.max() == 255


def test_the_others_share_the_shape_that_the_caption_tells_and_are_49_unseen_ones() -> None:
    for index in range(8):
        asked = question(index)
        others = distractors(asked.identity, "exam", index)
        assert len(set(others) - {asked.identity}) == 49
        assert all(other.held_out and other.shape == asked.identity.shape for other in others)


def test_a_perfect_answer_gets_full_marks_and_a_wrong_one_none() -> None:
    asked = question(3)
    right = seen(asked.identity)
    got = mark(right, asked, 3)
    assert (got.identity, got.identity_first) == (1.0, 1.0)
    other = next(q.identity for q in map(question, range(64)) if _nothing_alike(q.identity, asked.identity))
    poor = mark(seen(other), asked, 3)
    assert (poor.identity, poor.identity_first) == (0.0, 0.0)
    assert isinstance(poor, Mark)


def _nothing_alike(a: Identity, b: Identity) -> bool:
    return a.pattern != b.pattern and a.base != b.base and a.accent != b.accent


def test_the_sheet_shows_every_question_and_system() -> None:
    asked = [question(index) for index in range(2)]
    videos = [np.full((9, 24, 24, 3), 40 * i, np.uint8) for i in range(2)]
    picture = sheet(asked, {"base": videos, "sft": videos}, cell=30)
    assert picture.shape == (2 * 30 + 4, 30 + 2 * (6 + 3 * 30), 3)

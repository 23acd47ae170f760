"""Pairs in a real browser: one clock for both videos, sides undone, the second question; and the speed of hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from stages.review.database import Database
from stages.review.keymap import keymap
from stages.review.schema import item, response

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from benchmarks.review_latency import LIMIT_MS, decide, summary
from tests.review.test_browser import verdicts

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

Make = Callable[..., None]

DRIFT = """
(frames) => new Promise((resolve) => {
  const [left, right] = document.querySelectorAll("video.current");
  let worst = 0;
  const look = (now, frame) => {
    // at a loop one of them is back at its start a frame before the other
    if (left.currentTime > 0.3 && right.currentTime > 0.3) worst = Math.max(worst, Math.abs(left.currentTime - right.currentTime));
    if (frames-- > 0) left.requestVideoFrameCallback(look);
    else resolve(worst);
  };
  left.requestVideoFrameCallback(look);
})
"""


def winners(db: Database, field: str = "winner") -> set[str]:
    with db.read() as connection:
        return {json.loads(text)[field] for text in connection.execute(sa.select(item.c.payload)).scalars()}


def test_a_pair_plays_side_by_side_and_the_sides_are_undone_right(db: Database, pairs: Make, visit: Any) -> None:
    pairs(3, "consis")
    ada = visit("Ada")
    ada.open("pairs")
    assert ada.wait_playing() == 2
    good = winners(db)
    while ada.item:
        ada.wait_ready()
        before = ada.item
        on_left = ada.source(0) in good
        ada.press("1" if on_left else "3")
        ada.should.ask_second_question()
        ada.press("Escape")
        ada.should.ask_second_question(False)
        ada.press("ArrowLeft" if on_left else "ArrowRight")
        ada.press("y")
        ada.wait_item_after(before)
    ada.should.be_done("3 judged")
    assert verdicts(db, "pairs") == ["winner"] * 3


def test_two_people_see_a_pair_on_opposite_sides(db: Database, pairs: Make, visit: Any) -> None:
    pairs(1, "compare", overlap=2)
    ada, ben = visit("Ada"), visit("Ben")
    ada.open("pairs")
    ben.open("pairs")
    assert (ada.source(0), ada.source(1)) == (ben.source(1), ben.source(0))
    for one in (ada, ben):
        one.wait_ready()
        one.decide("1" if one.source(0) in winners(db, "a") else "3")
    ben.should.be_done("1 judged")
    assert verdicts(db, "pairs") == ["a"]


def test_same_both_bad_and_broken_are_different_answers(db: Database, pairs: Make, visit: Any) -> None:
    pairs(3, "real_fake")
    ada = visit("Ada")
    ada.open("pairs")
    for key in ("2", "4", "x"):
        ada.decide(key)
    ada.should.be_done("3 judged")
    with db.read() as connection:
        said = connection.execute(sa.select(response.c.verdict, response.c.reasons)).all()
    assert set(map(tuple, said)) == {("both_bad", "[]"), ("both_bad", '["broken"]'), ("same", "[]")}


def test_both_videos_of_a_pair_run_and_step_on_one_clock(pairs: Make, visit: Any) -> None:
    pairs(1, "compare")
    ada = visit("Ada")
    ada.open("pairs")
    ada.wait_ready()
    shown = ada.item
    # pushed a second apart, they come together again
    ada.page.evaluate("() => { document.querySelectorAll('video.current')[1].currentTime += 1; }")
    ada.wait_playing()
    assert ada.page.evaluate(DRIFT, 30) <= 0.2  # two frames at ten a second: the most before it is put right
    ada.press(" ")
    for _ in range(3):
        ada.press(".")
    times = ada.page.evaluate("() => [...document.querySelectorAll('video.current')].map((video) => video.currentTime)")
    assert times[0] == pytest.approx(times[1], abs=0.01)
    ada.page.locator("#seek").focus()
    ada.press("ArrowLeft")  # the slider's own key; no vote
    assert ada.item == shown


@pytest.mark.parametrize("form", ["filter", "compare", "likert"])
def test_every_key_is_shown_and_explained(form: Any, clips: Make, pairs: Make, ratings: Make, visit: Any) -> None:
    campaign = {"filter": "clips", "compare": "pairs", "likert": "ratings"}[form]
    {"filter": clips, "compare": lambda n: pairs(n, form), "likert": ratings}[form](2)
    ada = visit("Ada")
    ada.open(campaign)
    ada.wait_ready()
    for key in keymap(form):
        if key["action"] != "later":  # means something once an earlier answer is open
            assert ada.page.locator(f'[data-action="{key["action"]}"]').first.is_visible(), key
    ada.press("?")
    shown = ada.page.locator("#help").inner_text()
    assert all(key["help"] in shown for key in keymap(form))


def test_the_next_clip_plays_at_once(clips: Make, visit: Any) -> None:
    clips(14)
    ada = visit("Ada")
    ada.open("clips")
    found = summary(decide(ada, 10, "a"))
    # the counted run holds the 95th percentile under the limit; here other tests may share the machine
    assert found["shown_ms"]["p50"] < LIMIT_MS

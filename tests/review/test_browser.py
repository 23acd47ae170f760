"""A reviewer's work in a real browser, by keyboard, with videos that really play."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.video.cut import Cut, cut_clips
from stages.review.campaigns import NewItem, close_campaign, create_campaign, progress
from stages.review.database import Database
from stages.review.media import MediaStore
from stages.review.proxies import place_file, proxy_encoding
from stages.review.schema import event, lease, response
from stages.review.verdicts import export
from tests.review.conftest import spec

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

Make = Callable[..., None]


def verdicts(db: Database, campaign: str) -> list[str]:
    close_campaign(db, campaign, "test")
    return sorted(row["verdict"] for row in export(db, campaign).verdicts.to_pylist())


def test_a_day_of_twenty_clips_by_keyboard_alone(db: Database, clips: Make, visit: Any) -> None:
    clips(20)
    ada = visit("Ada")
    ada.open("clips")
    ada.should.count("0 of 20 · 0 by you")
    odd = {
        1: ["2"],
        2: ["s", "1"],
        3: ["r", "1", "3", "Enter"],
        4: ["r", "1", "1", "2", "r"],
        5: ["s", "a"],
        6: ["r", "Escape", "a"],
    }
    seen = [ada.item]
    for n in range(20):
        seen.append(ada.decide(*odd.get(n, ["a"])))
    assert seen[-1] is None
    assert len(set(seen)) == 21  # every item once
    ada.should.be_done("20 judged, 20 of them by you.")
    ada.should.be_done("run the same command again: fulcrum run")
    # three rejects; the skip is an answer that concludes nothing
    assert verdicts(db, "clips") == ["accept"] * 16 + ["in_review"] + ["reject"] * 3
    reasons = sorted(row["reasons"] for row in export(db, "clips").decisions.to_pylist() if row["verdict"] == "reject")
    assert reasons == [["no subject", "blur"], ["text"], ["text"]]


def test_undo_brings_the_last_clip_back_and_the_new_answer_holds(db: Database, clips: Make, visit: Any) -> None:
    clips(3)
    ada = visit("Ada")
    ada.open("clips")
    first = ada.item
    second = ada.decide("a")
    ada.press("u")
    assert ada.wait_item_after(second) == first
    ada.should.notice("Taken back: accept")
    ada.reload()
    assert ada.item == first  # a reload keeps the place
    assert ada.decide("r", "Enter") == second
    ada.should.count("1 of 3 · 1 by you")
    assert verdicts(db, "clips") == ["in_review"] * 2 + ["reject"]


def test_an_earlier_answer_is_opened_again_and_replaced(db: Database, clips: Make, visit: Any) -> None:
    clips(4)
    ada = visit("Ada")
    ada.open("clips")
    first = ada.item
    second = ada.decide("a")
    third = ada.decide("2")
    ada.press("p")
    assert ada.wait_item_after(third) == second
    ada.should.notice("You said: reject (text).")
    ada.press("p")
    assert ada.wait_item_after(second) == first
    ada.should.notice("You said: accept.")
    ada.press("n")
    assert ada.wait_item_after(first) == second
    ada.press("n")
    assert ada.wait_item_after(second) == third  # the place is kept
    ada.should.no_notice()
    ada.press("p")
    assert ada.wait_item_after(third) == second
    with ada.page.expect_response(lambda reply: reply.url.endswith("/response") and reply.ok):
        assert ada.decide("a") == third
    ada.should.count("2 of 4 · 2 by you")
    assert verdicts(db, "clips") == ["accept"] * 2 + ["in_review"] * 2


def test_speed_pause_frame_steps_loop_and_overlays_leave_the_clip_where_it_is(clips: Make, visit: Any) -> None:
    clips(2)
    ada = visit("Ada")
    ada.open("clips")
    ada.wait_ready()
    shown = ada.item
    ada.press("]")
    ada.press("o")
    assert ada.video("playbackRate") == 1.25
    assert ada.video("loop") is False
    ada.press("k")
    ada.press("0")
    ada.press(" ")
    assert ada.video("paused")
    ada.page.locator("#seek").fill("1")
    ada.page.locator("#seek").blur()
    ada.should.be_at_frame(10)
    for key, frame in ((".", 11), (".", 12), (",", 11), ("l", 16), ("j", 11)):
        ada.press(key)
        ada.should.be_at_frame(frame)
    for key, dialog in (("?", "#help"), ("g", "#guidelines")):
        ada.press(key)
        assert ada.page.locator(dialog).is_visible()
        ada.press("a")  # means nothing while a dialog is open
        ada.press("Escape")
        assert ada.page.locator(dialog).is_hidden()
    ada.press("Control+a")
    assert ada.item == shown
    ada.reload()
    assert ada.video("playbackRate") == 1.25  # remembered
    assert ada.video("loop") is False


def test_keys_mean_nothing_while_typing_or_when_single_keys_are_off(clips: Make, visit: Any) -> None:
    clips(3)
    ada = visit("Ada")
    ada.open("clips")
    ada.wait_ready()
    shown = ada.item
    ada.page.evaluate("() => document.querySelector('main').append(document.createElement('textarea'))")
    ada.page.locator("textarea").focus()
    ada.page.keyboard.type("a1 r?")
    assert ada.page.locator("textarea").input_value() == "a1 r?"
    ada.page.locator("textarea").blur()
    ada.press("?")
    ada.page.get_by_label("Single keys act").uncheck()
    ada.press("Escape")
    ada.press("a")
    assert ada.item == shown
    ada.page.get_by_role("button", name="Accept").focus()
    ada.press("Enter")  # a button is pressed as every button is
    assert ada.wait_item_after(shown) is not None


def test_a_key_pressed_twice_in_haste_judges_one_clip(db: Database, clips: Make, visit: Any) -> None:
    clips(4)
    ada = visit("Ada")
    ada.open("clips")
    ada.decide("a", "a")
    ada.should.count("1 of 4 · 1 by you")
    assert verdicts(db, "clips") == ["accept"] + ["in_review"] * 3


def test_answers_given_offline_are_kept_taken_back_and_sent_later(db: Database, clips: Make, visit: Any) -> None:
    clips(4)
    ada = visit("Ada")
    ada.open("clips")
    ada.wait_ready()
    ada.go_offline()
    ada.decide("a")
    second = ada.item
    third = ada.decide("2")
    ada.should.be_offline_with("2 answers kept here")
    ada.press("u")  # the second has never left this browser
    assert ada.wait_item_after(third) == second
    ada.should.be_offline_with("1 answer kept here")
    ada.decide("a")
    assert progress(db, "clips").done == 0
    ada.go_offline(False)
    ada.should.count("2 of 4 · 2 by you")
    ada.should.be_connected()
    assert verdicts(db, "clips") == ["accept"] * 2 + ["in_review"] * 2


def test_answers_given_offline_outlive_the_page(db: Database, clips: Make, visit: Any) -> None:
    clips(3)
    ada = visit("Ada")
    ada.open("clips")
    first = ada.item
    ada.page.route("**/response", lambda route: route.abort())
    second = ada.decide("a")
    ada.should.be_offline_with("1 answer kept here")
    ada.page.unroute("**/response")
    ada.reload()
    ada.should.count("1 of 3 · 1 by you")
    assert ada.item == second != first


def test_a_campaign_that_closes_meanwhile_is_told_and_the_answer_is_logged(
    db: Database, clips: Make, visit: Any
) -> None:
    clips(3)
    ada = visit("Ada")
    ada.open("clips")
    ada.wait_ready()
    close_campaign(db, "clips", "test")
    ada.press("a")
    ada.should.be_done("This campaign is closed")
    with db.read() as connection:
        kinds = connection.execute(sa.select(event.c.kind)).scalars().all()
    assert kinds.count("answer_after_close") == 1


def test_a_lease_that_ran_out_is_told_kindly_and_the_answer_is_kept(db: Database, clips: Make, visit: Any) -> None:
    clips(1)
    ada, ben = visit("Ada"), visit("Ben")
    ada.open("clips")
    ada.wait_ready()
    item = ada.item
    with db.write() as connection:
        connection.execute(lease.update().values(expires_at=time.time() - 1))
    ben.open("clips")
    assert ben.item == item
    ada.come_back()
    ada.should.notice("somebody else may judge this one too")
    ben.decide("2")
    ada.decide("a")
    ada.should.be_done("1 judged")
    with db.read() as connection:
        rows = connection.execute(sa.select(response.c.verdict, response.c.standing)).all()
    assert sorted(map(tuple, rows)) == [("accept", "extra"), ("reject", "counted")]


def test_a_lease_that_ran_out_with_nobody_waiting_is_taken_up_again(db: Database, clips: Make, visit: Any) -> None:
    clips(3)
    ada = visit("Ada")
    ada.open("clips")
    ada.wait_ready()
    with db.write() as connection:
        connection.execute(lease.update().values(expires_at=time.time() - 1))
    with ada.page.expect_response("**/claim"):
        ada.come_back()
    ada.should.no_notice()
    expect(ada.page.locator("video")).to_have_count(3)
    for _ in range(3):
        ada.decide("a")
    ada.should.be_done("3 judged, 3 of them by you")
    assert verdicts(db, "clips") == ["accept"] * 3


def test_two_people_at_once_never_judge_the_same_clip(db: Database, clips: Make, visit: Any) -> None:
    clips(8)
    ada, ben = visit("Ada"), visit("Ben")
    ada.open("clips")
    ben.open("clips")
    for _ in range(4):
        ada.decide("a")
        ben.decide("r", "Enter")
    ada.should.be_done("8 judged")
    assert verdicts(db, "clips") == ["accept"] * 4 + ["reject"] * 4


def test_a_likert_draft_is_kept_and_the_last_rating_sends(db: Database, ratings: Make, visit: Any) -> None:
    ratings(2)
    ada = visit("Ada")
    ada.open("ratings")
    ada.wait_ready()
    first = ada.item
    ada.press("4")
    ada.press("2")
    ada.reload()  # at once: what the server does not have yet waits in the browser
    assert ada.item == first
    assert ada.scores() == {"identity": 4, "prompt": 2}
    second = ada.decide("ArrowUp", "3", "5", "1")  # one row up: prompt again; then what is still open
    assert second != first
    ada.press("u")
    assert ada.wait_item_after(second) == first
    assert ada.scores() == {"identity": 4, "prompt": 3, "motion": 5, "overall": 1}
    ada.wait_ready()
    ada.press("ArrowDown")  # from identity
    ada.press("2")  # a form that was full waits for Enter
    assert ada.item == first
    assert ada.decide("Enter") == second
    ada.wait_ready()
    ada.page.get_by_role("group", name="Overall").get_by_role("button", name="excellent").click()
    assert ada.scores() == {"overall": 5}
    ada.decide("s", "2")
    ada.should.be_done("2 judged")
    with db.read() as connection:
        rows = connection.execute(sa.select(response.c.answer).where(response.c.state == "live")).scalars().all()
    scores = {"identity": 4, "motion": 5, "overall": 1, "prompt": 2}
    assert [json.loads(row) for row in sorted(rows)] == [{"choice": "rate", "scores": scores}, {"choice": "skip"}]


def test_a_gold_item_looks_and_travels_like_every_other(
    db: Database, media: MediaStore, videos: list[Path], visit: Any
) -> None:
    name = media.add_bytes(videos[0].read_bytes(), ".webm")
    payload = {"media": name, "caption": "a bar", "fps": 10.0}
    gold = {"choice": "reject", "reasons": []}
    items = [NewItem(f"clip-{n}", payload, gold=gold if n % 2 else None) for n in range(6)]
    create_campaign(db, spec(gold_rate=0.5), items)
    ada = visit("Ada")
    traffic: list[tuple[str, ...]] = []
    ada.page.on("request", lambda request: traffic.append(shape(request)))
    ada.open("clips")
    looks = set()
    steps = set()
    with db.read() as connection:
        known = {row.id: row.gold is not None for row in connection.execute(sa.text("select id, gold from item"))}
    kinds = []
    while ada.item:
        ada.wait_ready()
        looks.add(ada.page.evaluate(LOOK))
        kinds.append(known[ada.item])
        del traffic[:]
        with ada.page.expect_response("**/claim"):
            ada.decide("a")
        steps.add(tuple(one for one in traffic if one[0] != "GET"))
    assert sorted(kinds) == [False] * 3 + [True] * 3
    assert len(looks) == 1
    assert len(steps) == 1
    assert "gold" not in ada.page.content().lower().replace("golden", "")


LOOK = """
() => document.documentElement.outerHTML
  .replaceAll(document.body.dataset.item, "ITEM")
  .replace(/<span id="(count|time|frame)">[^<]*/g, "")
  .replace(/<progress[^>]*>/g, "").replace(/<.?video[^>]*>/g, "").replace(/<input id="seek"[^>]*>/g, "")
  .replace(/<p id="say"[^<]*/g, "").replace(/"csrf": *"[^"]*"/, "")
"""


def shape(request: Any) -> tuple[str, ...]:
    """A request without what must differ: which item it is about, its key, and how long was watched."""
    body = request.post_data_json if request.post_data else {}
    path = "/".join("ID" if len(part) == 32 else part for part in request.url.split("/")[3:])
    return (request.method, path, *sorted(body))


def test_a_proxy_of_real_footage_plays_in_the_browser(
    db: Database, media: MediaStore, footage: Path, tmp_path: Path, visit: Any
) -> None:
    # Frames 10 to 40 of an H.264 file, which Chromium's free build could not play itself.
    out = tmp_path / "dog.webm"
    [_] = cut_clips(footage / "sam2" / "01_dog.mp4", [Cut(10, 40, out)], proxy_encoding(320, sound=False))
    name = place_file(media, out, True)
    create_campaign(db, spec(), [NewItem("dog", {"media": name, "caption": "a dog", "fps": 24.0})])
    ada = visit("Ada")
    ada.open("clips")
    ada.wait_playing()
    assert ada.video("videoWidth") == 320

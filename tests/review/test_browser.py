"""A reviewer's work in a real browser, by keyboard, with videos that really play."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import uvicorn

from stages.review.app import create_app
from stages.review.campaigns import NewItem, close_campaign, create_campaign, progress
from stages.review.database import Database
from stages.review.media import MediaStore
from stages.review.proxies import ProxyJob, ProxyMaker
from stages.review.schema import item
from stages.review.verdicts import export
from tests.review.conftest import spec

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from tests.review.pages import ReviewPage  # noqa: E402  (needs playwright)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium on this machine (Debian: apt install chromium)")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def server(db: Database, tmp_path: Path) -> Iterator[str]:
    """The real server on a free port of this machine."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.listen(128)
        app = create_app(tmp_path / "review.db")
        running = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}"
        running.should_exit = True
        thread.join(20)
    app.state.db.close()


@pytest.fixture
def visit(chromium: Any, server: str) -> Iterator[Callable[[str], ReviewPage]]:
    """``visit("Ada")``: a browser of her own, logged in. At the end no page may have complained."""
    opened: list[ReviewPage] = []
    contexts: list[Any] = []

    def make(name: str) -> ReviewPage:
        contexts.append(chromium.new_context(viewport={"width": 1280, "height": 720}))
        opened.append(ReviewPage(contexts[-1].new_page(), server))
        opened[-1].say_name(name)
        return opened[-1]

    yield make
    for review in opened:
        review.should.have_no_errors()
    for context in contexts:
        context.close()


@pytest.fixture
def clips(db: Database, media: MediaStore, videos: list[Path]) -> Callable[..., None]:
    names = [media.add_bytes(path.read_bytes(), ".webm") for path in videos]

    def make(count: int, **settings: Any) -> None:
        items = [
            NewItem(f"clip-{n:02d}", {"media": names[n % len(names)], "caption": f"caption {n}", "fps": 10.0})
            for n in range(count)
        ]
        create_campaign(db, spec(**settings), items)

    return make


@pytest.fixture
def pairs(db: Database, media: MediaStore, videos: list[Path]) -> Callable[..., None]:
    names = [media.add_bytes(path.read_bytes(), ".webm") for path in videos]

    def make(count: int, form: str) -> None:
        items = [
            NewItem(
                f"pair-{n}",
                {
                    "winner": names[2 * n],
                    "loser": names[2 * n + 1],
                    "reference": None,
                    "prompt": "a bar moves",
                    "fps": 10.0,
                },
            )
            for n in range(count)
        ]
        create_campaign(db, spec("pairs", form), items)

    return make


def verdicts(db: Database, campaign: str) -> list[str]:
    close_campaign(db, campaign, "test")
    return sorted(row["verdict"] for row in export(db, campaign).verdicts.to_pylist())


def test_ten_clips_are_judged_by_keyboard_with_the_video_playing(db: Database, clips: Any, visit: Any) -> None:
    clips(10)
    ada = visit("Ada")
    ada.open("clips")
    ada.should.count("0 of 10 · 0 by you")
    keys = [["a"], ["2"], ["s", "1"], ["r", "1", "3", "Enter"], *[["a"]] * 6]
    seen = [ada.item]
    for one in keys:
        seen.append(ada.decide(*one))
    assert seen[-1] is None
    assert len(set(seen)) == 11  # every item once
    ada.should.be_done("10 judged, 10 of them by you.")
    ada.should.be_done("run the same command again: fulcrum run")
    # two rejects; the skip is an answer that concludes nothing
    assert verdicts(db, "clips") == ["accept"] * 7 + ["in_review"] + ["reject"] * 2
    reasons = sorted(row["reasons"] for row in export(db, "clips").decisions.to_pylist() if row["verdict"] == "reject")
    assert reasons == [["no subject", "blur"], ["text"]]


def test_undo_brings_the_last_clip_back_and_the_new_answer_holds(db: Database, clips: Any, visit: Any) -> None:
    clips(3)
    ada = visit("Ada")
    ada.open("clips")
    first = ada.item
    second = ada.decide("a")
    ada.press("u")
    assert ada.wait_item_after(second) == first
    ada.page.reload()
    ada.page.wait_for_selector("body[data-item]", state="attached")
    assert ada.item == first  # a reload keeps the place
    assert ada.decide("r", "Enter") == second
    ada.should.count("1 of 3 · 1 by you")
    assert verdicts(db, "clips") == ["in_review"] * 2 + ["reject"]


def test_speed_pause_frame_steps_and_overlays_leave_the_clip_where_it_is(clips: Any, visit: Any) -> None:
    clips(2)
    ada = visit("Ada")
    ada.open("clips")
    ada.wait_playing()
    shown = ada.item
    ada.press("]")
    assert ada.video("playbackRate") == 1.25
    ada.press(" ")
    assert ada.video("paused")
    before = ada.video("currentTime")
    ada.press(",") if before > 0.5 else ada.press(".")
    assert abs(abs(ada.video("currentTime") - before) - 0.1) < 0.01  # one frame at ten a second
    for key, dialog in (("?", "#help"), ("g", "#guidelines")):
        ada.press(key)
        assert ada.page.locator(dialog).is_visible()
        ada.press("a")  # means nothing while a dialog is open
        ada.press("Escape")
        assert ada.page.locator(dialog).is_hidden()
    ada.press("Control+a")
    assert ada.item == shown
    ada.page.reload()
    ada.page.wait_for_selector("video.current", state="attached")
    assert ada.video("playbackRate") == 1.25  # remembered


def test_a_key_pressed_twice_in_haste_judges_one_clip(db: Database, clips: Any, visit: Any) -> None:
    clips(4)
    ada = visit("Ada")
    ada.open("clips")
    ada.decide("a", "a")
    ada.should.count("1 of 4 · 1 by you")


def test_answers_given_offline_are_sent_when_the_connection_is_back(db: Database, clips: Any, visit: Any) -> None:
    clips(3)
    ada = visit("Ada")
    ada.open("clips")
    ada.wait_playing()
    ada.page.context.set_offline(True)
    ada.decide("a")
    ada.page.wait_for_selector("#pending:not([hidden])")
    assert progress(db, "clips").done == 0
    ada.page.context.set_offline(False)
    ada.should.count("1 of 3 · 1 by you")
    assert progress(db, "clips").done == 1


def test_two_people_at_once_never_judge_the_same_clip(db: Database, clips: Any, visit: Any) -> None:
    clips(8)
    ada, ben = visit("Ada"), visit("Ben")
    ada.open("clips")
    ben.open("clips")
    for _ in range(4):
        ada.decide("a")
        ben.decide("r", "Enter")
    ada.should.be_done("8 judged")
    assert verdicts(db, "clips") == ["accept"] * 4 + ["reject"] * 4


def test_a_pair_plays_side_by_side_and_the_sides_are_undone_right(
    db: Database, media: MediaStore, pairs: Any, visit: Any
) -> None:
    pairs(3, "consis")
    ada = visit("Ada")
    ada.open("pairs")
    assert ada.wait_playing() == 2
    with db.read() as connection:
        winners = {json.loads(text)["winner"] for text in connection.execute(sa.select(item.c.payload)).scalars()}
    while ada.item:
        left = ada.page.locator('[data-pane="0"] video.current').get_attribute("src") or ""
        before = ada.item
        ada.wait_ready()
        ada.press("1" if left.removeprefix("/media/") in winners else "3")
        ada.should.ask_second_question()
        ada.press("Escape")
        ada.should.ask_second_question(False)
        ada.press("ArrowLeft" if left.removeprefix("/media/") in winners else "ArrowRight")
        ada.press("y")
        ada.wait_item_after(before)
    ada.should.be_done("3 judged")
    assert verdicts(db, "pairs") == ["winner"] * 3


def test_a_proxy_of_real_footage_plays_in_the_browser(
    db: Database, media: MediaStore, footage: Path, visit: Any
) -> None:
    # Frames 10 to 40 of an H.264 file, which Chromium's free build could not play itself.
    job = ProxyJob("dog", str(footage / "sam2" / "01_dog.mp4"), "a source", 10, 40, 320)
    assert ProxyMaker(str(media.root))([job]) == [("dog", None)]
    create_campaign(db, spec(), [NewItem("dog", {"media": job.name, "caption": "a dog", "fps": 24.0})])
    ada = visit("Ada")
    ada.open("clips")
    ada.wait_playing()
    assert ada.video("videoWidth") == 320

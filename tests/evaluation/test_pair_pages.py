"""The pair browser in a real browser: ten thousand rows, colours of the bindings, filters, and text that is only text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from data_schemas import tables
from models.subjects.frames import png
from stages.evaluation.report import ReportParams, report
from tests.context import LocalContext
from tests.evaluation.test_report import HOSTILE, RULES, curated
from tests.review.browsing import browsing

PAIRS = 10_000
REFUSED = ("above_upper_bound", "near_duplicate", "same_background")


def subject(number: int) -> dict[str, object]:
    colour = np.random.default_rng(number).integers(0, 255, 3)
    crop = np.full((40, 50, 3), colour, np.uint8)
    mask = np.zeros((40, 50), np.uint8)
    mask[8:32, 10:40] = 255
    return {
        "subject_id": f"s{number:03d}",
        "origin": "clip",
        "clip_id": f"c{number % 12:02d}",
        "video_id": "v0",
        "phrase": "a toy",
        "time_s": 1.0,
        "box": [0.0, 0.0, 1.0, 1.0],
        "area": 1.0,
        "mask_area": 0.4,
        "crop": png(crop),
        "mask": png(mask),
        "encoder": "made-up",
        "embedding": [1.0],
    }


def pair(number: int) -> dict[str, object]:
    kind = "in_pair" if number % 3 == 0 else "cross_pair"
    told = HOSTILE.replace("[", "(") if number == 7 else "moves left over grass"
    count = 1 + number % 3
    heads = " ".join(f"Ref {i}: a toy of colour {i}." for i in range(1, count + 1))
    marks = " and ".join(f"Ref {i}[a toy]" for i in range(1, count + 1))
    references = [
        {
            "subject_id": f"s{(number + i) % 20:03d}",
            "phrase": "a toy",
            "origin": "clip",
            "video_id": "v0",
            "time_s": 1.0,
        }
        for i in range(count)
    ]
    return {
        "sample_id": f"p{number:05d}",
        "kind": kind,
        "clip_id": f"c{number % 12:02d}",
        "video_id": "v0",
        "prompt": f"{heads} Video: {marks} {told}",
        "references": references,
        "similarity": round(0.6 + 0.39 * (number / PAIRS), 6),
        "same_source": kind == "in_pair",
        "split": "held_out" if number % 10 == 0 else "train",
    }


def refused(number: int) -> dict[str, object]:
    return {
        "target_id": f"s{number % 20:03d}",
        "candidate_id": f"s{(number // 20) % 20:03d}x{number}",
        "target_video_id": "v0",
        "candidate_video_id": "v1",
        "clip_id": f"c{number % 12:02d}",
        "rank": number % 8,
        "similarity": 0.9,
        "background": 0.97,
        "reason": REFUSED[0] if number < 900 else REFUSED[1 + number % 2],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = {
        **curated(),
        "subjects": tables.SUBJECTS.table([subject(i) for i in range(20)]),
        "pairs": tables.PAIRS.table([pair(i) for i in range(PAIRS)]),
        "candidates": tables.PAIR_CANDIDATES.table([refused(i) for i in range(1000)]),
    }
    ctx = LocalContext(tmp_path_factory.mktemp("browser"), report, inputs)
    ctx.run(ReportParams(rules=RULES, pairs_shown=0))
    found = ctx.outputs["report"]
    assert isinstance(found, Path)
    return found


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Page]:
    with browsing() as browser:
        opened = browser.new_page(viewport={"width": 1280, "height": 800})
        opened.on("dialog", lambda dialog: pytest.fail(f"a prompt's text was run: {dialog.message}"))
        opened.goto((folder / "pairs.html").resolve().as_uri())
        opened.wait_for_selector(".told .prompt")
        yield opened


@pytest.mark.browser
def test_ten_thousand_rows_are_a_few_dozen_elements(page: Page) -> None:
    assert page.inner_text("#count") == "10,000 shown, of 10,000 pairs and 1,000 refused candidates"
    assert page.locator(".line").count() < 30
    page.evaluate("document.getElementById('view').scrollTop = 1e9")
    page.wait_for_function("document.querySelector('.line:last-child .n').textContent === '10,000'")
    page.wait_for_selector(".line:last-child .prompt")
    assert page.locator(".line").count() < 30
    page.fill("#row", "5000")
    page.locator("#row").dispatch_event("change")
    page.wait_for_function("[...document.querySelectorAll('.n')].some((n) => n.textContent === '5,000')")


@pytest.mark.browser
def test_scrolling_through_all_of_it_takes_no_long_frames(page: Page) -> None:
    """A hundred jumps over the whole list, each drawn: far under what a person would call a stutter, even on a busy machine."""
    started = time.monotonic()
    page.evaluate(
        "async () => { const v = document.getElementById('view'); for (let i = 0; i < 100; i++) { v.scrollTop = i * 13000;"
        " await new Promise(requestAnimationFrame); } }"
    )
    assert time.monotonic() - started < 15
    assert page.locator(".line").count() < 30


@pytest.mark.browser
def test_each_reference_has_the_colour_of_its_phrase(page: Page) -> None:
    page.evaluate("document.getElementById('view').scrollTop = 0")
    page.wait_for_selector(".line .b.r2")
    of = "(e) => getComputedStyle(e)"
    row = page.locator(".line", has=page.locator(".prompt .b.r2")).first
    assert row.locator(".ref").count() >= 2
    phrase = row.locator(".prompt .b.r2:not(.head)").first
    assert phrase.inner_text() == "a toy"
    first = row.locator(".prompt .b.r1").first
    assert phrase.evaluate(f"(e) => ({of})(e).backgroundColor") != first.evaluate(f"(e) => ({of})(e).backgroundColor")
    page.wait_for_function("[...document.querySelectorAll('.ref img')].some((i) => i.complete && i.naturalWidth > 0)")


@pytest.mark.browser
def test_filters_show_what_they_say(page: Page) -> None:
    page.select_option("#kind", "in_pair")
    assert page.inner_text("#count").startswith("3,334 shown")
    page.select_option("#split", "held_out")
    assert page.inner_text("#count").startswith("334 shown")  # every thirtieth: 0, 30, ... 9,990
    page.select_option("#split", "")
    page.select_option("#kind", "!near_duplicate")
    assert page.inner_text("#count").startswith("50 shown")
    page.wait_for_selector(".chip.refused")
    assert page.locator(".chip.refused").first.inner_text() == "refused: near duplicate"
    assert "backgrounds 0.97 alike" in page.locator(".why").first.inner_text()
    page.select_option("#kind", "")
    page.fill("#low", "0.98")
    page.locator("#low").dispatch_event("change")
    # 0.6 + 0.39 n / 10,000 >= 0.98 from n = 9,744 on
    assert page.inner_text("#count").startswith("256 shown")
    page.fill("#low", "")
    page.locator("#low").dispatch_event("change")


@pytest.mark.browser
def test_hostile_prompts_are_text(page: Page) -> None:
    page.select_option("#order", "up")
    page.wait_for_selector("text=alert")
    assert page.locator(".line script, .line img[onerror]").count() == 0
    page.select_option("#order", "down")


def test_what_is_too_much_is_spread_and_said(tmp_path: Path) -> None:
    inputs = {
        **curated(),
        "pairs": tables.PAIRS.table([pair(i) for i in range(50)]),
        "candidates": tables.PAIR_CANDIDATES.table([refused(i) for i in range(1000)]),
    }
    ctx = LocalContext(tmp_path, report, inputs)
    ctx.run(ReportParams(rules=RULES, pairs_shown=0, pairs_browsed=20))
    index = (ctx.outputs["report"] / "pairs" / "index.js").read_text()
    assert '"total":{"pairs":50,"shown_pairs":20,"refused":1000,"shown_refused":20}' in index
    assert all(reason in index for reason in REFUSED)  # rare reasons are not crowded out
    assert 'href="pairs.html"' in (ctx.outputs["report"] / "index.html").read_text()


def test_what_people_refused_stands_among_the_refused_with_what_they_said(tmp_path: Path) -> None:
    said = [("p00004", "reject", ["another subject"]), ("p00005", "in_review", []), ("p00006", "accept", [])]
    verdicts = [
        {"external_id": e, "item_id": e, "verdict": v, "reasons": reasons, "answers": 1} for e, v, reasons in said
    ]
    inputs = {
        **curated(),
        "pairs": tables.PAIRS.table([pair(i) for i in range(10)]),
        "pair_verdicts": tables.VERDICTS.table(verdicts),
    }
    ctx = LocalContext(tmp_path, report, inputs)
    ctx.run(ReportParams(rules=RULES, pairs_shown=0))
    folder = ctx.outputs["report"] / "pairs"
    index = (folder / "index.js").read_text()
    assert '"total":{"pairs":8,"shown_pairs":8,"refused":2,"shown_refused":2}' in index
    assert '"reasons":{"refused_by_reviewers":2}' in index
    part = (folder / "part-00000.js").read_text()
    assert "people said: another subject. It was a clip of another source" in part
    assert "people said: in review. It was " in part

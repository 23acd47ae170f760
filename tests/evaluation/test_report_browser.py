"""The report in a real browser, from disk: videos in step, numbers that follow the metric, nothing asked of a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_schemas import tables
from models.subjects.frames import png
from models.video.encode import write_video
from stages.evaluation.report import ReportParams, report
from tests.context import LocalContext
from tests.review.browsing import WIDE, browsing

NAMES = {"clip_t": "CLIP-T", "copy_paste": "Copy-paste"}


def page_with_videos(tmp: Path) -> Path:
    """Two prompts of two systems, whose videos last 2 and 1 seconds."""
    folder = tmp / "videos"
    (folder / "references").mkdir(parents=True)
    (folder / "references" / "r.png").write_bytes(png(np.full((16, 16, 3), 99, np.uint8)))
    samples, numbers, means = [], [], []
    for system, frames in (("base", 16), ("final", 8)):
        video = np.stack([np.full((32, 32, 3), 8 * i, np.uint8) for i in range(frames)])
        write_video(video, 8.0, folder / f"{system}.webm", codec="libvpx-vp9")
        for prompt in ("p", "q"):
            row = {"system": system, "prompt_id": prompt, "seed": 0}
            files = {"uri": f"x/videos/{system}.webm", "reference_uri": "x/videos/references/r.png"}
            samples.append({**row, **files, "prompt": f"a cat {prompt}", "status": "ok"})
            values = {"clip_t": 0.3 if prompt == "p" else 0.1, "copy_paste": 0.7 if system == "base" else 0.2}
            numbers += [{**row, "metric": m, "value": v} for m, v in values.items()]
        for name, better in (("clip_t", "higher"), ("copy_paste", "lower")):
            means.append({"system": system, "metric": name, "value": 0.2, "n": 2, "coverage": 1.0, "better": better})
    inputs: dict[str, Any] = {
        "samples": tables.SAMPLES.table(samples),
        "sample_videos": folder,
        "measurements": tables.MEASUREMENTS.table(numbers),
        "metrics": tables.METRICS.table(means),
    }
    ctx = LocalContext(tmp, report, inputs)
    ctx.run(ReportParams())
    return Path(ctx.outputs["report"]) / "index.html"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = page_with_videos(tmp_path_factory.mktemp("report"))
    try:
        with browsing() as browser:
            context = browser.new_context(viewport=WIDE, reduced_motion="reduce", offline=True)
            page = context.new_page()
            page.complaints = []
            page.on("console", lambda message: page.complaints.append(message.text))
            page.on("pageerror", lambda error: page.complaints.append(str(error)))
            page.on(
                "request",
                lambda request: page.complaints.append(request.url) if request.url.startswith("http") else None,
            )
            page.goto(f"file://{path}")
            yield page
    except LookupError as missing:
        pytest.skip(str(missing))


def until(page: Any, condition: str) -> None:
    """Wait for a condition. Playwright's own waiting evaluates text in the page, which the page's policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within 10 s: {condition}")


def times(page: Any) -> list[float]:
    found: list[float] = page.evaluate("[...document.querySelectorAll('#prompt-p video')].map((v) => v.currentTime)")
    return found


def test_the_videos_of_a_prompt_run_on_one_clock(shown: Any) -> None:
    row = shown.locator("#prompt-p")
    row.locator(".play").click()
    until(shown, "document.querySelector('#prompt-p video').currentTime > 0.3")
    row.locator(".play").click()
    longer, shorter = times(shown)
    assert abs(longer - shorter) <= 2 / 8  # a frame of drift that is not corrected, and one that was about to be
    row.locator("input").evaluate("(e) => { e.value = 750; e.dispatchEvent(new Event('input')); }")
    until(shown, "document.querySelector('#prompt-p video').currentTime > 1.4")
    longer, shorter = times(shown)
    assert longer == pytest.approx(1.5, abs=0.1)
    assert shorter == pytest.approx(1.0, abs=0.1)  # the shorter one holds its last frame


def test_the_keys_step_by_a_frame(shown: Any) -> None:
    row = shown.locator("#prompt-p")
    row.locator("input").evaluate("(e) => { e.value = 0; e.dispatchEvent(new Event('input')); }")
    row.focus()
    for _ in range(2):
        shown.keyboard.press("ArrowRight")
    until(shown, "document.querySelector('#prompt-p output').textContent === '0.25 s'")
    assert times(shown) == pytest.approx([0.25, 0.25], abs=0.05)


def test_another_metric_changes_the_table_and_the_numbers_below_the_videos(shown: Any) -> None:
    figure = shown.locator("#prompt-p figure[data-values] .number").first
    table = shown.locator("#drill tbody")
    shown.select_option("#drill-metric", "copy_paste")
    assert figure.inner_text() == "Copy-paste 0.700"
    shares = (
        table.locator("tr").first.locator("td").evaluate_all("(c) => c.map((d) => d.style.getPropertyValue('--share'))")
    )
    assert shares == ["0.000", "1.000"]  # lower is better
    shown.select_option("#drill-metric", "clip_t")
    assert figure.inner_text() == "CLIP-T 0.300"
    shown.select_option("#drill-order", "worst")
    assert table.locator("tr th").all_inner_texts() == ["a cat q", "a cat p"]
    table.locator("a").first.click()
    assert shown.evaluate("document.querySelector(':target').id") == "prompt-q"


def test_it_asked_nothing_and_complained_of_nothing(shown: Any) -> None:
    assert shown.complaints == []

"""The report shows what people said and how a switching training's gradients agreed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_schemas.tables import DECISIONS, MEASUREMENTS, SAMPLES
from stages.contract import StageError
from stages.evaluation.people import pair_id
from stages.evaluation.report import ReportParams, report
from tests.context import LocalContext
from tests.evaluation.test_people import PROMPTS, decision, numbers, samples


def inputs(tmp_path: Path) -> dict[str, Any]:
    """Samples without videos, a metric that orders them as people do, and the log of a switching training."""
    failed = {"status": "failed", "uri": None, "reference_uri": None, "error_type": "Lost", "error_message": "no disk"}
    rows = [{**row, **failed} for row in samples()]
    right = numbers("clip_t", lambda i, system: float(system == "final" and i < 4))
    adapter, videos = tmp_path / "adapter", tmp_path / "videos"
    adapter.mkdir()
    videos.mkdir()
    log = [
        {
            "step": step,
            "loss": 1.0,
            "gradient/cosine": 0.9 / step,
            "gradient/image_norm": 2.0,
            "gradient/video_norm": 3.0,
        }
        for step in (1, 50, 100)
    ]
    (adapter / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return {
        "samples": SAMPLES.table(rows),
        "sample_videos": videos,
        "measurements": MEASUREMENTS.table(right),
        "adapter_switching": adapter,
    }


def export(folder: Path, answers: list[dict[str, Any]]) -> str:
    folder.mkdir()
    told = {"item_id": "i", "campaign_id": "c", "reasons": [], "carried": False}
    rows = [{"decision_id": str(n), **told, **answer} for n, answer in enumerate(answers)]
    pq.write_table(DECISIONS.table(rows), folder / "decisions.parquet")
    return str(folder)


def test_preferences_correlations_and_gradients_are_on_the_page(tmp_path: Path) -> None:
    verdicts = ["a", "a", "a", "a", "b", "same"]
    answers = [decision(pair_id(p, 7, "final", "base"), v) for p, v in zip(PROMPTS, verdicts, strict=True)]
    people = export(tmp_path / "export", answers)
    ctx = LocalContext(tmp_path / "run", report, inputs(tmp_path))
    ctx.run(ReportParams(people=(people,)))
    page = (ctx.outputs["report"] / "index.html").read_text()
    section = page.partition('<section id="people">')[2].partition("</section>")[0]
    assert "1 person answered" in section
    assert "0.500 [" in section  # (4 - 1) / 6
    assert "Spearman" in section
    assert "<th>clip_t</th><td>preference</td>" in section
    assert "cosine of image and video gradients" in page
    assert "norm of image and video gradients" in page


def test_answers_about_other_videos_and_folders_without_any_are_told(tmp_path: Path) -> None:
    elsewhere = export(tmp_path / "elsewhere", [decision("another", "a")])
    ctx = LocalContext(tmp_path / "run", report, inputs(tmp_path))
    with pytest.raises(StageError, match=r"none of the 1 answers in .* is about these samples"):
        ctx.run(ReportParams(people=(elsewhere,)))
    assert report.world is not None
    with pytest.raises(ValueError, match=r"decisions\.parquet is missing\. Write it: fulcrum review export"):
        report.world(ReportParams(people=(str(tmp_path),)), None)  # type: ignore[arg-type]

"""Agreement with reference implementations: the committed figures, and how the largest difference is found."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import measured
from benchmarks.metric_agreement import PROMPT, WITHIN, Grid, ours, worst


def test_the_committed_run_agrees_and_saw_videos_that_differ() -> None:
    found = json.loads((measured.FOLDER / "metric_agreement.json").read_text())["found"]
    rows = {key: row for source in found.values() for key, row in source.items()}
    assert {"temporal_flicker", "subject_consistency", "background_consistency", "aesthetic"} <= set(rows)
    assert {"dynamic_degree", "motion_smoothness", "clip_t"} <= set(rows)
    assert all(row["difference"] < WITHIN for row in rows.values())
    assert all(row["from_to"][1] - row["from_to"][0] > 100 * WITHIN for row in rows.values())


def test_the_largest_difference_over_all_videos_is_told() -> None:
    rng = np.random.default_rng(0)
    videos = {name: rng.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8) for name in ("a", "b")}
    right = {name: ours(video, ["temporal_flicker"])["temporal_flicker"] for name, video in videos.items()}
    off = {right["a"]: 0.0, right["b"]: 0.25}
    table = worst(
        videos,
        lambda video: {"temporal_flicker": (v := ours(video, ["temporal_flicker"])["temporal_flicker"]) + off[v]},
    )
    assert table["temporal_flicker"]["video"] == "b"
    assert table["temporal_flicker"]["difference"] == pytest.approx(0.25)
    assert table["temporal_flicker"]["from_to"] == sorted(right.values())


def test_the_model_behind_both_sides_hears_the_words() -> None:
    grid = Grid()
    one, other = grid.texts([PROMPT, "something else"])
    assert float(one @ other) < 1 - 100 * WITHIN

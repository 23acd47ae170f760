"""A pipeline that lacks rows stops at a named stage and says how many it needs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pipelines.command import INLINE, fulcrum


@pytest.mark.timeout(200)
def test_one_video_makes_no_cross_pairs_and_the_stage_says_so(tmp_path: Path, footage: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    shutil.copy(footage / "mdn-learning-area/frog.mp4", source / "frog.mp4")
    gates = [f"--set={g}.reviewer=script:rules" for g in ("review_clips", "review_consis", "review_real_fake")]
    done = fulcrum("run", "libragen", "--source", source, "--store", tmp_path / "s", *INLINE, *gates, timeout=190)
    assert done.code == 1
    assert "needs" in done.out
    assert ", has 0" in done.out
    assert "pairs" in done.out

"""A small crowd of simulated reviewers against the real server: nothing fails, nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.review_load import run


@pytest.mark.timeout(120)
@pytest.mark.parametrize("think_s", [0.05, 0.0], ids=["with think time", "closed loop"])
def test_every_answer_of_a_crowd_is_there(tmp_path: Path, think_s: float) -> None:
    found = run(tmp_path, reviewers=6, seconds=3, think_s=think_s, items=300)
    assert found["lost"] == 0
    assert found["answers"] > 20
    assert found["claim_ms"]["p99"] > 0

"""The small form of benchmarks/million.py: every step over 2,000 videos and 10,000 clips of made-up metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.million import COPIES, PER_VIDEO, PICTURES, one_size

VIDEOS = 2000


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return one_size(VIDEOS, Path(tmp_path_factory.mktemp("million")))


def test_every_step_accounts_for_every_record(found: dict[str, Any]) -> None:
    rows = found["rows"]
    assert (rows["sources"], rows["videos"], rows["removed"]) == (VIDEOS, VIDEOS, 0)
    for name in ("shots", "clips", "selection", "candidates", "captions"):
        assert rows[name] == VIDEOS * PER_VIDEO, name
    assert rows["keyframes"] == PICTURES * rows["shots"]
    assert 0.1 < rows["dedupe"] / rows["clips"] < 0.6  # what the default rules leave of the made-up scores
    assert (
        rows["dedupe"] * (1 - 3 * COPIES) < rows["balance"] < rows["dedupe"]
    )  # copies, and nothing but copies, are gone
    assert 0 < rows["subset"] <= VIDEOS // 100


def test_small_shards_are_merged_and_no_step_needs_much_memory(found: dict[str, Any]) -> None:
    assert found["fresh_shards"] == VIDEOS // 4  # one of content and one of identities for eight videos
    assert found["merged_shards"] == 2
    assert max(step["peak_mib"] for step in found["steps"].values()) < 1024

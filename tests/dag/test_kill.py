"""SIGKILL in one stage after another: the short form of benchmarks/kill_curate.py."""

from __future__ import annotations

from pathlib import Path

from benchmarks.kill_curate import measure


def test_a_run_killed_in_stage_after_stage_ends_with_the_tables_of_an_undisturbed_one(tmp_path: Path) -> None:
    found = measure(tmp_path, kills=4, films=6, footage=None, seed=1)
    assert found["kills"] == 4
    assert found["different"] == 0
    assert {"analyze.shots", "ledger", "export.subset"} <= set(found["tables_compared"])  # type: ignore[call-overload]
    assert min(found["rows_compared"][name] for name in ("analyze.shots", "ledger")) > 0  # type: ignore[index]

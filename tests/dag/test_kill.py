"""SIGKILL at random moments: the one-minute form of benchmarks/kill_and_resume.py."""

from __future__ import annotations

from pathlib import Path

from benchmarks.kill_and_resume import measure
from tinyworld.render import render_world


def test_a_run_killed_at_random_moments_ends_with_the_tables_of_an_undisturbed_one(tmp_path: Path) -> None:
    source = tmp_path / "world"
    render_world(3, 8, source, None)
    found = measure(source, kills=4, engine="inline", seed=1, folder=tmp_path)
    assert found["kills"] == 4
    assert found["different"] == 0

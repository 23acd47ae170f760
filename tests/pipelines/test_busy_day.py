"""Two runs, reviewers, PostgreSQL, MLflow and the page at the same time: the short form of benchmarks/busy_day.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.busy_day import measure
from benchmarks.postgres import postgres_missing
from tests.footage.media import pan, write

KEEP_ALL = ["select.rules=[{name: short, column: duration_s, min: 0.5}]"]


@pytest.mark.skipif(postgres_missing() is not None, reason=str(postgres_missing()))
@pytest.mark.timeout(580)
def test_two_runs_and_their_reviewers_share_real_services_while_one_run_is_killed(tmp_path: Path) -> None:
    sources = {}
    for seed, name in enumerate(("morning", "evening")):
        sources[name] = tmp_path / "films" / name
        sources[name].mkdir(parents=True)
        moving = [pan(2, 0, 30, 120, 160, 10 * seed + 1), pan(0, 2, 30, 120, 160, 10 * seed + 2)]
        write(sources[name] / "a.mp4", np.concatenate(moving))
    found = measure(tmp_path, sources, reviewers=3, compare=False, settings=KEEP_ALL)
    assert found["killed_in"] == "embed"
    assert found["starts"]["evening"] >= 3  # killed, then waiting for people, then done
    assert found["answers"] == 2 * 2 * 2  # two clips of each run, by two people each
    assert found["answers_sent_twice"] > 0
    assert found["commits_in_mlflow"] == 2 * 13

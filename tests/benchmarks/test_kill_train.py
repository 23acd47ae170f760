"""The short form of benchmarks/kill_train.py, in a process of its own because it forks its workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_jobs_killed_on_one_and_two_workers_end_bit_for_bit_as_undisturbed() -> None:
    command = [sys.executable, "benchmarks/kill_train.py", "--kills", "4", "--methods", "sft", "--no-write"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 4
    assert found["workers"] == [1, 2]
    assert "step_00000024/optimizer.safetensors" in found["files_compared"]
    # float32 sums in another order: some 1e-7 a step, and dropout is on.
    assert found["largest_relative_difference_between_worlds"]["sft"] < 1e-5

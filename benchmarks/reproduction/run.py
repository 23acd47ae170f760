"""Runs the missing cells in the plan's order, two at a time, each in one process, until the minutes are spent.

Cells of one seed share a store, where curation and common trainings are made once: the first two of a seed take longer. A cell
that is interrupted goes on where it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from benchmarks.reproduction import results
from benchmarks.reproduction.cells import FILMS, WORLD, Cell, ordered
from pipelines.launch import code_revision
from tinyworld.render import render_world

ROOT = Path(__file__).resolve().parent.parent.parent
CELL_MINUTES = 10.0
"""Of one core; a cell is not started when less is left."""


class CellFailed(Exception):
    """A cell's run ended badly; the message says which stage failed and why, or what a run that never began said."""


def run_cell(cell: Cell, seed: int, plan: str, code: str, work: Path) -> Path:
    """The cell's pipeline in a process of its own; returns its result's file."""
    world, store = work / f"world-{seed}", work / "store"
    command = [
        *(sys.executable, "-m", "fulcrum", "run", f"benchmarks.reproduction.cells:{cell.name}", "--json"),
        *("--source", str(world), "--store", str(store), "--set", f"seed={seed}"),
        *("--set", "engine.kind=inline", "--set", "tracking.enabled=false"),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    started = time.monotonic()
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    if not said:
        raise CellFailed(done.stderr.strip()[-1500:])
    stages = json.loads(said[-1]).get("stages", [])
    if done.returncode:
        why = [f"{stage['name']}: {stage.get('message')}" for stage in stages if stage["state"] == "FAILED"]
        raise CellFailed("; ".join(why) or f"it ended with {done.returncode}")
    return results.write(cell, seed, plan, stages, time.monotonic() - started, code)


def run(plan: str, work: Path, minutes: float, jobs: int) -> int:
    """Returns how many cells were finished."""
    end = time.monotonic() + 60 * minutes
    done_already = {(cell["cell"], cell["seed"]) for cell in results.load(plan)}
    todo = [(cell, seed) for cell, seed in ordered() if (cell.name, seed) not in done_already]
    code = code_revision()  # before results make the tree another one
    finished, running = 0, dict[Future[Path], str]()
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            while todo and len(running) < jobs and time.monotonic() + 60 * CELL_MINUTES < end:
                cell, seed = todo.pop(0)
                render_world(WORLD + seed, FILMS, work / f"world-{seed}", square=True)
                running[pool.submit(run_cell, cell, seed, plan, code, work)] = f"{cell.name}-{seed}"
                print(f"{cell.name}-{seed}: begins", flush=True)
            if not running:
                return finished
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                name = running.pop(future)
                try:
                    file = future.result()
                except CellFailed as error:
                    print(f"{name}: failed and will be tried again by the next call: {error}", flush=True)
                else:
                    finished += 1
                    print(f"{name}: {json.loads(file.read_text())['wall_s']} s", flush=True)

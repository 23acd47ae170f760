"""Kills a real ``fulcrum run curate`` with SIGKILL at random moments until it is done, and compares every artifact with
those of an undisturbed run.

    python benchmarks/kill_and_resume.py --kills 50
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.dag.artifacts import read_manifest
from pipelines.dag.runs import load_run
from pipelines.dag.store import Store


def command(source: Path, store: Path, engine: str) -> list[str]:
    return [sys.executable, "-m", "fulcrum", "run", "curate", "--source", str(source), "--store", str(store), "--json",
            "--set", f"engine.kind={engine}", "--set", "review_clips.reviewer=script:rules", "--set", "tracking.enabled=false"]  # fmt: skip


def digests(store: Path) -> dict[str, str]:
    """Digest of every output of the latest run; they leave out telemetry only."""
    opened = Store(str(store), create=False)
    found = {}
    for node in load_run(opened).nodes:
        manifest = read_manifest(opened, node.name, node.fingerprint or "")
        if manifest is None:
            raise SystemExit(f"{node.name} is {node.state}: {node.message}")
        found.update({f"{node.name}.{name}": output.digest for name, output in manifest.outputs.items()})
    return found


def undisturbed(source: Path, store: Path, engine: str) -> float:
    started = time.monotonic()
    done = subprocess.run(command(source, store, engine), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"the undisturbed run ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return time.monotonic() - started


def run_until_done(
    source: Path, store: Path, engine: str, seconds: float, rng: random.Random, kills_left: int
) -> list[float]:
    """Start, kill at a random moment, start again; returns the moments at which it was killed, in seconds after each start."""
    moments: list[float] = []
    while True:
        process = subprocess.Popen(
            command(source, store, engine), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        moment = rng.uniform(0.3, seconds) if len(moments) < kills_left else None
        try:
            _, said = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            moments.append(round(moment or 0.0, 3))
            continue
        if process.returncode != 0:
            raise SystemExit(f"a resumed run ended with {process.returncode}:\n{said.decode()[-2000:]}")
        return moments


def measure(source: Path, kills: int, engine: str, seed: int, folder: Path) -> dict[str, object]:
    seconds = undisturbed(source, folder / "undisturbed", engine)
    truth = digests(folder / "undisturbed")
    rng = random.Random(seed)
    moments: list[float] = []
    rounds = 0
    while len(moments) < kills:
        store = folder / f"round-{rounds}"
        # Later kills come early in the process, or every round would finish before many kills had come together.
        moments += run_until_done(source, store, engine, seconds * 0.6, rng, kills - len(moments))
        found = digests(store)
        different = sorted(name for name in truth if found.get(name) != truth[name])
        if different or set(found) != set(truth):
            raise SystemExit(
                f"round {rounds} differs from the undisturbed run in: {', '.join(different) or 'its outputs'}"
            )
        rounds += 1
        print(f"round {rounds}: done after {len(moments)} kills in all; all {len(truth)} artifacts equal", flush=True)
        shutil.rmtree(store)
    return {
        "kills": len(moments),
        "rounds_to_the_end": rounds,
        "artifacts_compared": sorted(truth),
        "different": 0,
        "undisturbed_seconds": round(seconds, 1),
        "killed_after_seconds": moments,
        "engine": engine,
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--source", type=Path, help="footage; by default a small rendered world")
    parser.add_argument("--engine", choices=["ray", "inline"], default="inline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fulcrum-kill-"))
    try:
        source = given.source
        if source is None:
            from tinyworld.render import render_world

            source = folder / "world"
            render_world(given.seed, 24, source, None)
        found = measure(source.resolve(), given.kills, given.engine, given.seed, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(found)
    if not given.no_write:
        from benchmarks.measured import write

        print(
            write(
                "kill_and_resume",
                found,
            )
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()

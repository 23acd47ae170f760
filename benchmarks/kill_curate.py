"""Kills ``fulcrum run curate`` with SIGKILL, again and again and in every stage, and compares every table with those of an
undisturbed run: all rows, all columns but telemetry, the ledger too.

    python -m benchmarks.kill_curate --kills 100

Unlike kill_and_resume.py, which kills at moments drawn over the whole run, this one gives every stage its share of the kills:
it follows the run's events and kills at a moment drawn from the time that the stage takes undisturbed. All kills come
together in as few runs as possible, so that each run is resumed many times before it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads

from benchmarks.kill_and_resume import command, digests, undisturbed
from pipelines.dag.runs import load_run
from pipelines.dag.store import Store

REAL = (
    "mdn-learning-area/frog.mp4",
    "mdn-learning-area/rabbit320.mp4",
    "mdn-learning-area/rabbit320.webm",
    "made/composite_hardcuts_48_96_144_192.mp4",
    "made/zero_byte.mp4",
    "moviepy/fire2.mp4",
    "moviepy/chaplin.mp4",
    "vace/test.jpg",
)


def make_source(folder: Path, films: int, footage: Path | None) -> int:
    """Rendered films, and real files where there is footage; returns the number of files."""
    from tinyworld.render import render_world

    render_world(0, films, folder, None)
    for name in REAL if footage else ():
        assert footage is not None
        shutil.copy(footage / name, folder / name.replace("/", "_"))
    return sum(1 for _ in folder.iterdir())


def tables(store: Path) -> dict[str, pa.Table]:
    """Every table of the latest run without its telemetry, in an order of its own content; the ledger by stage."""
    record = load_run(Store(str(store), create=False))
    found = {f"{node.name}.{name}": uri for node in record.nodes for name, uri in node.outputs.items()}
    found["ledger"] = record.ledger or ""
    result = {}
    for name, uri in found.items():
        files = sorted(str(path) for path in Path(uri).glob("*.parquet"))
        if not files or Path(files[0]).name == "metadata.parquet":
            continue  # a folder of files: its digest is compared
        table = pads.dataset(files).to_table()
        kept = [f.name for f in table.schema if (f.metadata or {}).get(b"telemetry") != b"true"]
        rows = sorted(table.select(kept).to_pylist(), key=repr)
        result[name] = pa.Table.from_pylist(rows, schema=table.select(kept).schema)
    return result


def different(store: Path, truth: Mapping[str, pa.Table], truth_digests: Mapping[str, str]) -> list[str]:
    """Names of the artifacts that are not what they are after an undisturbed run."""
    found, found_digests = tables(store), digests(store)
    rows = {
        name
        for name in {*truth, *found}
        if name not in truth or name not in found or not _equal(truth[name], found[name])
    }
    return sorted(rows | {n for n in {*truth_digests, *found_digests} if truth_digests.get(n) != found_digests.get(n)})


def _equal(one: pa.Table, two: pa.Table) -> bool:
    return repr(one.to_pylist()) == repr(two.to_pylist())  # as text, since NaN is not equal to itself


def lengths(store: Path) -> dict[str, float]:
    """Seconds of each stage of the latest run."""
    return {node.name: node.seconds for node in load_run(Store(str(store), create=False)).nodes}


def events(process: subprocess.Popen[bytes]) -> Iterator[dict[str, object]]:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            yield json.loads(line)
        except ValueError:
            continue  # the last line of a killed process


def run_and_kill(
    run: list[str], quota: Counter[str], seconds: Mapping[str, float], rng: random.Random, killed: Counter[str]
) -> bool:
    """Run once; kill in the first stage that has kills left. True when the run came to its end, False when it was killed."""
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    now: list[str] = []
    done = threading.Event()

    def kill() -> None:
        if not done.is_set():
            os.killpg(process.pid, signal.SIGKILL)

    timer: threading.Timer | None = None
    for event in events(process):
        if event["event"] == "stage_started":
            now.append(str(event["name"]))
            if timer is None and quota[now[-1]] > 0:
                timer = threading.Timer(rng.uniform(0, 1.05 * seconds[now[-1]] + 0.05), kill)
                timer.start()
    _, said = process.communicate()
    done.set()
    if timer is not None:
        timer.cancel()
    if process.returncode == -signal.SIGKILL:
        quota[now[-1]] -= 1  # it may have come one stage later than it was aimed at
        killed[now[-1]] += 1
        return False
    if process.returncode != 0:
        raise SystemExit(f"a resumed run ended with {process.returncode}:\n{said.decode()[-2000:]}")
    return True


def measure(folder: Path, kills: int, films: int, footage: Path | None, seed: int) -> dict[str, object]:
    source = folder / "source"
    files = make_source(source, films, footage)
    whole = undisturbed(source, folder / "undisturbed", "inline")
    truth, truth_digests = tables(folder / "undisturbed"), digests(folder / "undisturbed")
    seconds = lengths(folder / "undisturbed")
    shards = len(Store(str(folder / "undisturbed")).names("records/analyze"))
    rng, killed = random.Random(seed), Counter[str]()
    rounds: list[int] = []
    while killed.total() < kills:
        left = kills - killed.total()
        # at least one for each stage; the long ones, which do most of the work, get more
        share = {
            name: 1 + int(left * (0.5 / len(seconds) + 0.5 * s / sum(seconds.values()))) for name, s in seconds.items()
        }
        quota, store = Counter(share), folder / f"round-{len(rounds)}"
        before = killed.total()
        while not run_and_kill(command(source, store, "inline"), quota, seconds, rng, killed):
            if killed.total() >= kills:
                quota.clear()
        wrong = different(store, truth, truth_digests)
        if wrong:
            raise SystemExit(
                f"after {killed.total() - before} kills these differ from the undisturbed run: {', '.join(wrong)}"
            )
        rounds.append(killed.total() - before)
        print(f"run {len(rounds)}: killed {rounds[-1]} times, then done; all {len(truth)} tables equal", flush=True)
        shutil.rmtree(store)
    return {
        "kills": killed.total(),
        "kills_by_stage": dict(killed),
        "kills_of_each_run": rounds,
        "files": files,
        "shards_of_analyze": shards,
        "tables_compared": sorted(truth),
        "rows_compared": {name: table.num_rows for name, table in sorted(truth.items())},
        "different": 0,
        "undisturbed_seconds": round(whole, 1),
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--films", type=int, default=20, help="rendered films beside the real files")
    parser.add_argument("--footage", type=Path, help="folder of real files to put beside the rendered films")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fulcrum-kill-"))
    try:
        found = measure(folder, given.kills, given.films, given.footage, given.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=1))
    if not given.no_write:
        from benchmarks.measured import write

        print(write("kill_curate", found))


if __name__ == "__main__":
    main()

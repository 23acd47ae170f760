"""Measures dedupe: on the footage whose duplicates are known, and on files made from it and from rendered scenes.

    python benchmarks/dedupe.py --data FOOTAGE --variants 2000

The real pipeline runs (ingest, analyze, all shots selected, dedupe with ``near.mirrored``), on real files. A quarter of the sources,
chosen by a hash of their names, served to set the parameters (``--part tuning`` measures on them); the figure is for the others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.copies import duplicates_score, joined_videos, variants_score
from pipelines.dag.graph import Pipeline, node
from stages.curation.analyze import analyze
from stages.curation.dedupe import dedupe
from stages.curation.ingest import ingest
from stages.curation.select import select

PIPELINE = Pipeline(
    "dedupe_benchmark",
    (
        node("ingest", ingest),
        node("analyze", analyze, sources="ingest.sources", params={"scorers": ["sharpness"]}),
        node("select", select, clips="analyze.shots", params={"rules": []}),
        node(
            "dedupe",
            dedupe,
            clips="analyze.shots",
            selection="select.selection",
            videos="analyze.videos",
            keyframes="analyze.keyframes",
        ),
    ),
)
RENDERED = {"tuning": (101, 8), "held_out": (707, 36)}  # seed and films of the rendered sources


PASSING = ("at", "event", "run_id", "stage", "host", "pid")  # of an event: when and where it happened


def run(source: Path, store: Path, mirrored: bool) -> dict[str, Any]:
    """Run the pipeline; returns the shots and dedupe rows, the events of dedupe, and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "fulcrum", "run", "benchmarks.dedupe:PIPELINE", "--source", str(source), "--store", str(store),
               "--json", "--set", "engine.kind=inline", "--set", "tracking.enabled=false",
               "--set", f"dedupe.near.mirrored={str(mirrored).lower()}"]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parent.parent
    )
    if done.returncode != 0:
        raise SystemExit(
            f"the run on {source} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-2000:]}"
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run([sys.executable, "-m", "fulcrum", "status", "--store", str(store), "--json"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    stages = {stage["name"]: stage for stage in json.loads(shown.stdout)["stages"]}

    def table(stage: str, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = pq.read_table(stages[stage]["outputs"][name].removeprefix("file://")).to_pylist()
        return found

    events = [json.loads(line) for line in (Path(f"{store}.local") / "events.jsonl").read_text().splitlines()]
    told = [event for event in events if event.get("kind", event.get("event")) == "near_copies"][-1:]
    return {
        "shots": table("analyze", "shots"),
        "dedupe": table("dedupe", "dedupe"),
        "near_copies": [{key: event[key] for key in event if key not in PASSING} for event in told],
        "seconds": {name: round(stage["seconds"], 1) for name, stage in stages.items()},
        "cpu_seconds": round(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, 1),
        "wall_seconds": round(time.monotonic() - started, 1),
    }


def repeats(truth: dict[str, Any]) -> set[str]:
    """Files that are known to repeat others: of each group all but the first."""
    return {
        name
        for kind in ("exact", "near", "partial_overlap", "time_reversed")
        for group in truth[kind]
        for name in group[1:]
    }


def for_tuning(family: str) -> bool:
    return int(hashlib.sha256(family.encode()).hexdigest(), 16) % 4 == 0


def measure(data: Path, variants: int, part: str, seed: int, folder: Path) -> dict[str, Any]:
    from benchmarks.variants import make, real_sources, rendered_sources

    truth = json.loads((data / "duplicates.json").read_text(encoding="utf-8"))
    footage = run(data, folder / "footage-store", mirrored=False)
    found: dict[str, Any] = {
        "footage": duplicates_score(truth, joined_videos(footage["shots"], footage["dedupe"], data))
    }
    found["footage"] |= {key: footage[key] for key in ("near_copies", "seconds", "cpu_seconds")}
    print(json.dumps(found["footage"]), flush=True)
    if not variants:
        return found
    # what was made from other files of the footage repeats them without being listed
    skip = repeats(truth) | {p.relative_to(data).as_posix() for p in (data / "made").glob("*")}
    real = [s for s in real_sources(footage["shots"], skip, data) if for_tuning(s.family) == (part == "tuning")]
    rendered = list(rendered_sources(*RENDERED[part]))
    started = time.process_time()
    files = folder / part
    rows = make([*real, *rendered], variants, files, seed)
    made = round(time.process_time() - started, 1)
    copies = run(files, folder / f"{part}-store", mirrored=True)
    found[part] = variants_score(rows, joined_videos(copies["shots"], copies["dedupe"], files))
    found[part] |= {
        "real_sources": len(real),
        "rendered_sources": len(rendered),
        "made_cpu_seconds": made,
        **{key: copies[key] for key in ("near_copies", "seconds", "cpu_seconds", "wall_seconds")},
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="footage with duplicates.json")
    parser.add_argument("--variants", type=int, default=2000, help="0 for the footage alone")
    parser.add_argument("--part", choices=sorted(RENDERED), default="held_out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the files and stores here")
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="fulcrum-dedupe-"))
    try:
        found = measure(given.data.resolve(), given.variants, given.part, given.seed, folder.resolve())
    finally:
        if not given.folder:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=1))
    if not given.no_write:
        from benchmarks.measured import write

        print(write("dedupe", {"variants_seed": given.seed, **found}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()

"""A million videos of made-up metadata through curation on this machine: seconds and peak memory of every step, by size.

    python benchmarks/million.py --videos 10000 100000 1000000

Nothing is decoded: the work of ``analyze`` lies in the store as its workers leave it, in shards of eight videos, written by
the real writer (125,000 of them, and as many for the identities, at a million videos). Everything else is the real thing:
source files (empty ones) that are listed, the real stages in the real runner with its digests, manifests and ledgers. The
encoder of ``export`` is stood in for by one that writes a few bytes. Memory is the high-water mark that the kernel keeps of
the one process (engine inline), reset after each step.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.ids import video_id
from data_schemas.tables import CLIPS, HASHES
from pipelines.dag.engine import InlineEngine
from pipelines.dag.fingerprint import record_recipe
from pipelines.dag.graph import Pipeline, node
from pipelines.dag.nodes import Worker
from pipelines.dag.records import RecordStore
from pipelines.dag.runner import Job, run
from pipelines.dag.runs import NodeRecord, RunRecord
from pipelines.dag.store import Store
from stages.contract import Context, Params, Table, World, stage
from stages.curation.analyze import AnalyzeParams, analyze, column_groups
from stages.curation.analyze_worker import FACTS, IDENTITY, KEYFRAMES, SHOTS, TABLES
from stages.curation.balance import BalanceParams, balance
from stages.curation.caption import caption
from stages.curation.clips import clips
from stages.curation.cut_worker import RECORD, CutActor, CutOutcome
from stages.curation.dedupe import DedupeParams, dedupe
from stages.curation.default_rules import DEFAULT_RULES
from stages.curation.export import export
from stages.curation.ingest import IngestParams, ingest
from stages.curation.near_copies import NearParams
from stages.curation.select import preselect, select

SOURCE_NAME = "made-up"
PER_VIDEO, PER_SHARD = 5, 8  # clips of a video; videos of a shard, as analyze's workers commit them
MTIME_NS = 1_700_000_000_000_000_000
FRAMES, FPS = 150, 30.0  # of each clip
SCORERS = AnalyzeParams().scorers
PICTURES = 3  # key frames of a clip, of a few bytes each
COPIES = 0.02  # share of videos with the content of another

NEAR_COPY_EVERY = 50  # of these clips one looks nearly like the clip before it


@stage(
    name="made_up_hashes", version="1", params=Params, inputs={"shots": Table(CLIPS)}, outputs={"hashes": Table(HASHES)}
)
def made_up_hashes(ctx: Context, params: Params) -> None:
    """Perceptual hashes as an earlier system would hand them over: independent bits, and here and there a near copy."""
    seen = 0
    for batch in ctx.dataset("shots").to_batches(columns=["clip_id"], batch_size=100_000):
        rng = np.random.default_rng([seen, 11])
        count = batch.num_rows
        bits = rng.integers(1, 2**63, (count, PICTURES), dtype=np.uint64)
        copies = np.arange(NEAR_COPY_EVERY, count, NEAR_COPY_EVERY)
        bits[copies] = bits[copies - 1] ^ np.uint64(1 << 17)
        ids = batch.column("clip_id").take(pa.array(np.repeat(np.arange(count), PICTURES)))
        position = np.tile(np.linspace(0.1, 0.9, PICTURES), count)
        ctx.write("hashes", pa.table({"clip_id": ids, "position": position, "hash": bits.ravel()}))
        seen += count


PIPELINE = Pipeline(
    "million",
    (
        node("ingest", ingest),
        node("analyze", analyze, sources="ingest.sources", removed="ingest.removed"),
        node("preselect", preselect, shots="analyze.shots"),
        node("caption", caption, shots="analyze.shots", videos="analyze.videos"),
        node("clips", clips, shots="analyze.shots"),
        node("select", select, clips="clips.clips"),
        node("made_up_hashes", made_up_hashes, shots="analyze.shots"),
        node("dedupe", dedupe, clips="clips.clips", selection="select.selection", videos="analyze.videos",
             hashes="made_up_hashes.hashes"),
        node("balance", balance, clips="clips.clips", dedupe="dedupe.dedupe"),
        node("export", export, clips="clips.clips", selection="select.selection", dedupe="dedupe.dedupe",
             balance="balance.balance", captions="caption.captions", videos="analyze.videos"),
    ),
)  # fmt: skip


# -- what is made up -------------------------------------------------------------------------------------------------


def path_of(number: int) -> str:
    return f"{number // 1000:04d}/{number:07d}.mp4"


def content_of(number: int, videos: int) -> str:
    """sha256 of a video's content; a few share that of an earlier one."""
    rng = np.random.default_rng([number, 7])
    original = int(rng.integers(number)) if number and rng.random() < COPIES else number
    return hashlib.sha256(f"content {original}".encode()).hexdigest()


def make_sources(folder: Path, videos: int) -> Path:
    """Empty files, and a Parquet list of them with captions and further columns; returns the list."""
    for number in range(videos):
        path = folder / path_of(number)
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.utime(path, ns=(MTIME_NS, MTIME_NS))
    listed = folder / "list.parquet"
    schema = pa.schema(
        [("path", pa.string()), ("caption", pa.string()), ("licence", pa.string()), ("channel", pa.int64())]
    )
    with pq.ParquetWriter(listed, schema) as writer:
        for start in range(0, videos, 50_000):
            numbers = range(start, min(start + 50_000, videos))
            columns = {
                "path": [path_of(n) for n in numbers],
                "caption": [f"Somebody does thing number {n % 977} in place {n % 389}" for n in numbers],
                "licence": [("CC-BY-4.0", "CC0-1.0", None)[n % 3] for n in numbers],
                "channel": [n % 5000 for n in numbers],
            }
            writer.write_table(pa.table(columns, schema=schema))
    return listed


def make_records(store_uri: str, numbers: Sequence[int], videos: int) -> int:
    """Commit what analyze's workers would have, eight videos at a time; returns the number of shards."""
    os.fsync = lambda file: None  # type: ignore[assignment]  # a made-up store need not outlive a power cut
    recipe = SimpleNamespace(recipe=lambda part, version, params: record_recipe("analyze", part, version, params))
    groups, scorers = column_groups(recipe, AnalyzeParams())  # type: ignore[arg-type]
    records = RecordStore(Store(store_uri), "analyze", tidy=False)
    writer = records.shards(list(groups.values()))
    shards = 0
    for start in range(0, len(numbers), PER_SHARD):
        some = numbers[start : start + PER_SHARD]
        content = sorted({content_of(n, videos) for n in some})
        writer.commit(_content(content, scorers, np.random.default_rng(some[0])), content)
        identity = [f"{video_id(SOURCE_NAME, path_of(n))}:0:{MTIME_NS}" for n in some]
        told = {"record_key": identity, "sha256": [content_of(n, videos) for n in some]}
        writer.commit({IDENTITY: pa.table(told, schema=TABLES[IDENTITY])}, identity)
        shards += 2
    return shards


def _content(keys: Sequence[str], scorers: Mapping[str, Any], rng: np.random.Generator) -> dict[str, pa.Table]:
    count = len(keys)
    shots = count * PER_VIDEO
    key = np.repeat(np.array(keys, object), PER_VIDEO)
    shot = np.tile(np.arange(PER_VIDEO, dtype=np.int32), count)
    start = shot.astype(np.int64) * FRAMES
    facts = {
        "record_key": keys, "duration_s": np.full(count, PER_VIDEO * FRAMES / FPS), "fps": np.full(count, FPS),
        "width": np.full(count, 1280), "height": np.full(count, 720), "codec": ["h264"] * count,
        "rotation": np.zeros(count, np.int64), "frames": np.full(count, PER_VIDEO * FRAMES),
        "decode_errors": np.zeros(count, np.int64), "time_faults": np.zeros(count, np.int64),
    }  # fmt: skip
    cuts = {
        "record_key": key, "shot": shot, "start_frame": start, "end_frame": start + FRAMES, "start_s": start / FPS,
        "end_s": (start + FRAMES) / FPS, "boundary_in": np.where(shot == 0, "start", "cut"),
        "boundary_out": np.where(shot == PER_VIDEO - 1, "end", "cut"),
    }  # fmt: skip
    pictures = {
        "record_key": np.repeat(key, PICTURES), "shot": np.repeat(shot, PICTURES),
        "position": np.tile(np.linspace(0.1, 0.9, PICTURES), shots), "time_s": np.zeros(shots * PICTURES),
        "jpeg": [rng.bytes(48) for _ in range(shots * PICTURES)],
    }  # fmt: skip
    tables = {
        FACTS: _table(facts, TABLES[FACTS]),
        SHOTS: _table(cuts, TABLES[SHOTS]),
        KEYFRAMES: _table(pictures, TABLES[KEYFRAMES]),
    }
    for name, scorer in scorers.items():
        columns = {column.name: _score(column.name, shots, rng) for column in scorer.columns}
        tables[f"scorer:{name}"] = pa.table({"record_key": key, "shot": shot, **columns})
    return tables


def _table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)


def _score(name: str, count: int, rng: np.random.Generator) -> pa.Array:
    """Scores that about nine in ten clips pass the default rule with; a few are missing."""
    value = rng.random(count) * 0.5
    good = rng.random(count) < 0.9
    for rule in DEFAULT_RULES:
        if rule.column == name and rule.min is not None:
            value = np.where(good, rule.min * (1 + value), rule.min * value)
        if rule.column == name and rule.max is not None:
            value = np.where(good, rule.max * value, rule.max * (1 + value))
    return pa.array(value, mask=rng.random(count) < 0.001)


# -- running it ------------------------------------------------------------------------------------------------------


class StandIn(InlineEngine):
    """Commits a few bytes for every clip that ``export`` wants encoded; everything else must be there already."""

    def map(
        self, actor: Any, batches: Sequence[Any], init: Mapping[str, Any], worker: Worker, size: int
    ) -> Iterator[Any]:
        if actor is not CutActor:
            raise SystemExit(
                f"{len(batches)} batches of real work for {actor.__name__}: the made-up records do not fit"
            )
        for video in batches:
            keys = [span.key for span in video.spans]
            facts = {"frames": FRAMES, "fps": FPS, "width": 1280, "height": 720, "sound": False}
            rows = [{"record_key": key, "content": key.encode(), **facts} for key in keys]
            init["shards"].commit({"media": pa.Table.from_pylist(rows, RECORD)}, keys)
            yield CutOutcome(len(keys), 0.0, {})


def peak_mib() -> float:
    """High-water mark of this process's resident memory since it was last reset, and reset it."""
    with open("/proc/self/status", encoding="ascii") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return peak / 1024


class Meter:
    """A reporter that measures from the end of one node to the end of the next, fingerprints and digests included."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, Any]] = {}
        self.mark()

    def mark(self) -> None:
        peak_mib()
        self.wall, self.cpu = time.monotonic(), time.process_time()

    def step(self, name: str, **more: Any) -> None:
        self.steps[name] = {
            "seconds": round(time.monotonic() - self.wall, 2),
            "cpu_seconds": round(time.process_time() - self.cpu, 2),
            "peak_mib": round(peak_mib()),
            **more,
        }
        print(f"  {name:28s} {json.dumps(self.steps[name])}", file=sys.stderr, flush=True)
        self.mark()

    def run_started(self, run: RunRecord) -> None:
        return

    def node_started(self, node: NodeRecord) -> None:
        return

    def note(self, text: str) -> None:
        return

    def run_ended(self, run: RunRecord) -> None:
        return

    def node_ended(self, node: NodeRecord) -> None:
        if node.state not in ("SUCCEEDED", "CACHED"):
            raise SystemExit(f"{node.name} is {node.state}: {node.message}")
        if node.state == "SUCCEEDED":
            self.step(node.name)


def parameters(kept: int) -> dict[str, Params]:
    chosen: dict[str, Params] = {
        "ingest": IngestParams(source_name=SOURCE_NAME),
        "dedupe": DedupeParams(near=NearParams(verify="hashes")),
        "balance": BalanceParams(max_total=kept),
    }
    return {n.name: chosen.get(n.name, n.stage.params()) for n in PIPELINE.nodes}


def measure(folder: Path, videos: int) -> dict[str, Any]:
    """All steps at one size; the sources and the store lie in ``folder``."""
    meter = Meter()
    store = Store(str(folder / "store"))

    def go(source: Path, nodes: int) -> RunRecord:
        job = Job(
            pipeline=Pipeline("million", PIPELINE.nodes[:nodes]),
            store=store,
            params=parameters(max(10, videos // 100)),
            world=World(str(source), None, "sqlite:///none", "http://127.0.0.1:8765"),
            seed=0,
            engine=StandIn(),
            local=folder / "local",
            quiet=True,
        )
        return run(job, meter)

    go(folder / "videos", 1)
    meter.steps["ingest (folder)"] = meter.steps.pop("ingest")
    # Merging the small shards is its own step: it happens once, when analyze first looks at what its workers left.
    RecordStore(store, "analyze")._look()
    meter.step("merge of fresh shards")
    record = go(folder / "videos" / "list.parquet", len(PIPELINE.nodes))
    meter.steps["ingest (list)"] = meter.steps.pop("ingest")
    meter.mark()
    go(folder / "videos" / "list.parquet", len(PIPELINE.nodes))
    meter.step("run again, nothing to do")
    RecordStore(store, "analyze", tidy=False)._look()
    meter.step("look at the records again")
    from pipelines.cli.funnel_commands import funnel

    with contextlib.redirect_stdout(io.StringIO()) as said:
        funnel(store=str(folder / "store"), json_=True, try_=["motionless.min=0.013"])
    meter.step("funnel --try")
    from pipelines.cli.remove_commands import remove

    with contextlib.redirect_stdout(io.StringIO()) as said_of_one:
        remove(path_of(1), store=str(folder / "store"), dry_run=True, json_=True)
    meter.step("remove --dry-run", artifacts=len(json.loads(said_of_one.getvalue())["artifacts"]))
    outputs = {name: uri for n in record.nodes for name, uri in n.outputs.items()}
    rows = {name: _rows(uri) for name, uri in outputs.items() if name != "media"}
    if json.loads(said.getvalue())["records"] != rows["clips"]:
        raise SystemExit("the funnel counts other clips than the table holds")
    merged = sum(name.startswith("merged-") for name in store.names("records/analyze"))
    return {"videos": videos, "rows": rows, "steps": meter.steps, "merged_shards": merged}


def _rows(uri: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in Path(uri).glob("*.parquet"))


def one_size(videos: int, folder: Path) -> dict[str, Any]:
    """Make it up, then measure in a process of its own."""
    started = time.monotonic()
    store = folder / "store"
    Store(str(store))
    make_sources(folder / "videos", videos)
    chunk = 4000
    parts = [range(start, min(start + chunk, videos)) for start in range(0, videos, chunk)]
    with ProcessPoolExecutor(2) as pool:
        shards = sum(pool.map(make_records, [str(store)] * len(parts), parts, [videos] * len(parts)))
    made = time.monotonic() - started
    print(f"{videos} videos: made up in {made:.0f} s, {shards} shards", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(folder), "--videos", str(videos)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    return {**json.loads(done.stdout), "fresh_shards": shards, "seconds_to_make_up": round(made)}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Seconds and peak memory by step and size, as a reader wants them."""
    lines = ["step" + " " * 26 + "".join(f"{size['videos']:>12,} videos      " for size in found)]
    for step in found[-1]["steps"]:
        cells = [size["steps"].get(step, {}) for size in found]
        lines.append(
            f"{step:30s}" + "".join(f"{c.get('seconds', 0):>10.1f} s {c.get('peak_mib', 0):>7,} MiB  " for c in cells)
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--folder", type=Path, help="where to work; needs some 20 GB and 3 million files at a million videos"
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.videos[0])))
        return
    found = []
    for videos in given.videos:
        folder = Path(tempfile.mkdtemp(prefix=f"fulcrum-million-{videos}-", dir=given.folder))
        try:
            found.append(one_size(videos, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(found))
    if not given.no_write:
        from benchmarks.measured import write

        print(write("million", {"sizes": found}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()

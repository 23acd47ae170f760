"""Pairs a million clips with their identities on this machine: time, how it grows, peak memory, and what the index finds.

    python benchmarks/pair_million.py --rows 1000000

Each clip has one subject. A fifth as many identities as clips; views of one lie about a cosine of 0.8 apart, as an encoder of 384
numbers (DINOv2 small) might have them, in a cone around a common direction. One clip in twenty nearly repeats another and is in its
dedupe group. The stage ``pairs`` runs whole, in a process of its own, whose peak memory the operating system tells; recall@10 is
that of the index against all cosines on a sample. A quarter and a sixteenth of the clips are timed as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTH = 384
BACKGROUND = 64
PER_IDENTITY = 5
COPIES = 20  # one clip in so many repeats the one before it
CHUNK = 50_000
INTRINSIC = 96  # directions along which identities differ, falling off as 1 / sqrt(rank)


class Footage:
    """Made-up embeddings, drawn a chunk at a time: row i depends on its number alone."""

    def __init__(self, rows: int) -> None:
        rng = np.random.default_rng(0)
        self.identities = max(1, rows // PER_IDENTITY)
        basis = np.linalg.qr(rng.standard_normal((WIDTH, INTRINSIC)))[0].astype(np.float32)
        self.basis = basis / np.sqrt(np.arange(1, INTRINSIC + 1, dtype=np.float32))
        self.common = basis[:, 0] * 0.5

    def vectors(self, start: int, end: int) -> np.ndarray:
        """Unit vectors float32 (end - start, WIDTH)."""
        label = np.arange(start, end) * 2_654_435_761 % self.identities
        rng = np.random.default_rng([1, start])
        known, place = np.unique(label, return_inverse=True)
        centre = np.stack([np.random.default_rng([2, int(k)]).standard_normal(INTRINSIC) for k in known]).astype(
            np.float32
        )
        part = centre[place] @ self.basis.T
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        noise = rng.standard_normal(part.shape).astype(np.float32) / np.sqrt(WIDTH)
        part = part + self.common + 0.55 * noise
        copies = np.flatnonzero((np.arange(start, end) % COPIES == 1) & (np.arange(start, end) > start))
        part[copies] = part[copies - 1] + 0.02 * noise[copies]
        return np.asarray(part / np.linalg.norm(part, axis=1, keepdims=True), np.float32)


def names(start: int, end: int, prefix: str) -> pa.Array:
    digits = (np.arange(start, end).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    return pa.array(np.char.add(prefix, np.char.mod("%016x", digits)))


def lists(values: np.ndarray) -> pa.Array:
    flat = pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]).cast(pa.list_(pa.float32()))


def write_tables(folder: Path, rows: int) -> None:
    """Subset, subjects and dedupe of so many clips."""
    from data_schemas.tables import DEDUPE, SUBJECTS, SUBSET

    for name in ("subset", "subjects", "dedupe"):
        (folder / name).mkdir(parents=True)
    footage = Footage(rows)
    for number, start in enumerate(range(0, rows, CHUNK)):
        end = min(start + CHUNK, rows)
        n = end - start
        clip, video = names(start, end, "c"), names(start, end, "v")
        rng = np.random.default_rng([3, start])
        box = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(np.float32([0.1, 0.1, 0.6, 0.6]), n)), 4)
        subset = {
            "clip_id": clip, "video_id": video, "media_uri": clip, "media_sha256": clip, "media_bytes": np.ones(n, np.int64),
            "caption": pa.array(["A brown dog runs across a meadow"] * n), "start_s": np.zeros(n), "end_s": np.full(n, 4.0),
            "frames": np.full(n, 96), "fps": np.full(n, 24.0), "width": np.full(n, 640, np.int32), "height": np.full(n, 360, np.int32),
        }  # fmt: skip
        subjects = {
            "subject_id": names(start, end, "s"), "origin": pa.array(["clip"] * n), "clip_id": clip, "video_id": video,
            "phrase": pa.array(["a brown dog"] * n), "time_s": np.full(n, 2.0), "box": box, "area": np.full(n, 0.25),
            "mask_area": np.full(n, 0.2), "crop": pa.array([b""] * n, pa.large_binary()),
            "mask": pa.array([b""] * n, pa.large_binary()), "encoder": pa.array(["made-up"] * n),
            "embedding": lists(footage.vectors(start, end)), "subject": np.zeros(n, np.int32),
            "appearance": pa.array(["a brown dog with a red collar"] * n), "sharpness": rng.random(n),
            "background": lists(rng.standard_normal((n, BACKGROUND)).astype(np.float32)),
        }  # fmt: skip
        place = np.arange(start, end)
        copied = (place % COPIES == 1) | ((place % COPIES == 0) & (place + 1 < rows))
        group = [f"g{i // COPIES}" if c else None for i, c in zip(place.tolist(), copied.tolist(), strict=True)]
        dedupe = {
            "clip_id": clip, "kept": np.ones(n, bool), "kind": pa.array(["near" if g else None for g in group]),
            "group_id": pa.array(group, pa.string()), "kept_id": clip,
        }  # fmt: skip
        for name, schema, columns in (
            ("subset", SUBSET, subset),
            ("subjects", SUBJECTS, subjects),
            ("dedupe", DEDUPE, dedupe),
        ):
            pq.write_table(schema.complete(pa.table(columns)), folder / name / f"part-{number:05d}.parquet")


def stage(folder: Path) -> dict[str, Any]:
    """Run the pairs stage on the tables; seconds, counts and this process's peak memory."""
    from stages.subjects.pairs import PairParams, pairs
    from tests.context import LocalContext

    # The ledger is written as in production and counted from its file, not gathered.
    inputs = {name: folder / name for name in ("subset", "subjects", "dedupe")}
    context = LocalContext(folder / "run", pairs, inputs)
    context.kept_ledger.tables = _Nothing()
    started, before = time.monotonic(), time.process_time()
    pairs.run(context, PairParams(lower=0.7, upper=0.97, min_in_pair=0))
    outputs, _, _, ledger = context.finish()
    spent, wall = time.process_time() - before, time.monotonic() - started
    return {
        "pairs": outputs["pairs"].rows,
        "candidates_told": outputs["candidates"].rows,
        "ledger": ledger,
        "split": next(fields for kind, fields in context.events if kind == "pair_split"),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(spent, 1),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


class _Nothing(list):  # type: ignore[type-arg]
    def append(self, item: object) -> None:
        return


def recall(rows: int, sample: int) -> dict[str, Any]:
    """recall@10 of the index that ``pairs`` uses, against all cosines, for sampled queries."""
    from models.neighbours.cosine import CosineIndex, sample_of
    from stages.subjects.retrieve import PROBES

    footage = Footage(rows)
    vectors = np.concatenate([footage.vectors(i, min(i + CHUNK, rows)) for i in range(0, rows, CHUNK)])
    index = CosineIndex(WIDTH, rows, sample_of(vectors, np.arange(rows), rows), PROBES)
    for start in range(0, rows, CHUNK):
        index.add(vectors[start : start + CHUNK])
    asked = np.sort(np.random.default_rng(7).choice(rows, min(sample, rows), replace=False))
    started = time.monotonic()
    _, found = index.search(vectors[asked], 11)
    took = time.monotonic() - started
    hits = 0
    for start in range(0, len(asked), 100):
        mine = asked[start : start + 100]
        cosine = vectors[mine] @ vectors.T
        cosine[np.arange(len(mine)), mine] = -2
        top = np.argpartition(-cosine, 10, axis=1)[:, :10]
        for q, f, e in zip(mine, found[start : start + 100], top, strict=True):
            hits += len(set(f[f != q][:10].tolist()) & set(e.tolist()))
    return {
        "recall_at_10": round(hits / (10 * len(asked)), 4),
        "sample": len(asked),
        "search_ms_per_query": round(1000 * took / len(asked), 3),
        "exact": index.exact,
    }


def measure(rows: int, sample: int, work: Path) -> dict[str, Any]:
    sizes = [n for n in (rows // 16, rows // 4, rows) if n >= 100]
    runs = {}
    for n in sizes:
        folder = work / str(n)
        write_tables(folder, n)
        done = subprocess.run(
            [sys.executable, __file__, "--stage", str(folder)], check=True, capture_output=True, text=True
        )
        runs[str(n)] = json.loads(done.stdout.splitlines()[-1])
        shutil.rmtree(folder)
        print(n, runs[str(n)], flush=True)
    return {"rows": rows, "width": WIDTH, "runs": runs, "index": recall(rows, sample)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--no-write", action="store_true")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(stage(args.stage)))
        return
    with tempfile.TemporaryDirectory(prefix="pair-million-") as folder:
        found = measure(args.rows, args.sample, Path(folder))
    print(json.dumps(found, indent=1))
    if not args.no_write:
        from benchmarks.measured import write

        write("pair_million", found)


if __name__ == "__main__":
    main()

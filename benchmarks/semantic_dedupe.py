"""Measures semantic dedupe on clustered embeddings: time and peak memory of the stage, and how much the index finds.

    python benchmarks/semantic_dedupe.py --rows 1000000

The embeddings are drawn as an image encoder's lie: in a cone around a common direction, in clusters of very different sizes
whose members vary along a few directions of their own, with some near copies; no independent Gaussians in 512 dimensions,
whose neighbours would be meaningless. The stage runs in a process of its own, whose peak memory the operating system tells.
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

DIMENSION = 512
THRESHOLD = 0.95
_CHUNK = 50_000
_INTRINSIC = 64  # directions along which cluster centres differ, falling off as 1 / sqrt(rank)
_LOCAL = 16  # directions along which the members of one cluster differ
_COPIES = 0.05  # share of rows that nearly repeat another


def embeddings(rows: int, seed: int = 0) -> np.ndarray:
    """Unit vectors float32 (rows, DIMENSION)."""
    rng = np.random.default_rng(seed)
    clusters = max(8, rows // 60)
    basis = np.linalg.qr(rng.standard_normal((DIMENSION, _INTRINSIC)))[0].astype(np.float32)
    common = rng.standard_normal(DIMENSION).astype(np.float32)
    common /= np.linalg.norm(common)
    spectrum = 1 / np.sqrt(np.arange(1, _INTRINSIC + 1))
    spectrum /= np.linalg.norm(spectrum)
    centres = (rng.standard_normal((clusters, _INTRINSIC)) * spectrum).astype(np.float32)
    size = rng.zipf(1.6, clusters).clip(max=rows // 100 + 1).astype(np.float64)
    label = np.sort(rng.choice(clusters, rows, p=size / size.sum()))
    local = rng.standard_normal((64, _LOCAL, DIMENSION)).astype(np.float32) / np.sqrt(DIMENSION)
    spread = rng.uniform(0.08, 0.3, clusters).astype(np.float32)
    result = np.empty((rows, DIMENSION), np.float32)
    for start in range(0, rows, _CHUNK):
        mine = label[start : start + _CHUNK]
        inner = rng.standard_normal((len(mine), _LOCAL)).astype(np.float32)
        part = 0.8 * common + centres[mine] @ basis.T
        for kind in range(64):
            of_kind = mine % 64 == kind
            part[of_kind] += spread[mine[of_kind], None] * (inner[of_kind] @ local[kind])
        part += 0.03 * rng.standard_normal(part.shape).astype(np.float32) / np.sqrt(DIMENSION) * 8
        result[start : start + _CHUNK] = part / np.linalg.norm(part, axis=1, keepdims=True)
    copies = rng.choice(rows, int(rows * _COPIES), replace=False)
    of = rng.integers(0, rows, len(copies))
    for start in range(0, len(copies), _CHUNK):
        mine, other = copies[start : start + _CHUNK], of[start : start + _CHUNK]
        part = result[other] + 0.1 * rng.standard_normal((len(mine), DIMENSION)).astype(np.float32) / np.sqrt(DIMENSION)
        result[mine] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return result[rng.permutation(rows)] if rows <= _CHUNK else _shuffled(result, rng)


def _shuffled(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The rows in random order, without a second copy of all of them."""
    for start in range(0, len(vectors) - 1, _CHUNK):
        mine = np.arange(start, min(start + _CHUNK, len(vectors)))
        other = rng.choice(len(vectors), len(mine), replace=False)
        fresh = ~np.isin(other, mine)
        mine, other = mine[fresh], other[fresh]
        vectors[mine], vectors[other] = vectors[other], vectors[mine].copy()
    return vectors


def write_tables(folder: Path, vectors: np.ndarray) -> None:
    """Inputs of dedupe for as many clips as there are vectors, no two of which share a video."""
    from data_schemas.tables import CLIPS, EMBEDDINGS, SELECTION, VIDEOS

    for name in ("clips", "selection", "videos", "embeddings"):
        (folder / name).mkdir(parents=True)
    for number, start in enumerate(range(0, len(vectors), _CHUNK)):
        part = vectors[start : start + _CHUNK]
        count = len(part)
        digits = (np.arange(start, start + count).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        ids = np.char.mod("%020x", digits)
        zero, seconds = np.zeros(count), np.full(count, 4.0)
        rng = np.random.default_rng(start)
        clips = {
            "clip_id": ids, "video_id": ids, "video_uri": ids, "start_s": zero, "end_s": seconds,
            "start_frame": np.zeros(count, np.int64), "end_frame": np.full(count, 100), "boundary_in": np.repeat("start", count),
            "boundary_out": np.repeat("end", count), "duration_s": seconds, "width": np.full(count, 640, np.int32),
            "height": np.full(count, 360, np.int32), "fps": np.full(count, 25.0), "sharpness": rng.random(count),
        }  # fmt: skip
        flat = pa.array(part.reshape(-1))
        vector = pa.FixedSizeListArray.from_arrays(flat, part.shape[1]).cast(pa.list_(pa.float32()))
        nothing = pa.nulls(count)
        selection = {
            "clip_id": ids,
            "kept": np.ones(count, bool),
            "first_failing_rule": nothing.cast(pa.string()),
            "review": np.zeros(count, bool),
        }
        embedded = {
            "clip_id": ids,
            "encoder": np.repeat("synthetic", count),
            "vector": vector,
            "aesthetic": nothing.cast(pa.float64()),
            "clip_text": nothing.cast(pa.float64()),
        }
        tables = {
            "clips": CLIPS.validate(pa.table(clips)),
            "selection": SELECTION.validate(pa.table(selection)),
            "videos": VIDEOS.table([]),
            "embeddings": EMBEDDINGS.validate(pa.table(embedded)),
        }
        for name, table in tables.items():
            pq.write_table(table, folder / name / f"part-{number:05d}.parquet", row_group_size=10_000)


def stage(folder: Path) -> dict[str, Any]:
    """Run the dedupe stage on the tables; seconds and this process's peak memory."""
    from stages.curation.dedupe import DedupeParams, dedupe
    from stages.curation.near_copies import NearParams
    from tests.context import LocalContext

    inputs = {name: folder / "tables" / name for name in ("clips", "selection", "videos", "embeddings")}
    context = LocalContext(folder / "run", dedupe, inputs)
    started, before = time.monotonic(), time.process_time()
    context.run(DedupeParams(near=NearParams(enabled=False), semantic=THRESHOLD))
    spent, wall = time.process_time() - before, time.monotonic() - started
    found = context.outputs["dedupe"]
    pq.write_table(found, folder / "dedupe.parquet")
    return {
        "rows": found.num_rows,
        "kept": int(np.sum(found.column("kept").to_numpy())),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(spent, 1),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def recall(folder: Path, vectors: np.ndarray, sample: int) -> dict[str, Any]:
    """recall@10 of the index against all cosines for sampled queries, and how well leaders hold: see the keys."""
    from models.neighbours.cosine import CosineIndex, sample_of

    rng = np.random.default_rng(7)
    rows = np.arange(len(vectors))
    started = time.monotonic()
    index = CosineIndex(vectors.shape[1], len(vectors), sample_of(vectors, rows, len(vectors)))
    for start in range(0, len(vectors), _CHUNK):
        index.add(vectors[start : start + _CHUNK])
    built = time.monotonic() - started
    asked = np.sort(rng.choice(len(vectors), sample, replace=False))
    started = time.monotonic()
    _, found = index.search(vectors[asked], 11)
    searched = time.monotonic() - started
    exact = np.empty((sample, 11), np.int64)
    for start in range(0, sample, 200):
        cosine = vectors[asked[start : start + 200]] @ vectors.T
        top = np.argpartition(-cosine, 11, axis=1)[:, :11]
        exact[start : start + 200] = np.take_along_axis(top, np.argsort(-np.take_along_axis(cosine, top, 1), axis=1), 1)
    hits = [len(set(f[f != q][:10]) & set(e[e != q][:10])) for q, f, e in zip(asked, found, exact, strict=True)]
    del index
    # rows of the dedupe table are sorted by clip_id: back to the order of the vectors
    table = pq.read_table(folder / "dedupe.parquet")
    digits = (rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    order = np.argsort(np.char.mod("%020x", digits))
    kept = np.empty(len(rows), bool)
    kept[order] = table.column("kept").to_numpy()
    of = pa.compute.index_in(table.column("kept_id"), value_set=table.column("clip_id").combine_chunks()).to_numpy()
    leader = np.empty(len(rows), np.int64)
    leader[order] = order[of]
    followers = np.flatnonzero(~kept)
    cosine = np.einsum("nd,nd->n", vectors[followers[:200_000]], vectors[leader[followers[:200_000]]])
    leaders = np.flatnonzero(kept)
    some = np.sort(rng.choice(leaders, min(sample, len(leaders)), replace=False))
    alike = 0
    for start in range(0, len(some), 200):
        block = vectors[some[start : start + 200]] @ vectors.T
        block[:, ~kept] = -1
        block[np.arange(len(block)), some[start : start + 200]] = -1
        alike += int((block.max(axis=1) >= THRESHOLD + 1e-6).sum())
    return {
        "recall_at_10": round(sum(hits) / (10 * sample), 4),
        "sample": sample,
        "index_seconds": round(built, 1),
        "search_ms_per_query": round(1000 * searched / sample, 3),
        "followers": len(followers),
        "least_cosine_of_a_follower_and_its_leader": round(float(cosine.min()), 4) if len(cosine) else None,
        "share_of_kept_clips_that_have_a_kept_one_within_the_threshold": round(alike / max(1, len(some)), 4),
    }


def measure(rows: int, sample: int, folder: Path) -> dict[str, Any]:
    vectors = embeddings(rows)
    np.save(folder / "vectors.npy", vectors)
    write_tables(folder / "tables", vectors)
    del vectors
    child = [sys.executable, "-m", "benchmarks.semantic_dedupe", "--stage-in", str(folder)]
    done = subprocess.run(
        child, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parent.parent
    )
    if done.returncode != 0:
        raise SystemExit(f"the stage failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    print(told, flush=True)
    vectors = np.load(folder / "vectors.npy")
    return {"dimension": DIMENSION, "threshold": THRESHOLD, "stage": told, "index": recall(folder, vectors, sample)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=2000, help="queries compared with an exhaustive search")
    parser.add_argument("--stage-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    if given.stage_in:
        print(json.dumps(stage(given.stage_in)))
        return
    folder = Path(tempfile.mkdtemp(prefix="fulcrum-semantic-"))
    try:
        found = measure(given.rows, given.sample, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=1))
    if not given.no_write:
        from benchmarks.measured import write

        print(
            write(
                "semantic_dedupe",
                found,
            )
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()

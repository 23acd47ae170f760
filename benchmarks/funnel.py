"""Times ``fulcrum funnel`` and the balance stage on synthetic clips: a store as a run leaves it, the real command, CPU and peak memory.

python benchmarks/funnel.py --clips 1000000 5000000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.tables import CLIPS, DEDUPE, SELECTION
from pipelines.dag.artifacts import Committed, Manifest, write_manifest
from pipelines.dag.runs import NodeRecord, RunRecord, now
from pipelines.dag.store import Store
from stages.curation.rules import Rule

SCORES = 25
ROWS_PER_FILE = 1_000_000
NAMED = (
    "motion", "motion_top", "motion_camera", "motion_residual", "sharpness", "brightness", "dark_share", "bright_share",
    "contrast", "letterbox", "static_share", "text_area", "flicker", "aesthetic", "clip_text",
)  # fmt: skip

# as many rules, and of the same kinds, as curation has by default
RULES = (
    Rule(name="too_short", column="duration_s", min=0.9, missing="drop"),
    Rule(name="too_small", where="width >= 64 and height >= 64", missing="drop"),
    Rule(name="too_dark", column="brightness", min=0.05, where="dark_share <= 0.9", missing="review"),
    Rule(name="too_bright", column="bright_share", max=0.7, missing="review"),
    Rule(name="low_contrast", column="contrast", min=0.03, missing="review"),
    Rule(name="blurred", column="sharpness", min=0.35, missing="review"),
    Rule(name="letterboxed", column="letterbox", max=0.1, missing="review"),
    Rule(name="frozen", column="static_share", max=0.5, missing="review"),
    Rule(name="motionless", column="motion_top", min=0.012, missing="review"),
    Rule(name="text_overlay", column="text_area", max=0.06, missing="review"),
    Rule(name="flicker", column="flicker", max=0.04, missing="review"),
)
# what the rules bound from above is small in most clips, and footage is mostly sharp: about half of the clips pass
SCALE = {"dark_share": 0.5, "bright_share": 0.5, "letterbox": 0.15, "static_share": 0.5, "text_area": 0.09, "flicker": 0.05,
         "sharpness": 3.0, "motion_top": 0.3}  # fmt: skip


def clips(count: int, seed: int = 0) -> Iterator[pa.Table]:
    """Clips with ``SCORES`` score columns, a few per cent of each missing; about five clips a video."""
    rng = np.random.default_rng(seed)
    names = [*NAMED, *(f"score_{n:02d}" for n in range(SCORES - len(NAMED)))]
    for start in range(0, count, ROWS_PER_FILE):
        rows = min(ROWS_PER_FILE, count - start)
        number = np.arange(start, start + rows)
        # an odd factor permutes 64-bit numbers: distinct ids in no order, as hashes are
        digits = np.char.mod("%020x", number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        video = np.char.mod("%020x", number // 5)
        seconds = rng.gamma(2.0, 4.0, rows)
        heights = rng.choice([360, 480, 720, 1080, 2160], rows, p=[0.1, 0.2, 0.3, 0.35, 0.05]).astype(np.int32)
        columns: dict[str, Any] = {
            "clip_id": digits, "video_id": video, "video_uri": np.char.add("s3://bucket/films/", video),
            "start_s": np.zeros(rows), "end_s": seconds, "start_frame": np.zeros(rows, np.int64),
            "end_frame": (seconds * 25).astype(np.int64), "boundary_in": np.repeat("cut", rows),
            "boundary_out": np.repeat("cut", rows), "duration_s": seconds, "width": (heights * 16 // 9).astype(np.int32),
            "height": heights, "fps": np.full(rows, 25.0),
        }  # fmt: skip
        for name in names:
            columns[name] = pa.array(rng.beta(2, 5, rows) * SCALE.get(name, 1.0), mask=rng.random(rows) < 0.03)
        yield CLIPS.validate(pa.table(columns))


def make_store(folder: Path, count: int) -> Path:
    """A store in which a run has committed clips, selection and dedupe."""
    store = Store(str(folder / "store"))
    tables: dict[str, list[Path]] = {"clips": [], "selection": [], "dedupe": []}
    schemas = {"clips": CLIPS, "selection": SELECTION, "dedupe": DEDUPE}
    rng = np.random.default_rng(1)
    for number, table in enumerate(clips(count)):
        kept = rng.random(table.num_rows) < 0.5
        ids = table.column("clip_id")
        parts = {
            "clips": table,
            "selection": pa.table(
                {
                    "clip_id": ids,
                    "kept": kept,
                    "first_failing_rule": pa.array(np.repeat("motionless", len(kept)), mask=kept),
                    "review": np.zeros(len(kept), bool),
                }
            ),
            "dedupe": pa.table(
                {
                    "clip_id": ids,
                    "kept": pa.repeat(True, len(kept)),
                    "kind": pa.nulls(len(kept), pa.string()),
                    "group_id": pa.nulls(len(kept), pa.string()),
                    "kept_id": ids,
                }
            ),
        }
        parts["dedupe"] = parts["dedupe"].filter(pa.array(kept))
        for name, part in parts.items():
            path = Path(store.full(f"data/{name}/part-{number:05d}.parquet"))
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(schemas[name].validate(part), path, compression="zstd", row_group_size=65536)
            tables[name].append(path)
    stages = {"clips": "clips", "select": "selection", "dedupe": "dedupe"}
    rules = [rule.model_dump(mode="json") for rule in RULES]
    nodes = []
    for stage, output in stages.items():
        committed = Committed("table", f"data/{output}", "synthetic", count, 0)
        write_manifest(
            store,
            Manifest(
                stage, stage, "0" * 64, {"params": {"rules": rules}}, "", {output: committed}, None, None, "r", now(), 0.0, 1, ""
            ),
        )  # fmt: skip
        nodes.append(NodeRecord(stage, "SUCCEEDED", fingerprint="0" * 64))
    RunRecord("curate", "20260101T000000-000000", now(), "done", nodes, "", 0, "").save(store)
    return folder / "store"


def timed(command: list[str]) -> dict[str, Any]:
    """Wall and CPU seconds and peak memory of a process, and what it printed."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, error = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}:\n{error.decode()[-2000:]}")
    return {
        "seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "printed": out.decode(),
    }


def measure(count: int, folder: Path) -> dict[str, Any]:
    # in a process of its own: a child's peak memory starts from that of the process that starts it
    subprocess.run(
        [sys.executable, "-m", "benchmarks.funnel", "--make", str(folder), "--clips", str(count)], check=True
    )
    store = folder / "store"
    fulcrum = [sys.executable, "-m", "fulcrum", "funnel", "--store", str(store), "--json"]
    found: dict[str, Any] = {"clips": count, "score_columns": SCORES, "rules": len(RULES)}
    runs = {
        "funnel": [],
        "try_one": ["--try", "motion.min=0.02"],
        "try_three": ["--try", "motion.min=0.02", "--try", "blurred.quantile.lower=0.1", "--try", "flicker=null"],
        "html": ["--html", str(folder / "funnel.html")],
    }
    for name, options in runs.items():
        result = timed([*fulcrum, *options])
        told = json.loads(result.pop("printed"))
        if told["records"] != count or told["kept"] + sum(step["lost"] for step in told["steps"]) != count:
            raise SystemExit(f"{name}: {told['records']} records of {count} accounted for")
        found[name] = result
    found["html"]["page_mb"] = round((folder / "funnel.html").stat().st_size / 1e6, 2)
    balance = timed([sys.executable, "-m", "benchmarks.funnel", "--balance", str(store)])
    balance["kept"] = int(balance.pop("printed").split()[-1])
    found["balance"] = balance
    return found


def run_balance(store: Path) -> None:
    """Quotas per source and resolution and a total over what dedupe kept (half of the clips), in this process."""
    import pyarrow.dataset as pads

    from stages.curation.balance import BalanceParams, Quota, ResolutionQuota, balance
    from tests.context import LocalContext

    with tempfile.TemporaryDirectory() as folder:
        inputs = {name: store / "data" / name for name in ("clips", "dedupe")}
        context = LocalContext(Path(folder), balance, inputs)
        params = BalanceParams(
            per_source=Quota(max=2), per_resolution=ResolutionQuota(share=0.4), prefer=("sharpness",)
        )
        context.run(params)
        print(pads.dataset(context.outputs["balance"]).count_rows(filter=pads.field("kept")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--balance", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make_store(given.make, given.clips[0])
        raise SystemExit
    if given.balance:
        run_balance(given.balance)
        raise SystemExit
    from benchmarks.measured import write

    sizes = []
    for size in given.clips:
        with tempfile.TemporaryDirectory() as scratch:
            sizes.append(measure(size, Path(scratch)))
            print(json.dumps(sizes[-1]))
    print(write("funnel", {"sizes": sizes}))

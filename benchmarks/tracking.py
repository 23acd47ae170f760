"""Measures what tracking costs a training step, and what publishing costs beside it.

    python benchmarks/tracking.py
    python benchmarks/tracking.py --steps 200 --no-write     # seconds

In the step: one JSON line, and every ten seconds the machine's state. Beside it, in the driver: MLflow on SQLite, checkpoint by
checkpoint, as a pipeline run publishes. A step of the tiny random CogVideoX on this CPU is measured as the yardstick; steps of
real models take seconds, so their share is smaller still.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measured import write
from models.backbones.load import BackboneSpec, load_backbone
from models.training.batch import Batch
from models.training.loop import TrainSpec, train
from models.training.lora import LoraSpec
from models.training.methods import Sft
from pipelines.dag.store import Store
from pipelines.tracking import Tracker
from stages.training.watch import StepLog

CHECKPOINT_EVERY = 100


def tiny_steps(count: int) -> list[dict[str, float]]:
    """Metrics of real steps of the smallest backbone, ``step_seconds`` among them."""
    draws = torch.Generator().manual_seed(0)
    shape, text = (2, 4, 3, 8, 8), torch.randn(2, 226, 32, generator=draws)
    batch = Batch(
        latents_BCFHW=torch.randn(shape, generator=draws),
        references_BRCHW=torch.randn(2, 1, 4, 8, 8, generator=draws),
        text_BLD=text,
        noise_BCFHW=torch.randn(shape, generator=draws),
        t_B=torch.tensor([100, 800]),
        sample_ids=("a", "b"),
    )
    found: list[dict[str, float]] = []
    method = Sft(LoraSpec(rank=4, alpha=8.0))
    train(
        load_backbone(BackboneSpec()),
        method,
        lambda _: batch,
        TrainSpec(steps=count),
        None,
        lambda _, m: found.append(m),
    )
    return found


def in_the_step(folder: Path, metrics: dict[str, float], steps: int) -> list[float]:
    """Seconds that each step spends on its log."""
    log = StepLog(folder / "events.jsonl", "cpu")
    spent = []
    for step in range(1, steps + 1):
        started = time.perf_counter()
        log.write(step, metrics)
        spent.append(time.perf_counter() - started)
    return spent


def beside_it(folder: Path, steps: int) -> list[float]:
    """Seconds of each checkpoint's publication, the first, which makes MLflow's tables, included."""
    tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", "benchmark", Store(str(folder / "store")))
    spent = []
    for step in range(CHECKPOINT_EVERY, steps + 1, CHECKPOINT_EVERY):
        fields = {"run_id": "r", "stage": "sft", "fingerprint": "f", "step": step, "home": str(folder)}
        started = time.perf_counter()
        tracker.checkpoint("benchmark", "code", fields)
        spent.append(time.perf_counter() - started)
    return spent


def measure(steps: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    trained = tiny_steps(12)[2:]
    step = statistics.median(m["step_seconds"] for m in trained)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logged = in_the_step(folder, trained[-1], steps)
        published = beside_it(folder, steps)
    later = published[1:] or published
    return {
        "steps": steps,
        "tiny_step_ms": round(1e3 * step, 3),
        "log_ms_per_step": {"mean": round(1e3 * statistics.fmean(logged), 4), "max": round(1e3 * max(logged), 3)},
        "share_of_tiny_step": round(statistics.fmean(logged) / step, 5),
        "publish_ms_per_step_beside": round(1e3 * statistics.fmean(later) / CHECKPOINT_EVERY, 4),
        "publish_first_checkpoint_s": round(published[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--no-write", action="store_true", help="print only")
    options = parser.parse_args()
    found = measure(options.steps)
    print(found)
    if not options.no_write:
        print(write("tracking", found))


if __name__ == "__main__":
    main()

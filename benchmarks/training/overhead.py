"""What a training step costs beside the model itself, on one CPU with the tiny model:

    python -m benchmarks.training.overhead --steps 600

- bare: forward, backward, clipping and AdamW, written out, on the same batches held in memory;
- loop: models/training/loop.py on these batches;
- job: the same with cache, sampler, drawn noise and event file, as a stage runs it, in this process;
- ray: that job in a Ray Train worker;
- checkpoint: what one whole checkpoint of that job costs, synced to disk; it has none otherwise but at the end;
- mlflow: what the pipeline's process spends on a step's metrics when a checkpoint is published; no step waits for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from models.compat import prepare

SAMPLES, BATCH, LATENTS = 16, 2, (4, 3, 8, 8)


def bare(steps: int, window: int) -> list[float]:
    """Seconds of each window of steps without any loop of ours."""
    from models.training.lora import adapter_parameters, train_mode

    backbone, method, batches = _model()
    method.attach(backbone, 0)
    train_mode(backbone, method.adapter)
    parameters = list(adapter_parameters(backbone, method.adapter).values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=1e-4)
    clock = Clock(window)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = method.loss(backbone, batches[step % len(batches)]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        float(loss.detach())  # as every loop that logs its loss does
        clock.tick(step + 1)
    return clock.windows


def loop(steps: int, window: int) -> list[float]:
    from models.training.loop import train

    backbone, method, batches = _model()
    clock = Clock(window)
    train(
        backbone,
        method,
        lambda i: batches[i % len(batches)],
        _spec(steps, steps),
        None,
        lambda step, _: clock.tick(step),
    )
    return clock.windows


def job(steps: int, window: int, home: Path, checkpoint_every: int) -> list[float]:
    from stages.training.jobs import run_job

    clock = Clock(window)
    run_job(_job(home / "cache", home / f"job-{checkpoint_every}", steps, checkpoint_every), on_step=clock.tick)
    return clock.windows


def ray_job(steps: int, window: int, home: Path) -> list[float]:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    clocked = home / "windows.json"
    TorchTrainer(
        timed_worker,
        train_loop_config={
            "job": _job(home / "cache", home / "ray", steps, steps),
            "clocked": str(clocked),
            "window": window,
        },
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="overhead", storage_path=str(home / "results")),
    ).fit()
    return list(json.loads(clocked.read_text()))


def timed_worker(config: Mapping[str, Any]) -> None:
    """What a worker of the stage does, with a clock."""
    from stages.training.jobs import run_job

    torch.set_num_threads(1)
    clock = Clock(config["window"])

    run_job(config["job"], on_step=clock.tick)
    Path(config["clocked"]).write_text(json.dumps(clock.windows))


def mlflow_publish(home: Path, steps: int) -> float:
    """Seconds per step to publish the metrics of ``steps`` steps, after the database exists."""
    from pipelines.dag.store import Store
    from pipelines.tracking import Tracker

    tracker = Tracker(f"sqlite:///{home / 'mlflow.db'}", "overhead", Store(str(home / "store")))
    fields = {"run_id": "overhead", "fingerprint": "overhead", "stage": "sft", "home": str(home / "job")}
    tracker.checkpoint("overhead", "none", {**fields, "step": 1})
    began = time.perf_counter()
    tracker.checkpoint("overhead", "none", {**fields, "step": steps})
    return (time.perf_counter() - began) / (steps - 1)


class Clock:
    """Seconds per step of each window of steps, for one step of the tiny model is too short to time against the machine's
    noise; the first window, in which what is made once is made, is left out."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._last: float | None = None
        self.windows: list[float] = []

    def tick(self, step: int) -> None:
        if step % self._window:
            return
        now = time.perf_counter()
        if self._last is not None:
            self.windows.append((now - self._last) / self._window)
        self._last = now


def _model() -> tuple[Any, Any, list[Any]]:
    from models.backbones.load import BackboneSpec, load_backbone
    from models.training.batch import Batch
    from models.training.lora import LoraSpec
    from models.training.methods import Sft

    backbone = load_backbone(BackboneSpec())
    text = backbone.encode_text(["a red cup falls"] * BATCH)
    draws = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(BATCH, *shape, generator=draws)

    batches = [
        Batch(
            sample_ids=("a", "b"),
            text_BLD=text,
            noise_BCFHW=normal(*LATENTS),
            t_B=torch.tensor([100, 700]),
            references_BRCHW=normal(1, LATENTS[0], *LATENTS[2:]),
            latents_BCFHW=normal(*LATENTS),
        )
        for _ in range(8)
    ]
    return backbone, Sft(LoraSpec(rank=4)), batches


def _spec(steps: int, checkpoint_every: int) -> Any:
    from models.training.loop import TrainSpec

    return TrainSpec(steps=steps, checkpoint_every=checkpoint_every)


def _job(cache: Path, home: Path, steps: int, checkpoint_every: int) -> Any:
    from models.training.cache import Entry, text_key, write_samples, write_texts
    from models.training.feed import FeedSpec
    from models.training.lora import LoraSpec
    from models.training.methods import Sft
    from models.training.randomness import TimestepSpec
    from stages.training.jobs import Job
    from stages.training.params import BackboneParams

    ids = [f"sample-{i}" for i in range(SAMPLES)]
    key, null = text_key("a red cup falls", ""), text_key("", "")
    draws = torch.Generator().manual_seed(0)
    shard = write_samples(
        cache,
        {i: torch.randn(LATENTS, generator=draws) for i in ids},
        {i: torch.randn(1, 2, LATENTS[0], *LATENTS[2:], generator=draws) for i in ids},
        {},
        {},
    )
    texts = {k: torch.randn(226, 32, generator=draws) for k in (key, null)}
    write_texts(cache, texts, {"null_text": null})
    return Job(
        home=str(home),
        backbone=BackboneParams(),
        method=Sft(LoraSpec(rank=4)),
        spec=_spec(steps, checkpoint_every),
        feed=FeedSpec(seed=0, timesteps=TimestepSpec()),
        batch=BATCH,
        remainder="repeat",
        cache=str(cache),
        entries=[Entry(i, shard, "9x64x64", 1, 2, key) for i in ids],
    )


def run(steps: int, *, window: int = 20, with_ray: bool = True) -> dict[str, Any]:
    """Milliseconds a step of each way (median and quartiles of the windows), and what each adds to the bare one."""
    prepare()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ways: dict[str, Callable[[], list[float]]] = {
            "bare": lambda: bare(steps, window),
            "loop": lambda: loop(steps, window),
            "job": lambda: job(steps, window, home, steps),
        }
        if with_ray:
            ways["ray"] = lambda: ray_job(steps, window, home)
        found = {name: _summary(measure()) for name, measure in ways.items()}
        each = job(steps, 1, home, window)  # the first of them is step 2
        published = 1e3 * mlflow_publish(home, steps)
    for name in found:
        found[name]["over_bare_ms"] = found[name]["median_ms"] - found["bare"]["median_ms"]
    after, others = ([t for at, t in enumerate(each, 1) if (at % window == 0) == saved] for saved in (True, False))
    return {
        "steps": steps,
        "window_steps": window,
        "ways": found,
        "checkpoint_ms": 1e3 * (statistics.median(after) - statistics.median(others)),
        "mlflow_publish_ms_per_step": published,
    }


def _summary(seconds: list[float]) -> dict[str, float]:
    low, median, high = (1e3 * part for part in statistics.quantiles(seconds, n=4))
    return {"median_ms": median, "quartile_low_ms": low, "quartile_high_ms": high, "windows": len(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--window", type=int, default=20, help="steps of one timing")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--no-write", action="store_true", help="print only")
    chosen = parser.parse_args()
    if chosen.window < 1 or chosen.steps < 3 * chosen.window:
        parser.error(
            f"--steps {chosen.steps} holds fewer than three windows of {chosen.window}, and the first is left out"
        )
    found = run(chosen.steps, window=chosen.window, with_ray=not chosen.no_ray)
    for name, way in found["ways"].items():
        print(f"{name}: {way['median_ms']:.2f} ms a step ({way['over_bare_ms']:+.2f} to bare)")
    print(f"checkpoint: {found['checkpoint_ms']:.0f} ms each")
    print(f"mlflow: {found['mlflow_publish_ms_per_step']:.2f} ms of the pipeline's process for each step published")
    if not chosen.no_write:
        from benchmarks.measured import write

        print(write("training_overhead", found))


if __name__ == "__main__":
    main()

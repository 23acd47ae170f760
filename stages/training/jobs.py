"""A training job as plain data, what a worker does with it, and where it runs: Ray Train or this process.

The loop knows no Ray and keeps its own checkpoints, so a run on Ray, a run without it and a run that was killed in
between are the same run. Ray brings workers, process groups and replacements for lost workers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.contract import Context, StageError
from stages.training.feeds import make_feed, make_probes, make_sampler
from stages.training.params import BackboneParams, EngineParams
from stages.training.watch import CheckpointWatch, StepLog, newest_checkpoint

if TYPE_CHECKING:
    from models.training.cache import Entry
    from models.training.feed import FeedSpec, Pair
    from models.training.loop import TrainSpec
    from models.training.methods import Dpo, Sft
    from models.training.sampler import Batches
    from models.training.switching import SwitchingSpec
    from stages.training.previews import Previews

WATCH_S = 1.0
LAST_PREVIEW_S = 600.0
RESULT, ERROR, EVENTS, SAMPLER = "result.json", "error.json", "events.jsonl", "sampler.json"


@dataclass(frozen=True)
class ProbeSpec:
    """What is measured while training, each so many steps (0 is never); ``gradient_samples`` are held-out rows by kind."""

    held_out_every: int = 0
    held_out_parts: int = 9
    gradients_every: int = 0
    gradient_layers: bool = False
    gradient_samples: Mapping[str, Sequence[Entry]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """Everything a worker needs. ``home`` is the run's own folder: checkpoints, events and, at the end, the result."""

    home: str
    backbone: BackboneParams
    method: Sft | Dpo
    spec: TrainSpec
    feed: FeedSpec
    batch: int
    remainder: Literal["drop", "repeat"]
    cache: str
    entries: Sequence[Entry]
    pairs: Sequence[Pair] = ()
    preferences: str | None = None
    losers: int = 1
    reference_errors: str | None = None
    """File with the reference's errors on every batch of this job, where they were computed before."""
    switching: SwitchingSpec | None = None
    images: Sequence[Entry] = ()
    """The image pairs of ``switching``; ``entries`` are then its videos."""
    image_batch: int = 1
    balance: Literal["samples", "flops"] = "samples"
    held_out: Sequence[Entry] = ()
    probes: ProbeSpec = ProbeSpec()
    device: str = "cpu"


def run_job(job: Job, *, world_size: int = 1, rank: int = 0, on_step: Callable[[int], None] | None = None) -> None:
    """Train to the end, from the newest checkpoint if there is one; rank 0 leaves adapter and result in ``job.home``.

    ``on_step(step)`` is called on every rank after each step.
    """
    from models.backbones.load import load_backbone
    from models.training.adapter import save_adapter
    from models.training.loop import train

    home = Path(job.home)
    home.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(job.backbone.spec(), device=job.device)
    sampler = make_sampler(job)
    if rank == 0:
        _same_data(home / SAMPLER, sampler)

    log = StepLog(home / EVENTS, job.device)

    def on_metrics(step: int, metrics: dict[str, float]) -> None:
        if rank == 0:
            log.write(step, metrics)
        if on_step is not None:
            on_step(step)

    feed = make_feed(job, backbone, sampler, world_size, rank)
    probes = make_probes(job, backbone, feed, world_size, rank)
    result = train(backbone, job.method, feed, job.spec, home / "checkpoints", on_metrics, probes=probes)
    if rank == 0:
        save_adapter(result.ema or result.adapter, home / "adapter")
        note = {
            "step": result.step,
            "stopped": result.stopped,
            "resumed_from": result.resumed_from,
            "skipped_checkpoints": list(result.skipped_checkpoints),
            "averaged": result.ema is not None,
            "weights_note": backbone.weights_note,
            "backbone_digest": backbone.config_digest,
        }
        _write_whole(home / RESULT, note)


def _same_data(path: Path, sampler: Batches) -> None:
    """Go on only with the rows and batches that the run began with."""
    if path.exists():
        sampler.check(json.loads(path.read_text()))
    else:
        _write_whole(path, sampler.state(0))


def _write_whole(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.writing")
    partial.write_text(json.dumps(dict(content), indent=2) + "\n")
    partial.replace(path)


def launch(ctx: Context, params: EngineParams, job: Job) -> dict[str, Any]:
    """Run the job where ``params`` says and return its result note. A finished run trains nothing and starts no Ray."""
    home = Path(job.home)
    finished = _finished(home, job.spec.steps)
    if finished is not None:
        ctx.event("already_trained", step=finished["step"])
        return finished
    taken = ctx.take_work(home, newest_checkpoint(home / "checkpoints"))
    if taken is not None:
        ctx.event("checkpoint_taken", step=taken)
    (home / ERROR).unlink(missing_ok=True)
    if params.engine == "inline" and params.num_workers > 1:
        raise StageError(f"engine inline has one worker, not {params.num_workers}; use engine: ray")
    with _previews(ctx, params, job) as previews, _watched(ctx, home, job.spec.steps, previews):
        if params.engine == "ray":
            _launch_ray(ctx, params, job)
        else:
            try:
                run_job(job)
            except ValueError as error:
                raise StageError(str(error)) from error
    done = _finished(home, job.spec.steps)
    if done is None:
        raise StageError(
            f"training ended without a result in {home}; run it again, it goes on from its last checkpoint"
        )
    return done


@contextmanager
def _previews(ctx: Context, params: EngineParams, job: Job) -> Iterator[Previews | None]:
    """Who makes videos while it trains; the last ones are waited for a while, for they are of the finished adapter."""
    from stages.training.previews import Previews

    if params.previews is None:
        yield None
        return
    previews = Previews(ctx, params, job)
    try:
        yield previews
    except BaseException:
        previews.close(0.0)
        raise
    previews.close(LAST_PREVIEW_S)


@contextmanager
def _watched(ctx: Context, home: Path, steps: int, previews: Previews | None) -> Iterator[None]:
    """Show progress in steps while it trains, from the event file that rank 0 appends to.

    Where the workers write to a disk that this machine does not see, there is no bar and nothing else changes.
    """
    events = home / EVENTS
    done = max(read_events(home, steps), default=0)
    over = threading.Event()
    checkpoints = CheckpointWatch(ctx, home, previews)
    with ctx.progress(steps, "steps") as bar:
        bar.advance(done)

        def watch() -> None:
            nonlocal done
            place = events.stat().st_size if events.exists() else 0
            while not over.wait(WATCH_S):
                checkpoints.poll()
                if not events.exists():
                    continue
                with events.open("rb") as file:
                    file.seek(place)
                    new = file.read()
                whole = new[: new.rfind(b"\n") + 1]
                place += len(whole)
                latest = max((int(json.loads(line)["step"]) for line in whole.splitlines()), default=done)
                if latest > done:
                    bar.advance(latest - done)
                    done = latest

        thread = threading.Thread(target=watch, daemon=True, name="training-progress")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            checkpoints.poll()
            bar.advance(max(0, max(read_events(home, steps), default=0) - done))


def _finished(home: Path, steps: int) -> dict[str, Any] | None:
    try:
        note: dict[str, Any] = json.loads((home / RESULT).read_text())
    except (OSError, ValueError):
        return None
    return note if note["step"] >= steps or note["stopped"] else None


def _launch_ray(ctx: Context, params: EngineParams, job: Job) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    home = Path(job.home)
    resources: dict[str, float] = {"CPU": params.cpus_per_worker}
    if params.gpus_per_worker:
        resources["GPU"] = params.gpus_per_worker
    trainer = TorchTrainer(
        ray_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=params.num_workers,
            use_gpu=bool(params.gpus_per_worker),
            resources_per_worker=resources,
            label_selector=dict(ctx.labels) or None,
        ),
        # The name is the fingerprint's own folder, so no other run can be continued by accident.
        run_config=RunConfig(
            name=home.name,
            storage_path=str(home.parent),
            failure_config=FailureConfig(max_failures=params.max_failures),
        ),
    )
    try:
        _fit(trainer, ctx.watch_nodes(params.num_workers, params.cpus_per_worker, params.gpus_per_worker))
    except StageError:
        raise
    except Exception as error:
        raise StageError(_said(home) or f"training failed on Ray: {_root(error)}") from error
    said = _said(home)
    if said:
        raise StageError(said)


def _fit(trainer: Any, watch_nodes: Callable[[], None]) -> None:
    """``trainer.fit()`` in a thread of its own: in the main one Ray Train takes Ctrl-C over and ends the process by itself.

    It would wait for ever for nodes that hold its workers, so these are watched from here.
    """
    failed: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=fit, daemon=True, name="ray-train")
    thread.start()
    while thread.is_alive():
        watch_nodes()
        thread.join(WATCH_S)
    if failed:
        raise failed[0]


def ray_worker(config: Mapping[str, Any]) -> None:
    """What each Ray Train worker runs.

    It reports nothing to Ray: a report waits for the controller's next look, up to two seconds, and what it would say is in the
    event file and the checkpoints already.
    """
    import ray.train

    job: Job = config["job"]
    context = ray.train.get_context()
    world_size, rank = context.get_world_size(), context.get_world_rank()

    try:
        run_job(job, world_size=world_size, rank=rank)
    except (ValueError, ArithmeticError, StageError) as error:
        # A fault of the data or the configuration comes again however often a worker is replaced, so it is told to the
        # driver. With others waiting in a collective the worker must still fail, or they would wait for ever.
        _write_whole(Path(job.home) / ERROR, {"message": str(error)})
        if world_size > 1:
            raise


def _said(home: Path) -> str | None:
    try:
        message: str = json.loads((home / ERROR).read_text())["message"]
    except (OSError, ValueError, KeyError):
        return None
    return message


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def read_events(home: Path, upto: int) -> dict[int, dict[str, float]]:
    """Metrics by step, 1 to ``upto``: of a step that was trained twice, after a restart, the later one; nothing doubled."""
    found: dict[int, dict[str, float]] = {}
    try:
        lines = (home / EVENTS).read_text().splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a line that a killed process was writing; the step was trained again
        step = int(event.pop("step"))
        if 1 <= step <= upto:
            found[step] = event
    return dict(sorted(found.items()))


def publish(ctx: Context, home: Path, note: Mapping[str, Any]) -> dict[str, float]:
    """Hand the committed steps' metrics to the run's one writer; returns the last step's."""
    events = read_events(home, note["step"])
    for step, metrics in events.items():
        for key, value in metrics.items():
            ctx.metric(key, value, step)
    return events[max(events)] if events else {}


def write_log(home: Path, note: Mapping[str, Any], target: Path) -> None:
    """The committed steps as JSON lines beside the adapter, without what depends on the machine's speed."""
    lines = []
    for step, metrics in read_events(home, note["step"]).items():
        kept = {
            key: value
            for key, value in metrics.items()
            if not key.endswith("_seconds") and not key.startswith("system/")
        }
        lines.append(json.dumps({"step": step, **kept}, sort_keys=True))
    target.write_text("".join(f"{line}\n" for line in lines))

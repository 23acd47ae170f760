"""The training loop: any method on any backbone, resumable bit for bit, knowing nothing of Ray or MLflow.

Nothing that changes from run to run enters a step. Batches are a function of their index, the learning rate of the
step, dropout's masks of (seed, step, sample, layer), and the global generators are seeded at every micro-step: what a
checkpoint must hold is the adapter, the optimiser's moments, the average and a few counters, and nothing that a callback
draws can reach the training.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone
from models.training.adapter import AdapterState
from models.training.batch import Batch, PreferenceBatch
from models.training.checkpoint import Checkpoint, clear_unfinished, latest_checkpoint, write_checkpoint
from models.training.dropout import install
from models.training.lora import (
    active_adapters,
    adapter_names,
    adapter_parameters,
    adapter_state,
    remove_adapter,
    train_mode,
)
from models.training.methods import Method
from models.training.parallel import laid_out
from models.training.probes import Probe, run_probe
from models.training.timesteps import TimestepHistogram
from models.training.world import World

AnyBatch = Batch | PreferenceBatch


@dataclass(frozen=True)
class StopRule:
    """Ends training when the mean of ``metric`` over the last ``window`` steps is above ``above``."""

    metric: str
    above: float
    window: int = 20


@dataclass(frozen=True)
class TrainSpec:
    """How to optimise. Adam's betas, the clip and the weight decay are finetrainers' and arXiv 2504.17816's defaults.

    ``steps`` counts optimiser steps, each of ``accumulate`` micro-batches. ``warmup`` steps rise linearly, then the rate
    is constant or falls to 0 along a cosine, ``cycles`` times over for ``cosine_restarts``. Each ``histogram_every`` steps
    (0 is never) the metrics tell which timesteps were drawn so far and the error at them since. ``max_nonfinite``
    consecutive steps may be skipped for a loss or gradient that is not finite before training stops with an error.
    ``shard`` and ``compile``: see ``models.training.parallel``.
    """

    steps: int
    learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine", "cosine_restarts"] = "constant"
    cycles: int = 1
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    max_grad_norm: float | None = 1.0
    accumulate: int = 1
    ema_decay: float | None = None
    seed: int = 0
    max_nonfinite: int = 0
    gradient_checkpointing: bool = False
    shard: bool = False
    compile: bool = False
    stop_rules: tuple[StopRule, ...] = ()
    histogram_every: int = 0
    checkpoint_every: int = 100
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "cycles", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"training: {name} should be at least 1, not {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"training: learning_rate should be above 0, not {self.learning_rate}")
        if self.schedule not in ("constant", "cosine", "cosine_restarts"):
            raise ValueError(f"training: schedule {self.schedule!r} is none of constant, cosine, cosine_restarts")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"training: ema_decay should be between 0 and 1, not {self.ema_decay}")

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ..."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.schedule == "cosine_restarts":
            done = (done * self.cycles) % 1.0
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with. A constant schedule may be trained further; a cosine's end is its shape."""
        plain = asdict(self)
        for name in (
            "checkpoint_every",
            "keep_checkpoints",
            "shard",
            *(["steps"] if self.schedule == "constant" else []),
        ):
            del plain[name]
        return plain


@dataclass(frozen=True)
class TrainResult:
    """``step`` optimiser steps are done; ``stopped`` says which rule ended training early."""

    step: int
    adapter: AdapterState
    ema: AdapterState | None
    stopped: str | None
    resumed_from: int | None
    skipped_checkpoints: tuple[str, ...]


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is infinite or not a number, more often in a row than the spec allows."""


def train(
    backbone: Backbone,
    method: Method,
    batches: Callable[[int], AnyBatch],
    spec: TrainSpec,
    checkpoint_dir: Path | None,
    on_metrics: Callable[[int, dict[str, float]], None] | None = None,
    *,
    on_checkpoint: Callable[[int, Path], None] | None = None,
    probes: Sequence[Probe] = (),
    stop_after: int | None = None,
) -> TrainResult:
    """Trains ``method``'s adapter, continuing from the newest whole checkpoint in ``checkpoint_dir`` if there is one.

    ``batches(i)`` gives micro-batch i (this rank's part of it); step s uses i = s * accumulate ... + accumulate - 1.
    ``on_metrics(step, metrics)`` is called after each optimiser step, counted from 1, on every rank; after a restart the
    steps since the last checkpoint come again, so a tracker should publish only what ``on_checkpoint(step, path)`` has
    covered. Each of ``probes`` adds its numbers to the metrics of the steps it measures after. ``stop_after`` leaves
    after that many steps of this call without a checkpoint, as a killed process would.

    Under torch.distributed gradients are summed over the ranks and weighted by samples. The backbone is left as it was
    found. Raises ValueError for a checkpoint of another configuration or a backbone with adapters switched on already,
    NonFiniteLoss as ``spec`` says.
    """
    if active_adapters(backbone):
        raise ValueError(
            f"adapters {', '.join(active_adapters(backbone))} are on and would silently become part of the base: "
            "give them to the method as frozen adapters, or switch them off before training"
        )
    before = adapter_names(backbone)
    devices = [backbone.device] if backbone.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            trainer = _Trainer(backbone, method, batches, spec, checkpoint_dir, probes)
            with laid_out(backbone, shard=spec.shard, compiled=spec.compile):
                return trainer.run(on_metrics, on_checkpoint, stop_after)
        finally:
            if spec.gradient_checkpointing:
                _checkpoint_activations(backbone, False)
            for name in sorted(adapter_names(backbone) - before):
                remove_adapter(backbone, name)
            train_mode(backbone, None)


class _Trainer:
    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        batches: Callable[[int], AnyBatch],
        spec: TrainSpec,
        checkpoint_dir: Path | None,
        probes: Sequence[Probe],
    ) -> None:
        self._probes = tuple(probes)
        self._histogram = TimestepHistogram(backbone.num_train_timesteps) if spec.histogram_every else None
        self._backbone, self._method, self._batches, self._spec = backbone, method, batches, spec
        self._folder = checkpoint_dir
        self._world = World.current(backbone.device)
        method.attach(backbone, spec.seed)
        if spec.gradient_checkpointing:
            _checkpoint_activations(backbone, True)
        self._masks = install(backbone, method.adapter)
        train_mode(backbone, method.adapter)
        self._parameters = adapter_parameters(backbone, method.adapter)
        for parameter in backbone.transformer.parameters():
            parameter.requires_grad_(False)
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=spec.learning_rate,
            betas=spec.betas,
            eps=spec.eps,
            weight_decay=spec.weight_decay,
        )
        self._ema: dict[str, Tensor] | None = None
        if spec.ema_decay is not None:
            self._ema = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._step = 0
        self._nonfinite = 0
        self._stopped: str | None = None
        self._windows = [deque[float](maxlen=rule.window) for rule in spec.stop_rules]

    def run(
        self,
        on_metrics: Callable[[int, dict[str, float]], None] | None,
        on_checkpoint: Callable[[int, Path], None] | None,
        stop_after: int | None,
    ) -> TrainResult:
        resumed_from, skipped = self._resume()
        done_here = 0
        while self._step < self._spec.steps and self._stopped is None:
            metrics = self._train_step()
            self._step += 1
            done_here += 1
            if metrics["skipped"] == 0.0:
                self._method.after_step(self._backbone, self._step)
            metrics |= self._measured()
            self._apply_stop_rules(metrics)
            if on_metrics is not None:
                on_metrics(self._step, metrics)
            finished = self._step >= self._spec.steps or self._stopped is not None
            if done_here == stop_after and not finished:
                break
            if self._folder is not None and (finished or self._step % self._spec.checkpoint_every == 0):
                self._save(self._folder, on_checkpoint)
        return TrainResult(
            self._step,
            adapter_state(self._backbone, self._method.adapter),
            self._averaged(),
            self._stopped,
            resumed_from,
            skipped,
        )

    # One step

    def _train_step(self) -> dict[str, float]:
        spec, started = self._spec, time.perf_counter()
        first = self._step * spec.accumulate
        micro = [self._batches(first + index).to(self._backbone.device) for index in range(spec.accumulate)]
        # The mean runs over the step's samples of all micro-batches and ranks, so a smaller last one weighs less.
        count = self._world.sum(float(sum(len(batch) for batch in micro)))
        data_seconds = time.perf_counter() - started
        for group in self._optimizer.param_groups:
            group["lr"] = spec.rate(self._step)
        self._optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        for index, batch in enumerate(micro):
            self._masks.belong_to(spec.seed, self._step, index, batch.sample_ids)
            _seed_everything(spec.seed, self._step, index, self._world.rank)
            output = self._method.loss(self._backbone, batch)
            share = len(batch) / count
            (output.loss * share).backward()
            for name, value in {"loss": output.loss.detach(), **output.metrics}.items():
                totals[name] = totals.get(name, torch.zeros((), device=value.device)) + value.float() * share
            if self._histogram is not None:
                self._histogram.add(batch.t_B, output.error_B, totals)
        self._world.sum_gradients(self._parameters.values())
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), spec.max_grad_norm or math.inf)
        metrics = self._world.sum_values(totals)
        if self._histogram is not None:
            self._histogram.take(metrics)
        metrics |= {"grad_norm": float(norm), "learning_rate": spec.rate(self._step), "samples": count}
        metrics["skipped"] = float(not self._update(metrics, micro))
        return metrics | {"data_seconds": data_seconds, "step_seconds": time.perf_counter() - started}

    def _update(self, metrics: dict[str, float], micro: list[AnyBatch]) -> bool:
        """Steps the optimiser unless something is not finite; clipping has scaled the gradients already."""
        if math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]):
            self._optimizer.step()
            self._nonfinite = 0
            self._average()
            return True
        self._nonfinite += 1
        if self._nonfinite > self._spec.max_nonfinite:
            ids = [sample for batch in micro for sample in batch.sample_ids]
            raise NonFiniteLoss(
                f"step {self._step + 1}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']} "
                f"({self._nonfinite} in a row, {self._spec.max_nonfinite} allowed); samples {', '.join(ids[:8])}. "
                "Lower the learning rate, or look at these samples' latents"
            )
        return False

    @torch.no_grad()
    def _average(self) -> None:
        if self._ema is None or self._spec.ema_decay is None:
            return
        # Early steps would otherwise keep the random start in the average for 1 / (1 - decay) steps.
        decay = min(self._spec.ema_decay, (1 + self._step) / (10 + self._step))
        for name, parameter in self._parameters.items():
            self._ema[name].lerp_(parameter, 1.0 - decay)

    def _averaged(self) -> AdapterState | None:
        if self._ema is None:
            return None
        now = adapter_state(self._backbone, self._method.adapter)
        return AdapterState({name: value.cpu().clone() for name, value in self._ema.items()}, now.rank, now.alpha)

    def _apply_stop_rules(self, metrics: dict[str, float]) -> None:
        for rule, window in zip(self._spec.stop_rules, self._windows, strict=True):
            if rule.metric not in metrics and self._step > 1:
                continue  # a probe's, which was there after step 1 and is not measured at each
            if rule.metric not in metrics:
                raise ValueError(f"stop rule on unknown metric {rule.metric!r}; this method logs {', '.join(metrics)}")
            if math.isfinite(metrics[rule.metric]):
                window.append(metrics[rule.metric])
            mean = sum(window) / max(1, len(window))
            if len(window) == rule.window and mean > rule.above:
                self._stopped = (
                    f"{rule.metric} averaged {mean:.4g} over the last {rule.window} steps, above {rule.above}, "
                    f"at step {self._step}"
                )

    def _measured(self) -> dict[str, float]:
        """What probes and the timestep histogram say after this step."""
        found: dict[str, float] = {}
        last = self._step >= self._spec.steps
        for probe in self._probes:
            if self._step == 1 or last or self._step % probe.every == 0:
                found |= run_probe(probe, self._backbone, self._method, self._world)
        if self._histogram is not None and (last or self._step % self._spec.histogram_every == 0):
            found |= self._histogram.tell()
        return found

    # Checkpoints

    def _identity(self) -> dict[str, Any]:
        identity = {
            "train": self._spec.identity(),
            "method": self._method.identity(),
            "backbone": self._backbone.config_digest,
        }
        return _plain(identity)

    def _save(self, folder: Path, on_checkpoint: Callable[[int, Path], None] | None) -> None:
        tensors = {"adapter": dict(self._parameters), "optimizer": self._moments()}
        if self._ema is not None:
            tensors["ema"] = dict(self._ema)
        if kept := dict(self._method.tensors(self._backbone)):
            tensors["method"] = kept
        state = {
            "identity": self._identity(),
            "nonfinite": self._nonfinite,
            "stopped": self._stopped,
            "windows": [list(window) for window in self._windows],
            "histogram": self._histogram.state() if self._histogram else None,
            "versions": {"torch": torch.__version__},
        }
        if self._world.rank == 0:
            path = write_checkpoint(folder, Checkpoint(self._step, tensors, state), self._spec.keep_checkpoints)
            if on_checkpoint is not None:
                on_checkpoint(self._step, path)
        self._world.barrier()

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"{kind}/{name}": value
            for name, parameter in self._parameters.items()
            for kind, value in self._optimizer.state.get(parameter, {}).items()
        }

    def _resume(self) -> tuple[int | None, tuple[str, ...]]:
        if self._folder is None:
            return None, ()
        if self._world.rank == 0:
            clear_unfinished(self._folder)
        self._world.barrier()
        checkpoint, skipped = latest_checkpoint(self._folder)
        if checkpoint is None:
            return None, skipped
        self._agree(checkpoint.state["identity"])
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(checkpoint.tensors["adapter"][name])
                if self._ema is not None:
                    self._ema[name].copy_(checkpoint.tensors["ema"][name])
            for name, tensor in self._method.tensors(self._backbone).items():
                tensor.copy_(checkpoint.tensors["method"][name])
        for key, value in checkpoint.tensors["optimizer"].items():
            kind, name = key.split("/", 1)
            parameter = self._parameters[name]
            # AdamW keeps its step count on the CPU and its moments beside the parameter.
            placed = value if kind == "step" else value.to(parameter.device)
            self._optimizer.state[parameter][kind] = placed
        self._step = checkpoint.step
        self._nonfinite = checkpoint.state["nonfinite"]
        if self._histogram is not None:
            self._histogram.restore(checkpoint.state["histogram"])
        self._stopped = checkpoint.state["stopped"]
        for window, values in zip(self._windows, checkpoint.state["windows"], strict=True):
            window.extend(values)
        return checkpoint.step, skipped

    def _agree(self, found: dict[str, Any]) -> None:
        differences = _differences(found, self._identity())
        if differences:
            raise ValueError(
                f"the checkpoints in {self._folder} belong to another run: {'; '.join(differences)}. "
                "Give this run its own checkpoint folder, or restore the old configuration"
            )


def _checkpoint_activations(backbone: Backbone, on: bool) -> None:
    transformer: Any = backbone.transformer
    transformer.enable_gradient_checkpointing() if on else transformer.disable_gradient_checkpointing()


def _seed_everything(seed: int, step: int, micro: int, rank: int) -> None:
    digest = blake2b(f"{seed}/{step}/{micro}/{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big") >> 1)


def _plain(value: Any) -> Any:
    """As JSON will give it back: tuples are lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _differences(found: Any, wanted: Any, path: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(set(found) | set(wanted))
        return [line for key in keys for line in _differences(found.get(key), wanted.get(key), f"{path}.{key}")]
    return [] if found == wanted else [f"{path.lstrip('.')} was {found!r} and is now {wanted!r}"]

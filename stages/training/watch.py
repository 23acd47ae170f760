"""What a training says while it runs: rank 0 appends each step to a file, the driver tells each committed checkpoint once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stages.contract import Context

if TYPE_CHECKING:
    from stages.training.previews import Previews

CHECKPOINT = "checkpoint"
"""Event of a committed checkpoint: ``step``, ``home`` (the run's own folder) and ``fingerprint``. Metrics up to ``step`` are
final from then on: training does not go back behind a whole checkpoint."""


class StepLog:
    """One JSON line a step, with the machine's state every few seconds. Nothing that a network or a database could delay."""

    def __init__(self, path: Path, device: str) -> None:
        from models.training.telemetry import SystemMetrics

        self.path, self.system = path, SystemMetrics(device)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        with self.path.open("a") as events:
            events.write(json.dumps({"step": step, **metrics, **self.system.read()}) + "\n")


class CheckpointWatch:
    """Call ``poll`` every second or so; it reads one folder's names."""

    def __init__(self, ctx: Context, home: Path, previews: Previews | None = None) -> None:
        self.ctx, self.home, self.previews, self.told = ctx, home, previews, 0

    def poll(self) -> None:
        if self.previews is not None:
            self.previews.poll()
        step = newest_checkpoint(self.home / "checkpoints")
        if step > self.told:
            self.told = step
            self._keep(step)
            self.ctx.event(CHECKPOINT, step=step, home=str(self.home), fingerprint=self.ctx.fingerprint)
            if self.previews is not None:
                self.previews.checkpoint(step)

    def _keep(self, step: int) -> None:
        """For a machine that goes on after this one is lost. A copy that fails costs the copy, not the training."""
        checkpoint = self.home / "checkpoints" / f"step_{step:08d}"
        files = [*(path for path in self.home.glob("[!.]*") if path.is_file()), *checkpoint.rglob("*")]
        try:
            self.ctx.keep_work(step, {f.relative_to(self.home).as_posix(): f for f in files if f.is_file()})
        except OSError as error:
            self.ctx.event("checkpoint_not_kept", step=step, error_type=type(error).__name__, error_message=str(error))


def newest_checkpoint(folder: Path) -> int:
    """Step of the newest checkpoint by name (a checkpoint gets its name when it is whole); 0 before there is one."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return 0
    return max((int(n.removeprefix("step_")) for n in names if n.startswith("step_")), default=0)

"""Progress of a long step: a bar on a terminal, otherwise a line now and then, or an event for machines."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

EVERY_S = 5.0
_ONE_BAR = threading.Lock()


class Tally:
    """What is done of a step, and what follows from it. ``weight`` is the work in any unit (bytes), where counts mislead."""

    def __init__(self, label: str, total: int, unit: str, weight: float = 0.0) -> None:
        self.label, self.total, self.unit, self.weight = label, total, unit, weight
        self.done = self.failed = 0
        self.footage_s = self.weighed = 0.0
        self.started = time.monotonic()

    def add(self, n: int, failed: int, footage_s: float, weight: float) -> None:
        self.done += n
        self.failed += failed
        self.footage_s += footage_s
        self.weighed += weight

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds left, by weight where it is known, else by count; None before anything is done."""
        done, total = (self.weighed, self.weight) if self.weight else (float(self.done), float(self.total))
        return self.seconds * max(0.0, total - done) / done if done else None

    def fields(self) -> dict[str, Any]:
        """The progress event, as docs/operations.md describes it."""
        left = self.left_s
        return {
            "stage": self.label,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "failed": self.failed,
            "footage_s": round(self.footage_s, 3),
            "seconds": round(self.seconds, 3),
            "per_second": round(self.done / self.seconds, 3),
            "realtime": round(self.footage_s / self.seconds, 3),
            "left_s": None if left is None else round(left, 1),
        }

    def note(self) -> str:
        """Footage, rate and failures, for people."""
        parts = [f"{self.done / self.seconds:.1f}/s"]
        if self.footage_s:
            parts = [f"{footage(self.footage_s)} of footage", *parts, f"{self.footage_s / self.seconds:.1f}x real time"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)


class Silent:
    """Shows nothing: for tests."""

    def advance(self, n: int = 1, failed: int = 0, *, footage_s: float = 0.0, weight: float = 0.0) -> None:
        return

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *exc: object) -> None:
        return


class Told:
    """Tells every few seconds, and at the end of what took longer or was never told; ``short`` steps are told too."""

    def __init__(self, tally: Tally, tell: Callable[[Tally], None], *, short: bool) -> None:
        self.tally, self.tell, self.short = tally, tell, short
        self.said = tally.started
        self.told = -1

    def advance(self, n: int = 1, failed: int = 0, *, footage_s: float = 0.0, weight: float = 0.0) -> None:
        self.tally.add(n, failed, footage_s, weight)
        if time.monotonic() - self.said >= EVERY_S:
            self._say()

    def _say(self) -> None:
        self.said, self.told = time.monotonic(), self.tally.done
        self.tell(self.tally)

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.told != self.tally.done and (self.short or self.tally.seconds >= EVERY_S):
            self._say()


class Kept:
    """Shows progress as ``shown`` does, and keeps it every few seconds and at the end for others to read."""

    def __init__(self, shown: Silent | Told | Bar, tally: Tally, keep: Callable[[Mapping[str, Any]], None]) -> None:
        self.shown, self.tally, self.keep = shown, tally, keep
        self.kept_at = tally.started

    def advance(self, n: int = 1, failed: int = 0, *, footage_s: float = 0.0, weight: float = 0.0) -> None:
        self.shown.advance(n, failed, footage_s=footage_s, weight=weight)
        self.tally.add(n, failed, footage_s, weight)
        if time.monotonic() - self.kept_at >= EVERY_S:
            self.kept_at = time.monotonic()
            self.keep(self.tally.fields())

    def __enter__(self) -> Kept:
        self.shown.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shown.__exit__(*exc)
        if self.tally.seconds >= EVERY_S:
            self.keep(self.tally.fields())


def line(tally: Tally) -> None:
    left = "" if tally.left_s is None else f", {clock(tally.left_s)} left"
    print(
        f"  {tally.label}: {tally.done:,} of {tally.total:,} {tally.unit} ({tally.note()}{left})",
        file=sys.stderr,
        flush=True,
    )


class Bar:
    """A rich bar on a terminal; it moves by weight where there is one."""

    def __init__(self, tally: Tally, gone: Callable[[], None] = lambda: None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.tally, self.gone = tally, gone
        self.bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.bar.add_task(
            tally.label, total=tally.weight or tally.total, note=f"of {tally.total:,} {tally.unit}"
        )

    def advance(self, n: int = 1, failed: int = 0, *, footage_s: float = 0.0, weight: float = 0.0) -> None:
        tally = self.tally
        tally.add(n, failed, footage_s, weight)
        left = "" if tally.left_s is None else f", {clock(tally.left_s)} left"
        note = f"{tally.done:,} of {tally.total:,} {tally.unit}, {tally.note()}{left}"
        self.bar.update(self.task, completed=tally.weighed if tally.weight else tally.done, note=note)

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()
        self.gone()


def progress(
    label: str,
    total: int,
    unit: str,
    quiet: bool,
    weight: float = 0.0,
    emit: Callable[[Mapping[str, Any]], None] | None = None,
) -> Silent | Told | Bar:
    """Events where ``emit`` takes them, else nothing when ``quiet``, else a bar on a terminal and lines elsewhere."""
    tally = Tally(label, total, unit, weight)
    if emit is not None:
        return Told(tally, lambda told: emit(told.fields()), short=True)
    if quiet:
        return Silent()
    # A terminal has room for one bar that moves; stages that run beside it tell by lines.
    if sys.stderr.isatty() and _ONE_BAR.acquire(blocking=False):
        return Bar(tally, _ONE_BAR.release)
    return Told(tally, line, short=False)


def footage(seconds: float) -> str:
    """A length of footage in hours, minutes or seconds."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

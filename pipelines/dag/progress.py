"""Progress of a long step: a bar with rate and remaining time on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time

EVERY_S = 5.0


class Silent:
    """Counts, shows nothing: for --json and tests."""

    def advance(self, n: int = 1, failed: int = 0) -> None:
        return

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *exc: object) -> None:
        return


class Lines:
    """A line every few seconds: done of total, rate, failures, time left."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.failed = self.told = 0
        self.started = self.said = time.monotonic()

    def advance(self, n: int = 1, failed: int = 0) -> None:
        self.done += n
        self.failed += failed
        if time.monotonic() - self.said >= EVERY_S:
            self._say()

    def _say(self) -> None:
        self.said, self.told = time.monotonic(), self.done
        rate = self.done / max(self.said - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        failed = f", {self.failed} failed" if self.failed else ""
        print(
            f"  {self.label}: {self.done} of {self.total} {self.unit} ({rate:.1f}/s{failed}, {_clock(left)} left)",
            file=sys.stderr,
            flush=True,
        )

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.told != self.done and time.monotonic() - self.started >= EVERY_S:
            self._say()


class Bar:
    """A rich bar on a terminal."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.unit = unit
        self.failed = 0
        self.started = time.monotonic()
        self.bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.bar.add_task(label, total=total, note=unit)

    def advance(self, n: int = 1, failed: int = 0) -> None:
        self.failed += failed
        done = self.bar.tasks[0].completed + n
        rate = done / max(time.monotonic() - self.started, 1e-9)
        note = f"{self.unit} {rate:.1f}/s" + (f", {self.failed} failed" if self.failed else "")
        self.bar.update(self.task, advance=n, note=note)

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()


def progress(label: str, total: int, unit: str, quiet: bool) -> Silent | Lines | Bar:
    if quiet:
        return Silent()
    return Bar(label, total, unit) if sys.stderr.isatty() else Lines(label, total, unit)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

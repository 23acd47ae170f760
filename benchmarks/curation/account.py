"""What a command costs: CPU seconds of all processes it starts, wall seconds, and the peak of their memory.

The command runs under a small parent that adopts orphans (Linux's child subreaper), so that daemons, actors and fork servers
are counted as well.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 20.0
_LOOK_S = 0.1
_LOOKS_PER_MEMORY = 10


@dataclass(frozen=True)
class Cost:
    """``cpu_s``: user and system seconds of the whole tree. ``peak_gib``: most memory held at once (proportional share)."""

    cpu_s: float
    wall_s: float
    peak_gib: float


class CommandFailed(RuntimeError):
    """A command ended with another code than 0; the message has the end of what it printed."""


def account(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 10_800
) -> tuple[Cost, str]:
    """Run a command to its end. Returns its cost and what it printed. Raises ``CommandFailed``."""
    with tempfile.NamedTemporaryFile("r+", suffix=".json") as told, tempfile.NamedTemporaryFile("r+") as said:
        wrapper = [sys.executable, "-m", "benchmarks.curation.account", told.name, str(timeout_s), *command]
        where = {"cwd": str(cwd)} if cwd else {}
        code = subprocess.run(
            wrapper, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, **where
        ).returncode  # type: ignore[call-overload]
        said.seek(0)
        text = said.read()
        if code:
            raise CommandFailed(f"exit code {code}: {' '.join(command)}\n{text[-3000:]}")
        told.seek(0)
        return Cost(**json.load(told)), text


class _Watch(threading.Thread):
    """Follows every descendant: the CPU time each was last seen with, and the memory that all hold together.

    The kernel adds a child's time to its parent only where the parent waits for it, and Ray's node does not. Seen times lack
    what a process does between the last look and its end; where everything was waited for, the kernel's sum is the larger.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.seconds: dict[tuple[int, float], float] = {}
        self.peak = 0

    def run(self) -> None:
        me, looks = psutil.Process(), 0
        while not self.stop.wait(_LOOK_S):
            looks += 1
            total = 0
            for process in me.children(recursive=True):
                try:
                    used = process.cpu_times()
                    self.seconds[(process.pid, process.create_time())] = used.user + used.system
                    total += process.memory_full_info().pss if looks % _LOOKS_PER_MEMORY == 0 else 0
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)


def _main(told: str, timeout_s: float, command: Sequence[str]) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    watch = _Watch()
    watch.start()
    started = time.monotonic()
    child = subprocess.Popen(command)
    try:
        code = child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        print(f"stopped after {timeout_s:.0f} s", flush=True)
        code = 124
    wall = time.monotonic() - started
    _reap(time.monotonic() + _GRACE_S)
    watch.stop.set()
    watch.join()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = max(used.ru_utime + used.ru_stime, sum(watch.seconds.values()))
    cost = {"cpu_s": cpu, "wall_s": wall, "peak_gib": watch.peak / 2**30}
    Path(told).write_text(json.dumps(cost), encoding="utf-8")
    return code


def _reap(until: float) -> None:
    """Wait for adopted processes; those that outstay the grace are ended first."""
    killed = False
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            continue
        if time.monotonic() > until and not killed:
            for process in psutil.Process().children(recursive=True):
                process.send_signal(signal.SIGKILL)
            killed = True
        time.sleep(0.05)


if __name__ == "__main__":
    raise SystemExit(_main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))

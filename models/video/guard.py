"""Runs work on untrusted media in a child process with limits; what hangs, crashes or balloons is killed and named."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

_POLL_S = 0.2
_START_S = 60.0  # to import OpenCV and PyAV, on a machine that is busy
_STDERR_BYTES = 2000

# What the child is told of this process's environment: where programs, libraries, caches and temporary files are, and how
# many threads to use. Nothing else: passwords and keys are no business of a process that parses strangers' files.
_ENVIRONMENT = {
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
    "VIRTUAL_ENV",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TORCH_HOME",
}
_ENVIRONMENT |= {"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES"}
_ENVIRONMENT_PREFIXES = ("LC_", "PYTHON", "OMP_", "MKL_", "OPENBLAS_", "OPENCV_", "MALLOC_")


class GuardedFailure(Exception):
    """The work was given up. The message says what happened in words that go into the ledger as they are."""


class TimedOutError(GuardedFailure):
    """The limit of time passed, or the work stopped giving signs of life."""


class CrashedError(GuardedFailure):
    """The process died: a fault in a decoder's own code."""


class OutOfMemoryError(GuardedFailure):
    """The work used more memory than it may."""


class WorkerStartError(RuntimeError):
    """The child process does not start at all: the machine's failure, not the file's."""


@dataclass(frozen=True)
class Limits:
    """``limit_s`` for one request in all, ``stall_s`` without a sign of life, ``memory_bytes`` resident."""

    limit_s: float = 3600.0
    stall_s: float = 60.0
    memory_bytes: int = 4 << 30


class Guard:
    """One persistent child process; it is started when first needed and again after it had to be killed.

    Use it from one thread at a time. The child imports what the calls name, nothing else, and dies with this process.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.starts = 0  # how often a child was started
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._stderr: Any = None

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def call(self, call: str, arguments: Mapping[str, Any], limits: Limits | None = None) -> Any:
        """Run ``package.module:function(**arguments, on_progress=...)`` in the child and return what it returns.

        ``on_progress()`` is the function's sign of life. Arguments and result must pickle. Raises the function's own
        exception, or ``TimedOutError``, ``CrashedError`` or ``OutOfMemoryError`` when the child had to be killed or died;
        the next call then gets a fresh child.
        """
        limits = limits or self.limits
        pipe = self._ready()
        request = pickle.dumps({"call": call, "arguments": dict(arguments), "limit_s": limits.limit_s})
        try:
            pipe.send_bytes(request)
        except (BrokenPipeError, OSError):
            # the child died between requests, which no request of ours can have caused
            self.close()
            pipe = self._ready()
            pipe.send_bytes(request)
        started = last_sign = time.monotonic()
        begun = False  # what the child imports for its first request is not charged to that request's file
        while True:
            kind, value = self._receive(pipe)
            now = time.monotonic()
            if kind == "begun":
                begun, started, last_sign = True, now, now
            if kind == "result":
                if self._resident() > limits.memory_bytes // 2:
                    self.close()  # leaks of many files must not be charged to the next one
                return value
            if kind == "error":
                raise value
            if kind == "memory":
                self.close()  # its heap is in fragments; a fresh child starts clean
                raise OutOfMemoryError(
                    f"decoding it asked for more than the {_size(limits.memory_bytes)} of memory allowed"
                )
            if kind == "beat":
                last_sign = now
            if self._resident() > limits.memory_bytes:
                self.close()
                raise OutOfMemoryError(
                    f"decoding it took more than the {_size(limits.memory_bytes)} of memory allowed; stopped"
                )
            if not begun:
                if now - started > _START_S:
                    self.close()
                    raise WorkerStartError(
                        f"the decoding process did not import {call} within {_START_S:g} s; the machine may be overloaded"
                    )
                continue
            if now - started > limits.limit_s:
                self.close()
                raise TimedOutError(f"it was not done after {limits.limit_s:g} s, the limit for one file; stopped")
            if now - last_sign > limits.stall_s:
                self.close()
                raise TimedOutError(f"the decoder gave no sign of life for {limits.stall_s:g} s; stopped")

    def close(self) -> None:
        """Kill the child, if there is one."""
        process, pipe, stderr = self._process, self._pipe, self._stderr
        self._process = self._pipe = self._stderr = None
        if pipe is not None:
            pipe.close()
        if process is not None:
            process.kill()
            process.wait()
        if stderr is not None:
            stderr.close()

    # -- the child -----------------------------------------------------------------------------------------------------

    def _ready(self) -> Connection:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        return self._pipe

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe(duplex=True)
        # The child sees exactly this process's modules, wherever it was started: not what lies in the current folder.
        path = [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path]
        told = {"fd": theirs.fileno(), "parent": os.getpid(), "memory_bytes": self.limits.memory_bytes}
        program = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from models.video.worker import main; main(sys.argv[2])"
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed with the child
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", program, json.dumps(path), json.dumps(told)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=_environment(),
            )
        finally:
            theirs.close()
        self._pipe = ours
        self.starts += 1
        if not ours.poll(_START_S):
            self.close()
            raise WorkerStartError(
                f"the decoding process did not start within {_START_S:g} s; the machine may be overloaded"
            )
        try:
            ours.recv_bytes()
        except (EOFError, OSError):
            said = self._said()
            self.close()
            raise WorkerStartError(f"the decoding process did not start: {said or 'it said nothing'}") from None

    def _receive(self, pipe: Connection) -> tuple[str, Any]:
        try:
            if not pipe.poll(_POLL_S):
                return "nothing", None
            kind, value = pickle.loads(pipe.recv_bytes())
            return str(kind), value
        except (EOFError, OSError):
            raise self._crash() from None

    def _crash(self) -> GuardedFailure:
        assert self._process is not None
        code = self._process.wait()
        said = self._said()
        self.close()
        if "bad_alloc" in said or "MemoryError" in said:
            return OutOfMemoryError(f"decoding it took more memory than the {_size(self.limits.memory_bytes)} allowed")
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            reason = (
                "the system killed it, probably for memory"
                if name == "SIGKILL"
                else "a fault in the decoder's own code"
            )
            return CrashedError(f"the decoding process died of {name} ({reason})")
        return CrashedError(f"the decoding process ended with code {code}{': ' + said if said else ''}")

    def _said(self) -> str:
        """The last line that the child wrote to its error stream."""
        if self._stderr is None:
            return ""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_BYTES))
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _resident(self) -> int:
        """Resident bytes of the child; 0 where the system does not tell."""
        if self._process is None:
            return 0
        try:
            with open(f"/proc/{self._process.pid}/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return 0


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in _ENVIRONMENT or k.startswith(_ENVIRONMENT_PREFIXES)}
    return {**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _size(count: int) -> str:
    return f"{count / (1 << 30):.3g} GiB"

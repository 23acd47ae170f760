"""The child process behind ``guard``: runs one request at a time, says that it is alive, and dies with its parent."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

_ORPHAN_CHECK_S = 1.0


def main(arguments: str) -> None:
    """Serve requests from the pipe named in ``arguments`` (JSON: ``fd``, ``parent``, ``memory_bytes``) until it closes."""
    told = json.loads(arguments)
    _die_with(told["parent"])
    _limit_memory(told["memory_bytes"])
    pipe = Connection(told["fd"])
    pipe.send_bytes(pickle.dumps(("ready", None)))
    while True:
        try:
            request = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return  # the parent is gone or has closed
        # A last resort in the kernel: a decoder that hangs while it holds the interpreter stops every thread of ours, and
        # an orphan in that state could not notice that its parent died.
        signal.alarm(int(request["limit_s"]) + 30)
        try:
            beat = _Beat(pipe)
            answer = ("result", _run(request["call"], request["arguments"], beat))
        except MemoryError as error:
            answer = ("memory", str(error) or "out of memory")
        except Exception as error:
            answer = ("error", _portable(error))
            answer[1].add_note(_where(error))
        signal.alarm(0)
        try:
            pipe.send_bytes(pickle.dumps(answer))
        except (BrokenPipeError, OSError):
            return


class _Beat:
    """Tells the parent that the work goes on; at most a few times a second, however often it is called."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._next = 0.0

    def begun(self) -> None:
        """The imports are done; the clocks of the request start here."""
        self._pipe.send_bytes(pickle.dumps(("begun", None)))

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.25
            self._pipe.send_bytes(pickle.dumps(("beat", None)))


def _run(call: str, arguments: Mapping[str, Any], beat: _Beat) -> Any:
    module, _, name = call.partition(":")
    function = getattr(importlib.import_module(module), name)
    beat.begun()
    return function(**arguments, on_progress=beat)


def _portable(error: Exception) -> Exception:
    """The exception itself where it survives pickling, else one of the same name and message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _where(error: Exception) -> str:
    """The innermost line of ours that raised, for whoever has to mend it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def _die_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="orphan-watch").start()


def _limit_memory(memory_bytes: int) -> None:
    """Refuse to grow by much more than the limit: one giant allocation fails here before the parent could see it."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not write gigabytes of memory to the disk
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        return  # no such limit on this system; the parent still watches what is resident where it can
    # libraries loaded later map a few GiB of address space that is never touched
    ceiling = mapped + 2 * memory_bytes + (4 << 30)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (ceiling if hard == resource.RLIM_INFINITY else min(ceiling, hard), hard))


if __name__ == "__main__":
    main(sys.argv[1])

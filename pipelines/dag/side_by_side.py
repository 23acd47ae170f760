"""Work in threads beside the main one, each of which can be asked to stop."""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Callable
from typing import Any

STOP_S = 10.0


class SideBySide:
    """Runs functions in threads of their own; ``next`` gives what they came to, in the order in which they ended."""

    def __init__(self) -> None:
        self._threads: dict[str, threading.Thread] = {}
        self._ended: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def __len__(self) -> int:
        return len(self._threads)

    def start(self, name: str, work: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                came = work()
            except BaseException as error:
                came = error
            self._ended.put((name, came))

        # A daemon: a stage that does not come to an end must not keep the process that was asked to stop.
        thread = threading.Thread(target=run, name=f"stage {name}", daemon=True)
        self._threads[name] = thread
        thread.start()

    def next(self, timeout_s: float | None) -> tuple[str, Any] | None:
        """Name and result (or exception) of one that ended; None when nobody did in that time."""
        try:
            name, came = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self._threads.pop(name).join()
        return name, came

    def stop(self) -> None:
        """Interrupt what still runs, as Ctrl-C interrupts the main thread, and give it some seconds to clean up."""
        for thread in self._threads.values():
            if thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt)
                )
        for thread in self._threads.values():
            thread.join(STOP_S)
        self._threads.clear()

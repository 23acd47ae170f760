"""What the guard's tests run in the child process: work that hangs, crashes, balloons, fails or does well."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def echo(value: object, on_progress: Callable[[], None]) -> object:
    return value


def pid(on_progress: Callable[[], None]) -> int:
    return os.getpid()


def hang(on_progress: Callable[[], None]) -> None:
    time.sleep(600)


def go_on_for_ever(on_progress: Callable[[], None]) -> None:
    while True:
        on_progress()
        time.sleep(0.05)


def crash(on_progress: Callable[[], None]) -> None:
    os.abort()


def leave(on_progress: Callable[[], None]) -> None:
    os._exit(3)


def balloon(on_progress: Callable[[], None]) -> None:
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20) * 16))
        on_progress()


def one_giant(on_progress: Callable[[], None]) -> None:
    bytearray(1 << 42)


def fail(on_progress: Callable[[], None]) -> None:
    raise ValueError("the reason")


def modules(on_progress: Callable[[], None]) -> list[str]:
    import sys

    import models.video.analyze  # noqa: F401  what a real request imports

    return sorted(sys.modules)

"""What the guard's tests run in the child process: work that hangs, crashes, balloons, fails or does well."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any


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


def environment(on_progress: Callable[[], None]) -> dict[str, str]:
    return dict(os.environ)


def core_limit(on_progress: Callable[[], None]) -> tuple[int, int]:
    import resource

    return resource.getrlimit(resource.RLIMIT_CORE)


def analyze_counting_opens(opens: str, on_progress: Callable[[], None], **arguments: Any) -> Any:
    """The real request of the stage; every open of a container or picture is a line in the file ``opens``."""
    import av
    import cv2

    from models.video.analyze import analyze_request

    def counting(real: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            with open(opens, "a") as log:
                log.write(f"{kind} {arguments['path']}\n")
            return real(*given, **options)

        return call

    really = {"open": av.open, "VideoCapture": cv2.VideoCapture}
    av.open, cv2.VideoCapture = counting(av.open, "av"), counting(cv2.VideoCapture, "cv2")
    try:
        return analyze_request(**arguments, on_progress=on_progress)
    finally:
        av.open, cv2.VideoCapture = really["open"], really["VideoCapture"]


def read_to_the_end(path: str, on_progress: Callable[[], None]) -> int:
    """The number of frames that the sequential reader finds."""
    from models.video.reader import VideoReader

    frames = 0
    with VideoReader(path) as reader:
        for _ in reader:
            frames += 1
            on_progress()
    return frames


def segfault(on_progress: Callable[[], None]) -> None:
    import ctypes

    ctypes.string_at(0)

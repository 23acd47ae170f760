"""What a video's header claims of its length and size: milliseconds a file, and not to be trusted one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.video.reader import UndecodableError, open_container


@dataclass(frozen=True)
class Claim:
    """``seconds`` of footage, frames per second and pixels per frame, each None where the header does not say."""

    seconds: float | None
    fps: float | None
    pixels: int | None


def claim(path: str, on_progress: Callable[[], None] = lambda: None) -> Claim | None:
    """The claim of a local file's first video stream; None where the file does not open or has none."""
    try:
        with open_container(path) as container:
            if not container.streams.video:
                return None
            stream = container.streams.video[0]
            seconds = None
            if stream.duration is not None and stream.time_base is not None:
                seconds = float(stream.duration * stream.time_base)
            elif container.duration is not None:
                seconds = container.duration / 1e6
            fps = float(stream.average_rate) if stream.average_rate else None
            pixels = stream.width * stream.height or None
            return Claim(seconds if seconds and seconds > 0 else None, fps, pixels)
    except (UndecodableError, OSError, ValueError):
        return None

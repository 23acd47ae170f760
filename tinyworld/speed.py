"""How fast short clips are rendered: the figure that training on the fly rests on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count

import cv2

from tinyworld.draw import render_clip


@dataclass(frozen=True)
class Speed:
    """Clips rendered in ``cpu_seconds`` of processor time on one thread, and the rate that follows."""

    clips: int
    cpu_seconds: float

    @property
    def clips_per_minute(self) -> float:
        return 60.0 * self.clips / self.cpu_seconds


def measure_clip_speed(seconds: float = 5.0, size: int = 32, frames: int = 9, first_seed: int = 10**6) -> Speed:
    """Render clips of fresh seeds for ``seconds`` of processor time, after a warm-up that paints the plates."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for seed in range(first_seed - 64, first_seed):
            render_clip(seed, size, frames)
        start = time.process_time()
        for done in count(1):
            render_clip(first_seed + done, size, frames)
            spent = time.process_time() - start
            if spent >= seconds:
                return Speed(done, spent)
    finally:
        cv2.setNumThreads(threads)
    raise AssertionError("unreachable: the count does not end")

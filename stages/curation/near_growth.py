"""Grows verified copies along their videos: where two clips match, the clips beside them on the same timeline probably do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_COVERED = 0.5  # share of a clip that the other video's clip must cover


@dataclass(frozen=True)
class Link:
    """Row ``two`` is a copy of row ``one``: its instant t is ``start_s + speed * t`` there, in seconds from each clip's start.

    ``difference`` is what remained between them.
    """

    one: int
    two: int
    start_s: float
    speed: float
    mirrored: bool
    difference: float


@dataclass(frozen=True)
class Timeline:
    """The clips of each video in order. ``rows`` int64 (N,) sorted by video and start; the others by row of ``clips``."""

    rows: np.ndarray
    video: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    first: np.ndarray  # by video: where its rows begin

    @classmethod
    def of(cls, clips: pa.Table, rows: np.ndarray) -> Timeline:
        video = clips.column("video_id").combine_chunks().dictionary_encode().indices.to_numpy()
        start, end = (clips.column(name).to_numpy() for name in ("start_s", "end_s"))
        order = rows[np.lexsort((start[rows], video[rows]))]
        count = int(video.max()) + 1 if len(video) else 0
        return cls(order, video, start, end, np.searchsorted(video[order], np.arange(count + 1)))

    def clips_of(self, video: int) -> np.ndarray:
        return self.rows[self.first[video] : self.first[video + 1]]

    def covering(self, video: int, start_s: float, end_s: float) -> int | None:
        """The row of the video's clip that covers most of a span, where that is half of the shorter of the two or more."""
        clips = self.clips_of(video)
        shared = np.minimum(self.end_s[clips], end_s) - np.maximum(self.start_s[clips], start_s)
        if not len(clips):
            return None
        best = int(np.argmax(shared))
        row = int(clips[best])
        shorter = min(end_s - start_s, float(self.end_s[row] - self.start_s[row]))
        return row if shared[best] >= _COVERED * shorter > 0 else None


def neighbours(timeline: Timeline, links: Sequence[Link]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows that should match if the links are right: int64 (P, 2), and whether mirrored; each pair once, sorted.

    For every clip of a linked video that no link leads from, the clip of the other video at the instants to which the
    link maps it.
    """
    linked = {row for link in links for row in (link.one, link.two)}
    found: dict[tuple[int, int], bool] = {}
    for link in links:
        a, b = int(timeline.video[link.one]), int(timeline.video[link.two])
        if a == b:
            continue
        # seconds of video b to seconds of video a
        shift = timeline.start_s[link.one] + link.start_s - link.speed * timeline.start_s[link.two]
        for row in timeline.clips_of(b).tolist():
            if row not in linked:
                span = (link.speed * timeline.start_s[row] + shift, link.speed * timeline.end_s[row] + shift)
                other = timeline.covering(a, *span)
                if other is not None:
                    found.setdefault((min(row, other), max(row, other)), link.mirrored)
        for row in timeline.clips_of(a).tolist():
            if row not in linked:
                span = ((timeline.start_s[row] - shift) / link.speed, (timeline.end_s[row] - shift) / link.speed)
                other = timeline.covering(b, *span)
                if other is not None:
                    found.setdefault((min(row, other), max(row, other)), link.mirrored)
    pairs = sorted(found)
    return (
        np.asarray(pairs, dtype=np.int64).reshape(-1, 2),
        np.asarray([found[pair] for pair in pairs], dtype=bool),
    )

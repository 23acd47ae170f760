"""Reads a video once and takes from that one pass everything the cheap half of curation needs: facts, shots, scores, key frames."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from models.scorers.base import Picture, Scorer, VideoInfo
from models.scorers.catalog import scorer_class
from models.video.image import read_image
from models.video.keyframes import KeyFrame, KeyFramePicker
from models.video.reader import MAX_PIXELS, VideoFacts, VideoReader
from models.video.shots import Boundary, ShotParams, shot_detector
from models.video.sniff import MediaType

ANALYZE_VERSION = "2"

cv2.setNumThreads(1)  # one process a core: threads of OpenCV's would only fight the other workers

_HASH_CHUNK = 1 << 20
_BEAT_S = 0.5  # between signs of life
# frames in which shots are looked for at once: what the detector works with stays in the caches between them
_BURST = 16


@dataclass(frozen=True)
class Shot:
    """Frames ``[start_frame, end_frame)`` in presentation order, the same in seconds, and how it begins and ends."""

    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    boundary_in: str
    boundary_out: str


@dataclass
class Analysis:
    """What one pass found.

    ``scores[name]`` has one row of columns a shot, in order; a scorer that raised is in ``score_errors`` instead and harms
    no other. ``keyframes`` has one list a shot. ``seconds`` says where the time went, by part.
    """

    facts: VideoFacts
    shots: list[Shot] = field(default_factory=list)
    scores: dict[str, list[dict[str, float | None]]] = field(default_factory=dict)
    score_errors: dict[str, str] = field(default_factory=dict)
    keyframes: list[list[KeyFrame]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class ShotsChangedError(Exception):
    """Shots recorded earlier do not fit the frames that the file has now."""


def file_sha256(path: str | Path, on_progress: Callable[[], None] = lambda: None) -> str:
    """sha256 of a file's bytes, read in pieces. Raises ``OSError``."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
            on_progress()
    return digest.hexdigest()


def analyze_video(
    path: str | Path,
    media_type: MediaType,
    scorers: Sequence[Scorer] = (),
    *,
    shots: Sequence[Shot] | None = None,
    shot_params: ShotParams | None = None,
    keyframes: bool = True,
    max_pixels: int = MAX_PIXELS,
    on_progress: Callable[[], None] = lambda: None,
) -> Analysis:
    """Decode ``path`` once and feed every part from it; memory does not grow with the video's length.

    (What it returns does: some 70 KB of key frames a shot.)

    ``shots`` recorded earlier are taken as they are (then only the scorers, and ``keyframes`` if asked, have work). An image
    has facts and no shots. Raises ``UndecodableError`` when no picture can be got, ``ShotsChangedError`` when ``shots`` do not
    end where the video does.
    """
    if media_type == "image":
        return _analyze_image(path, max_pixels)
    return _Pass(scorers, shots, shot_params, keyframes, on_progress).run(path, max_pixels)


def _analyze_image(path: str | Path, max_pixels: int) -> Analysis:
    started = time.perf_counter()
    picture, codec = read_image(path, max_pixels=max_pixels)
    facts = VideoFacts(codec, picture.shape[1], picture.shape[0], 0, 1, 0.0, None)
    return Analysis(facts, seconds={"decode": time.perf_counter() - started})


class _Pass:
    """The state of one pass: what is open while frames go by."""

    def __init__(
        self,
        scorers: Sequence[Scorer],
        shots: Sequence[Shot] | None,
        shot_params: ShotParams | None,
        keyframes: bool,
        on_progress: Callable[[], None],
    ) -> None:
        self.given = list(shots) if shots is not None else None
        self.detector = shot_detector(shot_params) if shots is None else None
        self.undetected: list[tuple[np.ndarray, int, float]] = []
        self.picker = KeyFramePicker() if keyframes else None
        self.scorers = list(scorers)
        self.on_progress = on_progress
        self.shots: list[Shot] = []
        self.keyframes: list[list[KeyFrame]] = []
        self.scores: dict[str, list[dict[str, float | None]]] = {s.name: [] for s in scorers}
        self.errors: dict[str, str] = {}
        self.seconds = dict.fromkeys(("decode", "plane", "shots", "keyframes", *self.scores), 0.0)
        self.start: Boundary | None = None  # of the open shot; None for the video's own start

    def run(self, path: str | Path, max_pixels: int) -> Analysis:
        beat = time.perf_counter()
        with VideoReader(path, max_pixels=max_pixels) as reader:
            clock = time.perf_counter()
            for frame in reader:
                now = time.perf_counter()
                self.seconds["decode"] += now - clock
                picture = Picture(frame)
                if frame.index == 0:
                    self._begin(VideoInfo(*frame.size, reader.header_fps))
                self._frame(picture, frame.index, frame.time_s)
                clock = time.perf_counter()
                if clock - beat > _BEAT_S:
                    self.on_progress()
                    beat = clock
            facts = reader.facts
        self._end(facts)
        return Analysis(facts, self.shots, self.scores, self.errors, self.keyframes, self.seconds)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _begin(self, info: VideoInfo) -> None:
        for scorer in list(self.scorers):
            self._guarded(scorer, scorer.start, info)

    def _frame(self, picture: Picture, index: int, time_s: float) -> None:
        if self.detector is not None:
            clock = time.perf_counter()
            self.undetected.append((picture.tiny, index, time_s))
            self.seconds["plane"] += time.perf_counter() - clock
        for scorer in list(self.scorers):
            self._guarded(scorer, scorer.frame, picture, index, time_s)
        if self.picker is not None:
            clock = time.perf_counter()
            self.picker.frame(picture, index, time_s)
            self.seconds["keyframes"] += time.perf_counter() - clock
        if len(self.undetected) >= _BURST:
            self._detect()
        self._close_given(index, final=False)

    def _detect(self) -> None:
        """Look for boundaries in the frames that have gathered."""
        if self.detector is None:
            return
        clock = time.perf_counter()
        found = [b for plane, index, time_s in self.undetected for b in self.detector.frame(plane, index, time_s)]
        self.undetected.clear()
        self.seconds["shots"] += time.perf_counter() - clock
        for boundary in found:
            self._close(boundary, boundary.kind)

    def _end(self, facts: VideoFacts) -> None:
        if self.detector is not None:
            self._detect()
            for boundary in self.detector.finish():
                self._close(boundary, boundary.kind)
            self._close(Boundary(facts.frames, facts.duration_s, "cut"), "end")
            return
        self._close_given(facts.frames, final=True)
        if self.given or (self.shots and self.shots[-1].end_frame != facts.frames):
            raise ShotsChangedError(
                f"the recorded shots end at frame {(self.given or self.shots)[-1].end_frame}, the video at frame "
                f"{facts.frames}: it decodes differently now"
            )

    def _close(self, end: Boundary, kind: str) -> None:
        """Close the open shot at this boundary and open the next one."""
        start = self.start
        shot = Shot(
            start_frame=start.frame if start else 0,
            end_frame=end.frame,
            start_s=start.time_s if start else 0.0,
            end_s=end.time_s,
            boundary_in=start.kind if start else "start",
            boundary_out=kind,
        )
        self.start = end
        self._finish_shot(shot)

    def _close_given(self, index: int, final: bool) -> None:
        while self.given and (self.given[0].end_frame <= index):
            self._finish_shot(self.given.pop(0))

    def _finish_shot(self, shot: Shot) -> None:
        self.shots.append(shot)
        for scorer in list(self.scorers):
            self._guarded(scorer, self._score, scorer, shot)
        if self.picker is not None:
            clock = time.perf_counter()
            self.keyframes.append(self.picker.clip(shot.start_frame, shot.end_frame, shot.start_s, shot.end_s))
            self.seconds["keyframes"] += time.perf_counter() - clock

    def _score(self, scorer: Scorer, shot: Shot) -> None:
        row = scorer.clip(shot.start_frame, shot.end_frame)
        declared = {column.name for column in scorer.columns}
        if set(row) != declared:
            raise ValueError(f"clip() returned columns {sorted(row)}, declared are {sorted(declared)}")
        self.scores[scorer.name].append({k: None if v is None else float(v) for k, v in row.items()})

    def _guarded(self, scorer: Scorer, work: Callable[..., None], *arguments: Any) -> None:
        """Run a scorer's part; one that raises is given up for this video."""
        clock = time.perf_counter()
        try:
            work(*arguments)
        except MemoryError:
            raise
        except Exception as error:
            self.scorers.remove(scorer)
            self.scores.pop(scorer.name, None)
            self.errors[scorer.name] = f"{type(error).__name__}: {error}"
        finally:
            self.seconds[scorer.name] += time.perf_counter() - clock


def analyze_request(
    path: str,
    media_type: MediaType,
    scorers: Sequence[str],
    shots: Sequence[Shot] | None,
    shot_params: Mapping[str, Any],
    keyframes: bool,
    max_pixels: int,
    on_progress: Callable[[], None],
) -> Analysis:
    """``analyze_video`` as a guarded process runs it: scorers by name, made anew for every file."""
    return analyze_video(
        path,
        media_type,
        [scorer_class(spec)() for spec in scorers],
        shots=shots,
        shot_params=ShotParams(**shot_params),
        keyframes=keyframes,
        max_pixels=max_pixels,
        on_progress=on_progress,
    )

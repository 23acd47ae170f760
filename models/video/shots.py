"""Finds where shots begin and end, from frames fed one by one: hard cuts, dissolves, wipes and fades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np

from models.video.fades import Fade, FadeFinder, FadeParams
from models.video.gradual import REACH_S, Gradual, GradualFinder, GradualParams
from models.video.hard_cuts import CutFinder, CutParams
from models.video.reader import fitted
from models.video.thumbs import Recent, thumb_of

Kind = Literal["cut", "dissolve", "fade"]

SHOTS_VERSION = "2"

_PLANE = 160  # px, long side of what hard cuts are looked for on: half of the shared plane, which OpenCV halves fastest
_FEWEST = 8  # thumbnails remembered however far apart they are: a cut is announced two frames late
_REMEMBERED_S = 1.0
_PATIENCE_S = 1.0  # a boundary waits this long for what may explain it better
_SAME_S = 0.5  # stretches this close show one gradual change: two shots apart would have to be shorter
LATEST = (
    448  # frames: no boundary is announced later, or scorers (MAX_LATENESS) would have forgotten the frames around it
)


@dataclass(frozen=True)
class ShotParams:
    """Thresholds of shot detection; lengths in seconds, changes in grey levels (0 to 255).

    ``adaptive_ratio`` and ``min_change`` are AdaptiveDetector's ``adaptive_threshold`` and ``min_content_val`` for proposals.
    A proposal is a cut where the picture changes by ``least_change`` and by ``stands_out`` times what motion changes in
    0.2 s around it, and its correlation falls below ``same_picture``; less of one wants more of the other. Where the picture
    before is back within ``flash_s``, it was a flash. A dissolve or a wipe changes the picture by ``gradual_change`` at least
    and has log odds of ``gradual_score`` at least. A frame whose channels all spread less than ``flat_spread`` is plain: a
    plain stretch between two shots is one fade, unless it lasts ``edge_flat_s``, and then it is a shot; a shorter one at
    either end of the video belongs to the shot that fades from or into it. ``min_shot_s`` merges a boundary with an earlier
    one this close.

    ``detector`` is ``adaptive``, which is all of the above, or ``transnetv2``, which heeds ``transnetv2_weights`` (a path),
    ``transnetv2_threshold`` (a probability) and ``min_shot_s`` only.
    """

    detector: Literal["adaptive", "transnetv2"] = "adaptive"
    adaptive_ratio: float = 2.0
    min_change: float = 10.0
    least_change: float = 12.0
    stands_out: float = 1.6
    same_picture: float = 0.75
    min_shot_s: float = 0.15
    flash_s: float = 0.25
    gradual_change: float = 20.0
    gradual_score: float = 0.2
    flat_spread: float = 6.0
    edge_flat_s: float = 2.0
    transnetv2_weights: str | None = None
    transnetv2_threshold: float = 0.5


@dataclass(frozen=True)
class Boundary:
    """The first frame of a new shot: for a gradual change, the middle of it. A wipe is called a dissolve."""

    frame: int
    time_s: float
    kind: Kind


class Detector(Protocol):
    """``frame`` for every frame in order, then ``finish``; both return the boundaries that have become certain, in order."""

    def frame(self, bgr: np.ndarray, index: int, time_s: float) -> list[Boundary]:
        """One frame, uint8 BGR HWC of any size."""
        ...

    def finish(self) -> list[Boundary]:
        """The boundaries that were still waiting for later frames."""
        ...


def shot_detector(params: ShotParams | None = None) -> Detector:
    """The detector that the parameters ask for. Raises ``ValueError`` where TransNetV2 is asked for and its weights are wrong."""
    params = params or ShotParams()
    if params.detector == "adaptive":
        return ShotDetector(params)
    from models.video.transnet import TransNetDetector, load_transnet  # torch takes seconds to import

    return TransNetDetector(load_transnet(params.transnetv2_weights), params.transnetv2_threshold, params.min_shot_s)


@dataclass(frozen=True)
class _Waiting:
    """A boundary not yet settled, the stretch in seconds over which it was seen, and how surely."""

    boundary: Boundary
    start_s: float
    end_s: float
    score: float = 0.0

    def overlaps(self, other: _Waiting, slack_s: float = 0.0) -> bool:
        return self.start_s <= other.end_s + slack_s and other.start_s <= self.end_s + slack_s


class ShotDetector:
    """The detector without a network: proposals by PySceneDetect, the rest from thumbnails of the newest seconds."""

    def __init__(self, params: ShotParams | None = None) -> None:
        p = self.params = params or ShotParams()
        self._cuts = CutFinder(
            CutParams(p.adaptive_ratio, p.min_change, p.least_change, p.flash_s, p.stands_out, p.same_picture)
        )
        self._gradual = GradualFinder(GradualParams(p.gradual_change, p.gradual_score, p.flat_spread, p.same_picture))
        self._fades = FadeFinder(FadeParams(p.flat_spread, p.edge_flat_s, p.gradual_change, p.same_picture))
        self._size: tuple[int, int] | None = None  # the first frame's, since a stream may change its own
        self._recent = Recent(_REMEMBERED_S, _FEWEST)
        self._waiting: list[_Waiting] = []
        self._fade: Fade | None = None  # the last one
        self._last_s: float | None = None

    def frame(self, bgr: np.ndarray, index: int, time_s: float) -> list[Boundary]:
        """One frame, uint8 BGR HWC of any size."""
        if self._size is None:
            self._size = fitted((bgr.shape[1], bgr.shape[0]), _PLANE)
        small = bgr
        if (bgr.shape[1], bgr.shape[0]) != self._size:
            small = cv2.resize(bgr, self._size, interpolation=cv2.INTER_AREA)
        thumb = thumb_of(small, index, time_s)
        self._recent.add(thumb)
        for cut in self._cuts.frame(small, self._recent):
            self._wait(Boundary(cut.index, cut.time_s, "cut"), cut.time_s, cut.time_s)
        for fade in self._fades.frame(thumb):
            self._wait_fade(fade)
        for found in self._gradual.frame(thumb):
            self._wait_gradual(found)
        return self._certain(index, time_s)

    def finish(self) -> list[Boundary]:
        """The boundaries that were still waiting for later frames."""
        for cut in self._cuts.finish(self._recent):
            self._wait(Boundary(cut.index, cut.time_s, "cut"), cut.time_s, cut.time_s)
        for fade in self._fades.finish():
            self._wait_fade(fade)
        return self._certain(1 << 62, float("inf"))

    # -- what explains what --------------------------------------------------------------------------------------------

    def _wait(self, boundary: Boundary, start_s: float, end_s: float) -> None:
        """A cut or a fade: what looked like a dissolve across it was it."""
        new = _Waiting(boundary, start_s, end_s)
        self._waiting = [w for w in self._waiting if w.boundary.kind != "dissolve" or not w.overlaps(new)]
        self._waiting.append(new)

    def _wait_fade(self, fade: Fade) -> None:
        """A fade explains what looked like a dissolve in it, whether it parts two shots or not."""
        self._fade = fade
        self._waiting = [w for w in self._waiting if w.boundary.kind != "dissolve" or not self._in_fade(w)]
        if fade.boundary and not any(fade.start_s <= w.boundary.time_s <= fade.end_s for w in self._waiting):
            self._wait(Boundary(fade.frame, fade.time_s, "fade"), fade.start_s, fade.end_s)

    def _in_fade(self, found: _Waiting) -> bool:
        """Whether it begins, ends or turns while the last fade is under way."""
        moments = (found.start_s, found.end_s, found.boundary.time_s)
        return self._fade is not None and any(self._fade.start_s < m < self._fade.end_s for m in moments)

    def _wait_gradual(self, found: Gradual) -> None:
        """Of overlapping stretches that show one gradual change, the surest stays."""
        new = _Waiting(Boundary(found.frame, found.time_s, "dissolve"), found.start_s, found.end_s, found.score)
        rivals = [w for w in self._waiting if w.overlaps(new, _SAME_S if w.boundary.kind == "dissolve" else 0.0)]
        if any(w.boundary.kind != "dissolve" or w.score >= new.score for w in rivals):
            return
        if self._in_fade(new) or (self._last_s is not None and self._last_s >= new.start_s):
            return
        self._waiting = [w for w in self._waiting if w not in rivals]
        self._waiting.append(new)

    # -- boundaries out ------------------------------------------------------------------------------------------------

    def _certain(self, index: int, now_s: float) -> list[Boundary]:
        """Boundaries old enough that no later frame can move, merge or drop them."""
        self._waiting.sort(key=lambda w: w.boundary.frame)
        ready: list[Boundary] = []
        while self._waiting:
            first = self._waiting[0]
            settled_s = min(now_s - _PATIENCE_S, self._fades.settled_s)
            if first.boundary.kind == "dissolve":
                settled_s = min(settled_s, now_s - REACH_S - _PATIENCE_S)
            if first.boundary.time_s > settled_s and index - first.boundary.frame < LATEST:
                break
            self._waiting.pop(0)
            if self._last_s is not None and first.boundary.time_s - self._last_s < self.params.min_shot_s:
                continue
            ready.append(first.boundary)
            self._last_s = first.boundary.time_s
        return ready

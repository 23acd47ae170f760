"""Hard cuts: PySceneDetect's adaptive detector proposes them, the pictures around them decide."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from models.video.thumbs import Recent, Thumb, change, colour_change, correlation

_ANY_RATE = Fraction(25)  # a timecode wants one; nothing depends on it
_AROUND_S = 0.2  # how far a cut looks for motion: a frame held for 8 frames a second still changes once in it
_NEW_BEYOND_DOUBT = 0.3  # correlation; motion from one frame to the next keeps more


@dataclass(frozen=True)
class CutParams:
    """See ``models.video.shots.ShotParams``, of which these are a part."""

    adaptive_ratio: float
    min_change: float
    least_change: float
    flash_s: float
    stands_out: float
    same_picture: float


class _Adaptive(AdaptiveDetector):
    """AdaptiveDetector, whose score is summed by OpenCV: the same number for a quarter of the time."""

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: np.ndarray) -> float:
        hsv = cv2.cvtColor(frame_img, cv2.COLOR_BGR2HSV)
        last, self._last_hsv = getattr(self, "_last_hsv", None), hsv
        if last is None or last.shape != hsv.shape:
            return 0.0
        return float(cv2.norm(hsv, last, cv2.NORM_L1)) / hsv.size


@dataclass(frozen=True)
class _Proposal:
    """The first frame of what may be a new shot, the last one before it, and those before that, newest first."""

    new: Thumb
    old: Thumb
    before: tuple[Thumb, ...]


class CutFinder:
    """``frame`` for every frame in order; returns the frames at which a new shot has certainly begun."""

    def __init__(self, params: CutParams) -> None:
        self.params = params
        self._proposals = _Adaptive(
            adaptive_threshold=params.adaptive_ratio, min_content_val=params.min_change, min_scene_len=0
        )
        self._pending: list[_Proposal] = []
        self._wait_s = max(_AROUND_S, params.flash_s)
        self._last = 0  # the first frame of the shot that is open

    def frame(self, small: np.ndarray, recent: Recent) -> list[Thumb]:
        """``small`` is the newest frame, uint8 BGR of a constant size; its thumbnail is ``recent.newest``."""
        newest = recent.newest
        # the detector is asked for frames and not for time: lengths in seconds are kept here, where frames have instants
        for found in self._proposals.process_frame(FrameTimecode(newest.index, fps=_ANY_RATE), small):
            new, old = recent.at(found.frame_num), recent.at(found.frame_num - 1)
            if new is not None and old is not None:  # taken now: after a hole in time they are forgotten at once
                self._pending.append(_Proposal(new, old, tuple(recent.before(old, self._wait_s))))
        return self._decide(recent, newest.time_s - self._wait_s)

    def finish(self, recent: Recent) -> list[Thumb]:
        return self._decide(recent, float("inf"))

    def _decide(self, recent: Recent, until_s: float) -> list[Thumb]:
        certain: list[Thumb] = []
        while self._pending and self._pending[0].new.time_s < until_s:
            if self._is_cut(self._pending[0], recent):
                certain.append(self._pending[0].new)
                self._last = self._pending[0].new.index
            self._pending.pop(0)
        return certain

    def _is_cut(self, proposal: _Proposal, recent: Recent) -> bool:
        """Whether another picture stands before and after, and not the same one in motion, or the same one after a flash."""
        old, new = proposal.old, proposal.new
        size = change(old, new)
        if size < 0.4 * self.params.least_change or self._returns(proposal, size, recent):
            return False
        likeness = correlation(old, new)
        colours = colour_change(old, new)
        motion = max(
            _largest_step([old, *self._since_last(proposal)]),
            _largest_step([new, *self._until_next(new, likeness, recent)]),
        )
        stands_out = size / max(motion, 1.0)
        if size < self.params.least_change:  # in the dark little changes, so it must be another picture indeed
            return likeness < 0.6 and stands_out > 2 * self.params.stands_out
        if likeness < self.params.same_picture and colours > 0.12:
            return stands_out > self.params.stands_out
        return likeness < 0.9 and stands_out > 3 * self.params.stands_out  # a jump within a scene that is nearly still

    def _since_last(self, proposal: _Proposal) -> list[Thumb]:
        """The frames just before it that belong to the open shot."""
        near = [t for t in proposal.before if t.time_s >= proposal.old.time_s - _AROUND_S - 1e-6] or proposal.before[:1]
        return [t for t in near if t.index >= self._last]

    def _until_next(self, new: Thumb, likeness: float, recent: Recent) -> list[Thumb]:
        """The frames just after it; where the picture is new beyond doubt, up to the next proposal: its shot may be that short."""
        end = min((p.new.index for p in self._pending if p.new.index > new.index + 1), default=1 << 62)
        return [t for t in recent.after(new, _AROUND_S) if likeness > _NEW_BEYOND_DOUBT or t.index < end]

    def _returns(self, proposal: _Proposal, size: float, recent: Recent) -> bool:
        """Whether the picture before comes back after a moment: a flash, or a dropped-in frame; or came back just now."""
        old, new, longest = proposal.old, proposal.new, self.params.flash_s + 1e-6
        after = (t for t in recent.after(new, longest) if t.time_s - new.time_s <= longest)
        before = (t for t in proposal.before if old.time_s - t.time_s <= longest)
        back = 0.5 * size
        return any(change(old, t) < back for t in after) or any(change(t, new) < back for t in before)


def _largest_step(thumbs: list[Thumb]) -> float:
    """The most that changes between two neighbours; the motion that a cut has to stand out from."""
    return max((change(a, b) for a, b in pairwise(thumbs)), default=0.0)

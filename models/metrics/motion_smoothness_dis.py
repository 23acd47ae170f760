"""Motion smoothness by DIS flow: how well every second frame can be guessed from its neighbours.

Source: the protocol of VBench ``motion_smoothness`` (drop the odd frames, interpolate them, compare by absolute
difference), with interpolation by DIS optical flow at a shorter side of 256 px where VBench uses AMT-S, whose weights may
not be used commercially. Not comparable with VBench's numbers, hence the name. Range 0..1, higher is better; 1 for a still
picture and for linear motion that flow can follow. Known failure: pays for standing still; occlusion and texture without
structure cost a little.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.metrics.flow import small
from models.metrics.interpolation import DisInterpolator, interpolation_score
from models.metrics.tools import Reference, Tools, check_video
from models.subjects.protocols import U8


def motion_smoothness_dis(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """1 - mean |frame - interpolation of its neighbours| / 255 over the odd frames; None for under three frames."""
    check_video(video_FHWC)
    return interpolation_score(small(video_FHWC), DisInterpolator())

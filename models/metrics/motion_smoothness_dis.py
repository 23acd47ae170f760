"""Motion smoothness by DIS flow: how well every second frame can be guessed from its neighbours.

Source: the protocol of VBench ``motion_smoothness`` (drop the odd frames, interpolate them, compare by absolute
difference), with interpolation by DIS optical flow where VBench uses AMT-S, whose weights may not be used commercially. Not
comparable with VBench's numbers, hence the name. Range 0..1, higher is better; 1 for a still picture and for linear motion
that flow can follow. Known failure: pays for standing still; occlusion and texture without structure cost a little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.metrics.flow import Flow, gray, small, warp
from models.metrics.tools import Reference, Tools, check_video
from models.subjects.protocols import U8


def motion_smoothness_dis(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """1 - mean |frame - interpolation of its neighbours| / 255 over the odd frames; None for under three frames.

    The interpolation at the middle is the mean of both neighbours, each pulled half way along the flow between them
    (motion is taken as linear, and the flow at a pixel of the middle as that of the same pixel of the neighbour).
    """
    check_video(video_FHWC)
    if len(video_FHWC) < 3:
        return None
    video = small(video_FHWC)
    grays, flow = gray(video), Flow()
    errors = []
    for middle in range(1, len(video) - 1, 2):
        if np.array_equal(video[middle - 1], video[middle + 1]):
            guess = video[middle - 1].astype(np.float32)
        else:
            forth = flow(grays[middle - 1], grays[middle + 1])
            back = flow(grays[middle + 1], grays[middle - 1])
            guess = 0.5 * (warp(video[middle - 1], 0.5 * back) + warp(video[middle + 1], 0.5 * forth))
        errors.append(float(np.abs(video[middle].astype(np.float32) - guess).mean()))
    return 1.0 - float(np.mean(errors)) / 255.0

"""Dynamic degree by DIS flow: does the video move at all?

Source: VBench ``dynamic_degree``, as ``dynamic_degree`` computes it, with DIS optical flow at a shorter side of at most
256 px in the place of RAFT. DIS measures smaller magnitudes on blur and small objects, so the name is apart. Value 0 or 1,
and its mean over videos is the share of dynamic ones. Known failure: higher is not better without end, for flicker and
camera shake count as motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from models.metrics.dynamic_degree import at_eight_per_second, moves, top_share
from models.metrics.flow import Flow, gray, small
from models.metrics.tools import Reference, Tools, check_video
from models.subjects.protocols import U8


def dynamic_degree_dis(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """1.0 when enough pairs of frames move, else 0.0; None for a single frame. Uses ``tools.fps``."""
    check_video(video_FHWC)
    return moves(pair_magnitudes(video_FHWC, tools.fps))


def pair_magnitudes(video_FHWC: U8, fps: float) -> list[float]:
    """For each pair of frames at about 8 a second, the mean of its top 5% flow magnitudes as a share of the shorter side."""
    flow = Flow()
    grays = gray(small(at_eight_per_second(video_FHWC, fps)))
    return [0.0 if np.array_equal(a, b) else top_share(flow(a, b)) for a, b in pairwise(grays)]

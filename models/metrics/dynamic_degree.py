"""Dynamic degree by RAFT: does the video move at all?

Source: VBench ``dynamic_degree`` (CVPR 2024): at about 8 frames a second, the mean of the largest 5% of RAFT's flow
magnitudes of each pair of frames; a pair moves above 6 px at a shorter side of 256 (at other sizes in proportion), and the
video is dynamic when at least round(4 n / 16) of its n frames' pairs do. VBench's weights are raft-things, which torchvision
ships as ``raft_large`` C_T_V1. Value 0 or 1, and its mean over videos is the share of dynamic ones. Known failure:
higher is not better without end, for flicker, camera shake and a scene falling apart count as motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from models.metrics.tools import Reference, Tools, check_video
from models.subjects.protocols import F32, U8

VBENCH_FPS = 8.0
PIXELS_AT_256 = 6.0


def dynamic_degree(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """1.0 when enough pairs of frames move, else 0.0; None without a flow estimator or for a single frame."""
    check_video(video_FHWC)
    if tools.flow is None:
        return None
    frames = at_eight_per_second(video_FHWC, tools.fps)
    return moves([top_share(tools.flow.flow(a, b)) for a, b in pairwise(frames)])


def at_eight_per_second(video_FHWC: U8, fps: float) -> U8:
    """Every round(fps / 8)-th frame, as VBench takes them."""
    if fps <= 0:
        raise ValueError(f"frames per second must be positive, got {fps}")
    return video_FHWC[:: max(1, round(fps / VBENCH_FPS))]


def top_share(flow_HW2: F32) -> float:
    """Mean of the largest 5% of a flow's magnitudes, as a share of the shorter side."""
    magnitude = np.linalg.norm(flow_HW2, axis=-1)
    top = max(1, int(0.05 * magnitude.size))
    return float(np.partition(magnitude.ravel(), -top)[-top:].mean()) / min(magnitude.shape)


def moves(shares: Sequence[float]) -> float | None:
    """VBench's verdict on the pairs of a video, 1.0 or 0.0; None for no pair."""
    if not len(shares):
        return None
    needed = max(1, round(4 * (len(shares) + 1) / 16))
    return float(sum(share > PIXELS_AT_256 / 256 for share in shares) >= needed)

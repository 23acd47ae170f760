"""Dynamic degree by DIS flow: does the video move at all?

Source: VBench ``dynamic_degree``: at about 8 frames a second, the mean of the largest 5% of flow magnitudes of each pair of
frames; a pair moves above 6 px at a shorter side of 256, and the video is dynamic when at least round(4 n / 16) of its n
frames' pairs do. VBench uses RAFT; DIS measures smaller magnitudes on blur and small objects, so the name is apart.
Value 0 or 1, and their mean over videos is the share of dynamic ones; higher is not better without end: flicker and
camera shake count as motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from models.metrics.flow import FLOW_SIDE, Flow, gray, small
from models.metrics.tools import Reference, Tools, check_video
from models.subjects.protocols import U8

VBENCH_FPS = 8.0
PIXELS_AT_256 = 6.0


def dynamic_degree_dis(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """1.0 when enough pairs of frames move, else 0.0; None for a single frame. Uses ``tools.fps``."""
    magnitudes = pair_magnitudes(video_FHWC, tools.fps)
    if not len(magnitudes):
        return None
    threshold = PIXELS_AT_256 / FLOW_SIDE  # as a share of the shorter side
    needed = max(1, round(4 * (len(magnitudes) + 1) / 16))
    return float((magnitudes > threshold).sum() >= needed)


def pair_magnitudes(video_FHWC: U8, fps: float) -> np.ndarray:
    """For each pair of frames at about 8 a second, the mean of its top 5% flow magnitudes as a share of the shorter side."""
    check_video(video_FHWC)
    if fps <= 0:
        raise ValueError(f"frames per second must be positive, got {fps}")
    video = small(video_FHWC[:: max(1, round(fps / VBENCH_FPS))])
    grays, flow = gray(video), Flow()
    shorter = min(video.shape[1:3])
    values = []
    for before, after in pairwise(grays):
        if np.array_equal(before, after):
            values.append(0.0)
            continue
        magnitude = np.linalg.norm(flow(before, after), axis=-1).ravel()
        top = max(1, int(0.05 * magnitude.size))
        values.append(float(np.sort(np.partition(magnitude, -top)[-top:]).mean()) / shorter)
    return np.asarray(values, np.float64)

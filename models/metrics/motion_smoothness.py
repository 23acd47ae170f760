"""Motion smoothness by a learnt interpolator: how well every second frame can be guessed from its neighbours.

Source: VBench ``motion_smoothness`` (CVPR 2024): drop the odd frames, let a frame interpolator guess them at full size, and
compare: (255 - mean absolute difference) / 255. VBench uses AMT-S, which is CC BY-NC; here FILM (Apache 2.0) loads
by its weights, any other plugs in as ``package.module:Class``, and only with AMT-S are the numbers VBench's. Range 0..1,
higher is better; 1 for a still picture. Known failure: pays for standing still; the range in use is narrow (0.95 to 0.995),
so look at the interval.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.metrics.interpolation import interpolation_score
from models.metrics.tools import Reference, Tools, check_video
from models.subjects.protocols import U8


def motion_smoothness(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """The formula above; None without an interpolator or for under three frames."""
    check_video(video_FHWC)
    return None if tools.interpolator is None else interpolation_score(video_FHWC, tools.interpolator)

"""Imaging quality by a learnt model: how free of distortion do the frames look?

Source: VBench ``imaging_quality`` (CVPR 2024): MUSIQ (Ke et al., ICCV 2021; SPAQ weights) on each frame, reduced to a longer
side of 512 px, mean over frames, divided by 100. Some papers print it x100. The known implementations and weights of MUSIQ
may not be used commercially, so the model is the user's, as ``package.module:Class``. Range 0..1, higher is better. Known
failure: judges each frame alone, likes sharp stills, and knows nothing of what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.metrics.tools import Reference, Tools, check_video
from models.subjects.propose import fit
from models.subjects.protocols import U8


def imaging_quality(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Mean score of all frames as a share of the model's best; None without a model."""
    check_video(video_FHWC)
    model = tools.quality
    if model is None:
        return None
    return float(np.mean([model.score(fit(frame, model.longest)) for frame in video_FHWC])) / model.best

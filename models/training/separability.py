"""Can something trivial tell winners from losers? Sharpness, noise and colour of both, and how far each alone gets.

Preference training takes the easiest way to tell the two apart. Where blur or colour does that, it learns blur or colour, the
loss falls and nothing else improves (DenseDPO, arXiv 2506.03517, on pairs that differ statistically). So before training,
this says what the easiest way would be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]
BINS = 8


def statistics(video_FHWC: U8) -> dict[str, list[float]]:
    """The trivial statistics of an RGB video: ``sharpness``, ``noise``, ``colour``, ``contrast`` and ``motion``.

    Sharpness is the log variance of the Laplacian; noise the robust standard deviation of what a 3 x 3 median takes
    away; colour the share of pixels in each of 8 bins of R, G and B; contrast the standard deviation of the luma; motion
    the mean difference of neighbouring frames. Means over frames.
    """
    import cv2

    sharpness, noise, colour, contrast, lumas = [], [], [], [], []
    for frame in video_FHWC:
        luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        sharpness.append(math.log1p(float(cv2.Laplacian(luma, cv2.CV_64F).var())))
        residual = luma.astype(np.float64) - cv2.medianBlur(luma, 3)
        noise.append(1.4826 * float(np.median(np.abs(residual - np.median(residual)))) + float(np.abs(residual).mean()))
        counts = [np.histogram(frame[..., c], bins=BINS, range=(0, 256))[0] for c in range(3)]
        colour.append(np.concatenate(counts) / luma.size)
        contrast.append(float(luma.std()))
        lumas.append(luma.astype(np.float64))
    moves = [float(np.abs(b - a).mean()) for a, b in pairwise(lumas)]
    return {
        "sharpness": [float(np.mean(sharpness))],
        "noise": [float(np.mean(noise))],
        "colour": np.mean(colour, axis=0).tolist(),
        "contrast": [float(np.mean(contrast))],
        "motion": [float(np.mean(moves)) if moves else 0.0],
    }


@dataclass(frozen=True)
class Separability:
    """How often a statistic alone names the winner, of ``pairs`` pairs; 0.5 is chance. 95% Wilson interval."""

    statistic: str
    accuracy: float
    low: float
    high: float
    pairs: int


def separability(
    winners: Sequence[Mapping[str, Sequence[float]]], losers: Sequence[Mapping[str, Sequence[float]]]
) -> list[Separability]:
    """Each statistic's accuracy, most telling first. At least two pairs.

    A pair is judged by all the others: their mean difference, whitened by their spread, is the direction in which winners
    lie, and the pair is right if its own difference points that way, half right if it points nowhere. So with winners and
    losers alike the expectation is at most 0.5, however few pairs there are.
    """
    if len(winners) != len(losers) or len(winners) < 2:
        raise ValueError(
            f"separability needs as many losers as winners and at least two, not {len(winners)}, {len(losers)}"
        )
    found = []
    for name in winners[0]:
        differences = np.array([np.subtract(w[name], lo[name]) for w, lo in zip(winners, losers, strict=True)])
        found.append(Separability(name, *_wilson(_right(differences), len(winners)), len(winners)))
    return sorted(found, key=lambda s: -s.accuracy)


def _right(differences_PD: F64) -> float:
    """How many pairs the others' direction gets right."""
    total, spread = differences_PD.sum(0), differences_PD.std(0) + 1e-9
    directions = (total - differences_PD) / (len(differences_PD) - 1) / spread**2
    scores = (directions * differences_PD).sum(1)
    return float((scores > 0).sum() + 0.5 * (scores == 0).sum())


def _wilson(right: float, of: int) -> tuple[float, float, float]:
    z, share = 1.959964, right / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return share, max(0.0, middle - half), min(1.0, middle + half)

"""FVD: how far are all of a system's videos from real ones, by the features of a video network?

Source: Unterthiner et al. (2018): the Fréchet distance of two Gaussians fitted to the features (of I3D in the paper) of real and
generated videos, |m - r|^2 + tr(M + R - 2 (M R)^(1/2)). The network is the user's plug-in, and numbers of two networks do not
compare. Range 0 and up, lower is better. Known failures: biased upwards for few videos (papers use 2,000 and more), judges content more
than motion (Ge et al., CVPR 2024), moves with frame rate, length and size, and says nothing of prompt or subject.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ENOUGH = 2000


def frechet_distance(one_ND: Array, other_ND: Array) -> float:
    """Squared Fréchet distance of the Gaussians of two sets of features. ``ValueError`` for under two rows of either."""
    if min(len(one_ND), len(other_ND)) < 2 or one_ND.shape[1] != other_ND.shape[1]:
        raise ValueError(f"features {one_ND.shape} and {other_ND.shape}: two rows or more of one width are needed")
    a, b = np.cov(one_ND, rowvar=False, ddof=1), np.cov(other_ND, rowvar=False, ddof=1)
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    # tr((A B)^(1/2)) = tr((A^(1/2) B A^(1/2))^(1/2)), whose inside is symmetric and has a real root.
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0.0)).sum()
    gap = one_ND.mean(0) - other_ND.mean(0)
    return float(max(0.0, gap @ gap + np.trace(a) + np.trace(b) - 2.0 * cross))


def caveats(encoder: str, generated: int, real: int, width: int) -> str:
    """What must be read beside the number."""
    few = f", biased upwards: {ENOUGH:,} and more are usual" if min(generated, real) < ENOUGH else ""
    rank = (
        f"; fewer videos than the {width} features, so the covariances are singular"
        if min(generated, real) <= width
        else ""
    )
    return f"by {encoder} on {generated:,} generated and {real:,} real videos{few}{rank}; judges content more than motion; no interval"

"""The frame-interpolation protocol of VBench ``motion_smoothness``, for whatever interpolates."""

from __future__ import annotations

from models.metrics.flow import Flow, gray, warp
from models.metrics.tools import Interpolator
from models.subjects.protocols import F32, U8


def interpolation_score(video_FHWC: U8, interpolator: Interpolator) -> float | None:
    """1 - mean |frame - its neighbours' middle| / 255 over the odd frames; None for under three frames.

    An odd frame without a right neighbour is left out. Neighbours that are equal need no interpolator.
    """
    import numpy as np

    errors = []
    for i in range(1, len(video_FHWC) - 1, 2):
        before, shown, after = video_FHWC[i - 1 : i + 2]
        guess = before if np.array_equal(before, after) else interpolator.middle(before, after)
        if guess.shape != shown.shape:
            raise ValueError(f"interpolator {interpolator.name} made {guess.shape} of frames {shown.shape}")
        errors.append(float(np.abs(shown.astype(np.float32) - guess.astype(np.float32)).mean()))
    return 1.0 - float(np.mean(errors)) / 255.0 if errors else None


class DisInterpolator:
    """Each neighbour pulled half way along the DIS flow between them, and their mean.

    Motion is taken as linear, and the flow at a pixel of the middle as that of the same pixel of the neighbour.
    """

    name = "dis/1"

    def __init__(self) -> None:
        self._flow = Flow()

    def middle(self, before_HWC: U8, after_HWC: U8) -> F32:
        import numpy as np

        first, second = gray(np.stack([before_HWC, after_HWC]))
        forth, back = self._flow(first, second), self._flow(second, first)
        return 0.5 * (warp(before_HWC, 0.5 * back) + warp(after_HWC, 0.5 * forth))

"""Dense optical flow at a bounded size, shared by the metrics of motion: DIS (Kroeger et al., ECCV 2016) from OpenCV."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.subjects.protocols import F32, U8

FLOW_SIDE = 256  # px of the shorter side, at most: VBench states its threshold for 256


def small(video_FHWC: U8, side: int = FLOW_SIDE) -> U8:
    """The video with its shorter side at most ``side`` px, averaged down, never enlarged."""
    import cv2

    height, width = video_FHWC.shape[1:3]
    scale = side / min(height, width)
    if scale >= 1:
        return video_FHWC
    size = (round(width * scale), round(height * scale))
    return np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in video_FHWC])


def gray(video_FHWC: U8) -> list[U8]:
    import cv2

    return [np.asarray(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), np.uint8) for f in video_FHWC]


class Flow:
    """Flow from one grey frame to another in px, float32 (H, W, 2) as x, y. Frames under 16 px are enlarged for DIS."""

    def __init__(self) -> None:
        import cv2

        self._engine: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, before: U8, after: U8) -> F32:
        import cv2

        height, width = before.shape
        scale = int(np.ceil(48 / min(height, width))) if min(height, width) < 48 else 1
        if scale > 1:
            size = (width * scale, height * scale)
            before = np.asarray(cv2.resize(before, size, interpolation=cv2.INTER_CUBIC), np.uint8)
            after = np.asarray(cv2.resize(after, size, interpolation=cv2.INTER_CUBIC), np.uint8)
        flow = self._engine.calc(before, after, None)
        if scale > 1:
            flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / scale
        return np.asarray(flow, np.float32)


def warp(picture_HWC: U8, flow_HW2: F32) -> F32:
    """The picture sampled at each pixel's position plus its flow, float32, borders repeated."""
    import cv2

    height, width = flow_HW2.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.asarray(
        cv2.remap(
            picture_HWC.astype(np.float32),
            x + flow_HW2[..., 0],
            y + flow_HW2[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        ),
        np.float32,
    )

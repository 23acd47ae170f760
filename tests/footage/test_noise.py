"""Noise against pictures whose noise is known, and against texture, which is none."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.scorers.noise import noise
from tests.footage.media import pan
from tests.footage.test_scorers import score


def grounds(frames: int = 4, height: int = 360, width: int = 640) -> np.ndarray:
    """A slope of brightness with a textured third: what a wall beside a hedge looks like to a filter."""
    slope = np.tile(np.linspace(60, 180, width), (height, 1))
    slope[:, : width // 3] += 40 * np.sin(np.arange(width // 3) / 1.5)
    return np.repeat(np.repeat(slope[..., None], 3, axis=2)[None], frames, axis=0)


@pytest.mark.parametrize("sigma", [2.0, 5.0, 10.0])
def test_noise_of_known_sigma_is_measured_in_decoded_frames(sigma: float) -> None:
    noisy = grounds() + np.random.default_rng(0).normal(0, sigma, grounds().shape[:3])[..., None]
    found = score("noise", np.clip(noisy, 0, 255).round().astype(np.uint8))["noise"]
    assert found == pytest.approx(sigma / 255, rel=0.1)


def test_more_noise_scores_higher_and_a_clean_slope_has_none() -> None:
    rng = np.random.default_rng(1)
    unit = rng.normal(0, 1, grounds().shape[:3])[..., None]
    scores = [score("noise", np.clip(grounds() + s * unit, 0, 255).astype(np.uint8))["noise"] for s in (0, 1, 3, 6, 12)]
    assert all(a < b for a, b in itertools.pairwise(scores))
    assert scores[0] < 0.3 / 255


@settings(max_examples=30, deadline=None)
@given(sigma=st.floats(0.5, 20), level=st.floats(90, 160), slope=st.floats(-1, 1))
def test_a_slope_adds_nothing_to_the_noise(sigma: float, level: float, slope: float) -> None:
    ramp = level + slope * (np.arange(32, dtype=np.float32) - 16)
    patches = ramp + np.random.default_rng(0).normal(0, sigma, (64, 32, 32)).astype(np.float32)
    assert noise(patches.astype(np.float32)) == pytest.approx(sigma / 255, rel=0.1)


def test_black_and_white_say_nothing_and_small_pictures_give_null() -> None:
    patches = np.zeros((8, 32, 32), np.float32)
    patches[4:] = 255
    assert noise(patches) is None
    assert score("noise", pan(1, 0, 5)[:, :20, :20])["noise"] is None


def test_a_limited_range_plane_is_read_without_conversion_and_brought_to_full_range() -> None:
    from fractions import Fraction

    import av

    from models.scorers.base import Picture
    from models.video.reader import Frame

    gray = cv2.resize(np.random.default_rng(2).integers(0, 256, (9, 16), dtype=np.uint8), (640, 360))
    for name in ("yuv420p", "yuvj420p", "rgb24"):
        raw = av.VideoFrame.from_ndarray(np.repeat(gray[..., None], 3, axis=2), format="rgb24").reformat(format=name)
        raw.pts, raw.time_base = 0, Fraction(1, 25)
        patches = Picture(Frame(0, 0.0, raw)).patches
        assert patches.shape == (64, 32, 32)
        # 64 patches of 32 px evenly over 640 x 360: the first in the corner
        assert np.abs(patches[0] - gray[:32, :32]).mean() < 1.5

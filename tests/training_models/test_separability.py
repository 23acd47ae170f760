"""What tells winners from losers is named, and what does not is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.training.separability import separability, statistics


def video(seed: int) -> np.ndarray:
    """Smooth blobs of random colours over a random ramp, (4, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    picture = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (32, 32), interpolation=cv2.INTER_CUBIC)
    return np.stack([np.roll(picture, shift, axis=1) for shift in range(4)])


def blurred(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in frames])


def measured(winners: list[np.ndarray], losers: list[np.ndarray]) -> dict[str, float]:
    found = separability([statistics(v) for v in winners], [statistics(v) for v in losers])
    return {s.statistic: s.accuracy for s in found}


def test_blur_noise_and_a_cast_are_each_found_by_their_own_statistic() -> None:
    real = [video(i) for i in range(20)]
    rng = np.random.default_rng(0)
    assert measured(real, [blurred(v) for v in real])["sharpness"] == 1.0
    noisy = [np.clip(v + rng.normal(0, 6, v.shape), 0, 255).astype(np.uint8) for v in real]
    assert measured(noisy, real)["noise"] == 1.0
    warm = [np.clip(v.astype(int) + np.array([40, 0, -40]), 0, 255).astype(np.uint8) for v in real]
    assert measured(real, warm)["colour"] > 0.9


def test_videos_of_one_kind_cannot_be_told_apart() -> None:
    found = measured([video(i) for i in range(60)], [video(100 + i) for i in range(60)])
    # 60 fair guesses: 0.5 with a standard error of 0.065; leaving one out errs towards less.
    assert max(found.values()) < 0.5 + 4 * 0.065


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-5, 5), min_size=2, max_size=30), shift=st.floats(0.1, 3))
def test_a_constant_difference_is_always_told_and_no_difference_never(values: list[float], shift: float) -> None:
    winners, losers = [{"s": [v + shift]} for v in values], [{"s": [v]} for v in values]
    (told,) = separability(winners, losers)
    assert told.accuracy == 1.0
    assert told.low < 1.0
    assert told.high == pytest.approx(1.0)
    (same,) = separability(losers, losers)
    assert same.accuracy == 0.5


def test_one_pair_says_nothing() -> None:
    with pytest.raises(ValueError, match="at least two"):
        separability([{"s": [1.0]}], [{"s": [0.0]}])

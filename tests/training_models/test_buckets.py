"""Buckets: what a video is brought to, at which aspects, and where all of them go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.training.bucket import Bucket, BucketPlan, Fit, choose_bucket, spread

SIZES = st.integers(64, 2000)
BUCKETS = st.lists(
    st.builds(Bucket, st.sampled_from([1, 17, 49, 81]), SIZES, SIZES), min_size=1, max_size=6, unique=True
)


def test_aspects_keep_the_area_in_whole_multiples() -> None:
    shapes = spread([Bucket.parse("49x480x720")], ("16:9", "9:16", "3:2"), 16)
    # 345600 pixels: 440.9 x 783.8 at 16:9, to the nearest 16; 3:2 is the bucket itself, which is there once.
    assert [str(b) for b in shapes] == ["49x480x720", "49x448x784", "49x784x448"]


@given(bucket=st.builds(Bucket, st.just(49), SIZES, SIZES), aspect=st.sampled_from(["16:9", "1:1", "9:16", "21:9"]))
def test_a_bucket_at_an_aspect_has_about_its_area(bucket: Bucket, aspect: str) -> None:
    other = bucket.at_aspect(aspect, 16)
    assert other.height % 16 == other.width % 16 == 0
    # Rounding moves a side by at most 8 pixels.
    sides = (bucket.height * bucket.width) ** 0.5
    assert abs((other.height * other.width) ** 0.5 - sides) <= 8 * (21 / 9) ** 0.5 + 8


@given(buckets=BUCKETS, frames=st.integers(1, 100), height=SIZES, width=SIZES, padding=st.sampled_from([0.0, 0.2, 0.5]))
def test_a_video_goes_where_it_has_the_frames_or_may_be_padded(
    buckets: list[Bucket], frames: int, height: int, width: int, padding: float
) -> None:
    chosen = choose_bucket(buckets, frames=frames, height=height, width=width, padding=padding)
    if any(b.frames <= frames for b in buckets):
        assert chosen is not None
        assert chosen.frames <= frames
    elif chosen is None:
        assert all(frames < b.frames * (1 - padding) for b in buckets)
    else:
        assert chosen.frames - frames <= padding * chosen.frames
    if chosen is not None:
        fit = Fit.of(chosen, frames=frames, height=height, width=width)
        assert 0 <= fit.frames_unused < 1
        assert -1e-9 <= fit.picture_cut < 1


def test_a_plan_counts_everything_once_and_warns_above_two_percent() -> None:
    bucket = Bucket(9, 32, 32)
    fits = [Fit.of(bucket, frames=9, height=32, width=64), Fit.of(bucket, frames=8, height=16, width=16)] * 49
    assert not BucketPlan.of(fits, {"too short": 2}).warns  # 2 of 100
    plan = BucketPlan.of(fits, {"too short": 2, "too many references": 1})
    assert plan.warns
    assert plan.describe(batch=10).splitlines() == [
        "101 samples: 98 kept, 49 of them padded, 3 dropped (3.0%); about 10 steps of 10 an epoch",
        # Half of the wide one is cut, half of all are; the small one is enlarged.
        "  9x32x32: 98 kept, 49 padded, 10 steps; on average 0% of the frames unused, 25% of the picture cut, 49 enlarged",
        "  dropped, too many references: 1",
        "  dropped, too short: 2",
    ]


@pytest.mark.parametrize("aspect", ["16x9", "0:1", "wide"])
def test_an_aspect_that_is_none_is_named(aspect: str) -> None:
    with pytest.raises(ValueError, match="is not width:height"):
        Bucket(1, 16, 16).at_aspect(aspect, 16)

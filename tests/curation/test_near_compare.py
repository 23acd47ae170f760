"""Two clips are the same footage through what happens to copies, and another take, order or subject is not."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from models.video.near import NearRule, compare
from models.video.signature import RATE, SIDE, Signature, SignatureBuilder, content_box, signature

Frames = np.ndarray


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """A coloured picture with detail at several scales: uint8 HWC."""
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), s) * s for s in (2.0, 5.0, 12.0)]
    picture = np.sum(layers, axis=0)
    return np.asarray((picture - picture.min()) / np.ptp(picture) * 255, np.uint8)


def film(seed: int = 0, count: int = 24, ball: tuple[int, int, int] = (40, 40, 220), still: bool = False) -> Frames:
    """A ball that crosses a textured ground: uint8 THWC, BGR, 8 frames a second."""
    ground = texture(seed, 120, 160)
    frames = []
    for number in range(count):
        at = (80, 60) if still else (20 + number * 5, 60 + round(25 * np.sin(number / 3)))
        frames.append(cv2.circle(ground.copy(), at, 14, ball, -1, cv2.LINE_AA))
    return np.stack(frames)


def signed(frames: Frames, rate: float = RATE) -> Signature:
    return signature((number / rate, frame) for number, frame in enumerate(frames))


def crop(frames: Frames) -> Frames:
    return frames[:, 10:110, 4:138]


def logo(frames: Frames) -> Frames:
    return np.stack([cv2.putText(f.copy(), "NEWS", (108, 16), 0, 0.5, (255, 255, 255), 2) for f in frames])


def tones(frames: Frames) -> Frames:
    return np.asarray(255 * (frames / 255.0) ** 1.4 * 0.9 + 10, np.uint8)


def bars(frames: Frames) -> Frames:
    return np.pad(frames, ((0, 0), (20, 20), (0, 0), (0, 0)))


@pytest.mark.parametrize("change", [crop, logo, tones, bars, lambda f: logo(crop(f))])
def test_what_happens_to_copies_leaves_them_copies(change: Callable[[Frames], Frames]) -> None:
    assert compare(signed(film()), signed(change(film()))).same


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_another_speed_is_found_with_where_it_begins(speed: float) -> None:
    whole = film(count=32)
    match = compare(signed(whole), signed(whole[3:31], RATE * speed))
    assert match.same
    # instant t of the second is instant 3 / RATE + speed * t of the first
    assert match.start_s == pytest.approx(3 / RATE, abs=0.2)
    assert match.speed == pytest.approx(speed, abs=0.04)


def test_exchanging_the_clips_inverts_the_line_between_them() -> None:
    whole = film(count=32)
    one, two = signed(whole), signed(crop(whole[4:]))
    there, back = compare(one, two), compare(two, one)
    assert there.same
    assert back.same
    assert back.speed == pytest.approx(1 / there.speed, rel=0.05)
    assert back.start_s == pytest.approx(-there.start_s / there.speed, abs=0.2)


def test_another_motion_before_the_same_ground_is_another_clip() -> None:
    assert not compare(signed(film()), signed(film()[::-1])).same


def test_another_ground_behind_the_same_motion_is_another_clip() -> None:
    assert not compare(signed(film(0)), signed(film(1))).same


@pytest.mark.parametrize("still", [True, False])
def test_another_subject_in_the_same_place_is_another_clip(still: bool) -> None:
    red, green = film(still=still), film(ball=(60, 220, 60), still=still)
    assert compare(signed(red), signed(red)).same
    assert not compare(signed(red), signed(green)).same


def toy(pattern: int) -> Frames:
    """A small patterned ball on a way of its own; all of one mean colour, over one ground."""
    radius = 10
    ground = texture(0, 120, 160)
    skin = np.asarray(64 + 0.5 * texture(pattern, 2 * radius, 2 * radius), np.uint8)
    y, x = np.mgrid[-radius:radius, -radius:radius]
    frames = []
    for number in range(24):
        frame, row, column = ground.copy(), 60 + round(25 * np.sin(number / 3)), 24 + number * 4
        place = frame[row - radius : row + radius, column - radius : column + radius]
        place[:] = np.where((x * x + y * y < radius * radius)[..., None], skin, place)
        frames.append(frame)
    return np.stack(frames)


def test_a_subject_of_the_same_size_and_colour_on_the_same_way_is_told_by_its_detail() -> None:
    one, other = signed(toy(5)), signed(toy(6))
    assert compare(one, other, NearRule(detail=-1)).same
    assert not compare(one, other).same
    assert compare(one, signed(tones(crop(toy(5))))).same


def test_the_time_reversed_clip_is_another_clip() -> None:
    wide = texture(2, 120, 320)
    pan = np.stack([wide[:, x : x + 160] for x in range(0, 160, 8)])
    assert compare(signed(pan), signed(pan), NearRule()).same
    assert not compare(signed(pan), signed(pan[::-1]), NearRule()).same


def test_a_mirrored_copy_needs_the_option() -> None:
    turned = film()[:, :, ::-1]
    assert not compare(signed(film()), signed(turned)).same
    assert compare(signed(film()), signed(turned), mirrored=True).same


def test_black_clips_are_not_copies_of_each_other() -> None:
    black = signed(np.full((16, 60, 80, 3), 16, np.uint8))
    assert not compare(black, black).same


def test_damaged_frames_are_left_out() -> None:
    whole, part = film(), film()
    part[:9] = 90
    builder = SignatureBuilder()
    for number, frame in enumerate(part):
        builder.add(number / RATE, frame, damaged=number < 9)
    assert not compare(signed(whole), signed(part)).same
    found = builder.finish()
    assert found.damage == pytest.approx(9 / 24)
    assert compare(signed(whole), found).same


def test_a_signature_fills_the_same_slots_at_any_frame_rate() -> None:
    def stream(fps: float, seconds: float = 2.0) -> list[tuple[float, np.ndarray]]:
        return [(n / fps, np.full((9, 16, 3), 60 + int(n / fps * RATE), np.uint8)) for n in range(int(seconds * fps))]

    fast, slow = signature(stream(60)), signature(stream(24))
    assert fast.luma.shape == slow.luma.shape == (16, SIDE, SIDE)
    np.testing.assert_array_equal(fast.luma, slow.luma)
    gap = signature([frame for frame in stream(24) if not 0.5 < frame[0] < 1.2])
    assert len(gap) == 16  # the picture before a gap stands for it


def test_a_signature_survives_its_bytes() -> None:
    before = signed(film())
    after = Signature.from_bytes(before.to_bytes())
    for name in ("luma", "chroma", "damaged"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert len(Signature.from_bytes(b"")) == 0


def test_bars_are_cut_off_and_a_dark_picture_is_not() -> None:
    picture = np.full((90, 160), 120, np.uint8)
    assert content_box(picture) == (slice(0, 90), slice(0, 160))
    picture[:12] = picture[-12:] = 4
    rows, columns = content_box(picture)
    assert (rows, columns) == (slice(13, 77), slice(0, 160))
    picture[:60] = 4
    assert content_box(picture)[0].start == 0

"""Boundaries lie at the right seconds whatever the file does with time and shape: every case is a file that PyAV made."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from models.video.analyze import analyze_video
from tests.footage.media import texture, write_timed


def shots(path: Path) -> list[tuple[float, float]]:
    return [(shot.start_s, shot.end_s) for shot in analyze_video(path, "video", keyframes=False).shots]


def two_shots(first: int, second: int, height: int = 120, width: int = 160) -> list[np.ndarray]:
    return [texture(height, width, 1)] * first + [texture(height, width, 2)] * second


def test_a_variable_frame_rate(tmp_path: Path) -> None:
    """30 frames at 25 a second, then a cut, then 20 at 8 a second: the cut is at 1.2 s, by frame count it would be at 2.7 s."""
    times = [n * 0.04 for n in range(30)] + [1.2 + n * 0.125 for n in range(20)]
    found = shots(write_timed(tmp_path / "vfr.mp4", two_shots(30, 20), times))
    assert [start for start, _ in found] == pytest.approx([0.0, 1.2], abs=1e-3)
    assert found[0][1] == pytest.approx(1.2, abs=1e-3)


def test_a_hole_in_time(tmp_path: Path) -> None:
    times = [n * 0.04 for n in range(30)] + [7.0 + n * 0.04 for n in range(30)]
    found = shots(write_timed(tmp_path / "hole.mkv", two_shots(30, 30), times))
    assert [start for start, _ in found] == pytest.approx([0.0, 7.0], abs=2e-3)


def test_a_late_start_counts_from_the_first_frame(tmp_path: Path) -> None:
    times = [5.0 + n * 0.04 for n in range(50)]
    found = shots(write_timed(tmp_path / "late.mkv", two_shots(25, 25), times))
    assert [start for start, _ in found] == pytest.approx([0.0, 1.0], abs=2e-3)


@pytest.mark.parametrize(("height", "width"), [(121, 161), (90, 322), (240, 66), (18, 32)])
def test_odd_sizes(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "odd.mkv"
    _write(path, two_shots(25, 25, height, width), "ffv1", "yuv444p")
    assert [start for start, _ in shots(path)] == pytest.approx([0.0, 1.0], abs=2e-3)


def test_of_two_video_streams_the_one_that_is_read_gives_the_seconds(tmp_path: Path) -> None:
    """They cut at different moments; the size tells which one was read."""
    large, small = two_shots(30, 20, 240, 320), two_shots(10, 40, 60, 80)
    path = write_timed(tmp_path / "two.mkv", large, [n * 0.04 for n in range(50)], second=small)
    found = analyze_video(path, "video", keyframes=False)
    cut = {320: 1.2, 80: 0.4}[found.facts.width]
    assert [shot.start_s for shot in found.shots] == pytest.approx([0.0, cut], abs=2e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation(tmp_path: Path, degrees: int, turn: Callable[[Path, Path, int], Path]) -> None:
    plain = tmp_path / "plain.mp4"
    write_timed(plain, two_shots(25, 25, 120, 200), [n * 0.04 for n in range(50)])
    found = analyze_video(turn(plain, tmp_path / "turned.mp4", degrees), "video", keyframes=False)
    assert found.facts.rotation in (degrees, 360 - degrees)
    assert (found.facts.width > found.facts.height) == (degrees == 180)
    assert [shot.start_s for shot in found.shots] == pytest.approx([0.0, 1.0], abs=2e-3)


@pytest.fixture
def turn() -> Callable[[Path, Path, int], Path]:
    """Writes the display matrix of a rotation into an MP4's track header, in place of the identity that is there."""

    def write(source: Path, target: Path, degrees: int) -> Path:
        data = bytearray(source.read_bytes())
        one, minus = (0x10000).to_bytes(4, "big"), (-0x10000 & 0xFFFFFFFF).to_bytes(4, "big")
        zero, last = bytes(4), (0x40000000).to_bytes(4, "big")
        turned = {
            90: (zero, one, zero, minus, zero, zero),
            180: (minus, zero, zero, zero, minus, zero),
            270: (zero, minus, zero, one, zero, zero),
        }[degrees]
        identity = b"".join((one, zero, zero, zero, one, zero, zero, zero, last))
        at = data.index(identity, data.index(b"tkhd"))
        data[at : at + len(identity)] = b"".join((*turned, zero, zero, last))
        target.write_bytes(data)
        return target

    return write


def _write(path: Path, frames: list[np.ndarray], codec: str, pixels: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))

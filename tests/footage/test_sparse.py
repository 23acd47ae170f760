"""Sparse reads: the picture that is on screen at an instant, the same from either reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.sparse_readers import compare
from models.video import sparse
from models.video.cut import cut_clip
from models.video.reader import UndecodableError, VideoReader
from models.video.sparse import Reading, frames_at, reader_for
from tests.footage.media import pan, write, write_grey, write_timed

REAL = (
    "androidx-media/bbb_642x642_768kbps_30fps_vp9.webm",
    "androidx-media/sample_h264.ts",
    "androidx-media/sample_h265.ts",
    "androidx-media/iibbibb_editlist_videoonly.mp4",
    "androidx-media/sample_av1.mp4",
    "androidx-media/h265_with_metadata_track.mp4",
    "made/vfr_flower_dropped.mp4",
    "torchcodec/test_non_zero_start.mp4",
    "torchcodec/sine_stereo_mp2.mpg",
    "opencv/tree.avi",
    "moviepy/no_duration.webm",
)


def level(picture: np.ndarray) -> int:
    return round((float(picture.mean()) - 20) / 8)


def test_an_instant_shows_the_frame_that_began_before_it(tmp_path: Path) -> None:
    path = write_grey(tmp_path / "v.mp4", list(range(20, 220, 8)), fps=10)
    asked = [0.95, 0.0, 0.1, 0.199, 0.5, -1.0, 99.0, 0.95]
    # at 10 frames a second frame n is shown from n / 10 s on
    assert [level(p) for p in frames_at(path, asked)] == [9, 0, 1, 1, 5, 0, 24, 9]
    assert frames_at(path, [], None) == []


@pytest.mark.parametrize("name", REAL)
def test_first_middle_and_last_frame_are_those_of_the_sequential_reader(footage: Path, name: str) -> None:
    with VideoReader(footage / name) as reader:
        instants = [frame.time_s for frame in reader]
    places = (0, len(instants) // 2, len(instants) - 1)
    with VideoReader(footage / name) as reader:
        expected = [frame.picture(order="rgb24") for frame in reader if frame.index in places]
    found = frames_at(footage / name, [instants[n] for n in places])
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_jump_far_into_a_video_lands_on_the_same_frame(footage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = footage / "intel-sample-videos/bottle-detection.mp4"
    jumped = frames_at(path, [1.0, 20.0, 35.5], (160, 90))
    monkeypatch.setattr(sparse, "_JUMP_S", 1e9)
    walked = frames_at(path, [1.0, 20.0, 35.5], (160, 90))
    for a, b in zip(jumped, walked, strict=True):
        assert a.shape == (90, 160, 3)
        np.testing.assert_array_equal(a, b)


def test_decord_reads_our_own_clips_and_shows_the_same_pictures(footage: Path, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    cut_clip(footage / "made/vfr_flower_dropped.mp4", 5, 60, tmp_path / "clip.mp4", max_side=320)
    write(tmp_path / "array.mp4", pan(2, 1, 30))
    for name in ("clip.mp4", "array.mp4"):
        path = tmp_path / name
        assert reader_for(path) == Reading("decord")
        with VideoReader(path) as reader:
            frames = [(f.time_s, f.picture(order="rgb24")) for f in reader]
        times = [t + 1e-4 for t, _ in frames]
        for (_, expected), found in zip(frames, sparse._with_decord(path, times) or [], strict=True):
            assert np.abs(expected.astype(int) - found).mean() < 1.0


def test_files_from_elsewhere_are_left_to_pyav(footage: Path) -> None:
    told: list[Reading] = []
    frames_at(footage / "androidx-media/sample.mp4", [0.5], on_reading=told.append)
    assert told == [Reading("pyav", "decord is trusted with this project's own clips only")]
    with pytest.raises(UndecodableError, match="empty"):
        frames_at(footage / "made/zero_byte.mp4", [0.0])


def test_where_decord_shows_other_pictures_pyav_is_taken(footage: Path) -> None:
    pytest.importorskip("decord")
    names = (
        "androidx-media/sample_h264.ts",
        "androidx-media/iibbibb_editlist_videoonly.mp4",
        "moviepy/doc_example.mp4",
    )
    found = compare([footage / name for name in names], footage, 60.0)
    assert found["wrong_choice"] == []
    assert found["counts"] == {"pyav": {"agrees": 3}, "decord": {"differs": 2, "agrees": 1}}
    assert set(found["not_agreeing"]) == set(names[:2])


def test_a_late_start_does_not_shift_the_instants(tmp_path: Path) -> None:
    levels = [np.full((64, 96, 3), n, np.uint8) for n in (20, 60, 100, 140)]
    path = write_timed(tmp_path / "late.mp4", levels, [7.0, 7.5, 8.0, 8.5])
    assert [level(p) for p in frames_at(path, [0.0, 0.6, 1.4])] == [0, 5, 10]

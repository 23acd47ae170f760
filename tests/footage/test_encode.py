"""Cutting and writing: exactly the frames asked for, at their seconds, in files that players and loaders can jump in."""

from __future__ import annotations

import errno
from pathlib import Path

import av
import numpy as np
import pytest

from models.video.cut import cut_clip
from models.video.encode import EncodeError, read_video, write_video
from models.video.reader import UndecodableError, VideoReader
from tests.footage.media import pan, write, write_grey, write_timed

LEVELS = list(range(20, 220, 8))  # 25 greys, 8 apart: far more than encoding loses


def levels_of(path: Path) -> list[int]:
    frames, _ = read_video(path)
    return [round((float(frame.mean()) - 20) / 8) for frame in frames]


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("libvpx-vp9", "webm")])
def test_a_cut_holds_exactly_the_frames_asked_for(tmp_path: Path, codec: str, suffix: str) -> None:
    source = write_grey(tmp_path / "source.mp4", LEVELS)
    for start, end in ((0, 1), (0, 25), (7, 19), (24, 25)):
        info = cut_clip(source, start, end, tmp_path / f"cut.{suffix}", codec)
        assert levels_of(tmp_path / f"cut.{suffix}") == list(range(start, end))
        assert info.frames == end - start
        assert info.duration_s == pytest.approx((end - start) / 25, abs=2e-3)


def test_a_cut_of_a_variable_rate_keeps_its_seconds_and_starts_at_zero(tmp_path: Path) -> None:
    times = [3.0, 3.04, 3.5, 3.54, 4.0]
    source = write_timed(tmp_path / "vfr.mp4", list(pan(1, 0, 5)), times)
    cut_clip(source, 1, 5, tmp_path / "cut.mp4")
    with VideoReader(tmp_path / "cut.mp4") as reader:
        assert [f.time_s for f in reader] == pytest.approx([0, 0.46, 0.5, 0.96], abs=1e-3)
        assert reader.stream.start_time in (0, None)


def test_odd_and_rotated_sources_become_upright_clips_of_even_size(footage: Path, tmp_path: Path) -> None:
    odd = cut_clip(footage / "torchcodec/testsrc2_odd_height_and_width_vp9.mp4", 3, 9, tmp_path / "odd.mp4")
    assert (odd.width, odd.height) == (320, 240)
    turned = cut_clip(footage / "androidx-media/h265_with_metadata_track.mp4", 0, 3, tmp_path / "t.mp4", max_side=640)
    assert (turned.width, turned.height) == (360, 640)
    with VideoReader(footage / "androidx-media/h265_with_metadata_track.mp4") as reader:
        upright = next(iter(reader)).picture((360, 640), "rgb24")
    frames, _ = read_video(tmp_path / "t.mp4")
    assert np.abs(frames[0].astype(int) - upright).mean() < 4


def test_a_clip_has_short_groups_of_pictures_no_sound_and_its_index_in_front(footage: Path, tmp_path: Path) -> None:
    cut_clip(footage / "androidx-media/sample.mp4", 0, 30, tmp_path / "cut.mp4")
    with av.open(str(tmp_path / "cut.mp4")) as container:
        assert [s.type for s in container.streams] == ["video"]
        keys = [n for n, packet in enumerate(p for p in container.demux() if p.size) if packet.is_keyframe]
    assert keys[:3] == [0, 12, 24]
    data = (tmp_path / "cut.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_source_that_became_shorter_leaves_no_file(tmp_path: Path) -> None:
    source = write_grey(tmp_path / "source.mp4", LEVELS[:5])
    with pytest.raises(EncodeError, match="ended after frame 5, before the clip's end at frame 9"):
        cut_clip(source, 2, 9, tmp_path / "cut.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(UndecodableError):
        cut_clip(tmp_path / "empty.mp4", 0, 1, tmp_path / "cut.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.mp4", "source.mp4"]


def test_a_full_disk_is_the_machines_failure(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "out.mp4.partial").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        write_video(pan(1, 0, 30), 25, tmp_path / "out.mp4")
    assert caught.value.errno == errno.ENOSPC


def test_arrays_survive_writing_and_reading(tmp_path: Path) -> None:
    frames = pan(2, 1, 12)
    info = write_video(frames, 12.5, tmp_path / "v.mp4", crf=4)
    back, fps = read_video(tmp_path / "v.mp4")
    assert back.shape == frames.shape
    assert fps == pytest.approx(12.5)
    assert info.fps == pytest.approx(12.5)
    # colour has half the resolution in 4:2:0, so brightness is compared by pixel and colour by its mean
    assert np.abs(back.mean(axis=3) - frames.mean(axis=3)).mean() < 3
    assert back.mean(axis=(0, 1, 2)) == pytest.approx(frames.mean(axis=(0, 1, 2)), abs=1.5)


def test_wrong_arrays_and_codecs_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EncodeError, match="float32"):
        write_video(np.zeros((2, 8, 8, 3), np.float32), 25, tmp_path / "v.mp4")
    with pytest.raises(EncodeError, match="libx264"):
        cut_clip(write(tmp_path / "s.mp4", pan(1, 0, 2)), 0, 1, tmp_path / "v.mp4", "mpeg9")

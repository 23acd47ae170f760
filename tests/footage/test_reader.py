"""The sequential reader: every frame once, in order, at the right second, whatever the header says."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import av
import numpy as np
import pytest

from models.video.image import read_image
from models.video.reader import PixelLimitError, UndecodableError, VideoReader
from tests.footage.media import pan, write, write_grey, write_timed

# The eight files of the footage that hold no picture, and what a person must be able to read about each.
UNDECODABLE = {
    "made/zero_byte.mp4": "empty (0 bytes)",
    "moviepy/doc_result.webm": "empty (0 bytes)",
    "small/Mpeg4.mp4": "no streams",
    "androidx-media/sample_audio_only.mp4": "no video stream, only audio",
    "androidx-media/sample_malformed_free_box.mp4": "MP4 index",
    "androidx-media/invalid-bitstream.webm": "none of its 51 video packets could be decoded",
    "mp4parse/invalid_userdata.mp4": "promises 231 s of video, but the file holds none",
    "mp4parse/short-cenc.mp4": "encrypted",
}


def manifest(footage: Path) -> list[dict]:
    return [e for e in json.loads((footage / "manifest.json").read_text()) if e["kind"] in ("video", "made")]


@pytest.mark.parametrize("name", UNDECODABLE)
def test_a_file_without_a_picture_says_why_in_words(footage: Path, name: str) -> None:
    with pytest.raises(UndecodableError) as caught, VideoReader(footage / name) as reader:
        list(reader)
    assert UNDECODABLE[name] in str(caught.value)


def test_frame_counts_and_sizes_of_the_real_footage_are_those_of_the_manifest(footage: Path) -> None:
    wrong = []
    seen = 0
    for entry in manifest(footage):
        # long and large files cost seconds and show nothing that a short one does not
        if not entry.get("frames") or entry["frames"] > 160 or entry["size"] > 1_000_000:
            continue
        with VideoReader(footage / entry["file"]) as reader:
            times = [frame.time_s for frame in reader]
            facts = reader.facts
        size = tuple(sorted((facts.width, facts.height)))
        good = (
            len(times) == facts.frames == entry["frames"]
            and times[0] == 0.0
            and all(a < b for a, b in itertools.pairwise(times))
            and size == tuple(sorted(map(int, entry["res"].split("x"))))
        )
        seen += 1
        if not good:
            wrong.append((entry["file"], facts))
    assert seen >= 45
    assert wrong == []


def test_a_damaged_file_gives_what_can_be_read_and_counts_the_damage(footage: Path) -> None:
    with VideoReader(footage / "made/truncated_flower_500k.mp4") as reader:
        assert len(list(reader)) == 61  # of 150: the manifest's count for the first 500,000 bytes
        # 61 frames at 30000/1001 per second; the header still claims 5.055 s
        assert reader.facts.duration_s == pytest.approx(61 * 1001 / 30000, abs=1e-3)
        assert reader.decode_errors >= 1


@pytest.mark.parametrize(
    ("name", "rotation", "size"),
    [
        ("androidx-media/h265_with_metadata_track.mp4", 90, (1080, 1920)),
        ("moviepy/fire2.mp4", 180, (1280, 720)),
        ("mp4parse/video_rotation_90.mp4", 90, (60, 100)),
    ],
)
def test_rotation_is_applied(footage: Path, name: str, rotation: int, size: tuple[int, int]) -> None:
    with VideoReader(footage / name) as reader:
        frame = next(iter(reader))
        assert (frame.rotation, frame.size) == (rotation, size)
        assert frame.picture().shape == (size[1], size[0], 3)
        turned = frame.picture(order="gray")
        stored = frame.raw.to_ndarray(format="gray")
        np.testing.assert_array_equal(turned, np.rot90(stored, k=-rotation // 90))


def test_seconds_start_at_the_first_frame_where_the_file_starts_late(footage: Path) -> None:
    with VideoReader(footage / "torchcodec/test_non_zero_start.mp4") as reader:
        times = [frame.time_s for frame in reader]
    # 12 frames at 30 per second; the file's own clock starts at 8.33 s
    assert times == pytest.approx([n / 30 for n in range(12)], abs=1e-3)
    assert reader.facts.duration_s == pytest.approx(0.4, abs=1e-3)


def test_a_variable_rate_keeps_its_seconds(tmp_path: Path) -> None:
    times = [5.0, 5.04, 5.2, 5.24, 6.0, 6.5]  # starts at 5 s, holes of different lengths
    path = write_timed(tmp_path / "vfr.mp4", list(pan(1, 0, 6)), times)
    with VideoReader(path) as reader:
        assert [f.time_s for f in reader] == pytest.approx([t - 5.0 for t in times], abs=1e-3)


def test_odd_sizes_and_pictures_of_a_few_pixels_are_read(footage: Path) -> None:
    for name, size in (("torchcodec/testsrc2_odd_height_and_width_vp9.mp4", (321, 241)), ("small/webm.webm", (8, 8))):
        with VideoReader(footage / name) as reader:
            frame = next(iter(reader))
            assert frame.size == size
            assert frame.picture(order="rgb24").flags.c_contiguous


def test_a_lone_frame_without_a_duration_gets_none(footage: Path) -> None:
    with VideoReader(footage / "small/webm.webm") as reader:
        assert len(list(reader)) == 1
    assert (reader.facts.duration_s, reader.facts.fps) == (0.0, None)


def test_of_two_video_streams_one_is_read_alone(tmp_path: Path) -> None:
    small = [np.full((32, 32, 3), 200, np.uint8)] * 5
    path = write_timed(tmp_path / "two.mkv", list(pan(1, 0, 5)), [n / 25 for n in range(5)], second=small)
    with VideoReader(path) as reader:
        frames = list(reader)
    assert len(frames) == 5
    assert len({frame.size for frame in frames}) == 1


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_where_the_main_stream_is_garbage_the_next_one_is_read_without_a_second_open(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"two{suffix}"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, size in zip(streams, ((640, 360), (160, 90)), strict=True):
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
        for picture in [*pan(2, 0, 20), None]:
            for stream in streams:
                frame = None if picture is None else av.VideoFrame.from_ndarray(picture, format="rgb24")
                for packet in stream.encode(frame):
                    if stream is streams[0]:  # the larger one, which players would take, holds zeros
                        empty = av.Packet(bytes(packet.size))
                        empty.pts, empty.dts, empty.time_base = packet.pts, packet.dts, packet.time_base
                        empty.stream, packet = stream, empty
                    container.mux(packet)
    opened = []
    real = av.open
    monkeypatch.setattr("av.open", lambda *given, **more: (opened.append(given), real(*given, **more))[1])
    with VideoReader(path) as reader:
        assert [frame.size for frame in reader] == [(160, 90)] * 20
    assert len(opened) == 1


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    write_grey(tmp_path / "inner.mp4", [10, 20])
    for name, text in (
        ("a.mp4", "#EXTM3U\n#EXTINF:1,\ninner.mp4\n"),
        ("b.mp4", f"ffconcat version 1.0\nfile '{tmp_path / 'inner.mp4'}'\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UndecodableError, match="playlist"):
            VideoReader(tmp_path / name)


def test_a_name_is_never_a_protocol_or_a_pattern(tmp_path: Path) -> None:
    for name in ("http:__x.mp4", "concat:a|b.mp4", "%03d.mp4", "pipe:0.mp4"):
        path = write_grey(tmp_path / "plain.mp4", [10, 20, 30]).rename(tmp_path / name)
        with VideoReader(path) as reader:
            assert len(list(reader)) == 3


def test_pictures_over_the_pixel_limit_are_refused_before_decoding(tmp_path: Path, footage: Path) -> None:
    path = write(tmp_path / "v.mp4", pan(1, 0, 3))
    with pytest.raises(PixelLimitError, match="320 x 180"):
        VideoReader(path, max_pixels=10_000)
    with pytest.raises(PixelLimitError, match="pixels"):
        read_image(footage / "vace/test.jpg", max_pixels=10_000)


def test_photographs_are_read_as_they_are_shown(footage: Path, tmp_path: Path) -> None:
    picture, codec = read_image(footage / "vace/test.jpg")
    assert (picture.ndim, codec) == (3, "mjpeg")
    (tmp_path / "broken.png").write_bytes((footage / "raft-demo-frames/frame_0016.png").read_bytes()[:40])
    with pytest.raises(UndecodableError):
        read_image(tmp_path / "broken.png")

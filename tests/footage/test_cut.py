"""Many spans in one pass, exactly the frames that the analysis counted, with or without jumping, and the sound that belongs to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import models.video.spans
from models.video.cut import Cut, DamagedSpanError, cut_clip, cut_clips
from models.video.encode import EncodedInfo, EncodeError, Encoding, read_video
from models.video.reader import VideoReader
from models.video.sound import RATE, Sound
from tests.footage.media import pan, write_grey

LEVELS = list(range(20, 220, 4))


def instants(path: Path) -> list[float]:
    """When each frame is shown, and the end of the last one, as the analysis measures them."""
    with VideoReader(path) as reader:
        times = [frame.time_s for frame in reader]
        return [*times, reader.facts.duration_s]


def cuts_of(
    spans: Sequence[tuple[int, int]], out: Path, times: Sequence[float] | None = None, suffix: str = ".mp4"
) -> list[Cut]:
    out.mkdir(exist_ok=True)
    return [
        Cut(a, b, out / f"{a}-{b}{suffix}", times[a] if times else None, times[b] if times else None) for a, b in spans
    ]


def results(source: Path, cuts: Sequence[Cut], encoding: Encoding | None = None) -> list[EncodedInfo | EncodeError]:
    found = dict(cut_clips(source, cuts, encoding))
    assert sorted(found) == list(range(len(cuts)))
    return [found[n] for n in range(len(cuts))]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Jumps even where it hardly pays, as long videos do; returns the list of how many spans each jump certainly hit."""
    hit: list[int] = []
    real = models.video.spans._read_after_jump

    def counted(*args: Any) -> Any:
        hit.append(0)
        for result in real(*args):
            hit[-1] += 1
            yield result

    monkeypatch.setattr(models.video.spans, "_read_after_jump", counted)
    monkeypatch.setattr(models.video.spans, "_FAR_S", 0.1)
    monkeypatch.setattr(models.video.spans, "_LEAD_S", 0.05)
    return hit


# A variable rate, a start offset, B-frames in a pyramid, an edit list, odd sizes, VP9 and HEVC without a usable rate.
HARD = (
    "made/vfr_flower_dropped.mp4",
    "torchcodec/test_non_zero_start.mp4",
    "androidx-media/bbb_800x640_768kbps_30fps_avc_pyramid_3b.mp4",
    "androidx-media/iibbibb_editlist_videoonly.mp4",
    "torchcodec/testsrc2_odd_height_and_width_vp9.mp4",
    "moviepy/no_duration.webm",
    "torchcodec/h265_video.mp4",
    "androidx-media/sample_h264.ts",
    "moviepy/doc_example2.mp4",
)


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    error = np.mean((one.astype(float) - two.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("name", HARD)
def test_a_cut_shows_the_frames_that_the_analysis_counted(
    footage: Path, name: str, tmp_path: Path, eager: list[int]
) -> None:
    source = footage / name
    times = instants(source)
    count = len(times) - 1
    spans = [(count // 3, count // 3 + 3), (count // 2, count // 2 + 2), (count - 3, count)]
    made = results(source, cuts_of(spans, tmp_path / "jumped", times))
    plain = results(source, cuts_of(spans, tmp_path / "plain"))
    assert made == plain
    assert isinstance(made[0], EncodedInfo)
    size = (made[0].width, made[0].height)
    with VideoReader(source) as reader:
        near = (f for f in reader if any(a - 1 <= f.index <= b for a, b in spans))
        shown = {f.index: f.picture(size, "rgb24") for f in near}
    for (start, end), info in zip(spans, made, strict=True):
        assert isinstance(info, EncodedInfo)
        file = tmp_path / "jumped" / f"{start}-{end}.mp4"
        # a jump changes nothing: the files are equal byte for byte
        assert file.read_bytes() == (tmp_path / "plain" / file.name).read_bytes()
        frames, _ = read_video(file)
        assert len(frames) == end - start
        with VideoReader(file) as reader:
            assert [f.time_s for f in reader] == pytest.approx([t - times[start] for t in times[start:end]], abs=2e-4)
        for frame, index in zip(frames, range(start, end), strict=True):
            likeness = {i: psnr(frame, shown[i]) for i in (index - 1, index, index + 1) if i in shown}
            # a frame that hardly differs from its neighbour may be as like to it; none may be likelier
            assert likeness[index] > 27
            assert likeness[index] >= max(likeness.values()) - 0.5


def test_a_jump_is_taken_where_a_file_has_an_index(footage: Path, tmp_path: Path, eager: list[int]) -> None:
    for name, jumps in ((HARD[0], True), (HARD[2], True), (HARD[5], True), (HARD[7], False)):
        times = instants(footage / name)
        spans = [(len(times) - 8, len(times) - 5), (len(times) - 4, len(times) - 1)]
        results(footage / name, cuts_of(spans, tmp_path, times))
        assert sum(eager) == (2 if jumps else 0), name
        eager.clear()


@pytest.mark.parametrize(
    "options", ["open-gop=1:bframes=3:keyint=12:scenecut=0", "intra-refresh=1:keyint=20", "keyint=250"]
)
def test_key_frames_that_are_no_clean_start_do_not_spoil_a_cut(options: str, tmp_path: Path, eager: list[int]) -> None:
    source = tmp_path / "source.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18", "x264-params": options})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for picture in pan(2, 1, 90):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    times = instants(source)
    spans = [(n, n + 2) for n in range(11, 88, 7)]
    assert results(source, cuts_of(spans, tmp_path / "a", times)) == results(source, cuts_of(spans, tmp_path / "b"))
    for start, end in spans:
        name = f"{start}-{end}.mp4"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_instants_that_do_not_fit_the_file_are_not_believed(tmp_path: Path, eager: list[int]) -> None:
    source = write_grey(tmp_path / "source.mp4", LEVELS)
    right = [n / 25 for n in range(51)]
    for wrong in (0.02, 0.013, 5.0):
        shifted = [t + wrong for t in right]
        results(source, cuts_of([(30, 34)], tmp_path / "out", shifted))
        frames, _ = read_video(tmp_path / "out" / "30-34.mp4")
        assert [round((float(f.mean()) - 20) / 4) for f in frames] == [30, 31, 32, 33]
    assert sum(eager) == 0


def test_spans_may_overlap_and_come_in_any_order_and_each_has_its_own_result(tmp_path: Path) -> None:
    source = write_grey(tmp_path / "source.mp4", LEVELS)
    spans = [(40, 50), (0, 10), (5, 45), (49, 60), (7, 7), (60, 70)]
    made = results(source, cuts_of(spans, tmp_path / "out"))
    for (start, end), info in zip(spans[:3], made[:3], strict=True):
        assert isinstance(info, EncodedInfo)
        frames, _ = read_video(tmp_path / "out" / f"{start}-{end}.mp4")
        assert [round((float(f.mean()) - 20) / 4) for f in frames] == list(range(start, end))
        alone = cut_clip(source, start, end, tmp_path / "alone.mp4")
        assert alone == info
        assert (tmp_path / "alone.mp4").read_bytes() == (tmp_path / "out" / f"{start}-{end}.mp4").read_bytes()
    assert [str(e).split(": ")[-1].split(", before")[0] for e in made[3:]] == [
        f"{source} ended after frame 50", "a clip from frame 7 to 7 holds no frame", f"{source} ended after frame 50",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0-10.mp4", "40-50.mp4", "5-45.mp4"]


def test_many_spans_open_their_source_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_grey(tmp_path / "source.mp4", LEVELS)
    opened: list[str] = []

    class Counted(VideoReader):
        def __init__(self, path: Any, **more: Any) -> None:
            opened.append(str(path))
            super().__init__(path, **more)

    monkeypatch.setattr(models.video.spans, "VideoReader", Counted)
    results(source, cuts_of([(n, n + 4) for n in range(0, 48, 4)], tmp_path / "out", [n / 25 for n in range(51)]))
    assert len(opened) == 1


def test_a_damaged_span_fails_and_its_neighbours_do_not(footage: Path, tmp_path: Path) -> None:
    source = footage / "made/bitrot_frog.mp4"
    with VideoReader(source) as reader:
        corrupt = [frame.raw.is_corrupt for frame in reader]
    assert corrupt[0]  # grey bars for its first seconds; later the picture is whole again
    last = len(corrupt)
    assert not any(corrupt[-10:])
    good, bad = results(source, cuts_of([(last - 5, last), (2, 10)], tmp_path / "out"), Encoding(max_side=160))
    assert isinstance(good, EncodedInfo)
    assert isinstance(bad, DamagedSpanError)
    assert "is damaged at frame" in str(bad)


def test_rotated_and_full_range_sources_keep_their_colours(footage: Path, tmp_path: Path) -> None:
    for name in ("androidx-media/portrait_4k60.mp4", "torchcodec/bt709_full_range.mp4"):
        with VideoReader(footage / name) as reader:
            frame = next(iter(reader))
            small = (frame.size[0] * 320 // max(frame.size) // 2 * 2, frame.size[1] * 320 // max(frame.size) // 2 * 2)
            shown = frame.picture(small, "rgb24")
        cut_clip(footage / name, 0, 1, tmp_path / "cut.mp4", max_side=320)
        frames, _ = read_video(tmp_path / "cut.mp4")
        assert frames.shape[1:] == shown.shape
        assert frames.mean(axis=(0, 1, 2)) == pytest.approx(shown.mean(axis=(0, 1)), abs=3)
        assert psnr(frames[0], shown) > 26  # a test chart of saturated edges, of which 4:2:0 keeps a quarter


# -- sound -----------------------------------------------------------------------------------------------------------


def tones(seconds: float, rate: int) -> np.ndarray:
    """Another pitch every 50 ms, so that any moment is known by its sound; int16 (1, N)."""
    at = np.arange(int(seconds * rate)) / rate
    pitch = 300 + 97 * ((at * 20).astype(int) * 7 % 31)
    return (12000 * np.sin(2 * np.pi * np.cumsum(pitch) / rate)).astype(np.int16)[None]


def with_sound(path: Path, seconds: float, rate: int, sound_from_s: float, suffix_codec: str) -> np.ndarray:
    """A video whose sound begins ``sound_from_s`` after its pictures; returns the samples at 48 kHz from the first picture on."""
    samples = tones(seconds, rate)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "30"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(suffix_codec, rate=rate)
        audio.codec_context.layout = "mono"
        for n in range(int(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), n % 200, np.uint8), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start in range(0, samples.shape[1], 1024):
            piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, start : start + 1024]), "s16", "mono")
            piece.sample_rate, piece.time_base = rate, Fraction(1, rate)
            piece.pts = start + round(sound_from_s * rate)
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None))
    heard = np.interp(
        np.arange(int(seconds * RATE)) / RATE - sound_from_s, np.arange(samples.shape[1]) / rate, samples[0], 0, 0
    )
    return heard / 32768


def heard_in(path: Path) -> np.ndarray:
    """The samples as a player gives them, mono at 48 kHz, by their timestamps from the first picture on."""
    with av.open(str(path)) as container:
        assert container.streams.video[0].start_time in (0, None)
        resampler = av.AudioResampler("fltp", "mono", RATE)
        out = np.zeros(RATE * 60)
        end = 0
        for frame in (r for f in container.decode(audio=0) for r in resampler.resample(f)):
            at = round(float(frame.pts * frame.time_base) * RATE)
            piece = frame.to_ndarray()[0]
            piece, at = piece[max(0, -at) :], max(0, at)
            out[at : at + len(piece)] = piece
            end = max(end, at + len(piece))
    return out[:end]


@pytest.mark.parametrize(
    ("source", "codec", "rate", "offset", "clip"),
    [
        ("a.mp4", "aac", 44_100, 0.0, "libx264"),
        ("b.mkv", "libopus", 48_000, 0.5, "libx264"),
        ("c.mkv", "pcm_s16le", 32_000, 0.0, "libvpx-vp9"),
    ],
)
def test_sound_stays_with_its_pictures(
    tmp_path: Path, source: str, codec: str, rate: int, offset: float, clip: str
) -> None:
    whole = with_sound(tmp_path / source, 8.0, rate, offset, codec)
    times = instants(tmp_path / source)
    encoding = Encoding(clip, sound=True)
    spans = [(0, 40), (130, 180)]
    for (start, end), info in zip(
        spans, results(tmp_path / source, cuts_of(spans, tmp_path / "o", times, encoding.suffix), encoding), strict=True
    ):
        assert isinstance(info, EncodedInfo)
        assert info.sound
        cut = heard_in(tmp_path / "o" / f"{start}-{end}{encoding.suffix}")
        asked = whole[round(times[start] * RATE) : round(times[end] * RATE)]
        assert abs(len(cut) - len(asked)) <= 1024
        # where the two sound alike: within one frame of sound (1024 samples, 21 ms), as it turns out within a millisecond
        middle = asked[len(asked) // 4 : len(asked) // 4 + RATE // 2]
        alike = np.correlate(cut[len(asked) // 4 - 2048 : len(asked) // 4 + RATE // 2 + 2048], middle, "valid")
        assert abs(int(np.argmax(alike)) - 2048) < 96
        if start == 0 and offset:
            assert np.abs(cut[: int(offset * RATE) - 2048]).max() < 0.01  # silent until the sound begins


def tone(path: Path, rate: int, layout: str, from_s: float) -> bytes:
    """Two seconds of 400 Hz in a transport stream, as a broadcast may join them."""
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("mp2", rate=rate)
        stream.codec_context.layout = layout
        wave = np.sin(2 * np.pi * 400 * np.arange(2 * rate) / rate) * 8000
        packed = np.repeat(wave.astype(np.int16), 1 if layout == "mono" else 2)[None]
        each = 1152 * (1 if layout == "mono" else 2)
        for n, start in enumerate(range(0, packed.shape[1], each)):
            piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed[:, start : start + each]), "s16", layout)
            piece.sample_rate, piece.time_base, piece.pts = rate, Fraction(1, rate), n * 1152 + round(from_s * rate)
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("second", [(44_100, "stereo"), (48_000, "mono"), (32_000, "mono")])
@pytest.mark.parametrize("first", [(48_000, "stereo"), (44_100, "mono")])
def test_a_track_that_changes_its_form_keeps_its_pitch(
    tmp_path: Path, first: tuple[int, str], second: tuple[int, str]
) -> None:
    joined = tmp_path / "joined.ts"
    joined.write_bytes(tone(tmp_path / "a.ts", *first, 0.0) + tone(tmp_path / "b.ts", *second, 2.0))
    with av.open(str(joined)) as container:
        start_s = float(container.streams.audio[0].start_time * container.streams.audio[0].time_base)
    sound = Sound.of(joined, start_s)
    assert sound is not None
    heard = np.concatenate([frame.to_ndarray() for frame in sound.rest(4.0)], axis=1)
    sound.close()
    assert heard.shape == (1 if first[1] == "mono" else 2, 4 * RATE)
    for part in (heard[0, RATE // 2 : RATE * 3 // 2], heard[0, RATE * 5 // 2 : RATE * 7 // 2]):
        spectrum = np.abs(np.fft.rfft(part))
        assert int(np.argmax(spectrum)) == 400  # of one second, so the bins are Hz
        assert np.abs(part).max() > 0.1


def test_a_source_without_sound_gives_a_clip_without_sound(footage: Path, tmp_path: Path) -> None:
    for name, sound in (("moviepy/doc_example.mp4", False), ("androidx-media/sample.mp4", True)):
        [info] = results(footage / name, cuts_of([(5, 15)], tmp_path), Encoding(sound=True, max_side=160))
        assert isinstance(info, EncodedInfo)
        assert info.sound == sound
        with av.open(str(tmp_path / "5-15.mp4")) as container:
            assert sorted(s.type for s in container.streams) == (["audio", "video"] if sound else ["video"])


def test_the_same_clip_has_the_same_bytes_every_time(footage: Path, tmp_path: Path) -> None:
    for encoding in (
        Encoding(sound=True, max_side=320),
        Encoding(crf=23, preset="slow", max_side=320),
        Encoding("libvpx-vp9", preset="6", sound=True, max_side=160),
    ):
        made = []
        for n in range(2):
            results(
                footage / "androidx-media/sample.mp4",
                cuts_of([(3, 20)], tmp_path / str(n), None, encoding.suffix),
                encoding,
            )
            made.append((tmp_path / str(n) / f"3-20{encoding.suffix}").read_bytes())
        assert made[0] == made[1]
        assert json.dumps(str(tmp_path)).encode() not in made[0]

"""The media that reviewers are shown, made from real footage."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import av
import pytest

from models.video.cut import Cut, cut_clips
from models.video.encode import GOP_FRAMES, EncodedInfo
from stages.review.media import MediaStore
from stages.review.proxies import LONG_SIDE, SHORT_SIDE, place_file, poster, proxy_encoding, proxy_name


def make_proxy(
    source: Path, out: Path, start: int = 5, end: int = 30, max_side: int = 320, *, sound: bool = False
) -> Path:
    [(_, info)] = cut_clips(source, [Cut(start, end, out)], proxy_encoding(max_side, sound=sound))
    assert isinstance(info, EncodedInfo)
    return out


def test_a_proxy_is_vp9_with_short_groups_of_pictures_no_sound_and_a_poster(footage: Path, tmp_path: Path) -> None:
    path = make_proxy(footage / "sam2" / "01_dog.mp4", tmp_path / "dog.webm")
    with av.open(str(path)) as container:
        assert [(stream.type, stream.codec_context.name) for stream in container.streams] in (
            [("video", "vp9")],
            [("video", "libvpx-vp9")],
        )
        frames = list(container.decode(video=0))
    keys = [n for n, frame in enumerate(frames) if frame.key_frame]
    assert len(frames) == 25
    assert keys[0] == 0
    assert max(b - a for a, b in zip(keys, [*keys[1:], len(frames)], strict=True)) <= GOP_FRAMES
    with av.open(io.BytesIO(poster(path))) as picture:
        first = next(picture.decode(video=0))
    assert (first.width, first.height) == (frames[0].width, frames[0].height)
    difference = abs(first.to_ndarray(format="gray").astype(int) - frames[0].to_ndarray(format="gray").astype(int))
    assert difference.mean() < 3  # the very first frame, but for JPEG's loss


def test_sound_is_kept_where_it_is_asked_for(footage: Path, tmp_path: Path) -> None:
    kinds = []
    for sound in (False, True):
        source, out = footage / "mdn-learning-area" / "rabbit320.mp4", tmp_path / f"{sound}.webm"
        with av.open(str(make_proxy(source, out, end=17, sound=sound))) as container:
            kinds.append([stream.type for stream in container.streams])
    assert kinds == [["video"], ["video", "audio"]]


@pytest.mark.parametrize(
    ("size", "shown"), [((1920, 1080), (1280, 720)), ((1080, 1440), (720, 960)), ((320, 240), (320, 240))]
)
def test_a_proxy_has_at_most_the_pixels_of_720p(tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]) -> None:
    source = tmp_path / "large.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame(*size, "yuv420p")))
        container.mux(stream.encode())
    with av.open(str(make_proxy(source, tmp_path / "small.webm", 0, 2, LONG_SIDE))) as container:
        video = container.streams.video[0]
        assert (video.width, video.height) == shown
        assert min(shown) <= SHORT_SIDE


def test_a_name_says_what_is_shown(media: MediaStore) -> None:
    names = {
        proxy_name(content, start, end, side, sound=sound)
        for content in ("one source", "another")
        for start, end in ((0, 12), (0, 13), (1, 12))
        for side in (64, 320)
        for sound in (False, True)
    }
    assert len(names) == 2 * 3 * 2 * 2
    # The name of a clip as it was shown in earlier campaigns: another one would ask everybody everything again.
    known = "vp9 2 960 " + "a" * 64 + " 5 30"
    assert proxy_name("a" * 64, 5, 30, 960, sound=False) == hashlib.sha256(known.encode()).hexdigest()[:32] + ".webm"


def test_a_finished_video_is_placed_with_its_poster_or_refused(
    videos: list[Path], media: MediaStore, tmp_path: Path
) -> None:
    name = place_file(media, videos[0], True)
    assert media.find(name.replace(".webm", ".jpg")) is not None
    fake = tmp_path / "fake.webm"
    fake.write_bytes(b"no picture here")
    with pytest.raises(ValueError, match=r"fake\.webm shows no picture"):
        place_file(media, fake, True)
    with pytest.raises(ValueError, match=r"a\.mp4 is neither"):
        place_file(media, tmp_path / "a.mp4", True)

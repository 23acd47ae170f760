"""The media that reviewers are shown, made from real footage."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from models.video.encode import GOP_FRAMES
from stages.review.media import MediaStore
from stages.review.proxies import LONG_SIDE, SHORT_SIDE, ProxyJob, ProxyMaker, place_file


def job(source: Path, clip: str = "clip", end: int = 30, max_side: int = 320, *, sound: bool = False) -> ProxyJob:
    return ProxyJob(clip, str(source), f"content of {source.name}", 5, end, max_side, sound=sound)


def test_a_proxy_is_vp9_with_short_groups_of_pictures_no_sound_and_a_poster(footage: Path, media: MediaStore) -> None:
    one = job(footage / "sam2" / "01_dog.mp4")
    assert ProxyMaker(str(media.root))([one]) == [("clip", None)]
    path = media.find(one.name)
    assert path is not None
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
    poster = media.find(one.name.replace(".webm", ".jpg"))
    assert poster is not None
    with av.open(str(poster)) as picture:
        first = next(picture.decode(video=0))
    assert (first.width, first.height) == (frames[0].width, frames[0].height)
    difference = abs(first.to_ndarray(format="gray").astype(int) - frames[0].to_ndarray(format="gray").astype(int))
    assert difference.mean() < 3  # the very first frame, but for JPEG's loss


def test_sound_is_kept_where_it_is_asked_for(footage: Path, media: MediaStore) -> None:
    silent, heard = (
        job(footage / "mdn-learning-area" / "rabbit320.mp4", end=17, sound=sound) for sound in (False, True)
    )
    assert silent.name != heard.name
    ProxyMaker(str(media.root))([silent])
    ProxyMaker(str(media.root))([heard])
    kinds = []
    for one in (silent, heard):
        path = media.find(one.name)
        assert path is not None
        with av.open(str(path)) as container:
            kinds.append([stream.type for stream in container.streams])
    assert kinds == [["video"], ["video", "audio"]]


@pytest.mark.parametrize(
    ("size", "shown"), [((1920, 1080), (1280, 720)), ((1080, 1440), (720, 960)), ((320, 240), (320, 240))]
)
def test_a_proxy_has_at_most_the_pixels_of_720p(
    tmp_path: Path, media: MediaStore, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    source = tmp_path / "large.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame(*size, "yuv420p")))
        container.mux(stream.encode())
    one = ProxyJob("clip", str(source), "large", 0, 2, LONG_SIDE)
    assert ProxyMaker(str(media.root))([one]) == [("clip", None)]
    path = media.find(one.name)
    assert path is not None
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height) == shown
        assert min(shown) <= SHORT_SIDE


def test_a_name_says_what_is_shown_and_nothing_is_made_twice(footage: Path, media: MediaStore) -> None:
    one = job(footage / "sam2" / "01_dog.mp4", end=12)
    assert (
        len(
            {
                one.name,
                job(footage / "sam2" / "01_dog.mp4", end=13).name,
                job(footage / "sam2" / "01_dog.mp4", end=12, max_side=64).name,
            }
        )
        == 3
    )
    make = ProxyMaker(str(media.root))
    make([one])
    path = media.find(one.name)
    assert path is not None
    written = path.stat().st_mtime_ns
    make([one])
    assert path.stat().st_mtime_ns == written


def test_a_source_that_cannot_be_read_fails_alone(footage: Path, media: MediaStore, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    jobs = [
        job(broken, "broken"),
        job(empty, "empty"),
        job(footage / "sam2" / "01_dog.mp4", "dog", 10),
        job(tmp_path / "gone.mp4", "gone"),
    ]
    found = dict(ProxyMaker(str(media.root))(jobs))
    assert found["dog"] is None
    for clip in ("broken", "empty", "gone"):
        failure = found[clip]
        assert failure is not None
        assert clip in failure.error_message


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

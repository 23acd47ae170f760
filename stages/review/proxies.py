"""The media of a campaign: how the proxy of a clip is encoded and named, posters, and finished files that are shown as they are.

A proxy has a key frame every half second, so that the page steps and scrubs at once, and at most the pixels of 720p: more
than that no reviewer's window shows. Its poster lies beside it under the same name with the suffix ``.jpg``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.review.media import MediaStore

if TYPE_CHECKING:
    from models.video.encode import Encoding

# Part of every proxy's name: another encoding is another file.
PROXY_RECIPE = "vp9 2"
LONG_SIDE, SHORT_SIDE = 1280, 720
POSTER_QUALITY = 80  # of JPEG: seen for an instant
VIDEO, POSTER = ".webm", ".jpg"
SUFFIXES = {".webm": VIDEO, ".png": ".png", ".jpg": POSTER, ".jpeg": POSTER}


def proxy_encoding(max_side: int, *, sound: bool) -> Encoding:
    """VP9 of at most ``max_side`` pixels and 1280 x 720, or 720 x 1280 held upright."""
    from models.video.encode import Encoding

    return Encoding("libvpx-vp9", max_side=min(max_side, LONG_SIDE), short_side=SHORT_SIDE, sound=sound)


def proxy_name(content: str, start_frame: int, end_frame: int, max_side: int, *, sound: bool) -> str:
    """The name of the proxy of frames ``[start_frame, end_frame)`` of the source with this content key."""
    heard = " sound" if sound else ""
    return MediaStore.name(f"{PROXY_RECIPE} {max_side}{heard} {content} {start_frame} {end_frame}", VIDEO)


def poster_name(video: str) -> str:
    """The name of a video's poster."""
    return video.removesuffix(VIDEO) + POSTER


def poster(video: Path) -> bytes:
    """The first frame of ``video`` as a JPEG. Raises ``ValueError`` when it has none that can be decoded."""
    import cv2

    from models.video.reader import UndecodableError, VideoReader

    try:
        with VideoReader(video) as reader:
            picture = next(iter(reader)).picture()
    except (UndecodableError, StopIteration) as error:
        raise ValueError(f"{video.name} shows no picture: {error}") from error
    written, data = cv2.imencode(POSTER, picture, [cv2.IMWRITE_JPEG_QUALITY, POSTER_QUALITY])
    assert written
    return bytes(data)


def place_file(media: MediaStore, path: Path, make: bool) -> str:
    """The media name of a finished file, named by its content; copied there, with its poster, if ``make``.

    Raises ``ValueError`` for a kind of file that browsers without patented codecs do not show, or a video without a picture.
    """
    suffix = SUFFIXES.get(path.suffix.lower())
    if suffix is None:
        raise ValueError(f"{path.name} is neither WebM, PNG nor JPEG")
    data = path.read_bytes()
    name = MediaStore.name(MediaStore.content_key(data), suffix)
    if make and suffix == VIDEO:  # the video last: where it lies its poster lies too
        media.add(poster_name(name), lambda out: out.write_bytes(poster(path)))
    if make:
        media.add(name, lambda out: out.write_bytes(data))
    return name

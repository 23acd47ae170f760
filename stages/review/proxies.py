"""Makes the media of a campaign: VP9 proxies of clips, copies of generated videos, a poster of each, and pictures.

A proxy has a key frame every half second, so that the page steps and scrubs at once, and at most the pixels of 720p: more
than that no reviewer's window shows. Its poster lies beside it under the same name with the suffix ``.jpg``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from stages.machine import machine_failure
from stages.review.media import MediaStore
from stages.spool import local_copy

# Part of every proxy's name: another encoding is another file.
PROXY_RECIPE = "vp9 2"
LONG_SIDE, SHORT_SIDE = 1280, 720
POSTER_QUALITY = 80  # of JPEG: seen for an instant
SUFFIXES = {".webm": ".webm", ".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg"}


@dataclass(frozen=True)
class ProxyJob:
    """A span of a source, in decoded frames, to be shown to people."""

    clip_id: str
    source: str
    source_key: str  # the source's content key
    start_frame: int
    end_frame: int
    max_side: int
    start_s: float | None = None  # the frames' instants as the analysis measured them; with them the reader may jump
    end_s: float | None = None
    sound: bool = False  # people judge pictures; sound only where the question is about it

    @property
    def key(self) -> str:
        sound = " sound" if self.sound else ""
        return f"{PROXY_RECIPE} {self.max_side}{sound} {self.source_key} {self.start_frame} {self.end_frame}"

    @property
    def name(self) -> str:
        return MediaStore.name(self.key, ".webm")


@dataclass(frozen=True)
class ProxyFailure:
    """A clip that cannot be shown, and why."""

    clip_id: str
    error_type: str
    error_message: str

    def as_row(self) -> dict[str, str]:
        return {"record_id": self.clip_id, "error_type": self.error_type, "error_message": self.error_message}


class ProxyMaker:
    """Encodes proxies, one batch of jobs at a time, those of one source in one pass over it; runs in a worker. A job's failure
    is its own."""

    def __init__(self, root: str) -> None:
        self.media = MediaStore(Path(root))

    def __call__(self, jobs: Sequence[ProxyJob]) -> list[tuple[str, ProxyFailure | None]]:
        by_source = groupby(sorted(jobs, key=lambda job: job.source), key=lambda job: job.source)
        return [result for source, of_source in by_source for result in self._source(source, list(of_source))]

    def _source(self, source: str, jobs: Sequence[ProxyJob]) -> list[tuple[str, ProxyFailure | None]]:
        from models.video.cut import Cut, cut_clips
        from models.video.encode import EncodedInfo, EncodeError, Encoding
        from models.video.reader import UndecodableError

        missing = [job for job in jobs if self.media.find(job.name) is None]
        failed: dict[str, ProxyFailure] = {}
        with tempfile.TemporaryDirectory(prefix="fulcrum-proxies-") as folder:
            cuts = [
                Cut(job.start_frame, job.end_frame, Path(folder, job.name), job.start_s, job.end_s) for job in missing
            ]
            left = {job.clip_id for job in missing}
            try:
                with local_copy(source) as local:
                    side = min(jobs[0].max_side, _side(local.path)) if cuts else None
                    encoding = Encoding("libvpx-vp9", max_side=side, sound=jobs[0].sound)
                    for number, result in cut_clips(local.path, cuts, encoding) if cuts else ():
                        job, out = missing[number], cuts[number].out
                        left.discard(job.clip_id)
                        if isinstance(result, EncodedInfo):
                            # the video last: where it lies its poster lies too
                            self.media.add(job.key, ".jpg", partial(write_poster, out))
                            self.media.add(job.key, ".webm", partial(shutil.copyfile, out))
                            out.unlink()
                        else:
                            failed[job.clip_id] = ProxyFailure(job.clip_id, type(result).__name__, str(result))
            except (EncodeError, UndecodableError, OSError) as error:
                stop = machine_failure(error, f"while making proxies of {source}")
                if stop is not None:
                    raise stop from error
                told = str(error) if source in str(error) else f"{source}: {error}"
                failed |= {clip: ProxyFailure(clip, type(error).__name__, told) for clip in left}
        return [(job.clip_id, failed.get(job.clip_id)) for job in jobs]


def _side(source: Path) -> int:
    """The long side, in pixels, with which this source keeps within 1280 x 720, or 720 x 1280 held upright."""
    from models.video.reader import VideoReader

    with VideoReader(source) as reader:
        width, height = next(iter(reader)).size
    return min(LONG_SIDE, SHORT_SIDE * max(width, height) // min(width, height))


def write_poster(video: Path, out: Path) -> None:
    """Write the first frame of ``video`` as a JPEG. Raises ``ValueError`` when it has none that can be decoded."""
    import cv2

    from models.video.reader import UndecodableError, VideoReader

    try:
        with VideoReader(video) as reader:
            picture = next(iter(reader)).picture()
    except (UndecodableError, StopIteration) as error:
        raise ValueError(f"{video.name} shows no picture: {error}") from error
    written, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, POSTER_QUALITY])
    assert written
    out.write_bytes(data.tobytes())


def place_file(media: MediaStore, path: Path, make: bool) -> str:
    """The media name of a finished file, named by its content; copied there, with its poster, if ``make``.

    Raises ``ValueError`` for a kind of file that browsers without patented codecs do not show, or a video without a picture.
    """
    suffix = SUFFIXES.get(path.suffix.lower())
    if suffix is None:
        raise ValueError(f"{path.name} is neither WebM, PNG nor JPEG")
    data = path.read_bytes()
    key = MediaStore.content_key(data)
    if not make:
        return MediaStore.name(key, suffix)
    if suffix == ".webm":
        media.add(key, ".jpg", partial(write_poster, path))
    return media.add_bytes(data, suffix)

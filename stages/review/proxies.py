"""Makes the media of a campaign: VP9 proxies of clips, copies of generated videos, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from stages.review.media import MediaStore

# Part of every proxy's name: another encoding is another file.
PROXY_RECIPE = "vp9 1"
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

    @property
    def key(self) -> str:
        return f"{PROXY_RECIPE} {self.max_side} {self.source_key} {self.start_frame} {self.end_frame}"

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
    """Encodes proxies, one batch of jobs at a time; runs in a worker. A job's failure is its own."""

    def __init__(self, root: str) -> None:
        self.media = MediaStore(Path(root))

    def __call__(self, jobs: Sequence[ProxyJob]) -> list[tuple[str, ProxyFailure | None]]:
        from models.video.encode import EncodeError, cut_clip
        from models.video.reader import UndecodableError

        results: list[tuple[str, ProxyFailure | None]] = []
        for job in jobs:
            source = local_path(job.source)
            try:
                self.media.add(
                    job.key,
                    ".webm",
                    lambda out, job=job, source=source: cut_clip(  # type: ignore[misc]
                        source, job.start_frame, job.end_frame, out, codec="libvpx-vp9", max_side=job.max_side
                    ),
                )
                results.append((job.clip_id, None))
            except (EncodeError, UndecodableError, FileNotFoundError) as error:
                results.append((job.clip_id, ProxyFailure(job.clip_id, type(error).__name__, str(error))))
        return results


def local_path(uri: str) -> str:
    """The path of a ``file://`` URI; anything else is given back as it is."""
    return unquote(urlsplit(uri).path) if uri.startswith("file://") else uri


def place_file(media: MediaStore, path: Path, make: bool) -> str:
    """The media name of a finished file, named by its content; copied there if ``make``.

    Raises ``ValueError`` for a kind of file that browsers without patented codecs do not show.
    """
    suffix = SUFFIXES.get(path.suffix.lower())
    if suffix is None:
        raise ValueError(f"{path.name} is neither WebM, PNG nor JPEG")
    data = path.read_bytes()
    return media.add_bytes(data, suffix) if make else MediaStore.name(MediaStore.content_key(data), suffix)


def media_names(payload: Mapping[str, Any]) -> list[str]:
    """The names of all media that a payload shows."""
    named = [payload.get(field) for field in ("media", "winner", "loser", "reference")]
    return [name for name in (*named, *(payload.get("keyframes") or ())) if name]

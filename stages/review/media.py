"""Review media: files under one allow-listed folder, named by a hash of what they show, served by that name alone."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from stages.review.errors import ReviewError

NAME = re.compile(r"[0-9a-f]{32}\.(webm|jpg|png)")
TYPES = {".webm": "video/webm", ".jpg": "image/jpeg", ".png": "image/png"}
ROOT_VARIABLE = "FULCRUM_REVIEW_MEDIA"


def media_root_for(database: str | Path) -> Path:
    """Where the media of this review database lie: beside a SQLite file, else where ``FULCRUM_REVIEW_MEDIA`` says.

    Raises ``ReviewError`` when a database server is used and the variable is not set.
    """
    text = str(database)
    if "://" not in text:
        return Path(text).expanduser().absolute().parent / "review_media"
    from sqlalchemy.engine import make_url

    url = make_url(text)
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(url.database).absolute().parent / "review_media"
    folder = os.environ.get(ROOT_VARIABLE)
    if not folder:
        raise ReviewError(
            f"A review database on a server does not say where the videos of the page lie: set {ROOT_VARIABLE} to a folder "
            "that the pipeline and the review server share."
        )
    return Path(folder).absolute()


class MediaStore:
    """Files that a review page may show. A file appears under its name whole or not at all, and never changes."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def find(self, name: str) -> Path | None:
        """The file of this name, or None when there is none; any name that is not one of ours finds nothing."""
        if not NAME.fullmatch(name):
            return None
        path = self._place(name)
        try:
            resolved = path.resolve(strict=True)
        except OSError:
            return None
        # A link planted under the root must not lead out of it.
        return path if resolved.is_file() and self.root in resolved.parents else None

    def add(self, name: str, write: Callable[[Path], object]) -> None:
        """Have ``write(path)`` make the file of this name, unless it is there already."""
        target = self._place(name)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        # The real suffix stays last: writers choose the container by it.
        partial = target.with_name(f".{target.stem}-{secrets.token_hex(4)}{target.suffix}")
        try:
            write(partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def add_bytes(self, data: bytes, suffix: str) -> str:
        """Keep a file named by its content; returns the name."""
        name = self.name(self.content_key(data), suffix)
        self.add(name, lambda path: path.write_bytes(data))
        return name

    def add_link(self, name: str, file: Path) -> None:
        """Keep what lies in ``file`` under this name: as a second name of the same bytes where the disk allows it, else as a copy."""

        def link(path: Path) -> None:
            try:
                os.link(file, path)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, path)

        self.add(name, link)

    @staticmethod
    def name(key: str, suffix: str) -> str:
        """The name under which what ``key`` describes lies, or will lie.

        ``key`` must determine what is shown: the digest of the source, the span and the encoder's settings.
        """
        return hashlib.sha256(key.encode()).hexdigest()[:32] + suffix

    @staticmethod
    def content_key(data: bytes) -> str:
        return "bytes " + hashlib.sha256(data).hexdigest()

    def _place(self, name: str) -> Path:
        return self.root / name[:2] / name

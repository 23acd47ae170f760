"""Whether a file is still the one that was listed and analysed: what is recorded of it must not be made of other bytes."""

from __future__ import annotations

import os

from stages.spool import LocalFile


def changed(local: LocalFile, sha256: str | None, size: int, mtime_ns: int | None) -> bool:
    """Whether the file at hand is another than the one with this digest, size in bytes and modification time (null: not known)."""
    if local.sha256 is not None:
        return sha256 is not None and local.sha256 != sha256
    stat = os.stat(local.path)
    return stat.st_size != size or (mtime_ns is not None and stat.st_mtime_ns != mtime_ns)

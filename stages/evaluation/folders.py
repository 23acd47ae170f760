"""Folders of videos that lie outside the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from stages.contract import StageError

SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif")


def videos_in(folder: Path, system: str) -> dict[str, Path]:
    """Videos below a folder by their relative path without ending. ``StageError`` when there are none or two of one name."""
    if not folder.is_dir():
        raise StageError(f"videos of {system}: there is no folder {folder}")
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise StageError(f"videos of {system}: {found[name].name} and {path.name} have one name; leave one of them")
        found[name] = path
    if not found:
        raise StageError(f"videos of {system}: {folder} holds no video ({', '.join(SUFFIXES)})")
    return found


def stamp(files: Iterable[Path]) -> str:
    """A digest of where files lie, how large they are and when they changed: what a plan can know without reading them."""
    digest = hashlib.sha256()
    for path in files:
        at = path.stat()
        digest.update(f"{path}\0{at.st_size}\0{at.st_mtime_ns}\n".encode())
    return digest.hexdigest()

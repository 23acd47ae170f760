"""The list of digests of an exported folder, in the form that ``sha256sum -c`` checks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

MANIFEST = "SHA256SUMS"


def write_manifest(folder: Path, known: Mapping[str, str]) -> None:
    """Write ``SHA256SUMS`` over every file below ``folder``; ``known`` has digests by relative path that need no second read.

    Check a copy with ``cd copy && sha256sum -c SHA256SUMS``.
    """
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = [f"{known.get(name) or file_digest(folder / name)}  {name}\n" for name in names if name != MANIFEST]
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

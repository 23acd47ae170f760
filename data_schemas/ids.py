"""The identities of records: short hashes over parts that no two different records can share by accident of spelling."""

from __future__ import annotations

import hashlib

ID_CHARS = 20  # 80 bits of sha256: ten million clips collide with a chance of about 4e-11


def short_hash(*parts: object) -> str:
    """First 20 hex characters of sha256 over the parts, each written as its length in bytes before its text.

    The lengths make ``("ab", "c")`` and ``("a", "bc")`` differ. Parts are strings, bytes or integers; others are refused, since
    their text may change between versions of Python.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            raw = b"b" + part
        elif isinstance(part, bool) or not isinstance(part, str | int):
            raise TypeError(f"an identity is made of str, bytes and int, not {type(part).__name__}: {part!r}")
        elif isinstance(part, int):
            raw = b"i" + str(part).encode()
        else:
            raw = b"s" + part.encode("utf-8", "surrogateescape")
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()[:ID_CHARS]


def video_id(source_name: str, relative_path: str) -> str:
    """Identity of a source file: the source's name and the path below its root, with forward slashes."""
    return short_hash("video", source_name, relative_path.replace("\\", "/"))


def clip_id(video_id: str, start_frame: int, end_frame: int) -> str:
    """Identity of a clip: its video and its ``[start_frame, end_frame)`` in decoded frames, in presentation order from 0."""
    return short_hash("clip", video_id, int(start_frame), int(end_frame))

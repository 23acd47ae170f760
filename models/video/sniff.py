"""Tells whether a file is a video, an image or neither, by its name or by its first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

MediaType = Literal["video", "image"]

HEAD_BYTES = 4096  # enough for every signature below, transport streams included (three packets of 204 bytes)

# .ts is absent on purpose: it is also the suffix of TypeScript, so its first bytes decide. So do those of names without suffix.
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".divx", ".flv", ".f4v", ".wmv", ".asf"}
    | {".mpg", ".mpeg", ".mpe", ".m2v", ".mts", ".m2ts", ".ogv", ".mxf", ".gif", ".ivf", ".y4m", ".vob"}
)
IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff"])

_ISO_IMAGES = (
    b"avif",
    b"avis",
    b"heic",
    b"heix",
    b"mif1",
    b"msf1",
)  # pictures in the container of MP4, which nothing here reads
_ISO_AUDIO = (b"M4A ", b"M4B ", b"M4P ")
_ASF = bytes.fromhex("3026b2758e66cf11")
_MXF = bytes.fromhex("060e2b34020501010d010201")


def media_type_of_name(path: str) -> MediaType | None:
    """What the suffix says, in any case; None where it says nothing."""
    suffix = Path(path).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "image" if suffix in IMAGE_SUFFIXES else None


def media_type_of_head(head: bytes) -> MediaType | None:
    """What the first ``HEAD_BYTES`` of a file say; None for anything else, playlists included."""
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*")):
        return "image"
    if head[:4] == b"RIFF":
        return {b"WEBP": "image", b"AVI ": "video"}.get(head[8:12])  # type: ignore[return-value]
    if head[:2] == b"BM" and len(head) > 18 and head[14:18] in (b"\x28\0\0\0", b"\x7c\0\0\0", b"\x6c\0\0\0"):
        return "image"
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _ISO_IMAGES + _ISO_AUDIO else "video"
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip") and len(head) >= 16:
        return "video"
    if head.startswith((b"\x1a\x45\xdf\xa3", b"FLV\x01", _ASF, b"GIF87a", b"GIF89a", b"DKIF", b"YUV4MPEG2 ")):
        return "video"
    if head.startswith((b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")) or _MXF in head[:64]:
        return "video"
    if head[:4] == b"OggS" and b"theora" in head[:128]:
        return "video"
    return "video" if _is_transport_stream(head) else None


def _is_transport_stream(head: bytes) -> bool:
    """MPEG-TS has a sync byte at the start of every packet of 188 bytes (192 and 204 with extra fields)."""
    for size, offset in ((188, 0), (192, 4), (204, 0)):
        if len(head) > offset + 2 * size and all(head[offset + n * size] == 0x47 for n in range(3)):
            return True
    return False


def media_type(path: str | Path) -> MediaType | None:
    """What a local file is: by its name, else by its first bytes. Raises ``OSError`` when it cannot be read."""
    by_name = media_type_of_name(str(path))
    if by_name is not None:
        return by_name
    with open(path, "rb") as file:
        return media_type_of_head(file.read(HEAD_BYTES))

"""WebDataset tars as a source: lists their members by reading headers only, and names each by tar, offset and length.

A member's URI says where its bytes lie, ``tar:///data/shard-000.tar#clip-001.mp4;offset=1536;bytes=52341`` (in an object store
``tar+s3://bucket/shard-000.tar#...``), so that one member can be read without its tar. Nothing is ever unpacked to a name that a
tar chose.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import quote, unquote

from stages.contract import StageError
from stages.location import open_location
from stages.retried import retried

BLOCK = 512
_HEADER_BYTES = 1 << 20  # of one extended header: a name, never a payload
_READ_AHEAD = 1 << 16  # headers of small sidecars then come with one request

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")


class TarError(OSError):
    """A tar, or one of its members, cannot be used; the message says why."""


@dataclass(frozen=True)
class Member:
    """A regular file in a tar: its name with forward slashes, and where its bytes lie."""

    name: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class Refused:
    """An entry that is not used. ``name`` is empty where the tar itself is damaged."""

    name: str
    error_type: str
    message: str


# Names end up on terminals, which take some of these for orders: to rename the window, to move what was printed.
CONTROLS = "[\\x00-\\x1f\\x7f-\x9f]"


def without_controls(name: str) -> str:
    """The name with control characters written out."""
    return re.sub(CONTROLS, lambda found: f"\\x{ord(found[0]):02x}", name)


def is_tar(path: str) -> bool:
    return path.lower().endswith(".tar")


def is_compressed_tar(path: str) -> bool:
    return path.lower().endswith(COMPRESSED)


def member_uri(tar_uri: str, member: Member) -> str:
    """The URI of a member of the tar at ``tar_uri`` (a local path or any URI)."""
    base = f"tar+{tar_uri}" if "://" in tar_uri else f"tar://{quote(tar_uri)}"
    return f"{base}#{quote(member.name)};offset={member.offset};bytes={member.bytes}"


def split_member_uri(uri: str) -> tuple[str, Member] | None:
    """The tar's own location and the member; None where ``uri`` does not name a member of a tar.

    Raises ``StageError`` for a member URI without its place in the tar.
    """
    if not uri.startswith(("tar://", "tar+")):
        return None
    base, _, fragment = uri.partition("#")
    name, *marks = fragment.split(";")
    told = dict(mark.partition("=")[::2] for mark in marks)
    try:
        member = Member(unquote(name), int(told["offset"]), int(told["bytes"]))
    except (KeyError, ValueError):
        raise StageError(
            f"{uri} does not say where in the tar the member lies. Give the tar itself as source, or in the list: its members "
            "are then listed with their places."
        ) from None
    return (unquote(base.removeprefix("tar://")) if base.startswith("tar://") else base.removeprefix("tar+")), member


def members(tar_uri: str) -> Iterator[Member | Refused]:
    """Every usable member of an uncompressed tar and every entry that is refused, in the order of the tar.

    Reads headers only. Refused are names that lead out of the tar (absolute, with ``..``), links, devices, sparse files,
    names that are not UTF-8, members whose bytes are not all there, and whatever follows damage. Folders are not told.
    Raises ``TarError`` when it is no uncompressed tar, ``OSError`` when it cannot be read.
    """
    filesystem, path = open_location(tar_uri)
    with filesystem.open_input_file(path) as raw:
        size = retried(raw.size)
        _check_plain(retried(lambda: _first(raw, 6)))
        source: Any = _Headers(raw, size)
        try:
            with tarfile.open(fileobj=source, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                yield from _listed(tar, source, size)
        except tarfile.TarError as error:
            raise TarError(f"it is not a tar that can be read ({error}); write it again") from error


def _listed(tar: Any, source: _Headers, size: int) -> Iterator[Member | Refused]:
    while True:
        try:
            entry = tar.next()
        except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
            yield Refused(
                "", "TarError", f"damaged after byte {tar.offset:,} of {size:,} ({error}); what follows is lost"
            )
            return
        if entry is None:
            break
        tar.members = []  # tarfile keeps every header it has seen
        if not entry.isdir():
            yield _member(entry, size)
    source.seek(tar.offset)
    rest = source.read(BLOCK)
    if rest.strip(b"\0"):  # tarfile takes a damaged header for the end
        yield Refused("", "TarError", f"damaged at byte {tar.offset:,} of {size:,}; what follows is lost")


def _member(entry: tarfile.TarInfo, size: int) -> Member | Refused:
    name = entry.name
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    while name.startswith("./"):
        name = name[2:]
    parts = name.split("/")
    if entry.issym() or entry.islnk():
        return Refused(shown, "TarLink", "it is a link, and links in a tar are not followed")
    if not entry.isreg() or entry.issparse():
        kind = "a sparse file" if entry.isreg() else "a device or pipe"
        return Refused(shown, "TarEntry", f"it is {kind}, not a plain file")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or not parts[-1]:
        return Refused(
            shown, "TarPathEscape", "its name leads out of the tar; name members by relative paths without .."
        )
    if shown != entry.name:
        return Refused(shown, "FileNameError", "its name is not valid UTF-8; rename it")
    if without_controls(name) != name:
        return Refused(without_controls(name), "FileNameError", "its name holds control characters; rename it")
    if entry.offset_data + entry.size > size:
        there = max(0, size - entry.offset_data)
        return Refused(name, "TarTruncated", f"the tar ends after {there:,} of its {entry.size:,} bytes; copy it again")
    return Member(name, entry.offset_data, entry.size)


def open_member(tar_uri: str, member: Member) -> Any:
    """A stream at the member's first byte, for reading ``member.bytes`` bytes.

    Raises ``TarError`` where the tar no longer has the member there: its header has another size or a wrong checksum.
    """
    filesystem, path = open_location(tar_uri)
    raw = filesystem.open_input_file(path)
    try:
        raw.seek(max(0, member.offset - BLOCK))
        header = raw.read(BLOCK)
        try:
            found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
        except tarfile.TarError:
            found = -1
        # a size over 8 GiB may stand in an extended header instead, with 0 here
        if found != member.bytes and not (found == 0 and member.bytes >= 1 << 33):
            raise TarError(
                f"the tar no longer holds {member.name} at byte {member.offset:,}: it was written anew; run again"
            )
    except BaseException:
        raw.close()
        raise
    return raw


def _first(raw: Any, count: int) -> bytes:
    raw.seek(0)
    return bytes(raw.read(count))


def _check_plain(head: bytes) -> None:
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")):
        raise TarError(
            "it is compressed, so its members cannot be read one by one; unpack it to a plain .tar (video gains nothing)"
        )


class _Headers:
    """What ``tarfile`` reads headers from: buffered, and refusing one that asks for megabytes."""

    def __init__(self, raw: IO[bytes], size: int) -> None:
        self.raw, self.size = raw, size
        self.at = 0
        self._start, self._data = 0, b""

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset if whence == 0 else self.at + offset if whence == 1 else self.size + offset
        return self.at

    def read(self, count: int = -1) -> bytes:
        if count < 0 or count > _HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {count:,} bytes")
        inside = self.at - self._start
        if not 0 <= inside <= len(self._data) - count:
            self._start, self._data, inside = self.at, retried(lambda: self._fetch(count)), 0
        piece = self._data[inside : inside + count]
        self.at += len(piece)
        return piece

    def _fetch(self, count: int) -> bytes:
        self.raw.seek(min(self.at, self.size))
        return self.raw.read(max(count, _READ_AHEAD))

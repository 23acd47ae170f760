"""Local copies of remote files and of members of tars: fetched once, hashed on the way, deleted after their last use.

All worker processes of a machine share one folder of bounded size. Who uses a copy holds a lock on it (``flock``), which the
kernel lets go when a process dies, however it dies: a copy that nobody holds is a leftover, and the next one to come sweeps it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from stages.contract import StageError
from stages.curation.tar_source import open_member, split_member_uri
from stages.location import is_remote, open_location, why_not
from stages.machine import machine_failure
from stages.retried import TornReadError, retried

T = TypeVar("T")

FOLDER_VARIABLE = "FULCRUM_SPOOL"
SIZE_VARIABLE = "FULCRUM_SPOOL_GIB"
DEFAULT_GIB = 20.0

_PIECE = 8 << 20  # bytes of one request: few requests, little memory
_POLL_S = (0.02, 0.25)  # between looks for room, the first and the longest


@dataclass(frozen=True)
class LocalFile:
    """A file that can be opened here. ``sha256`` is None for one that lies here anyway: nobody has read it yet."""

    path: Path
    sha256: str | None = None


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[LocalFile]:
    """The file that ``uri`` names, on this machine, until the block ends. Local files are used in place.

    The folder is ``FULCRUM_SPOOL`` (default: in the system's temporary folder), its bound ``FULCRUM_SPOOL_GIB``. Waits for room;
    a file larger than the bound is taken when it is alone, and so is a second copy of a thread that already holds one. Raises
    ``OSError`` where the file cannot be had, after a few tries; ``StageError`` where the machine or the storage is in trouble.
    """
    if not is_remote(uri):
        yield LocalFile(Path(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri))
        return
    with _spool().hold(uri) as file:
        yield file


_spools: dict[tuple[str, int], Spool] = {}


def _spool() -> Spool:
    folder = os.environ.get(FOLDER_VARIABLE) or os.path.join(tempfile.gettempdir(), f"fulcrum-spool-{os.getuid()}")
    told = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_GIB)
    try:
        bound = int(float(told) * (1 << 30))
    except ValueError:
        bound = 0
    if bound <= 0:
        raise StageError(f"{SIZE_VARIABLE} must be a size in GiB above 0, not {told!r}.")
    return _spools.setdefault((folder, bound), Spool(Path(folder), bound))


class Spool:
    """A folder of copies, of ``bound`` bytes at most, shared by every process that names the same folder.

    A copy being fetched is ``<key>.part``, already of its final size, so that the sizes on disk are the space that is spoken
    for; a whole one is ``<key>-<sha256>``.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder, self.bound = folder, bound
        self._mine = threading.local()

    @contextlib.contextmanager
    def hold(self, uri: str) -> Iterator[LocalFile]:
        """A copy of what ``uri`` names, kept while the block runs."""
        source = _Source.of(uri)
        handle, path = self._acquire(source)
        self._mine.count = getattr(self._mine, "count", 0) + 1
        try:
            yield LocalFile(path, path.name.partition("-")[2].partition(".")[0])
        finally:
            self._mine.count -= 1
            self._release(handle, path)

    # -- coming and going ----------------------------------------------------------------------------------------------

    def _acquire(self, source: _Source) -> tuple[int, Path]:
        pause = _POLL_S[0]
        while True:
            with self._alone():
                found = self._look(source)
            if found is not None:
                handle, path = found
                if not path.name.endswith(".part"):
                    return handle, path
                try:
                    sha256 = source.fetch(handle)
                except BaseException:
                    with self._alone():
                        path.unlink(missing_ok=True)
                    os.close(handle)
                    raise
                whole = self.folder / f"{source.key}-{sha256}{source.suffix}"
                with self._alone():  # a lock is let go for an instant when it becomes a shared one
                    path.rename(whole)
                    fcntl.flock(handle, fcntl.LOCK_SH)
                return handle, whole
            time.sleep(pause)
            pause = min(2 * pause, _POLL_S[1])

    def _look(self, source: _Source) -> tuple[int, Path] | None:
        """A held copy of the source, or a held empty one to fill, or None where there is no room yet."""
        used = 0
        for entry in list(self.folder.iterdir()):
            if entry.name == "lock":
                continue
            handle = os.open(entry, os.O_RDWR)
            if _try_lock(handle):  # nobody holds it: whoever fetched it was killed
                entry.unlink()
                os.close(handle)
                continue
            if entry.name.startswith(source.key):
                if entry.name.endswith(".part"):
                    os.close(handle)
                    return None  # somebody is fetching it
                fcntl.flock(handle, fcntl.LOCK_SH)
                return handle, entry
            used += os.fstat(handle).st_size
            os.close(handle)
        if used and used + source.bytes > self.bound and not getattr(self._mine, "count", 0):
            return None
        path = self.folder / f"{source.key}.part"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.ftruncate(handle, source.bytes)
        return handle, path

    def _release(self, handle: int, path: Path) -> None:
        with self._alone():
            if _try_lock(handle):  # nobody else uses it
                path.unlink(missing_ok=True)
            os.close(handle)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time looks at the folder; for moments, never while bytes are fetched."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


# -- fetching --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A remote file as it was when it was looked up: where it is, how long, and its storage's change mark."""

    uri: str
    key: str
    bytes: int
    mark: str
    suffix: str

    @staticmethod
    def of(uri: str) -> _Source:
        size, mark = _had(uri, lambda: _state(uri))
        key = hashlib.sha256(f"{uri}\n{size}\n{mark}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
        member = split_member_uri(uri)
        name = member[1].name if member else unquote(urlsplit(uri).path)
        suffix = os.path.splitext(name)[1].lower()
        # decoders are told by the suffix what to expect; anything odd in it is no help to them
        return _Source(uri, key, size, mark, suffix if suffix[1:].isalnum() and len(suffix) <= 8 else "")

    def fetch(self, handle: int) -> str:
        """Write the bytes to ``handle`` and return their sha256; tried again where the storage or the network fails."""
        return _had(self.uri, lambda: self._once(handle))

    def _once(self, handle: int) -> str:
        digest = hashlib.sha256()
        left = self.bytes
        os.lseek(handle, 0, os.SEEK_SET)
        with _stream(self.uri) as stream:
            while left:
                piece = stream.read(min(_PIECE, left))
                if not piece:
                    raise TornReadError(f"{self.uri} ended after {self.bytes - left:,} of {self.bytes:,} bytes")
                digest.update(piece)
                _write(handle, piece)
                left -= len(piece)
        if _state(self.uri) != (self.bytes, self.mark):
            raise TornReadError(f"{self.uri} changed while it was being fetched; is it still being written?")
        return digest.hexdigest()


def _write(handle: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(handle, view) :]


def _stream(uri: str) -> Any:
    member = split_member_uri(uri)
    if member is not None:
        return open_member(*member)
    filesystem, path = open_location(uri)
    return filesystem.open_input_stream(path, compression=None)


def _state(uri: str) -> tuple[int, str]:
    """Size of the file (of the member, in a tar) and the change mark of what holds it: the storage's ETag, else its time."""
    member = split_member_uri(uri)
    place = member[0] if member else uri
    filesystem, path = open_location(place)
    if is_remote(place):
        with filesystem.open_input_file(path) as file:  # for an object store one request, as a look-up would be
            size, told = file.size(), file.metadata() or {}
        mark = str(told.get("ETag") or told.get("Last-Modified") or "")
    else:
        stat = os.stat(path)
        size, mark = stat.st_size, str(stat.st_mtime_ns)
    return (member[1].bytes if member else size), f"{size} {mark}"


def _had(uri: str, work: Callable[[], T]) -> T:
    """``retried(work)``; what only Arrow's words tell is said as a sentence about ``uri``."""
    try:
        return retried(work)
    except (FileNotFoundError, PermissionError, TornReadError):
        raise
    except OSError as error:
        if error.errno is None and machine_failure(error) is None:
            raise OSError(f"it cannot be fetched: {why_not(uri, error)}") from error
        raise

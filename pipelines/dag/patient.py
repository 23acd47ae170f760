"""An object store's filesystem that asks again where a client gives up on what may pass.

The clients try most failures again by themselves. Two they do not: Arrow's failed read of fewer bytes than the error's own text,
which ends as ``Failed to flush response stream``, and an upload in parts whose end was heard while its answer was lost
(``NO_SUCH_UPLOAD``). Both are safe to do again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from stages.contract import RetryableError
from stages.location import why_not
from stages.machine import machine_failure
from stages.retried import retried

T = TypeVar("T")


def tried(uri: str, work: Callable[[], T]) -> T:
    """``retried(work)`` at ``uri``; the last failure of what may pass names the bucket and says what to look at."""
    try:
        return retried(work)
    except OSError as error:
        if isinstance(machine_failure(error), RetryableError):
            raise OSError(why_not(uri, error)) from error
        raise


def patient(filesystem: pafs.FileSystem, scheme: str) -> pafs.PyFileSystem:
    """The filesystem of URIs with this scheme, asking again."""
    return pafs.PyFileSystem(_Handler(filesystem, scheme))


class _Handler(pafs.FileSystemHandler):
    """Reads, look-ups and deletions, tried again. Nothing is written through it (``Store`` uploads whole files)."""

    def __init__(self, inner: pafs.FileSystem, scheme: str) -> None:
        self.inner, self.scheme = inner, scheme

    def _tried(self, path: str, work: Callable[[], T]) -> T:
        return tried(f"{self.scheme}://{path}", work)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Handler) and self.inner == other.inner

    def __hash__(self) -> int:
        return hash(self.inner.type_name)

    def get_type_name(self) -> str:
        return f"patient {self.inner.type_name}"

    def normalize_path(self, path: str) -> str:
        return str(self.inner.normalize_path(path))

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return self._tried(paths[0], lambda: list(self.inner.get_file_info(paths)))

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return self._tried(selector.base_dir, lambda: list(self.inner.get_file_info(selector)))

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.PythonFile:
        opened = self._tried(path, lambda: self.inner.open_input_file(path))
        return pa.PythonFile(_File(opened, f"{self.scheme}://{path}"), mode="r")

    def delete_file(self, path: str) -> None:
        self._tried(path, lambda: self.inner.delete_file(path))

    def delete_dir(self, path: str) -> None:
        self._tried(path, lambda: self.inner.delete_dir(path))

    def copy_file(self, source: str, target: str) -> None:
        self._tried(target, lambda: self.inner.copy_file(source, target))

    def _not_here(self, *_: object) -> Any:
        raise NotImplementedError("nothing is written through a patient filesystem")

    create_dir = delete_dir_contents = delete_root_dir_contents = move = _not_here
    open_output_stream = open_append_stream = _not_here


class _File:
    """A file that is read by place, whatever a broken answer did to the one before."""

    def __init__(self, inner: Any, uri: str) -> None:
        self.inner, self.uri, self.length, self.at = inner, uri, inner.size(), 0

    @property
    def closed(self) -> bool:
        return bool(self.inner.closed)

    def close(self) -> None:
        self.inner.close()

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.length)[whence]
        return self.at

    def read(self, count: int | None = None) -> bytes:
        left = max(self.length - self.at, 0)
        wanted = left if count is None or count < 0 else min(count, left)
        data = tried(self.uri, lambda: self._read(wanted)) if wanted else b""
        self.at += wanted
        return data

    def _read(self, count: int) -> bytes:
        data: bytes = self.inner.read_at(count, self.at)
        if len(data) < count:
            raise ConnectionError(f"an object ended after {self.at + len(data):,} of its {self.length:,} bytes")
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

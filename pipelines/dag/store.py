"""The artifact store: a folder, local or remote, in which a thing exists if and only if its manifest does.

Layout::

    fulcrum-store.json                       format of the store
    stages/<node>/<fingerprint>.json         manifest: what was committed, under which preimage
    data/<node>/<fingerprint>-<attempt>/...  the files that manifests name
    records/<stage>/<id>.shard               committed records of record stages (records.py)
    runs/<run_id>/...                        what each run did (runs.py)
    live/<fingerprint>.json                  heartbeat of a stage being worked on
    work/<fingerprint>/...                   where a stage got to, for another machine to go on (kept_work.py)
    takedowns/<time>-<id>.json               videos that nobody may use any more (takedowns.py)

Nothing is renamed and nothing is locked, so the same rule holds on S3. A manifest is written last, in one put. Where two runs
commit the same thing there, the later manifest stands; both are whole, and say the same (docs/object_storage.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow.fs as pafs

from pipelines.dag.patient import patient, tried
from stages import s3
from stages.contract import StageError
from stages.location import child_uri, in_threads, open_location, why_not

FORMAT = 1
MARKER = "fulcrum-store.json"
_PIECE = 8 << 20  # bytes of one request: few requests, little memory


class StoreError(StageError):
    """The store cannot be used; the message names it and says what to do."""


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """Filesystem and root path of a store or source URI: a local path, ``file://``, ``s3://`` or any of Arrow's."""
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).expanduser().resolve())
    try:
        filesystem, root = open_location(uri)
    except StageError as error:
        raise StoreError(str(error)) from error
    return filesystem, root.rstrip("/")


class Store:
    """Bytes and JSON under one root; every method takes paths relative to it, with forward slashes."""

    def __init__(self, uri: str, create: bool = True) -> None:
        self._raw, self.root = resolve(uri)
        self.is_local = isinstance(self._raw, pafs.LocalFileSystem)
        self.fs = self._raw if self.is_local else patient(self._raw, uri.partition("://")[0])
        self.uri = Path(self.root).as_uri() if self.is_local else uri.rstrip("/")
        self._check(create)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Store, (self.uri, False))

    def _check(self, create: bool) -> None:
        try:
            text = self.read(MARKER)
        except FileNotFoundError:
            if not create:
                raise StoreError(
                    f"there is no store at {self.display}. Run a pipeline with --store {self.display} first."
                ) from None
            if self.is_local and os.path.isfile(self.root):
                raise StoreError(f"the store {self.display} is a file; give a folder with --store") from None
            if self.is_local and os.path.isdir(self.root) and os.listdir(self.root):
                raise StoreError(
                    f"{self.display} is not a store: it holds other files. Give an empty or a new folder with --store."
                ) from None
            try:
                self.put_json(MARKER, {"format": FORMAT})
            except OSError as error:
                raise StoreError(
                    f"cannot write to the store {self.display}: {self._why(error)}. Check the path and its permissions."
                ) from error
            return
        except NotADirectoryError as error:
            raise StoreError(f"the store {self.display} lies below a file: {error}") from error
        except OSError as error:
            raise StoreError(
                f"cannot read the store {self.display}: {self._why(error)}. Check the path, its permissions or credentials."
            ) from error
        try:
            found = json.loads(text)["format"]
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                f"{self.display}/{MARKER} is damaged. If this is a store, write {json.dumps({'format': FORMAT})} into that file."
            ) from None
        if found != FORMAT:
            raise StoreError(
                f"the store {self.display} has format {found}; this release reads format {FORMAT}. "
                "Use the release that wrote it, or start a new store with --store."
            )

    @property
    def display(self) -> str:
        return self.root if self.is_local else self.uri

    def full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def uri_of(self, path: str) -> str:
        """Absolute URI of a path; for a local store a plain path, which every tool opens."""
        return self.full(path) if self.is_local else child_uri(self.uri, path)

    def _why(self, error: OSError) -> str:
        return error.strerror or why_not(self.uri, error)

    def read(self, path: str) -> bytes:
        if self.is_local:
            with open(self.full(path), "rb") as local:
                return local.read()
        with self.fs.open_input_file(self.full(path)) as file:
            return bytes(file.read(file.size()))  # read to the end, it would be one request for each 256 KiB

    def read_json(self, path: str) -> Any:
        """What an object holds. Raises ``ValueError`` where that is no JSON, ``FileNotFoundError`` where there is none."""
        try:
            return json.loads(self.read(path))
        except ValueError:
            if self.is_local:
                raise
            # a longer one took its place between the question how long it is and the answer, and came short
            return json.loads(self.read(path))

    def exists(self, path: str) -> bool:
        return self.fs.get_file_info(self.full(path)).type != pafs.FileType.NotFound

    def put(self, path: str, data: bytes) -> None:
        """Write one whole object: a reader sees all of it or nothing."""
        with self.writer(path) as file:
            file.write(data)

    @contextmanager
    def writer(self, path: str) -> Iterator[IO[bytes]]:
        """A file to write one object into, piece by piece; it appears whole when the block ends, and not at all if it raises.

        A local file is written beside its place and moved there after its bytes have reached the disk. For an object store the
        file is a local one that is uploaded at the end.
        """
        if not self.is_local:
            with tempfile.NamedTemporaryFile(prefix="fulcrum-") as file:
                yield file
                file.flush()
                self.send(Path(file.name), path)
            return
        target = self.full(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    def send(self, local: Path, path: str) -> None:
        """Upload a local file as one object of an object store; anew where that fails for a reason that may pass."""
        if isinstance(self._raw, pafs.S3FileSystem):
            tried(self.uri, lambda: s3.send(str(local), self.uri, self.full(path).partition("/")[2]))
            return
        here = pafs.LocalFileSystem()
        tried(self.uri, lambda: pafs.copy_files(str(local), self.full(path), here, self._raw, use_threads=False))

    def copy(self, path: str, target: str) -> None:
        """Copy an object within the store; on a local disk by a link where the file system has them."""
        self.make_parent(target)
        if self.is_local:
            try:
                os.link(self.full(path), self.full(target))
                return
            except OSError:
                pass
            with open(self.full(path), "rb") as source, self.writer(target) as file:
                shutil.copyfileobj(source, file, 1 << 22)
            return
        self.fs.copy_file(self.full(path), self.full(target))

    def put_json(self, path: str, value: Any) -> None:
        self.put(path, (json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode())

    def make_parent(self, path: str) -> None:
        if self.is_local:
            os.makedirs(os.path.dirname(self.full(path)), exist_ok=True)

    def names(self, folder: str) -> list[str]:
        """Names directly below a folder, sorted; empty when there is no such folder."""
        if self.is_local:
            try:
                return sorted(os.listdir(self.full(folder)))
            except FileNotFoundError:
                return []
        selector = pafs.FileSelector(self.full(folder), allow_not_found=True)
        return sorted(info.base_name for info in self.fs.get_file_info(selector))

    def files(self, folder: str) -> list[tuple[str, int]]:
        """(path relative to the folder, bytes) of every file below it, sorted."""
        root = self.full(folder)
        selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
        found = [(info.path[len(root) + 1 :], info.size) for info in self.fs.get_file_info(selector) if info.is_file]
        return sorted(found)

    def upload(self, local: Path, path: str) -> None:
        """Copy a local folder into the store, object by object."""
        files = [file for file in sorted(local.rglob("*")) if file.is_file()]
        for _ in in_threads(lambda f: self.send(f, f"{path}/{f.relative_to(local).as_posix()}"), files):
            pass

    def download(self, path: str, local: Path) -> None:
        """Copy a folder of the store to a local one, which exists."""
        for _ in in_threads(lambda found: self._fetch(path, found, local), self.files(path)):
            pass

    def _fetch(self, path: str, found: tuple[str, int], local: Path) -> None:
        name, size = found
        target = local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.fs.open_input_file(self.full(f"{path}/{name}")) as source, target.open("wb") as file:
            for start in range(0, size, _PIECE):
                file.write(source.read_at(_PIECE, start))

    def delete(self, path: str) -> None:
        full = self.full(path)
        kind = self.fs.get_file_info(full).type
        if kind == pafs.FileType.Directory:
            self.fs.delete_dir(full)
        elif kind == pafs.FileType.File:
            self.fs.delete_file(full)


def existing_store(uri: str) -> Store | None:
    """The store at this place, or None where there is none yet."""
    filesystem, root = resolve(uri)
    try:
        there = filesystem.get_file_info(f"{root}/{MARKER}").is_file
    except OSError:
        return None  # whoever opens it to write says why it cannot be read
    return Store(uri, create=False) if there else None


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

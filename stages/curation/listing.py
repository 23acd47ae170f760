"""Lists what a source holds: a folder walked to its leaves, or a CSV or Parquet list of URIs, with each file's change marks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stages.contract import StageError

LIST_SUFFIXES = (".csv", ".parquet", ".pq")
CHUNK = 50_000

FILES = pa.schema([("path", pa.string()), ("uri", pa.string()), ("bytes", pa.int64()), ("mtime_ns", pa.int64())])


@dataclass(frozen=True)
class Problem:
    """An entry of the source that cannot be used: where it is, what happened, what to do."""

    path: str
    error_type: str
    message: str


@dataclass(frozen=True)
class Listing:
    """The files of a source sorted by path (table ``FILES``, further columns for a list), and what could not be listed.

    ``name`` is the source's default name: the last part of its path, so that a source keeps its ids where it is moved.
    """

    name: str
    files: pa.Table
    is_list: bool
    hidden: int = 0
    problems: tuple[Problem, ...] = field(default=())

    def digest(self) -> str:
        """sha256 over every file's path, size and modification time, and for a list all its other columns."""
        digest = hashlib.sha256(b"list" if self.is_list else b"folder")
        for batch in self.files.to_batches(max_chunksize=CHUNK):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                digest.update(repr(row).encode("utf-8", "surrogateescape") + b"\n")
        for problem in self.problems:
            digest.update(repr(problem).encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()


def open_location(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a local path, ``file://`` or other URI, and the path within it."""
    if "://" not in uri:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        return pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, OSError) as error:
        raise StageError(
            f"cannot open {uri}: {error}. Give a local path, or a URI such as file:///data or s3://bucket/prefix."
        ) from error


def list_source(source: str | None) -> Listing:
    """List a folder or a list file.

    Raises ``StageError`` when there is no source, nothing is there, it cannot be read, or a list names a file twice.
    """
    if not source:
        raise StageError(
            "there is no source to curate. Pass --source with a folder, or with a CSV or Parquet list of files."
        )
    filesystem, root = open_location(source)
    try:
        info = filesystem.get_file_info(root)
    except OSError as error:
        raise StageError(f"cannot read the source {source}: {error}") from error
    if info.type == pafs.FileType.NotFound:
        raise StageError(
            f"the source {source} does not exist. Check --source; a relative path starts at the current folder."
        )
    name = root.rstrip("/").rsplit("/", 1)[-1] or "source"
    if info.type == pafs.FileType.File:
        if not root.lower().endswith(LIST_SUFFIXES):
            raise StageError(
                f"the source {source} is a single file, neither a folder nor a list. "
                f"Give its folder, or a list ending in {', '.join(LIST_SUFFIXES)}."
            )
        return _list_table(source, filesystem, root, name.rsplit(".", 1)[0])
    if isinstance(filesystem, pafs.LocalFileSystem):
        return _walk_local(source, root, name)
    return _walk_remote(source, filesystem, root, name)


# -- folders ---------------------------------------------------------------------------------------------------------


def _walk_local(source: str, root: str, name: str) -> Listing:
    """Walk a local folder. Links are followed; a link back to a folder that encloses it is not entered again."""
    columns: dict[str, list[Any]] = {"path": [], "uri": [], "bytes": [], "mtime_ns": []}
    chunks: list[pa.Table] = []
    problems: list[Problem] = []
    hidden = 0

    def flush() -> None:
        chunks.append(pa.table(columns, schema=FILES))
        for column in columns.values():
            column.clear()

    top = os.stat(root)
    stack: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset({(top.st_dev, top.st_ino)}))]
    while stack:
        folder, enclosing = stack.pop()
        try:
            entries = list(os.scandir(os.path.join(root, folder) if folder else root))
        except OSError as error:
            # going on would make every file below it look removed
            raise StageError(
                f"cannot list the folder {os.path.join(root, folder)} of the source {source}: {error.strerror}. "
                "Make it readable, or point --source elsewhere."
            ) from error
        for entry in entries:
            if entry.name.startswith("."):
                hidden += 1
                continue
            relative = f"{folder}/{entry.name}" if folder else entry.name
            try:
                stat = entry.stat()
                if entry.is_dir():
                    identity = (stat.st_dev, stat.st_ino)
                    if identity not in enclosing:
                        stack.append((relative, enclosing | {identity}))
                    continue
                if not entry.is_file():
                    continue  # sockets, pipes and devices hold no footage, and opening one can hang
            except OSError as error:
                problems.append(
                    Problem(_printable(relative), type(error).__name__, f"{error.strerror}: a broken link?")
                )
                continue
            if _printable(relative) != relative:
                problems.append(
                    Problem(_printable(relative), "FileNameError", "the file name is not valid UTF-8; rename the file")
                )
                continue
            columns["path"].append(relative)
            columns["uri"].append(os.path.join(root, relative))
            columns["bytes"].append(stat.st_size)
            columns["mtime_ns"].append(stat.st_mtime_ns)
            if len(columns["path"]) >= CHUNK:
                flush()
    flush()
    return _sorted_listing(name, pa.concat_tables(chunks), False, hidden, problems)


def _walk_remote(source: str, filesystem: pafs.FileSystem, root: str, name: str) -> Listing:
    try:
        infos = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    except OSError as error:
        raise StageError(f"cannot list the source {source}: {error}") from error
    base = source.split("?", 1)[0].rstrip("/")
    rows: list[tuple[str, str, int, int | None]] = []
    hidden = 0
    for info in infos:
        if info.type != pafs.FileType.File:
            continue
        relative = info.path[len(root.rstrip("/")) + 1 :]
        if any(part.startswith(".") for part in relative.split("/")):
            hidden += 1
            continue
        rows.append((relative, f"{base}/{quote(relative)}", info.size, info.mtime_ns))
    table = (
        pa.table([list(column) for column in zip(*rows, strict=True)], schema=FILES) if rows else FILES.empty_table()
    )
    return _sorted_listing(name, table, False, hidden, [])


def _sorted_listing(name: str, files: pa.Table, is_list: bool, hidden: int, problems: Sequence[Problem]) -> Listing:
    files = files.sort_by("path").combine_chunks()
    return Listing(name, files, is_list, hidden, tuple(sorted(problems, key=lambda p: p.path)))


def _printable(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# -- lists -----------------------------------------------------------------------------------------------------------


def _list_table(source: str, filesystem: pafs.FileSystem, root: str, name: str) -> Listing:
    """Read a list. Its files are looked up; one that is not there is a problem of its row, not of the run."""
    table = _read_list(source, filesystem, root)
    key = next((column for column in ("uri", "path") if column in table.column_names), None)
    if key is None:
        raise StageError(
            f"the list {source} has no column uri or path. Its columns are: {', '.join(table.column_names)}. "
            "Rename the one that locates the files."
        )
    clash = [column for column in ("bytes", "mtime_ns") if column in table.column_names]
    given = table.column(key).cast(pa.string())
    rest = table.drop_columns([key, *clash, *(["path"] if key == "uri" and "path" in table.column_names else [])])
    if given.null_count:
        row = pc.index(pc.is_null(given), True).as_py() + 1
        raise StageError(
            f"the list {source} has {given.null_count} rows without {key}, the first is row {row}. Remove them."
        )
    listed = rest.add_column(0, "path", given)
    listed = _without_repeats(source, listed)
    uris = [_absolute(path, filesystem, root) for path in listed.column("path").to_pylist()]
    found, problems = _look_up(listed.column("path").to_pylist(), uris)
    files = listed.add_column(1, FILES.field("uri"), pa.array(uris, pa.string()))
    files = files.append_column(FILES.field("bytes"), pa.array([f[0] if f else None for f in found], pa.int64()))
    files = files.append_column(FILES.field("mtime_ns"), pa.array([f[1] if f else None for f in found], pa.int64()))
    return _sorted_listing(name, files.filter(pc.is_valid(files.column("bytes"))), True, 0, problems)


def _read_list(source: str, filesystem: pafs.FileSystem, root: str) -> pa.Table:
    try:
        if not root.lower().endswith(".csv"):
            return pq.read_table(root, filesystem=filesystem)
        with filesystem.open_input_stream(root) as stream:
            text = dict.fromkeys(("uri", "path", "caption", "licence", "license"), pa.string())
            return pacsv.read_csv(
                stream,
                parse_options=pacsv.ParseOptions(newlines_in_values=True),
                convert_options=pacsv.ConvertOptions(column_types=text, strings_can_be_null=True),
            )
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise StageError(
            f"the list {source} cannot be read: {error}. It must be CSV with a header, or Parquet."
        ) from error


def _without_repeats(source: str, listed: pa.Table) -> pa.Table:
    """Rows that say the same thing twice become one; rows that contradict each other are the user's to settle."""
    counts = listed.group_by("path").aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts.column("count_all"), 1)).column("path")
    if not len(repeated):
        return listed
    mask = pc.is_in(listed.column("path"), value_set=repeated.combine_chunks())
    seen: dict[str, dict[str, Any]] = {}
    for row in listed.filter(mask).to_pylist():
        first = seen.setdefault(row["path"], row)
        if repr(first) != repr(row):
            raise StageError(
                f"the list {source} names {row['path']} more than once with different values. Keep one row for each file."
            )
    unique = pa.Table.from_pylist(list(seen.values()), schema=listed.schema)
    return pa.concat_tables([listed.filter(pc.invert(mask)), unique])


def _absolute(path: str, filesystem: pafs.FileSystem, root: str) -> str:
    """A listed entry as an absolute local path or URI; a relative one is relative to the list's own folder."""
    if path.startswith("file://"):
        return unquote(urlsplit(path).path)
    if "://" in path:
        return path
    if isinstance(filesystem, pafs.LocalFileSystem):
        return os.path.normpath(os.path.join(os.path.dirname(root), os.path.expanduser(path)))
    return f"{filesystem.type_name}://{root.rsplit('/', 1)[0]}/{quote(path)}"


def _look_up(paths: Sequence[str], uris: Sequence[str]) -> tuple[list[tuple[int, int | None] | None], list[Problem]]:
    """Size and modification time of each URI, or None with a problem for one that cannot be used."""
    found: list[tuple[int, int | None] | None] = [None] * len(uris)
    problems: list[Problem] = []
    filesystems: dict[str, pafs.FileSystem | StageError] = {}
    for index, (path, uri) in enumerate(zip(paths, uris, strict=True)):
        if "://" not in uri:
            try:
                stat = Path(uri).stat()
            except OSError as error:
                problems.append(
                    Problem(path, type(error).__name__, f"{error.strerror}: {uri} is listed but cannot be read")
                )
                continue
            if Path(uri).is_file():
                found[index] = (stat.st_size, stat.st_mtime_ns)
            else:
                problems.append(Problem(path, "NotAFile", f"{uri} is listed but is not a file"))
            continue
        info = _remote_info(uri, filesystems)
        if isinstance(info, str):
            problems.append(Problem(path, "SourceError", info))
        elif info.type != pafs.FileType.File:
            problems.append(Problem(path, "FileNotFoundError", f"{uri} is listed but is not there"))
        else:
            found[index] = (info.size, info.mtime_ns)
    return found, problems


def _remote_info(uri: str, filesystems: dict[str, pafs.FileSystem | StageError]) -> pafs.FileInfo | str:
    parts = urlsplit(uri)
    place = f"{parts.scheme}://{parts.netloc}"
    if place not in filesystems:
        try:
            filesystems[place] = open_location(uri)[0]
        except StageError as error:
            filesystems[place] = error
    filesystem = filesystems[place]
    if isinstance(filesystem, StageError):
        return str(filesystem)
    try:
        return filesystem.get_file_info(open_location(uri)[1])
    except (OSError, StageError) as error:
        return f"{uri}: {error}"


def chunks(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Plain rows, a bounded number at a time."""
    for batch in table.to_batches(max_chunksize=CHUNK):
        yield batch.to_pylist()

"""Lists what a source holds: a folder or bucket to its leaves, or a CSV, JSON Lines or Parquet list, with each file's change marks.

A million files are a few hundred MiB of Arrow columns; as Python objects there is never more than a chunk of them.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson
import pyarrow.parquet as pq

from stages import s3
from stages.contract import StageError
from stages.curation.columns import CHUNK, Rows
from stages.curation.tar_source import CONTROLS, is_tar, split_member_uri, without_controls
from stages.location import child_uri, in_threads, is_remote, open_location, why_not
from stages.machine import machine_failure
from stages.retried import retried

LIST_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet", ".pq")
FILES = pa.schema([("path", pa.string()), ("uri", pa.string()), ("bytes", pa.int64()), ("mtime_ns", pa.int64())])
PROBLEMS = pa.schema([("path", pa.string()), ("error_type", pa.string()), ("message", pa.string())])

_FOLDERS = 1000  # folders of a bucket's top that are listed one by one, so that no answer holds the whole bucket
_MEASURED = {
    "path",
    "bytes",
    "mtime_ns",
    "media_type",
}  # a list's own columns of these names are carried along as listed_<name>
_TEXT = ("uri", "path", "caption", "licence", "license")


@dataclass(frozen=True)
class Listing:
    """The files of a source sorted by path (table ``FILES``, further columns for a list), and what could not be listed (``PROBLEMS``).

    ``name`` is the source's default name: the last part of its path, so that a source keeps its ids where it is moved. Tars
    are files here; what they hold is seen by ``ingest``.
    """

    name: str
    files: pa.Table
    problems: pa.Table
    is_list: bool
    hidden: int = 0

    def digest(self) -> str:
        """sha256 over every file's path, size and modification time, for a list all its other columns, and the problems."""
        digest = hashlib.sha256(b"list" if self.is_list else b"folder")
        for table in (self.files, self.problems):
            for batch in table.to_batches(max_chunksize=CHUNK):
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    digest.update(repr(row).encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()


def list_source(source: str | None) -> Listing:
    """List a folder, a bucket or prefix, one tar, or a list file.

    Raises ``StageError`` when there is no source, nothing is there, or it cannot be read.
    """
    if not source:
        raise StageError(
            "there is no source to curate. Pass --source with a folder, a bucket, or a CSV, JSON Lines or Parquet list of files."
        )
    filesystem, root = open_location(source)
    try:
        info = filesystem.get_file_info(root)
    except OSError as error:
        raise StageError(f"cannot read the source {source}: {why_not(source, error)}.") from error
    if info.type == pafs.FileType.NotFound:
        raise StageError(f"the source {source} does not exist. {_where_to_look(source, filesystem, root)}")
    name = root.rstrip("/").rsplit("/", 1)[-1] or "source"
    if info.type == pafs.FileType.File:
        if is_tar(root):
            rows = Rows(FILES)
            rows.add(root.rsplit("/", 1)[-1], root if not is_remote(source) else source, info.size, info.mtime_ns)
            return Listing(name.rsplit(".", 1)[0], rows.table(), PROBLEMS.empty_table(), False)
        if not root.lower().endswith(LIST_SUFFIXES):
            raise StageError(
                f"the source {source} is a single file, neither a folder, a tar nor a list. "
                f"Give its folder, or a list ending in {', '.join(LIST_SUFFIXES)}."
            )
        return _list_table(source, filesystem, root, name.rsplit(".", 1)[0])
    if isinstance(filesystem, pafs.LocalFileSystem):
        return _walk_local(source, root, name)
    return _walk_remote(source, filesystem, root, name)


def _where_to_look(source: str, filesystem: pafs.FileSystem, root: str) -> str:
    if not is_remote(source):
        return "Check --source; a relative path starts at the current folder."
    bucket = root.split("/", 1)[0]
    try:
        filesystem.get_file_info(pafs.FileSelector(bucket))
    except OSError as error:
        return f"{why_not(source, error)}."
    return f"The bucket {bucket} is there, but nothing in it begins with {root.partition('/')[2]}/; check --source."


# -- folders ---------------------------------------------------------------------------------------------------------


def _walk_local(source: str, root: str, name: str) -> Listing:
    """Walk a local folder. Links are followed; a link back to a folder that encloses it is not entered again."""
    rows, problems = Rows(FILES), Rows(PROBLEMS)
    hidden = 0
    top = os.stat(root)
    stack: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset({(top.st_dev, top.st_ino)}))]
    while stack:
        folder, enclosing = stack.pop()
        for entry in _entries(source, os.path.join(root, folder) if folder else root):
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
                problems.add(_printable(relative), type(error).__name__, f"{error.strerror}: a broken link?")
                continue
            if _printable(relative) != relative:
                problems.add(_printable(relative), "FileNameError", "the file name is not valid UTF-8; rename the file")
                continue
            rows.add(relative, os.path.join(root, relative), stat.st_size, stat.st_mtime_ns)
    return _listing(name, rows.table(), problems, False, hidden)


def _entries(source: str, folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        # going on would make every file below it look removed
        raise StageError(
            f"cannot list the folder {folder} of the source {source}: {error.strerror}. "
            "Make it readable, or point --source elsewhere."
        ) from error


def _walk_remote(source: str, filesystem: pafs.FileSystem, root: str, name: str) -> Listing:
    rows = Rows(FILES)
    hidden = 0
    try:
        for path, size, mtime_ns in _objects(source, filesystem, root):
            relative = path[len(root.rstrip("/")) + 1 :]
            if any(part.startswith(".") for part in relative.split("/")):
                hidden += 1
            else:
                rows.add(relative, child_uri(source, relative), size, mtime_ns)
    except OSError as error:
        raise StageError(f"cannot list the source {source}: {why_not(source, error)}.") from error
    return _listing(name, rows.table(), Rows(PROBLEMS), False, hidden)


def _objects(source: str, filesystem: pafs.FileSystem, root: str) -> Iterator[tuple[str, int, int]]:
    """Path, bytes and modification time of every object below ``root``.

    S3 is read page by page. For other stores Arrow's answer is one list (150 MB a million objects), so the folders of the top
    are asked for one by one; where there are a great many, that would cost a request each, and all are asked for at once.
    """
    if isinstance(filesystem, pafs.S3FileSystem):
        bucket = root.split("/", 1)[0]
        yield from ((f"{bucket}/{one.key}", one.bytes, one.mtime_ns) for one in s3.objects(source))
        return
    top = filesystem.get_file_info(pafs.FileSelector(root))
    folders = [info.path for info in top if info.type == pafs.FileType.Directory]
    if len(folders) > _FOLDERS:
        answers: Iterable[list[pafs.FileInfo]] = [filesystem.get_file_info(pafs.FileSelector(root, recursive=True))]
    else:
        below = (filesystem.get_file_info(pafs.FileSelector(folder, recursive=True)) for folder in folders)
        answers = (answer for answers in ([top], below) for answer in answers)
    for answer in answers:
        yield from ((info.path, info.size, info.mtime_ns) for info in answer if info.type == pafs.FileType.File)


def _listing(name: str, files: pa.Table, problems: Rows, is_list: bool, hidden: int) -> Listing:
    strange = pc.match_substring_regex(files.column("path"), CONTROLS)
    for path in files.filter(strange).column("path").to_pylist():
        problems.add(without_controls(path), "FileNameError", "its name holds control characters; rename it")
    files = files.filter(pc.invert(strange))
    return Listing(name, files.sort_by("path").combine_chunks(), problems.table().sort_by("path"), is_list, hidden)


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
    given = table.column(key).cast(pa.string())
    rest = table.drop_columns([key])
    rest = rest.rename_columns([f"listed_{name}" if name in _MEASURED else name for name in rest.column_names])
    _each_once(source, rest.column_names)
    if given.null_count:
        row = pc.index(pc.is_null(given), True).as_py() + 1
        raise StageError(
            f"the list {source} has {given.null_count} rows without {key}, the first is row {row}. Remove them."
        )
    problems = Rows(PROBLEMS)
    listed = _without_repeats(rest.add_column(0, "path", given), problems)
    found = Rows(pa.schema([*list(FILES)[1:]]))
    for batch in listed.select(["path"]).to_batches(max_chunksize=CHUNK):
        paths = batch.column(0).to_pylist()
        uris = [_absolute(path, source, filesystem, root) for path in paths]
        for path, uri, state in zip(paths, uris, in_threads(_look_up, uris), strict=True):
            if isinstance(state, Exception):
                problems.add(path, type(state).__name__, f"{uri} is listed but cannot be read: {_why(uri, state)}")
                found.add(uri, None, None)
            else:
                found.add(uri, *state)
    for index, (column, field) in enumerate(zip(found.table().columns, list(FILES)[1:], strict=True)):
        listed = listed.add_column(1 + index, field, column)
    return _listing(name, listed.filter(pc.is_valid(listed.column("bytes"))), problems, True, 0)


def _read_list(source: str, filesystem: pafs.FileSystem, root: str) -> pa.Table:
    suffix = root.lower().rsplit(".", 1)[-1]
    try:
        if suffix in ("parquet", "pq"):
            _each_once(source, retried(lambda: pq.read_schema(root, filesystem=filesystem)).names)
            return _wide(retried(lambda: pq.read_table(root, filesystem=filesystem)))
        data = retried(lambda: _bytes(filesystem, root))
        return _wide(_read_csv(source, data) if suffix == "csv" else _read_json_lines(data))
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        failure = machine_failure(error, f"reading the list {source}")
        if failure is not None:
            raise failure from error
        raise StageError(
            f"the list {source} cannot be read: {why_not(source, error)}. "
            "It must be CSV with a header, JSON Lines, or Parquet."
        ) from error


def _bytes(filesystem: pafs.FileSystem, path: str) -> bytes:
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


def _each_once(source: str, names: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise StageError(f"the list {source} has more than one column {', '.join(twice)}. Rename or drop the others.")


def _read_json_lines(data: bytes) -> pa.Table:
    """JSON has no dates: what looks like one is text that somebody wrote, and stays as it was written."""
    text = dict.fromkeys(_TEXT, pa.string())
    while True:
        options = pajson.ParseOptions(explicit_schema=pa.schema(list(text.items())))
        table = pajson.read_json(pa.BufferReader(data), parse_options=options)
        dates = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
        if not dates:
            break
        text |= dict.fromkeys(dates, pa.string())
    absent = [n for n in _TEXT if n in table.column_names and table.column(n).null_count == table.num_rows]
    return table.drop_columns(absent)  # a column of the schema that no line has comes as nulls


def _read_csv(source: str, data: bytes) -> pa.Table:
    """Every column as text, then as numbers or truth values where the text loses nothing by it: 007 and NA stay as they are."""
    options = {"parse_options": pacsv.ParseOptions(newlines_in_values=True)}
    with pacsv.open_csv(pa.BufferReader(data), **options) as reader:
        names = reader.schema.names
    _each_once(source, names)
    table = pacsv.read_csv(
        pa.BufferReader(data),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
        **options,
    )
    for index, name in enumerate(table.column_names):
        if name not in _TEXT:
            table = table.set_column(index, name, _typed(table.column(name)))
    return table


def _typed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.null_count == len(column):
        return column
    if pc.all(pc.is_in(column.drop_null(), value_set=pa.array(["true", "false"]))).as_py():
        return pc.equal(column, "true")
    if pc.all(pc.match_substring_regex(column, r"^-?(0|[1-9][0-9]*)$")).as_py():
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            return column  # an id of twenty digits
    if pc.all(pc.match_substring_regex(column, r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?$")).as_py():
        numbers = column.cast(pa.float64())
        if all(Decimal(text) == Decimal(repr(number)) for text, number in _long(column, numbers)):
            return numbers
    return column


def _long(column: pa.ChunkedArray, numbers: pa.ChunkedArray) -> Iterator[tuple[str, float]]:
    """The numbers that were written with more digits than a float surely holds."""
    long = pc.fill_null(pc.greater(pc.utf8_length(column), sys.float_info.dig), False)
    return zip(column.filter(long).to_pylist(), numbers.filter(long).to_pylist(), strict=True)


def _wide(table: pa.Table) -> pa.Table:
    """Text with 64-bit offsets: a million long captions are more than Arrow's 2 GiB for one column of short ones."""
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type) and field.name not in ("uri", "path"):
            table = table.set_column(index, field.name, table.column(index).cast(pa.large_string()))
    return table


def _without_repeats(listed: pa.Table, problems: Rows) -> pa.Table:
    """Rows that say the same thing twice become one; a file that rows contradict each other about is a problem."""
    counts = listed.group_by("path").aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts.column("count_all"), 1)).column("path")
    if not len(repeated):
        return listed
    mask = pc.is_in(listed.column("path"), value_set=repeated.combine_chunks())
    rows = listed.filter(mask).sort_by("path")
    keep: list[int] = []
    path, said, agreed, index = None, "", True, 0
    for batch in rows.to_batches(max_chunksize=CHUNK):
        for row in batch.to_pylist():
            if row["path"] != path:
                path, said, agreed = row["path"], repr(row), True
                keep.append(index)
            elif agreed and repr(row) != said:
                agreed = False
                keep.pop()
                problems.add(
                    path, "ContradictingRows", "listed more than once with different values; keep one row for it"
                )
            index += 1
    return pa.concat_tables([listed.filter(pc.invert(mask)), rows.take(pa.array(keep, pa.int64()))])


def _absolute(path: str, source: str, filesystem: pafs.FileSystem, root: str) -> str:
    """A listed entry as an absolute local path or URI; a relative one is relative to the list's own folder."""
    if path.startswith("file://"):
        return unquote(urlsplit(path).path)
    if "://" in path:
        return path
    if isinstance(filesystem, pafs.LocalFileSystem):
        return os.path.normpath(os.path.join(os.path.dirname(root), os.path.expanduser(path)))
    parts = urlsplit(source)
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rsplit('/', 1)[0]}/{quote(path)}"
    return f"{base}?{parts.query}" if parts.query else base


def _look_up(uri: str) -> tuple[int, int | None] | Exception:
    """Size and modification time of a file, or of a tar's member, or why there is none."""
    try:
        member = split_member_uri(uri)
        filesystem, path = open_location(member[0] if member else uri)
        info = filesystem.get_file_info(path)
    except (OSError, StageError) as error:
        return error
    if info.type == pafs.FileType.NotFound:
        return FileNotFoundError(2, "there is nothing there")
    if info.type != pafs.FileType.File:
        return IsADirectoryError(21, "it is not a file")
    return member[1].bytes if member else info.size, info.mtime_ns


def _why(uri: str, error: Exception) -> str:
    return str(error) if isinstance(error, StageError) else why_not(uri, error)

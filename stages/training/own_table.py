"""Reads a user's own training data: one Parquet row per sample.

    video       path of the clip, relative to the table's folder or to ``media``; a URI such as s3://... is fetched
    prompt      the text
    references  path of a reference picture, or a list of up to four; null or absent trains without. A picture's alpha
                channel, where it has one, is its mask
    sample_id   optional name; by default a hash of the row
    kind        optional, in_pair or cross_pair
    split       optional, train or held_out
    loser       for preferences: the clip that lost against ``video``

Files that cannot be read are failed rows of the ledger; a table that cannot be used at all is an error with its remedy.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from data_schemas.ids import short_hash
from stages.contract import NotEnoughRows, Params, StageError, World
from stages.location import is_remote

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("video", "prompt", "references", "sample_id", "kind", "split", "loser")
KINDS = ("in_pair", "cross_pair")
SPLITS = ("train", "held_out")


class OwnParams(Params):
    """Where the user's table lies and what its columns are called."""

    table: str = Field(description="Parquet file or folder")
    media: str | None = Field(None, description="folder that relative paths start from; null is the table's own")
    columns: dict[str, str] = Field(default_factory=dict, description="the table's name of a column, by ours")


@dataclass(frozen=True)
class Row:
    """One row of a user's table, paths made absolute."""

    sample_id: str
    prompt: str
    references: tuple[str, ...]
    video: str | None
    kind: str | None
    split: str | None
    loser: str | None

    @property
    def files(self) -> list[str]:
        return [f for f in (self.video, *self.references, self.loser) if f is not None]


def read_rows(params: OwnParams, needs: Sequence[str]) -> list[Row]:
    """The table's rows; ``StageError`` names every column that is missing or of the wrong type, or the first bad row."""
    table = _read(params.table)
    names = {ours: params.columns.get(ours, ours) for ours in COLUMNS}
    strange = sorted(set(params.columns) - set(COLUMNS))
    if strange:
        raise StageError(f"columns names {', '.join(strange)}; there are {', '.join(COLUMNS)}")
    _check_columns(params, table, names, needs)
    columns = {ours: table.column(theirs).to_pylist() for ours, theirs in names.items() if theirs in table.column_names}
    root = params.media or _folder(params.table)
    rows = []
    for index in range(table.num_rows):
        value = {ours: column[index] for ours, column in columns.items()}
        for ours in needs:
            if value.get(ours) in (None, ""):
                raise StageError(f"{params.table}: row {index} has no {names[ours]}; fill it in, or leave the row out")
        for ours, allowed in (("kind", KINDS), ("split", SPLITS)):
            if value.get(ours) is not None and value[ours] not in allowed:
                raise StageError(
                    f"{params.table}: row {index}: {names[ours]} is {value[ours]!r}, must be {' or '.join(allowed)}"
                )
        references = value.get("references") or ()
        references = (references,) if isinstance(references, str) else tuple(references)
        rows.append(
            Row(
                sample_id=value.get("sample_id") or short_hash(*_identity(value, references)),
                prompt=value["prompt"],
                references=tuple(_absolute(root, r) for r in references),
                video=_absolute(root, value["video"]) if value.get("video") else None,
                kind=value.get("kind"),
                split=value.get("split"),
                loser=_absolute(root, value["loser"]) if value.get("loser") else None,
            )
        )
    twice = [sample_id for sample_id, count in Counter(r.sample_id for r in rows).items() if count > 1]
    if twice:
        raise StageError(
            f"{params.table}: sample {twice[0]} is there more than once; give each row a sample_id of its own"
        )
    unsafe = [r.sample_id for r in rows if not r.sample_id.replace("-", "").replace("_", "").replace(".", "").isalnum()]
    if unsafe:
        raise StageError(
            f"{params.table}: sample_id {unsafe[0]!r} is used in file names; use letters, digits, - _ and ."
        )
    return rows


def _identity(value: Mapping[str, Any], references: Sequence[str]) -> list[str]:
    return [value["prompt"], *references, value.get("video") or "", value.get("loser") or ""]


def _read(path: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.dataset as pads

    if not is_remote(path) and not Path(path).expanduser().exists():
        raise StageError(f"there is no table {path}. Give a Parquet file, or a folder of them.")
    try:
        source = path if is_remote(path) else str(Path(path).expanduser())
        table = pads.dataset(source, format="parquet").to_table()
    except (pa.ArrowInvalid, OSError) as error:
        raise StageError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    if not table.num_rows:
        raise NotEnoughRows(f"rows in {path}", 1, 0, "Give a table with one row per sample.")
    return table


def _check_columns(params: OwnParams, table: pa.Table, names: Mapping[str, str], needs: Sequence[str]) -> None:
    import pyarrow.types as types

    problems: list[str] = []
    missing: list[str] = []
    for ours, theirs in names.items():
        if theirs not in table.column_names:
            if ours in needs or ours in params.columns:
                close = get_close_matches(theirs, table.column_names, n=1, cutoff=0.5)
                problems.append(f"no column {theirs}" + (f" (did you mean {close[0]}?)" if close else ""))
                missing.append(ours)
            continue
        kind = table.schema.field(theirs).type
        many = ours == "references" and (types.is_list(kind) or types.is_large_list(kind))
        item = kind.value_type if many else kind
        if not (types.is_string(item) or types.is_large_string(item) or types.is_null(item)):
            wanted = "text or a list of text" if ours == "references" else "text"
            problems.append(f"column {theirs} is {kind}, must be {wanted}")
    if problems:
        raise StageError(
            f"{params.table}: {'; '.join(problems)}. It has {', '.join(table.column_names)}."
            + (f" Rename columns, or say which is which with --column {missing[0]}=NAME" if missing else "")
        )


def _folder(table: str) -> str:
    if is_remote(table):
        return table.rsplit("/", 1)[0]
    path = Path(table).expanduser().absolute()
    return str(path if path.is_dir() else path.parent)


def _absolute(root: str, path: str) -> str:
    if is_remote(path) or path.startswith("file://"):
        return path
    if is_remote(root):
        return f"{root.rstrip('/')}/{path}"
    return str((Path(root).expanduser() / Path(path).expanduser()).absolute())


def stamp(uri: str) -> tuple[object, ...]:
    """What tells whether a file is still the one it was; the URI alone where it does not lie on this machine."""
    try:
        stat = Path(uri.removeprefix("file://")).stat()
        return (uri, stat.st_size, stat.st_mtime_ns)
    except OSError:
        return (uri,)


def own_world(*needs: str) -> Callable[[OwnParams, World], Mapping[str, str]]:
    """The table's content, and size and time of every local file it names: a file that changed is encoded again."""

    def world(params: OwnParams, world: World) -> Mapping[str, str]:
        digest = hashlib.sha256()
        for row in read_rows(params, needs):
            digest.update(repr(row).encode())
            for file in row.files:
                digest.update(repr(stamp(file)).encode())
        return {"table": digest.hexdigest()}

    return world


def reachable(files: Sequence[str], params: OwnParams) -> None:
    """Stops where not one local file is there: then it is the folder that is wrong, not the files."""
    local = [f.removeprefix("file://") for f in files if not is_remote(f)]
    if local and not any(Path(f).is_file() for f in local):
        raise StageError(
            f"none of the {len(local):,} files that {params.table} names is there, first {local[0]}. Say where relative paths "
            "start with --media DIR"
        )

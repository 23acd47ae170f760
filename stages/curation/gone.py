"""Which files of a source were listed before and are not there any more: known from a register that only grows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.tables import SOURCES
from stages.contract import Context, Group, Records
from stages.curation.ledgers import ledger_table
from stages.curation.tar_source import split_member_uri

# A row for every video_id that was ever listed, as it was listed first; ``file`` is the listed file, for a member its tar.
LISTED = Group("listed", "1")
_STR = pa.string()
_ROW = pa.schema(
    [("record_key", _STR), ("source", _STR), ("file", _STR), ("path", _STR), ("uri", _STR), ("media_type", _STR),
     ("bytes", pa.int64())]
)  # fmt: skip

REMOVED, TAKEN_DOWN = "removed", "taken down"  # reasons in the ledger


class Register:
    """The files of one source that were ever listed on this store."""

    def __init__(self, records: Records | None, source: str) -> None:
        self.records, self.source = records, source
        table = records.read(LISTED) if records is not None else _ROW.empty_table()
        if table.num_rows:
            table = table.filter(pc.equal(table.column("source"), source))
            self.rows = table.select(_ROW.names).cast(_ROW)
        else:
            self.rows = _ROW.empty_table()

    def without(self, listed: pa.ChunkedArray) -> pa.Table:
        """Rows whose file is not among these paths."""
        return self.rows.filter(pc.invert(pc.is_in(self.rows.column("file"), value_set=listed.combine_chunks())))

    def add(self, table: pa.Table) -> None:
        """Enter the rows of ``sources`` that are new."""
        assert self.records is not None
        known = pc.is_in(table.column("video_id"), value_set=self.rows.column("record_key").combine_chunks())
        new = table.filter(pc.invert(known))
        if not new.num_rows:
            return
        paths, uris = new.column("path").to_pylist(), new.column("uri").to_pylist()
        rows = {
            "record_key": new.column("video_id"),
            "source": pa.repeat(self.source, new.num_rows),
            "file": pa.array([_file(path, uri) for path, uri in zip(paths, uris, strict=True)], _STR),
            **{name: new.column(name) for name in ("path", "uri", "media_type", "bytes")},
        }
        keys = new.column("video_id").to_pylist()
        self.records.shards([LISTED]).commit({LISTED.name: pa.table(rows, schema=_ROW)}, keys)


def _file(path: str, uri: str) -> str:
    """The path of the listed file: of the tar, for a member of one."""
    member = split_member_uri(uri)
    return path if member is None else path[: -len(member[1].name) - 1]


def outside(
    records: Records | None, source: str, listed: pa.ChunkedArray, taken_down: frozenset[str]
) -> Mapping[str, str]:
    """What the table of removed files depends on beside the listing, for the fingerprint; nothing when nothing is gone."""
    found = {}
    gone = Register(records, source).without(listed).column("record_key").to_pylist()
    for name, ids in ((REMOVED, gone), (TAKEN_DOWN, taken_down)):
        if ids:
            found[name] = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
    return found


def write_gone(ctx: Context, gone: pa.Table) -> int:
    """Write the removed files and say in the ledger that they are; returns how many. What was taken down has no row."""
    ids = gone.column("record_key")
    gone = gone.filter(pc.invert(pc.is_in(ids, value_set=pa.array(sorted(ctx.world.taken_down), _STR))))
    columns = {field.name: pa.nulls(gone.num_rows, field.type) for field in SOURCES.fields}
    columns |= {name: gone.column(name) for name in ("path", "uri", "media_type", "bytes")}
    table = SOURCES.validate(pa.table({**columns, "video_id": gone.column("record_key")}))
    ctx.write("removed", table)
    say_rejected(ctx, table.column("video_id"), REMOVED)
    return table.num_rows


def say_rejected(ctx: Context, ids: pa.ChunkedArray, reason: str) -> None:
    """Ledger rows of files that go no further."""
    ctx.ledger(ledger_table(ctx.name, ids, "rejected", video_id=ids, reason=pa.repeat(reason, len(ids))))

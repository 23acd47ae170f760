"""A table's contract: its fields with meaning and units, its key and its version, checked on every write and read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow as pa

TABLE_KEY = b"fulcrum.table"
VERSION_KEY = b"fulcrum.version"


class SchemaError(ValueError):
    """A table does not have the shape that its schema promises; the message names table, column and remedy."""


@dataclass(frozen=True)
class Field:
    """One column.

    ``unit`` is a physical unit (``s``, ``px``, ``frames``) or a range (``0..1``). ``telemetry`` marks what may differ
    between two runs of the same work (seconds, attempts, hosts): it is stored but never enters a digest.
    """

    name: str
    type: pa.DataType
    doc: str
    unit: str | None = None
    nullable: bool = True
    telemetry: bool = False

    def arrow(self) -> pa.Field:
        metadata = {"doc": self.doc}
        if self.unit:
            metadata["unit"] = self.unit
        if self.telemetry:
            metadata["telemetry"] = "true"
        return pa.field(self.name, self.type, nullable=self.nullable, metadata=metadata)


@dataclass(frozen=True)
class TableSchema:
    """The schema of one table.

    ``version`` is ``major.minor``: a reader accepts any minor of its own major (columns may be added, none may change
    meaning) and refuses every other major. ``key`` names the columns that identify a row. ``open`` allows further
    columns beside the declared ones (score columns of a user's own scorers, columns carried along from a source).
    """

    name: str
    version: str
    key: tuple[str, ...]
    fields: tuple[Field, ...]
    doc: str
    open: bool = False

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise SchemaError(f"table {self.name}: columns declared twice: {', '.join(twice)}")
        lost = [k for k in self.key if k not in names]
        if lost:
            raise SchemaError(f"table {self.name}: key columns that are not fields: {', '.join(lost)}")

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    @property
    def arrow(self) -> pa.Schema:
        metadata = {TABLE_KEY: self.name.encode(), VERSION_KEY: self.version.encode()}
        return pa.schema([f.arrow() for f in self.fields], metadata=metadata)

    @property
    def telemetry(self) -> frozenset[str]:
        return frozenset(f.name for f in self.fields if f.telemetry)

    def extend(self, fields: Iterable[Field]) -> TableSchema:
        """The same table with further columns, for scorers that declare their own."""
        return replace(self, fields=(*self.fields, *fields))

    def empty(self) -> pa.Table:
        return self.arrow.empty_table()

    def table(self, rows: Iterable[dict[str, object]]) -> pa.Table:
        """A validated table from plain rows; a key a row lacks becomes null, a key the schema lacks is an error."""
        rows = list(rows)
        if not self.open:
            names = {f.name for f in self.fields}
            for row in rows:
                extra = sorted(set(row) - names)
                if extra:
                    raise SchemaError(f"table {self.name} {self.version} has no column {', '.join(extra)}")
            return self.validate(_from_rows(rows, self.arrow))
        known = {f.name for f in self.fields}
        extras = sorted({k for row in rows for k in row} - known)
        columns = {name: pa.array([row.get(name) for row in rows]) for name in extras}
        base = _from_rows([{k: v for k, v in row.items() if k in known} for row in rows], self.arrow)
        for name, column in columns.items():
            base = base.append_column(name, column)
        return self.validate(base)

    def complete(self, table: pa.Table) -> pa.Table:
        """A validated table; nullable columns that ``table`` lacks become null."""
        for field in self.fields:
            if field.nullable and field.name not in table.column_names:
                table = table.append_column(field.arrow(), pa.nulls(table.num_rows, field.type))
        return self.validate(table)

    def validate(self, table: pa.Table) -> pa.Table:
        """The table with this schema's column order, types and metadata.

        Raises ``SchemaError`` when a column is missing, has a type that cannot be cast without loss, is null where it
        must not be, or is unknown to a closed table.
        """
        columns: list[pa.ChunkedArray] = []
        fields: list[pa.Field] = []
        problems: list[str] = []
        for field in self.fields:
            index = table.schema.get_field_index(field.name)
            if index < 0:
                problems.append(f"column {field.name} is missing ({field.doc})")
                continue
            column = table.column(index)
            if column.type != field.type:
                try:
                    column = column.cast(field.type)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    problems.append(f"column {field.name} is {column.type}, expected {field.type} ({error})")
                    continue
            if not field.nullable and column.null_count:
                problems.append(f"column {field.name} has {column.null_count} nulls and must have none")
                continue
            columns.append(column)
            fields.append(field.arrow())
        known = {f.name for f in self.fields}
        extra = [n for n in table.column_names if n not in known]
        if extra and not self.open:
            problems.append(f"columns not in the schema: {', '.join(extra)}")
        elif extra:
            for name in extra:
                columns.append(table.column(name))
                fields.append(table.schema.field(name))
        if problems:
            raise SchemaError(f"table {self.name} {self.version}: " + "; ".join(problems))
        return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=self.arrow.metadata))

    def check_readable(self, schema: pa.Schema, where: str) -> None:
        """Refuse a stored table that is another table, another major version, or lacks a column."""
        metadata = schema.metadata or {}
        name = metadata.get(TABLE_KEY, b"").decode() or None
        version = metadata.get(VERSION_KEY, b"").decode() or None
        if name != self.name:
            raise SchemaError(f"{where} holds table {name or 'of no known kind'}, expected {self.name}")
        if version is None or int(version.split(".")[0]) != self.major:
            raise SchemaError(
                f"{where} is {self.name} version {version}; this release reads {self.major}.x. "
                "Run the pipeline again with this release to rebuild it, or open it with the release that wrote it."
            )
        lost = [f.name for f in self.fields if schema.get_field_index(f.name) < 0 and not f.nullable]
        if lost:
            raise SchemaError(f"{where}: column {', '.join(lost)} is missing from table {self.name} {version}")

    def describe(self) -> dict[str, object]:
        """A plain description, the content of the golden file of each version."""
        return {
            "table": self.name,
            "version": self.version,
            "key": list(self.key),
            "open": self.open,
            "doc": self.doc,
            "fields": [
                {
                    "name": f.name,
                    "type": str(f.type),
                    "unit": f.unit,
                    "nullable": f.nullable,
                    "telemetry": f.telemetry,
                    "doc": f.doc,
                }
                for f in self.fields
            ],
        }

    def describe_json(self) -> str:
        return json.dumps(self.describe(), indent=2, ensure_ascii=False) + "\n"


def _from_rows(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        try:
            arrays.append(pa.array([row.get(field.name) for row in rows], type=field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise SchemaError(f"column {field.name}: {error}; expected {field.type}") from error
    return pa.Table.from_arrays(arrays, schema=schema)

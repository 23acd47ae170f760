"""Brings a review database of an older layout up to this release's: every answer, lease and event is kept.

In one transaction the old tables are put aside, the new ones made and filled, and the old ones dropped; whoever opens the
database meanwhile waits, and a kill leaves the old layout. Beside a SQLite file a copy of the old one is kept first.

| layout | what it lacks |
|---|---|
| 1 | tokens, gold answers, ratings, hidden facts, drafts, tallies; payload digests knew no rubric of dimensions |
| 2 | tallies, in its first form; it kept failures that are rows of the ledger now |
"""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stages.review import schema
from stages.review.errors import ReviewError
from stages.review.spec import CampaignSpec, payload_digest
from stages.review.tallies import retally

OLDEST = 1
_ASIDE = "before_migration"  # PostgreSQL's schema, or the prefix of SQLite's tables, of what is being replaced
_BATCH = 500


def keep_copy(url: sa.URL, layout: int) -> Path | None:
    """Copy a SQLite database as it is beside itself, once; None for a server, whose operator has backups."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    copy = Path(f"{url.database}.layout{layout}")
    if not copy.exists():
        unfinished = copy.with_name(f"{copy.name}.unfinished")
        unfinished.unlink(missing_ok=True)
        with sqlite3.connect(url.database) as source, sqlite3.connect(unfinished) as target:
            source.backup(target)
        target.close()
        source.close()
        unfinished.replace(copy)
    return copy


def migrate(connection: Connection, layout: int) -> None:
    """Inside the caller's transaction: from ``layout`` to the present one. Raises ``ReviewError`` for what cannot be kept."""
    old = sa.MetaData()
    there = set(sa.inspect(connection).get_table_names())
    aside = _put_aside(connection, [t.name for t in schema.metadata.sorted_tables if t.name in there])
    schema.metadata.create_all(connection)
    for table in schema.metadata.sorted_tables:
        if table.name in aside and table.name not in ("meta", "tally"):
            _copy(
                connection,
                sa.Table(aside[table.name], old, schema=_schema(connection), autoload_with=connection),
                table,
            )
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT setval(pg_get_serial_sequence('event', 'id'), (SELECT coalesce(max(id), 1) FROM event))"
        )
    for row in connection.execute(sa.select(schema.campaign.c.id, schema.campaign.c.spec)).all():
        _bring_up(connection, row.id, row.spec, layout)
    connection.execute(schema.meta.insert().values(key="schema_version", value=str(schema.SCHEMA_VERSION)))
    connection.execute(
        schema.event.insert().values(
            at=time.time(), actor="system", kind="migrated", detail=json.dumps({"from": layout, "to": schema.SCHEMA_VERSION})
        )
    )  # fmt: skip
    _drop(connection, list(aside.values()))


def _bring_up(connection: Connection, campaign: str, text: str, layout: int) -> None:
    """A campaign's settings with those that came since, its items' digests as they are made now, and its tallies."""
    try:
        spec = CampaignSpec.model_validate_json(text)
    except ValueError as error:
        raise ReviewError(f"Campaign {campaign} has settings that this release does not know: {error}") from error
    of = schema.campaign.c.id == campaign
    connection.execute(schema.campaign.update().where(of).values(spec=spec.model_dump_json()))
    query = sa.select(schema.item.c.id, schema.item.c.payload).where(schema.item.c.campaign_id == campaign)
    items = connection.execute(query).all()
    for start in range(0, len(items), _BATCH):
        part = items[start : start + _BATCH]
        if layout == 1:
            rows = [{"item": row.id, "digest": payload_digest(spec, json.loads(row.payload))} for row in part]
            update = schema.item.update().where(schema.item.c.id == sa.bindparam("item"))
            connection.execute(update.values(payload_digest=sa.bindparam("digest")), rows)
        retally(connection, spec, [row.id for row in part])


def _copy(connection: Connection, old: sa.Table, new: sa.Table) -> None:
    """All rows, in the columns that both have; the others take their defaults."""
    columns = [c.name for c in new.columns if c.name in old.columns]
    connection.execute(new.insert().from_select(columns, sa.select(*(old.c[name] for name in columns))))


def _schema(connection: Connection) -> str | None:
    return _ASIDE if connection.dialect.name == "postgresql" else None


def _put_aside(connection: Connection, names: list[str]) -> dict[str, str]:
    """Move the tables out of the way, with their indexes; by name what they are called now."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"CREATE SCHEMA {_ASIDE}")
        for name in names:
            connection.exec_driver_sql(f'ALTER TABLE "{name}" SET SCHEMA {_ASIDE}')
        return {name: name for name in names}
    indexes = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    for (index,) in indexes.all():
        connection.exec_driver_sql(f'DROP INDEX "{index}"')
    for name in names:
        connection.exec_driver_sql(f'ALTER TABLE "{name}" RENAME TO "{_ASIDE}_{name}"')
    return {name: f"{_ASIDE}_{name}" for name in names}


def _drop(connection: Connection, names: list[str]) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"DROP SCHEMA {_ASIDE} CASCADE")
        return
    for name in reversed(names):
        connection.exec_driver_sql(f'DROP TABLE "{name}"')

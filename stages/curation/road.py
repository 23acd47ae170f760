"""The way of the footage through the stages: how much was left after each, and why the rest was not.

Everything is summed by DuckDB over the committed tables, so that ten million clips need no more than their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import pyarrow.dataset as pads

if TYPE_CHECKING:
    import duckdb


class Tables(Protocol):
    """Where tables are found by name: a stage's context, or a committed run."""

    def has(self, name: str) -> bool: ...

    def dataset(self, name: str) -> pads.Dataset: ...


@dataclass(frozen=True)
class Loss:
    """Records that a step did not let through, and why. ``hours`` is null where the records have no known length."""

    reason: str
    records: int
    hours: float | None


@dataclass(frozen=True)
class Level:
    """How much was left after a step. ``share`` is of the widest level, for drawing."""

    name: str
    records: int
    unit: str
    hours: float | None
    losses: list[Loss] = field(default_factory=list)
    share: float = 0.0


SHOTS, RULES, UNIQUE, QUOTAS, EXPORTED = (
    "shots",
    "pass the rules",
    "are not duplicates",
    "are within the quotas",
    "exported",
)

# By table: the level's name, and the clips that go no further with the reason. The clips of the last three are those left.
_STEPS: tuple[tuple[str, str, str], ...] = (
    ("selection", RULES, "SELECT clip_id, first_failing_rule AS reason FROM selection WHERE NOT kept"),
    ("dedupe", UNIQUE, "SELECT clip_id, kind || ' duplicate' AS reason FROM dedupe WHERE NOT kept"),
    (
        "balance",
        QUOTAS,
        "SELECT clip_id, if(quota = 'total', 'over max_total', 'over the quota of its ' || quota) AS reason "
        "FROM balance WHERE NOT kept",
    ),
    (
        "verdicts",
        "",
        "SELECT external_id AS clip_id, CASE WHEN verdict = 'in_review' THEN 'undecided' WHEN verdict <> 'reject' THEN verdict "
        "WHEN len(reasons) = 0 THEN 'rejected' ELSE 'rejected: ' || array_to_string(list_sort(reasons), ', ') END AS reason "
        "FROM verdicts WHERE verdict <> 'accept'",
    ),
    ("subset", EXPORTED, "SELECT clip_id, 'not exported' AS reason FROM alive ANTI JOIN subset USING (clip_id)"),
    (
        "subjects",
        "show a subject",
        "SELECT clip_id, 'no subject' AS reason FROM alive ANTI JOIN subjects USING (clip_id)",
    ),
    ("pairs", "are paired", "SELECT clip_id, 'no pair' AS reason FROM alive ANTI JOIN pairs USING (clip_id)"),
)


def road(tables: Tables, reviewers: Sequence[str] = ()) -> list[Level]:
    """Levels from source files to training samples, as far as the tables reach; hours are of footage."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        levels = [_files(connection, tables)] if tables.has("videos") else []
        connection.register("clips", tables.dataset("clips"))
        connection.execute("CREATE TABLE alive AS SELECT clip_id, duration_s FROM clips")
        levels.append(_left(connection, SHOTS, []))
        for name, level, gone in _STEPS:
            if not tables.has(name):
                continue
            connection.register(name, tables.dataset(name))
            losses = _take_away(connection, gone)
            levels.append(_left(connection, level or f"accepted by {_who(reviewers)}", losses))
            connection.unregister(name)
    # Files are another unit than clips: the bars compare clips with clips.
    widest = max((level.records for level in levels if level.unit == "clips"), default=1)
    return [
        Level(v.name, v.records, v.unit, v.hours, v.losses, v.records / max(1, widest) if v.unit == "clips" else 1.0)
        for v in levels
    ]


def _who(reviewers: Sequence[str]) -> str:
    scripted = bool(reviewers) and all(name.startswith("script:") for name in reviewers)
    return f"the scripted reviewer ({', '.join(reviewers)})" if scripted else "people"


def _take_away(connection: duckdb.DuckDBPyConnection, gone: str) -> list[Loss]:
    """Take the clips that are gone out of ``alive``; what they were, most first."""
    connection.execute(f"CREATE OR REPLACE TEMP TABLE gone AS {gone}")
    counted = connection.execute(
        "SELECT coalesce(reason, 'no reason given'), count(*), sum(duration_s) FROM alive JOIN gone USING (clip_id) GROUP BY 1 "
        "ORDER BY 2 DESC, 1"
    ).fetchall()
    connection.execute("CREATE OR REPLACE TABLE alive AS SELECT alive.* FROM alive ANTI JOIN gone USING (clip_id)")
    return [Loss(reason, records, seconds / 3600) for reason, records, seconds in counted]


def _left(connection: duckdb.DuckDBPyConnection, name: str, losses: list[Loss]) -> Level:
    records, seconds = connection.execute("SELECT count(*), coalesce(sum(duration_s), 0) FROM alive").fetchall()[0]
    return Level(name, records, "clips", seconds / 3600, losses)


def _files(connection: duckdb.DuckDBPyConnection, tables: Tables) -> Level:
    connection.register("videos", tables.dataset("videos"))
    seconds, photos, videos = connection.execute(
        "SELECT coalesce(sum(duration_s) FILTER (media_type = 'video'), 0), count(*) FILTER (media_type = 'image'), "
        "count(*) FILTER (media_type = 'video') FROM videos WHERE status = 'ok'"
    ).fetchall()[0]
    bad = connection.execute(
        "SELECT coalesce(error_type, status), count(*) FROM videos WHERE status = 'failed' GROUP BY 1 ORDER BY 2 DESC, 1"
    ).fetchall()
    losses = [Loss(f"unreadable: {reason}", records, None) for reason, records in bad]
    name = f"readable files, {videos:,} videos and {photos:,} photographs"
    return Level(name, videos + photos, "files", seconds / 3600, losses)


@dataclass(frozen=True)
class Failure:
    """Records of one stage that failed in one way, with what one of them said."""

    stage: str
    error_type: str
    records: int
    example: str


def failures(ledger: pads.Dataset) -> list[Failure]:
    """What failed, by stage and kind of error, most first."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        connection.register("ledger", ledger)
        rows = connection.execute(
            "SELECT stage, coalesce(error_type, 'unknown'), count(*), coalesce(min(error_message), '') FROM ledger "
            "WHERE status = 'failed' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
        ).fetchall()
    return [Failure(*row) for row in rows]

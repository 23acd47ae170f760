"""Puts the tables of ``analyze`` together from what its workers recorded, with Arrow and DuckDB."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.ids import clip_id
from data_schemas.tables import CLIPS, KEYFRAMES, VIDEOS
from stages.contract import Context, Group, Keys
from stages.curation.analyze_worker import FACTS, FAILED, SHOTS, TABLES, Outcome, failed_group, scorer_group
from stages.curation.analyze_worker import KEYFRAMES as KEYFRAME_GROUP
from stages.curation.joins import connect, quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from models.scorers.base import Scorer
    from models.video.analyze import Shot

_VIDEOS_AT_A_TIME = 20_000  # with all scores of all their shots some hundred MiB
_PICTURED_AT_A_TIME = 1000  # key frames of this many videos at once: some hundred MiB as well


def shots_by_key(recorded: pa.Table) -> dict[str, tuple[Shot, ...]]:
    """Recorded shots by content key, in order."""
    from models.video.analyze import Shot

    found: dict[str, list[Shot]] = {}
    if "shot" in recorded.column_names:
        for row in recorded.sort_by([("record_key", "ascending"), ("shot", "ascending")]).to_pylist():
            key = row.pop("record_key")
            row.pop("shot")
            found.setdefault(key, []).append(Shot(**row))
    return {key: tuple(shots) for key, shots in found.items()}


def write_outputs(
    ctx: Context,
    sources: pa.Table,
    groups: Mapping[str, Group],
    scorers: Mapping[str, type[Scorer]],
    unread: Mapping[str, Outcome],
    seconds: Sequence[pa.Table],
) -> None:
    """Write videos, shots, keyframes and the ledger. ``sources`` has its content key in ``sha256``, null where unread.

    Some thousand videos at a time, in order of their content keys, which is the order of what is recorded: so every record
    is read about once. Key frames come last, in the order in which they lie. What stays in memory of a video are its keys.
    """
    with connect() as db:
        db.register("failed", _failures(ctx, groups[failed_group(FACTS)]))
        for name in scorers:
            db.register(f"failed_{name}", _failures(ctx, groups[failed_group(scorer_group(name))]))
        db.register("unread", _unread(unread))
        db.register("spent", pa.concat_tables([spent({}), *seconds]))
        sources = sources.append_column("row", pa.array(np.arange(sources.num_rows)))
        order = pc.sort_indices(sources, sort_keys=[("sha256", "ascending")])
        done = dict(zip(groups, ctx.records.done_each(list(groups.values())), strict=True))
        content = pc.unique(sources.column("sha256").drop_null())
        places = ClipPlaces(content.take(pc.sort_indices(content)))
        for start in range(0, max(sources.num_rows, 1), _VIDEOS_AT_A_TIME):
            some = order.slice(start, _VIDEOS_AT_A_TIME)
            part = sources.take(some.take(pc.sort_indices(some)))  # among themselves as they were listed
            places.add(_write_part(ctx, db, part, groups, done, scorers))
    del sources
    _write_keyframes(ctx, groups[KEYFRAME_GROUP], places)
    if ctx.has("removed"):
        _write_removed(ctx)


def _write_part(
    ctx: Context,
    db: DuckDBPyConnection,
    sources: pa.Table,
    groups: Mapping[str, Group],
    done: Mapping[str, Keys],
    scorers: Mapping[str, type[Scorer]],
) -> pa.Table:
    """Write what is known of some of the sources but key frames; returns clip_id, content key and number of each shot."""
    content = pc.unique(sources.column("sha256").drop_null())

    def recorded(group: str, schema: pa.Schema) -> pa.Table:
        return _read(ctx, groups[group], content.filter(done[group].mask(content)), schema)

    db.register("sources", sources)
    db.register("facts", recorded(FACTS, TABLES[FACTS]))
    db.register("shots", recorded(SHOTS, TABLES[SHOTS]))
    for name, scorer in scorers.items():
        schema = pa.schema([*list(TABLES[SHOTS])[:2], *((c.name, c.type) for c in scorer.columns)])
        db.register(f"score_{name}", recorded(scorer_group(name), schema))
    videos = _write_videos(ctx, db)
    db.register("videos", videos)
    _write_ledger(ctx, db, scorers)
    return _write_shots(ctx, db, scorers)


def _write_removed(ctx: Context) -> None:
    """A row for every file that is gone from the source: what it was, and nothing that came out of it."""
    for batch in ctx.dataset("removed").to_batches():
        columns = {field.name: pa.nulls(batch.num_rows, field.type) for field in VIDEOS.fields}
        columns |= {name: batch.column(name) for name in batch.schema.names if name in columns}
        columns["status"] = pa.repeat("removed", batch.num_rows)
        ctx.write("videos", VIDEOS.validate(pa.table(columns)))


def _write_videos(ctx: Context, db: DuckDBPyConnection) -> pa.Table:
    columns = [f.name for f in VIDEOS.fields]
    from_source = ", ".join(f"s.{c}" for c in columns[: columns.index("sha256") + 1])
    videos = db.sql(
        f"""
        select {from_source}, f.duration_s, f.fps, f.width, f.height, f.codec, f.rotation, f.frames, f.decode_errors,
               f.time_faults,
               case when f.record_key is not null then 'ok' else 'failed' end as status,
               case when f.record_key is null then coalesce(x.error_type, u.error_type, 'Unknown') end as error_type,
               case when f.record_key is null then
                   s.path || ': ' || coalesce(x.error_message, u.error_message, 'no result was recorded') end as error_message
        from sources s
        left join facts f on f.record_key = s.sha256
        left join failed x on x.sha256 = s.sha256
        left join unread u on u.video_id = s.video_id
        order by s.row
        """
    ).to_arrow_table()
    videos = VIDEOS.validate(videos)
    ctx.write("videos", videos)
    return videos


def _write_shots(ctx: Context, db: DuckDBPyConnection, scorers: Mapping[str, type[Scorer]]) -> pa.Table:
    """Write one row a shot and video, every score column beside it; returns clip_id, content key and shot number."""
    scores = "".join(f", {quoted(c.name)}" for s in scorers.values() for c in s.columns)
    joins = " ".join(
        f"left join {quoted('score_' + n)} on {quoted('score_' + n)}.record_key = h.record_key "
        f"and {quoted('score_' + n)}.shot = h.shot"
        for n in scorers
    )
    rows = db.sql(
        f"""
        select s.video_id, s.uri as video_uri, h.start_s, h.end_s, h.start_frame, h.end_frame, h.boundary_in, h.boundary_out,
               h.end_s - h.start_s as duration_s, f.width, f.height, coalesce(f.fps, 0.0) as fps,
               h.record_key as content, h.shot {scores}
        from sources s join facts f on f.record_key = s.sha256 join shots h on h.record_key = s.sha256 {joins}
        order by s.row, h.shot
        """
    ).to_arrow_table()
    names = (rows.column(name).to_pylist() for name in ("video_id", "start_frame", "end_frame"))
    ids = pa.array([clip_id(*name) for name in zip(*names, strict=True)], pa.string())
    rows = rows.append_column("clip_id", ids)
    schema = CLIPS.extend(column for scorer in scorers.values() for column in scorer.columns)
    ctx.write("shots", schema.validate(rows.drop_columns(["content", "shot"])))
    return rows.select(["clip_id", "content", "shot"])


def _write_keyframes(ctx: Context, group: Group, places: ClipPlaces) -> None:
    """Write key frames of some videos at a time, as they lie in the records: pictures never go through a join or a sort."""
    content = ctx.records.as_stored(group, places.content)
    numbers = pc.index_in(content, value_set=places.content).to_numpy()
    for start in range(0, len(content), _PICTURED_AT_A_TIME):
        some = content.slice(start, _PICTURED_AT_A_TIME)
        frames = _read(ctx, group, some, TABLES[KEYFRAME_GROUP])
        here = pc.index_in(frames.column("record_key"), value_set=some).to_numpy()
        at, clip_ids = places.of_shots(numbers[start + here], frames.column("shot").to_numpy())
        rows = frames.take(pa.array(at)).drop_columns(["record_key", "shot"])
        ctx.write("keyframes", KEYFRAMES.validate(rows.append_column("clip_id", clip_ids)))


class ClipPlaces:
    """Which clips show a shot of some content: some 30 bytes a clip. ``content`` are all content keys, sorted."""

    def __init__(self, content: pa.StringArray) -> None:
        self.content = content
        self._ids: list[pa.StringArray] = []
        self._shots: list[np.ndarray] = []
        self._all: tuple[np.ndarray, pa.StringArray] | None = None

    def add(self, clips: pa.Table) -> None:
        """Take clips in: clip_id, content, shot. Cheap where their content keys are neighbours."""
        if not clips.num_rows:
            return
        ends = pc.min_max(clips.column("content"))
        first, last = (
            bisect.bisect_left(self.content, ends[end].as_py(), key=lambda v: v.as_py()) for end in ("min", "max")
        )
        inside = self.content.slice(first, last - first + 1)
        number = first + pc.index_in(clips.column("content"), value_set=inside).to_numpy().astype(np.int64)
        self._ids.append(clips.column("clip_id").combine_chunks())
        self._shots.append(_shot_number(number, clips.column("shot").to_numpy()))

    def of_shots(self, content: np.ndarray, shot: np.ndarray) -> tuple[np.ndarray, pa.Array]:
        """For each shot of the content with this number, int (N,) both: the row that names it and the clip that shows it, as
        often as there are such clips."""
        if self._all is None:
            shots = np.concatenate([np.zeros(0, np.int64), *self._shots])
            order = np.argsort(shots, kind="stable")
            ids = pa.concat_arrays([pa.array([], pa.string()), *self._ids])
            self._all = shots[order], ids.take(pa.array(order))
            self._ids, self._shots = [], []
        shots, ids = self._all
        wanted = _shot_number(content, shot)
        first = np.searchsorted(shots, wanted, side="left")
        count = np.searchsorted(shots, wanted, side="right") - first
        at = np.repeat(np.arange(len(wanted)), count)
        nth = np.arange(len(at)) - np.repeat(np.cumsum(count) - count, count)
        return at, ids.take(pa.array(first[at] + nth))


def _shot_number(content: np.ndarray, shot: np.ndarray) -> np.ndarray:
    """One number for each shot of each content. int64 (N,)."""
    return (content.astype(np.int64) << 32) | shot.astype(np.int64)


def _write_ledger(ctx: Context, db: DuckDBPyConnection, scorers: Mapping[str, type[Scorer]]) -> None:
    stage = ctx.name.replace("'", "''")
    rows = db.sql(
        f"""
        select v.video_id as record_id, v.video_id, '{stage}' as stage,
               case when v.status = 'ok' then 'accepted' else 'failed' end as status, null::varchar as reason,
               v.error_type, v.error_message, coalesce(x.attempt, 1)::int as attempts, p.seconds
        from videos v left join failed x on x.sha256 = v.sha256 left join spent p on p.video_id = v.video_id
        """
    ).to_arrow_table()
    ctx.ledger(rows)
    for name in scorers:
        scorer = f"{stage}: {name}".replace("'", "''")
        rows = db.sql(
            f"""
            select v.video_id as record_id, v.video_id, '{scorer}' as stage, 'failed' as status, null::varchar as reason,
                   x.error_type, x.error_message, x.attempt::int as attempts, null::double as seconds
            from videos v join {quoted("failed_" + name)} x on x.sha256 = v.sha256
            where v.status = 'ok' and not exists (select 1 from {quoted("score_" + name)} d where d.record_key = v.sha256)
            """
        ).to_arrow_table()
        if rows.num_rows:
            ctx.ledger(rows)


# -- what is recorded ------------------------------------------------------------------------------------------------


def _read(ctx: Context, group: Group, keys: pa.Array, schema: pa.Schema) -> pa.Table:
    table = ctx.records.read(group, keys)
    return (
        table.select(schema.names).cast(schema)
        if set(schema.names) <= set(table.column_names)
        else schema.empty_table()
    )


def _failures(ctx: Context, group: Group) -> pa.Table:
    """The last failure of each content key."""
    table = ctx.records.read(group)
    if not table.num_rows:
        return FAILED.empty_table()
    table = table.select(FAILED.names).cast(FAILED).sort_by([("sha256", "ascending"), ("attempt", "descending")])
    first = pc.not_equal(table.column("sha256").slice(1), table.column("sha256").slice(0, table.num_rows - 1))
    return table.filter(pa.chunked_array([pa.array([True]), *first.chunks]))


def _unread(unread: Mapping[str, Outcome]) -> pa.Table:
    rows = [{"video_id": v, "error_type": o.error_type, "error_message": o.error_message} for v, o in unread.items()]
    text = pa.string()
    return pa.Table.from_pylist(rows, pa.schema([("video_id", text), ("error_type", text), ("error_message", text)]))


def spent(seconds: Mapping[str, float]) -> pa.Table:
    """Seconds of work by video_id, as columns."""
    return pa.table(
        {"video_id": pa.array(list(seconds), pa.string()), "seconds": pa.array(list(seconds.values()), pa.float64())}
    )

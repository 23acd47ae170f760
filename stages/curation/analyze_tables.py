"""Puts the tables of ``analyze`` together from what its workers recorded, with Arrow and DuckDB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.ids import clip_id
from data_schemas.tables import CLIPS, KEYFRAMES, LEDGER, VIDEOS
from stages.contract import Context, Group
from stages.curation.analyze_worker import FACTS, FAILED, SHOTS, TABLES, Outcome, failed_group, scorer_group
from stages.curation.analyze_worker import KEYFRAMES as KEYFRAME_GROUP

if TYPE_CHECKING:
    from models.scorers.base import Scorer
    from models.video.analyze import Shot

_VIDEOS_AT_A_TIME = 2000  # key frames are read for this many videos at once: some hundred MiB


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
    seconds: Mapping[str, float],
) -> None:
    """Write videos, shots, keyframes and the ledger. ``sources`` has its content key in ``sha256``, null where unread."""
    import duckdb

    db = duckdb.connect()
    db.register("sources", sources.append_column("row", pa.array(range(sources.num_rows), pa.int64())))
    keys = pc.unique(sources.column("sha256").drop_null())
    db.register("facts", _read(ctx, groups[FACTS], keys, TABLES[FACTS]))
    db.register("shots", _read(ctx, groups[SHOTS], keys, TABLES[SHOTS]))
    db.register("failed", _failures(ctx, groups[failed_group(FACTS)]))
    db.register("unread", _unread(unread))
    db.register("spent", _spent(seconds))
    for name, scorer in scorers.items():
        schema = pa.schema([*list(TABLES[SHOTS])[:2], *((c.name, c.type) for c in scorer.columns)])
        db.register(f"score_{name}", _read(ctx, groups[scorer_group(name)], keys, schema))
    videos = _write_videos(ctx, db)
    clips = _write_shots(ctx, db, scorers)
    _write_keyframes(ctx, groups[KEYFRAME_GROUP], clips, keys)
    db.register("videos", videos)
    _write_ledger(ctx, db, groups, scorers)


def _write_videos(ctx: Context, db: object) -> pa.Table:
    columns = [f.name for f in VIDEOS.fields]
    from_source = ", ".join(f"s.{c}" for c in columns[: columns.index("sha256") + 1])
    videos = db.sql(  # type: ignore[attr-defined]
        f"""
        select {from_source}, f.duration_s, f.fps, f.width, f.height, f.codec, f.rotation, f.frames,
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


def _write_shots(ctx: Context, db: object, scorers: Mapping[str, type[Scorer]]) -> pa.Table:
    """Write one row a shot and video, every score column beside it; returns clip_id, content key and shot number."""
    scores = "".join(f", {_quoted(c.name)}" for s in scorers.values() for c in s.columns)
    joins = " ".join(
        f"left join {_quoted('score_' + n)} on {_quoted('score_' + n)}.record_key = h.record_key "
        f"and {_quoted('score_' + n)}.shot = h.shot"
        for n in scorers
    )
    rows = db.sql(  # type: ignore[attr-defined]
        f"""
        select s.video_id, s.uri as video_uri, h.start_s, h.end_s, h.start_frame, h.end_frame, h.boundary_in, h.boundary_out,
               h.end_s - h.start_s as duration_s, f.width, f.height, coalesce(f.fps, 0.0) as fps,
               h.record_key as content, h.shot {scores}
        from sources s join facts f on f.record_key = s.sha256 join shots h on h.record_key = s.sha256 {joins}
        order by s.row, h.shot
        """
    ).to_arrow_table()
    ids = pa.array(
        [
            clip_id(*row)
            for batch in rows.select(["video_id", "start_frame", "end_frame"]).to_batches(max_chunksize=50_000)
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        ],
        pa.string(),
    )
    rows = rows.append_column("clip_id", ids)
    schema = CLIPS.extend(column for scorer in scorers.values() for column in scorer.columns)
    ctx.write("shots", schema.validate(rows.drop_columns(["content", "shot"])))
    return rows.select(["clip_id", "content", "shot"])


def _write_keyframes(ctx: Context, group: Group, clips: pa.Table, keys: pa.Array) -> None:
    """Key frames are read and written for some videos at a time: pictures never go through a join or a sort."""
    by_content: dict[tuple[str, int], list[str]] = {}
    for clip, content, shot in zip(*(clips.column(n).to_pylist() for n in ("clip_id", "content", "shot")), strict=True):
        by_content.setdefault((content, shot), []).append(clip)
    for start in range(0, len(keys), _VIDEOS_AT_A_TIME):
        frames = _read(ctx, group, keys.slice(start, _VIDEOS_AT_A_TIME), TABLES[KEYFRAME_GROUP])
        places = zip(frames.column("record_key").to_pylist(), frames.column("shot").to_pylist(), strict=True)
        pairs = [(n, clip) for n, place in enumerate(places) for clip in by_content.get(place, ())]
        rows = frames.take(pa.array([n for n, _ in pairs], pa.int64())).drop_columns(["record_key", "shot"])
        rows = rows.append_column("clip_id", pa.array([clip for _, clip in pairs], pa.string()))
        ctx.write("keyframes", KEYFRAMES.validate(rows))


def _write_ledger(ctx: Context, db: object, groups: Mapping[str, Group], scorers: Mapping[str, type[Scorer]]) -> None:
    stage = ctx.name.replace("'", "''")
    rows = db.sql(  # type: ignore[attr-defined]
        f"""
        select v.video_id as record_id, v.video_id, '{stage}' as stage,
               case when v.status = 'ok' then 'accepted' else 'failed' end as status, null::varchar as reason,
               v.error_type, v.error_message, coalesce(x.attempt, 1)::int as attempts, p.seconds
        from videos v left join failed x on x.sha256 = v.sha256 left join spent p on p.video_id = v.video_id
        """
    ).to_arrow_table()
    ctx.ledger(LEDGER.validate(rows))
    for name in scorers:
        db.register("failed_score", _failures(ctx, groups[failed_group(scorer_group(name))]))  # type: ignore[attr-defined]
        scorer = f"{stage}: {name}".replace("'", "''")
        rows = db.sql(  # type: ignore[attr-defined]
            f"""
            select v.video_id as record_id, v.video_id, '{scorer}' as stage, 'failed' as status, null::varchar as reason,
                   x.error_type, x.error_message, x.attempt::int as attempts, null::double as seconds
            from videos v join failed_score x on x.sha256 = v.sha256
            where v.status = 'ok' and not exists (select 1 from {_quoted("score_" + name)} d where d.record_key = v.sha256)
            """
        ).to_arrow_table()
        if rows.num_rows:
            ctx.ledger(LEDGER.validate(rows))


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


def _spent(seconds: Mapping[str, float]) -> pa.Table:
    return pa.table(
        {"video_id": pa.array(list(seconds), pa.string()), "seconds": pa.array(list(seconds.values()), pa.float64())}
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

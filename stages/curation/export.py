"""Cuts and encodes, once, the clips that survived rules, deduplication and review, and writes the subset and its card."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from data_schemas.tables import CAPTIONS, CLIPS, DEDUPE, SELECTION, SUBSET, VERDICTS, VIDEOS
from stages.contract import Context, Files, Group, Params, Shards, Table, stage
from stages.curation.dataset_card import dataset_card
from stages.curation.ledgers import ledger_table

CARD = "README.md"
_READ_AT_ONCE = 32  # encoded clips held in memory while their files are written


class ExportParams(Params):
    """``max_side``: long side of the encoded clips in pixels; null keeps the source's size."""

    codec: Literal["libx264", "libvpx-vp9"] = "libx264"
    max_side: int | None = Field(default=None, ge=2)


@dataclass(frozen=True)
class CutJob:
    """One clip to encode."""

    key: str
    uri: str
    start_frame: int
    end_frame: int


class CutActor:
    """Encodes one clip and commits the file's bytes; returns the failure, if any, by record key."""

    def __init__(self, codec: str, max_side: int | None, shards: Shards, scratch: str) -> None:
        self.codec, self.max_side, self.shards = codec, max_side, shards
        self.scratch = Path(scratch)

    def __call__(self, job: CutJob) -> dict[str, dict[str, str]]:
        from models.video.encode import EncodeError, cut_clip
        from models.video.reader import UndecodableError

        self.scratch.mkdir(parents=True, exist_ok=True)  # a worker may run on another machine than the driver
        out = self.scratch / f"{job.key[:32]}{suffix(self.codec)}"
        try:
            info = cut_clip(job.uri, job.start_frame, job.end_frame, out, self.codec, self.max_side)
            content = out.read_bytes()
        except (UndecodableError, EncodeError, FileNotFoundError) as error:
            return {job.key: {"error_type": type(error).__name__, "error_message": str(error)}}
        finally:
            out.unlink(missing_ok=True)
        row = {
            "record_key": [job.key],
            "content": pa.array([content], pa.large_binary()),
            "frames": [info.frames],
            "fps": [info.fps],
            "width": pa.array([info.width], pa.int32()),
            "height": pa.array([info.height], pa.int32()),
        }
        self.shards.commit({"media": pa.table(row)}, [job.key])
        return {}


def suffix(codec: str) -> str:
    return ".mp4" if codec == "libx264" else ".webm"


@stage(
    name="export",
    version="1",
    params=ExportParams,
    inputs={
        "clips": Table(CLIPS),
        "selection": Table(SELECTION),
        "dedupe": Table(DEDUPE),
        "verdicts": Table(VERDICTS),
        "captions": Table(CAPTIONS),
        "videos": Table(VIDEOS),
    },
    optional=("verdicts",),
    outputs={"subset": Table(SUBSET), "media": Files("media")},
)
def export(ctx: Context, params: ExportParams) -> None:
    """Encode the survivors frame-accurately. Encoded clips are records of their content, so another verdict or threshold
    encodes only the clips it adds.

    With a review wired, a clip is exported when people accepted it; without, when no rule asked for a person.
    """
    reached = _reached(ctx)
    wanted = reached.filter(pc.equal(reached.column("status"), "accepted"))
    clips = ctx.dataset("clips").to_table(filter=pc.field("clip_id").isin(wanted.column("clip_id").combine_chunks()))
    clips = clips.sort_by("clip_id")
    videos = ctx.dataset("videos").to_table(
        columns=["video_id", "sha256", "licence"],
        filter=pc.field("video_id").isin(pc.unique(clips.column("video_id"))),
    )
    source = _rows_by(videos, "video_id")
    captions = ctx.dataset("captions").to_table(
        columns=["clip_id", "caption"], filter=pc.field("clip_id").isin(clips.column("clip_id").combine_chunks())
    )
    caption = dict(zip(captions.column("clip_id").to_pylist(), captions.column("caption").to_pylist(), strict=True))

    group = Group("media", ctx.recipe("media", "1", params.model_dump()))
    keys = [
        _content_key(row, source)
        for row in clips.select(["clip_id", "video_id", "start_frame", "end_frame"]).to_pylist()
    ]
    failed = _encode(ctx, params, group, clips, keys)

    key_of = dict(zip(clips.column("clip_id").to_pylist(), keys, strict=True))
    exported: list[pa.Table] = []
    for start in range(0, clips.num_rows, _READ_AT_ONCE):
        part = clips.slice(start, _READ_AT_ONCE)
        table = _place(ctx, params, group, part, key_of, caption, source)
        exported.append(table)
        ctx.write("subset", table)
    subset = pa.concat_tables(exported, promote_options="default") if exported else SUBSET.empty()
    card = dataset_card(
        subset, ctx.dataset("selection").to_table(), ctx.table("dedupe"), reached.column("status"), len(failed)
    )
    (ctx.folder("media") / CARD).write_text(card, encoding="utf-8")
    _account(ctx, reached, {clip_id: failed[key] for clip_id, key in key_of.items() if key in failed})


def _reached(ctx: Context) -> pa.Table:
    """Clips that rules and deduplication kept: clip_id, video_id, status by the review, and the reviewers' reason."""
    unique = ctx.dataset("dedupe").to_table(columns=["clip_id"], filter=pc.field("kept")).column("clip_id")
    selection = ctx.dataset("selection").to_table(
        columns=["clip_id", "review"], filter=pc.field("kept") & pc.field("clip_id").isin(unique.combine_chunks())
    )
    videos = ctx.dataset("clips").to_table(
        columns=["clip_id", "video_id"], filter=pc.field("clip_id").isin(selection.column("clip_id").combine_chunks())
    )
    table = selection.join(videos, "clip_id", join_type="left outer")
    if ctx.has("verdicts"):
        verdicts = ctx.dataset("verdicts").to_table(columns=["external_id", "verdict", "reasons"])
        verdicts = verdicts.set_column(2, "reasons", pc.binary_join(verdicts.column("reasons"), ", "))
        table = table.join(verdicts, "clip_id", "external_id", join_type="left outer")
        said = pc.fill_null(table.column("verdict"), "in_review")
        status = pc.if_else(
            pc.equal(said, "reject"), "rejected", pc.if_else(pc.equal(said, "accept"), "accepted", "in_review")
        )
        why = pc.fill_null(table.column("reasons"), "")
        named = pc.if_else(pc.equal(why, ""), "review", pc.binary_join_element_wise("review: ", why, ""))
        reason = pc.if_else(pc.equal(said, "reject"), named, pa.scalar(None, pa.string()))
    else:
        status = pc.if_else(table.column("review"), "in_review", "accepted")
        reason = pa.nulls(table.num_rows, pa.string())
    columns = {
        "clip_id": table.column("clip_id"),
        "video_id": table.column("video_id"),
        "status": status,
        "reason": reason,
    }
    return pa.table(columns).sort_by("clip_id")


def _rows_by(table: pa.Table, key: str) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in table.to_pylist()}


def _content_key(clip: Mapping[str, Any], source: Mapping[str, Mapping[str, Any]]) -> str:
    sha = source.get(clip["video_id"], {}).get("sha256") or f"clip:{clip['clip_id']}"
    return hashlib.sha256(f"{sha}-{clip['start_frame']}-{clip['end_frame']}".encode()).hexdigest()


def _encode(
    ctx: Context, params: ExportParams, group: Group, clips: pa.Table, keys: Sequence[str]
) -> dict[str, dict[str, str]]:
    done = ctx.records.done(group)
    columns = (clips.column(name).to_pylist() for name in ("video_uri", "start_frame", "end_frame"))
    jobs = {key: CutJob(key, *span) for key, *span in zip(keys, *columns, strict=True) if key not in done}
    if not jobs:
        return {}
    init = {"codec": params.codec, "max_side": params.max_side, "scratch": str(ctx.scratch / "cut")}
    failed: dict[str, dict[str, str]] = {}
    with ctx.progress(len(jobs), "clips") as bar:
        for errors in ctx.map(CutActor, list(jobs.values()), init={**init, "shards": ctx.records.shards([group])}):
            failed |= errors
            bar.advance(failed=len(errors))
    return failed


def _place(
    ctx: Context,
    params: ExportParams,
    group: Group,
    clips: pa.Table,
    key_of: Mapping[str, str],
    caption: Mapping[str, str | None],
    source: Mapping[str, Mapping[str, Any]],
) -> pa.Table:
    """Write the files of a few clips and return their rows of the subset, every score column carried along."""
    stored = ctx.records.read(group, pa.array([key_of[c] for c in clips.column("clip_id").to_pylist()], pa.string()))
    media = _rows_by(stored, "record_key")
    folder, base = ctx.folder("media"), ctx.final_uri("media")
    rows = []
    for clip in clips.select(["clip_id", "video_id", "start_s", "end_s"]).to_pylist():
        found = media.get(key_of[clip["clip_id"]])
        if found is None:
            continue
        name = f"{clip['clip_id']}{suffix(params.codec)}"
        (folder / name).write_bytes(found["content"])
        rows.append(
            {
                **clip,
                "media_uri": f"{base}/{name}",
                "media_sha256": hashlib.sha256(found["content"]).hexdigest(),
                "media_bytes": len(found["content"]),
                "caption": caption.get(clip["clip_id"]),
                "licence": source.get(clip["video_id"], {}).get("licence"),
                **{name: found[name] for name in ("frames", "fps", "width", "height")},
            }
        )
    table = SUBSET.table(rows)
    where = pc.index_in(table.column("clip_id"), value_set=clips.column("clip_id").combine_chunks())
    for field in _carried(clips.schema):
        table = table.append_column(field, clips.column(field.name).take(where))
    return SUBSET.validate(table)


def _carried(schema: pa.Schema) -> Iterator[pa.Field]:
    own = {field.name for field in SUBSET.fields}
    return (field for field in schema if field.name not in own)


def _account(ctx: Context, reached: pa.Table, failed: Mapping[str, dict[str, str]]) -> None:
    usual = reached.filter(
        pc.invert(pc.is_in(reached.column("clip_id"), value_set=pa.array(list(failed), pa.string())))
    )
    ctx.ledger(
        ledger_table(
            ctx.name,
            usual.column("clip_id"),
            usual.column("status"),
            video_id=usual.column("video_id"),
            reason=usual.column("reason"),
        )
    )
    video = dict(zip(reached.column("clip_id").to_pylist(), reached.column("video_id").to_pylist(), strict=True))
    ctx.ledger(
        [{"record_id": c, "video_id": video[c], "status": "failed", **error} for c, error in sorted(failed.items())]
    )

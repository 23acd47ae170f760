"""The media that reviewers see, made once as part of the lineage: which clips, their proxies, posters and key frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from data_schemas.tables import BALANCE, CLIPS, DEDUPE, KEYFRAMES, SELECTION, SHOWN, VIDEOS
from stages.contract import Context, Files, Group, Params, Table, stage
from stages.curation.cutting import cut_missing
from stages.curation.joins import join_stream
from stages.curation.ledgers import ledger_table
from stages.review.media import MediaStore
from stages.review.proxies import PROXY_RECIPE, poster, poster_name, proxy_encoding, proxy_name
from stages.review.sampling import CHOSEN, KEPT, choose
from stages.review.spec import PEOPLE, Reviewer

if TYPE_CHECKING:
    from stages.curation.cut_worker import Failures

PICTURES_SHOWN = 4
FOLDER = "proxies"

# All that is known of the chosen clips, the clips of a video as neighbours.
_CHOSEN = pa.schema(
    [*CHOSEN, ("video_id", pa.string()), ("video_uri", pa.string()), ("sha256", pa.string()), ("source_bytes", pa.int64()),
     ("source_mtime_ns", pa.int64()), ("start_frame", pa.int64()), ("end_frame", pa.int64()), ("start_s", pa.float64()),
     ("end_s", pa.float64()), ("duration_s", pa.float64()), ("fps", pa.float64()), ("undecided", pa.bool_())]
)  # fmt: skip
_JOIN = """
    SELECT clip_id, stratum, probability, clips.video_id, clips.video_uri, videos.sha256, videos.bytes AS source_bytes,
           videos.mtime_ns AS source_mtime_ns, start_frame, end_frame, start_s, end_s, clips.duration_s, clips.fps,
           selection.review AS undecided
    FROM chosen JOIN clips USING (clip_id) JOIN selection USING (clip_id) LEFT JOIN videos ON videos.video_id = clips.video_id
"""


class ReviewMediaParams(Params):
    """Which clips people see, and how; nothing is encoded for a scripted reviewer, who does not look."""

    reviewer: Reviewer = PEOPLE
    rejected_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="just-rejected clips shown as well, as a share of the survivors, to learn what a threshold misses",
    )
    proxy_max_side: int = Field(
        960, ge=64, le=1280, description="long side of the proxies that the page plays, in pixels; never more than 720p"
    )
    proxy_sound: bool = Field(False, description="keep the sound of the clips; the page plays it on demand")


@stage(
    name="review_media",
    version="1",
    params=ReviewMediaParams,
    inputs={
        "clips": Table(CLIPS),
        "selection": Table(SELECTION),
        "dedupe": Table(DEDUPE),
        "balance": Table(BALANCE),
        "keyframes": Table(KEYFRAMES),
        "videos": Table(VIDEOS),
    },
    optional=("balance",),
    outputs={"shown": Table(SHOWN), FOLDER: Files("review_media")},
)
def review_media(ctx: Context, params: ReviewMediaParams) -> None:
    """Every surviving clip, and a share of the rejected ones, as people will see them.

    A proxy is a record of its source's content, so another threshold encodes only the clips it adds. A clip that cannot be
    encoded is a row with the reason; the others go on.
    """
    survivors = ctx.dataset("balance" if ctx.has("balance") else "dedupe")
    chosen = choose(ctx.dataset("selection"), survivors, params.rejected_share, ctx.seed)
    tables = {name: ctx.dataset(name) for name in ("clips", "selection", "videos")} | {"chosen": chosen}
    clips = pa.concat_tables(join_stream(_JOIN, tables, _CHOSEN))
    clips = clips.sort_by([("video_id", "ascending"), ("start_frame", "ascending"), ("clip_id", "ascending")])
    clips = clips.append_column("key", pa.array(_names(clips, params), pa.string()))

    make = params.reviewer == PEOPLE
    failed: Failures = {}
    if make:
        how = {"recipe": PROXY_RECIPE, "max_side": params.proxy_max_side, "sound": params.proxy_sound}
        group = Group(FOLDER, ctx.recipe(FOLDER, "1", how))
        encoding = proxy_encoding(params.proxy_max_side, sound=params.proxy_sound)
        failed = cut_missing(ctx, encoding, group, clips, unit="proxies", also={"poster": poster})
        _place(ctx, group, clips)
    pictures = _pictures(ctx, clips.column("clip_id").combine_chunks(), make)
    rows = [_row(row, failed.get(row["key"]), pictures.get(row["clip_id"], [])) for row in clips.to_pylist()]
    ctx.write("shown", SHOWN.table(sorted(rows, key=lambda row: str(row["clip_id"]))))
    _account(ctx, clips, failed)


def _names(clips: pa.Table, params: ReviewMediaParams) -> Iterator[str]:
    """The name of each clip's proxy, which is the key of its record too: what is shown of which content."""
    for row in clips.select(["sha256", "video_id", "start_frame", "end_frame"]).to_pylist():
        content = row["sha256"] or row["video_id"]
        yield proxy_name(content, row["start_frame"], row["end_frame"], params.proxy_max_side, sound=params.proxy_sound)


def _place(ctx: Context, group: Group, clips: pa.Table) -> None:
    """Write each proxy and its poster, one at a time."""
    folder = ctx.folder(FOLDER)
    names = clips.column("key").unique().to_pylist()
    reader = ctx.records.reader(group, names)
    for name in names:
        found = reader.get(name)
        if found is not None:
            (folder / name).write_bytes(found["content"])
            (folder / poster_name(name)).write_bytes(found["poster"])


def _pictures(ctx: Context, clip_ids: pa.Array, make: bool) -> dict[str, list[str]]:
    """Names of each clip's key frames in order, evenly thinned; only those are written, one batch of pictures at a time."""
    folder, frames, of_chosen = ctx.folder(FOLDER), ctx.dataset("keyframes"), pc.field("clip_id").isin(clip_ids)
    positions: dict[str, list[float]] = defaultdict(list)
    for row in frames.to_table(columns=["clip_id", "position"], filter=of_chosen).to_pylist():
        positions[row["clip_id"]].append(row["position"])
    wanted = {(clip, position) for clip, found in positions.items() for position in _thinned(sorted(found))}
    names: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for batch in frames.to_batches(columns=["clip_id", "position", "jpeg"], filter=of_chosen, batch_size=256):
        for row in batch.to_pylist():
            if (row["clip_id"], row["position"]) in wanted:
                name = MediaStore.name(MediaStore.content_key(row["jpeg"]), ".jpg")
                names[row["clip_id"]].append((row["position"], name))
                if make:
                    (folder / name).write_bytes(row["jpeg"])
    return {clip: [name for _, name in sorted(found)] for clip, found in names.items()}


def _thinned(positions: list[float]) -> list[float]:
    if len(positions) <= PICTURES_SHOWN:
        return positions
    last = len(positions) - 1
    return [positions[round(n * last / (PICTURES_SHOWN - 1))] for n in range(PICTURES_SHOWN)]


def _row(clip: Mapping[str, Any], failure: Mapping[str, str] | None, pictures: list[str]) -> dict[str, object]:
    same = ("clip_id", "video_id", "stratum", "undecided", "duration_s", "fps")
    return {name: clip[name] for name in same} | {
        "inclusion_probability": clip["probability"],
        "media": None if failure else clip["key"],
        "pictures": pictures,
        **(failure or {}),
    }


def _account(ctx: Context, clips: pa.Table, failed: Failures) -> None:
    """Where the survivors stand; drawn rejected clips have ended in the selection's ledger already."""
    kept = clips.filter(pc.equal(clips.column("stratum"), KEPT))
    lost = pc.is_in(kept.column("key"), value_set=pa.array(sorted(failed), pa.string()))
    fine = kept.filter(pc.invert(lost))
    ctx.ledger(ledger_table(ctx.name, fine.column("clip_id"), "accepted", video_id=fine.column("video_id")))
    ctx.ledger(
        [
            {"record_id": row["clip_id"], "video_id": row["video_id"], "status": "failed", **failed[row["key"]]}
            for row in kept.filter(lost).sort_by("clip_id").to_pylist()
        ]
    )

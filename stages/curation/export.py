"""Cuts and encodes, once, the clips that survived rules, deduplication and review, and writes them as a dataset."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from data_schemas.schema import Field as Column
from data_schemas.tables import BALANCE, CAPTIONS, CLIPS, DEDUPE, SELECTION, SUBSET, VERDICTS, VIDEOS
from stages.contract import Context, Files, Group, Params, Table, stage
from stages.curation.columns import Rows
from stages.curation.cutting import cut_missing
from stages.curation.dataset_card import CARD, Made, dataset_card
from stages.curation.ledgers import ledger_table
from stages.curation.manifest import file_digest, write_manifest
from stages.curation.rules import Rule
from stages.curation.survivors import details, reached
from stages.curation.webdataset import write_shards
from stages.location import child_uri

if TYPE_CHECKING:
    from models.video.encode import Encoding

METADATA = "metadata.parquet"
MEDIA = "media"  # the folder, and the column group of the encoded clips
_ROWS = 65_536

_X264_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip

EXPORTED = SUBSET.extend(
    (
        Column("file_name", pa.string(), "the clip's file relative to the exported folder", nullable=False),
        Column("sound", pa.bool_(), "whether the file has a sound track", nullable=False),
        Column("source_path", pa.string(), "path of the source file relative to the source's root"),
        Column("extra", pa.string(), "further columns of the source, as a JSON object"),
    )
)
# What says where things lie on the machine that exported them; a folder that is copied elsewhere must not.
_HERE = ("media_uri", "video_uri")
_INTERNAL = ("sha256", "source_bytes", "source_mtime_ns")


class WebDatasetParams(Params):
    """``shard_mb``: a shard is closed before it grows beyond this many megabytes (10^6 bytes)."""

    shard_mb: float = Field(default=256, gt=0)


class ExportParams(Params):
    """How clips are encoded, and in which forms they are written beside the files themselves.

    ``crf`` is the codec's constant quality, 0 best (null: 17 for H.264, 24 for VP9). ``preset`` trades time for size: x264's name
    of one, or VP9's ``cpu-used`` 0 to 8 (null: superfast, 4). ``max_side`` is the most pixels of the long side; null keeps the
    source's size. ``audio: keep`` encodes the source's sound beside the pictures (AAC in MP4, Opus in WebM). ``rules`` follow those
    of ``select``: the card states them.
    """

    codec: Literal["libx264", "libvpx-vp9"] = "libx264"
    crf: int | None = Field(default=None, ge=0, le=63)
    preset: str | None = None
    max_side: int | None = Field(default=None, ge=2)
    audio: Literal["drop", "keep"] = "drop"
    webdataset: WebDatasetParams | None = None
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _known_to_the_codec(self) -> ExportParams:
        offered = _X264_PRESETS if self.codec == "libx264" else tuple("012345678")
        if self.preset is not None and self.preset not in offered:
            raise ValueError(f"preset of {self.codec} must be one of {', '.join(offered)}, not {self.preset}")
        if self.codec == "libx264" and self.crf is not None and self.crf > 51:
            raise ValueError(f"crf of libx264 goes from 0 to 51, not {self.crf}")
        return self

    def encoding(self) -> Encoding:
        from models.video.encode import Encoding

        return Encoding(self.codec, self.crf, self.preset, self.max_side, self.audio == "keep")


def _sound_version(params: ExportParams) -> Mapping[str, str]:
    if params.audio != "keep":
        return {}
    from models.video.sound import SOUND_VERSION

    return {"sound": SOUND_VERSION}


@stage(
    name="export",
    version="2",
    params=ExportParams,
    inputs={
        "clips": Table(CLIPS),
        "selection": Table(SELECTION),
        "dedupe": Table(DEDUPE),
        "balance": Table(BALANCE),
        "verdicts": Table(VERDICTS),
        "captions": Table(CAPTIONS),
        "videos": Table(VIDEOS),
    },
    optional=("balance", "verdicts"),
    outputs={"subset": Table(SUBSET), "media": Files("media")},
    models=_sound_version,
)
def export(ctx: Context, params: ExportParams) -> None:
    """Encode the survivors frame-accurately. Encoded clips are records of their content, so another verdict or threshold
    encodes only the clips it adds.

    With a review wired, a clip is exported when people accepted it; without, when no rule asked for a person. The folder
    ``media`` is a dataset of its own: clips, ``metadata.parquet``, a card, digests of every file, and shards if asked for.
    """
    fates = reached(ctx)
    accepted = fates.filter(pc.equal(fates.column("status"), "accepted"))
    clips = pa.concat_tables(details(ctx, accepted)).sort_by([("video_id", "ascending"), ("start_frame", "ascending")])
    clips = clips.append_column("key", pa.array(clip_keys(clips), pa.string()))
    encoding = params.encoding()
    how = params.model_dump(mode="json", include={"codec", "crf", "preset", "max_side", "audio"})
    group = Group(MEDIA, ctx.recipe(MEDIA, "3", how | dict(_sound_version(params))))
    failed = cut_missing(ctx, encoding, group, clips)

    subset = _place(ctx, encoding, group, clips)
    for start in range(0, max(subset.num_rows, 1), _ROWS):
        ctx.write("subset", subset.slice(start, _ROWS))
    folder = ctx.folder(MEDIA)
    portable = subset.drop_columns([name for name in _HERE if name in subset.column_names])
    pq.write_table(portable, folder / METADATA, compression="zstd", row_group_size=_ROWS)
    shards: list[str] = []
    if params.webdataset is not None:
        shards = write_shards(folder, _plain_rows(portable), int(params.webdataset.shard_mb * 1e6))
    made = Made(how, params.rules, file_digest(folder / METADATA), tuple(shards))
    card = dataset_card(ctx, portable, made, failed=len(failed))
    (folder / CARD).write_text(card, encoding="utf-8")
    write_manifest(
        folder, dict(zip(*(subset.column(n).to_pylist() for n in ("file_name", "media_sha256")), strict=True))
    )
    _account(ctx, fates, clips, failed)


# -- cutting -----------------------------------------------------------------------------------------------------------


def clip_keys(clips: pa.Table) -> Iterator[str]:
    """The key of each clip's record: what its source holds, and which frames of it."""
    for batch in clips.select(["clip_id", "sha256", "start_frame", "end_frame"]).to_batches(max_chunksize=_ROWS):
        for clip, sha, start, end in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield hashlib.sha256(f"{sha or f'clip:{clip}'}-{start}-{end}".encode()).hexdigest()


# -- placing -----------------------------------------------------------------------------------------------------------


def _place(ctx: Context, encoding: Encoding, group: Group, clips: pa.Table) -> pa.Table:
    """Write the clips' files and return their rows of the subset by clip_id, every column carried along."""
    folder, base = ctx.folder(MEDIA), ctx.final_uri(MEDIA)
    rows = Rows(_PLACED)
    for start in range(0, clips.num_rows, _ROWS):
        part = clips.slice(start, _ROWS)
        keys = part.column("key").to_pylist()
        reader = ctx.records.reader(group, keys)
        for clip, key in zip(part.column("clip_id").to_pylist(), keys, strict=True):
            found = reader.get(key)
            if found is None:
                continue
            name, content = f"{clip}{encoding.suffix}", found["content"]
            (folder / name).write_bytes(content)
            told = {"clip_id": clip, "file_name": name, "media_uri": child_uri(base, name), "media_bytes": len(content),
                    "media_sha256": hashlib.sha256(content).hexdigest()}  # fmt: skip
            rows.add(*(told[field] if field in told else found[field] for field in _PLACED.names))
    placed = rows.table()
    at = pc.index_in(placed.column("clip_id"), value_set=clips.column("clip_id").combine_chunks())
    for field in clips.schema:
        if field.name not in placed.column_names and field.name not in (*_INTERNAL, "key"):
            placed = placed.append_column(field, clips.column(field.name).take(at))
    return EXPORTED.validate(placed.sort_by("clip_id"))


_PLACED = pa.schema(
    [field for field in EXPORTED.arrow if field.name in {
        "clip_id", "file_name", "media_uri", "media_sha256", "media_bytes", "frames", "fps", "width", "height", "sound",
    }]
)  # fmt: skip


def _plain_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows as JSON can say them: a number that is none is null."""
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _account(ctx: Context, fates: pa.Table, clips: pa.Table, failed: Mapping[str, dict[str, str]]) -> None:
    """Where every clip that came this far ended."""
    lost = clips.filter(pc.is_in(clips.column("key"), value_set=pa.array(sorted(failed), pa.string())))
    usual = fates.filter(
        pc.invert(pc.is_in(fates.column("clip_id"), value_set=lost.column("clip_id").combine_chunks()))
    )
    ids, videos = usual.column("clip_id"), usual.column("video_id")
    ctx.ledger(ledger_table(ctx.name, ids, usual.column("status"), video_id=videos, reason=usual.column("reason")))
    ctx.ledger(
        [
            {"record_id": row["clip_id"], "video_id": row["video_id"], "status": "failed", **failed[row["key"]]}
            for row in lost.select(["clip_id", "video_id", "key"]).sort_by("clip_id").to_pylist()
        ]
    )

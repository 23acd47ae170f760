"""Stage ``subjects``: who is in each clip of the subset and in each photograph, cropped, masked and embedded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from data_schemas.ids import short_hash
from data_schemas.tables import SUBJECTS, SUBSET, VIDEOS
from stages.contract import Context, Files, Group, Params, StageError, Table, stage
from stages.subjects.find import Finder, Payload, Rules, unpacked
from stages.subjects.locate import in_folder
from stages.work import Item, Work, content_key, run_items

# Names of the embedded models, repeated here so that planning imports none of them; a test compares them.
GROUNDER, SEGMENTER, ENCODER = "motion-saliency/1", "grabcut/1", "closed-form/1"
COPIED = ("box", "area", "mask_area", "crop", "mask", "embedding", "completeness", "sharpness", "background")
ROWS_A_FILE = 512  # rows carry PNG bytes: a file of this many stays in the tens of megabytes


class SubjectParams(Params):
    """Box rules start from Phantom-Data (arXiv 2506.18851): 4% to 90% of the frame, IoU over 0.8 suppressed."""

    positions: tuple[float, ...] = Field((0.05, 0.5, 0.95), min_length=1, description="shares of the clip's length")
    min_area: float = Field(0.04, ge=0, le=1, description="least box area as a share of the frame")
    max_area: float = Field(0.90, ge=0, le=1, description="largest box area as a share of the frame")
    min_side_px: int = Field(64, ge=8, description="least side of the box; Phantom-Data asks for 128 in production")
    max_iou: float = Field(0.8, ge=0, le=1, description="boxes that overlap more are one subject")
    max_subjects: int = Field(
        1, ge=1, le=4, description="subjects kept per instant; the first is the one a phrase names"
    )
    min_confidence: float = Field(0.05, ge=0, le=1, description="least confidence of a proposal")
    photographs: bool = Field(True, description="whether the source's photographs give subjects too")

    @model_validator(mode="after")
    def _ordered(self) -> SubjectParams:
        if self.min_area >= self.max_area:
            raise ValueError(f"min_area {self.min_area} must be below max_area {self.max_area}")
        if any(not 0 <= p <= 1 for p in self.positions):
            raise ValueError(f"positions {self.positions} are shares of the clip's length, 0 to 1")
        return self


@stage(
    name="subjects",
    version="2",
    params=SubjectParams,
    inputs={"subset": Table(SUBSET), "media": Files("media"), "videos": Table(VIDEOS)},
    outputs={"subjects": Table(SUBJECTS)},
    models=lambda params: {"grounder": GROUNDER, "segmenter": SEGMENTER, "encoder": ENCODER},
)
def subjects(ctx: Context, params: SubjectParams) -> None:
    """Crop the main subject of every clip at 0.05, 0.5 and 0.95 of its length, and of every photograph."""
    records = [*_clips(ctx, params), *(_photographs(ctx) if params.photographs else ())]
    rules = Rules(
        params.min_area,
        params.max_area,
        params.min_side_px,
        params.max_iou,
        params.max_subjects,
        params.min_confidence,
    )
    recipe = ctx.recipe(
        "find",
        "3",
        {
            "grounder": GROUNDER,
            "segmenter": SEGMENTER,
            "encoder": ENCODER,
            **params.model_dump(mode="json", exclude={"photographs"}),
        },
    )
    work = run_items(
        ctx,
        group=Group("found", recipe),
        items=[item for item, _ in records],
        make=Finder,
        init={"rules": rules},
        unit="clips and photographs",
    )
    _settle(ctx, work, records)


def _clips(ctx: Context, params: SubjectParams) -> Iterator[tuple[Item, dict[str, Any]]]:
    from models.subjects.prompts import noun_phrase

    columns = ["clip_id", "video_id", "media_uri", "media_sha256", "caption", "frames", "fps"]
    folder = ctx.path("media")
    for row in ctx.dataset("subset").to_table(columns=columns).to_pylist():
        phrase = noun_phrase(row["caption"])
        duration = max(0.0, (row["frames"] - 1) / row["fps"]) if row["fps"] > 0 else 0.0
        payload = Payload("clip", str(in_folder(folder, row["media_uri"])), phrase, params.positions, duration)
        key = content_key("clip", row["media_sha256"], phrase or "", duration)
        ids = {"origin": "clip", "clip_id": row["clip_id"], "video_id": row["video_id"], "phrase": phrase}
        yield Item(key, row["clip_id"], payload), ids


def _photographs(ctx: Context) -> Iterator[tuple[Item, dict[str, Any]]]:
    from models.subjects.prompts import noun_phrase

    columns = ["video_id", "uri", "media_type", "sha256", "caption", "status"]
    for row in ctx.dataset("videos").to_table(columns=columns).to_pylist():
        if row["media_type"] != "image" or row["status"] != "ok":
            continue
        if row["sha256"] is None:
            raise StageError(f"photograph {row['uri']} has status ok but no sha256; run again from analyze.")
        phrase = noun_phrase(row["caption"])
        ids = {"origin": "photo", "clip_id": None, "video_id": row["video_id"], "phrase": phrase}
        payload = Payload("photo", row["uri"], phrase)
        yield Item(content_key("photo", row["sha256"], phrase or ""), row["video_id"], payload), ids


def _settle(ctx: Context, work: Work, records: list[tuple[Item, dict[str, Any]]]) -> None:
    """Write the table and the ledger, a few records at a time."""
    ids = {item.record_id: about for item, about in records}
    ledger: list[dict[str, Any]] = []
    for record_id, outcome in work.failed.items():
        ledger.append(
            {
                "record_id": record_id,
                "video_id": ids[record_id]["video_id"],
                "status": "failed",
                "error_type": outcome.error_type,
                "error_message": outcome.error_message,
                "seconds": outcome.seconds,
            }
        )
    rows: list[dict[str, object]] = []
    for row in work.rows(ctx, [r for r in ids if r not in work.failed]):
        about = ids[row["record_id"]]
        found = unpacked(row["found"]).to_pylist()
        rows += _rows(row["record_id"], about, found)
        if len(rows) >= ROWS_A_FILE:
            ctx.write("subjects", SUBJECTS.table(rows))
            rows = []
        ledger.append(
            {
                "record_id": row["record_id"],
                "video_id": about["video_id"],
                "status": "accepted" if found else "rejected",
                "reason": None if found else row["reason"],
                "note": row["reader"] or None,
                "seconds": work.seconds.get(row["record_id"]),
            }
        )
    ctx.write("subjects", SUBJECTS.table(rows))
    ctx.ledger(ledger)


def _rows(record_id: str, about: dict[str, Any], found: list[dict[str, Any]]) -> list[dict[str, object]]:
    """Rows of one record. Only the first subject of an instant carries the phrase: the caption names one."""
    from models.subjects.frames import picture
    from models.subjects.prompts import appearance

    rows = []
    for f in found:
        clip = about["origin"] == "clip"
        phrase = about["phrase"] if f["rank"] == 0 else None
        instant = f"{f['time_s']:.6f}" if clip else ""
        rows.append(
            {
                **about,
                **{k: f[k] for k in COPIED},
                "subject": f["rank"],
                "appearance": appearance(phrase, picture(f["crop"], record_id), picture(f["mask"], record_id)[..., 0]),
                "subject_id": short_hash("subject", about["origin"], record_id, phrase or "", instant, f["rank"]),
                "phrase": phrase,
                "time_s": f["time_s"] if clip else None,
                "encoder": ENCODER,
            }
        )
    return rows

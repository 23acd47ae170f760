"""Stage ``subjects``: who is in each clip of the subset and in each photograph, cropped, masked and embedded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from data_schemas.ids import short_hash
from data_schemas.tables import SUBJECTS, SUBSET, VIDEOS
from stages.contract import Context, Files, Group, Params, StageError, Table, stage
from stages.subjects.find import FOUND, Finder, Payload, unpacked
from stages.subjects.locate import in_folder
from stages.work import Item, Work, content_key, run_items

if TYPE_CHECKING:
    from models.subjects.load import Models

ROWS_A_FILE = 512  # rows carry PNG bytes: a file of this many stays in the tens of megabytes


class ModelParams(Params):
    """A model by its kind and weights; ``embedded`` needs none."""

    kind: str = Field("embedded", description="embedded, or the adapter's name")
    weights: str | None = Field(None, description="folder in from_pretrained's layout, or repository of the hub")
    revision: str | None = Field(None, description="commit of the repository")
    sha256: str | None = Field(None, description="pins a weights file of the folder")


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
    min_complete: float = Field(
        0.0, ge=0, le=1, description="least share of a mask's outline that the frame does not cut off"
    )
    grounder: ModelParams = Field(ModelParams(), description="embedded or grounding-dino")
    segmenter: ModelParams = Field(ModelParams(), description="embedded or sam2")
    tracker: ModelParams = Field(ModelParams(kind="none"), description="none or sam2")
    encoder: ModelParams = Field(ModelParams(), description="embedded, dinov2, clip or open_clip")
    faces: ModelParams = Field(ModelParams(kind="none"), description="none or yunet, whose weights are its ONNX file")
    device: str = Field("cpu", description="where models with weights run: cpu or cuda")
    workers_cpus: float = Field(1.0, gt=0)
    workers_gpus: float = Field(0.0, ge=0)
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
    version="3",
    params=SubjectParams,
    inputs={"subset": Table(SUBSET), "media": Files("media"), "videos": Table(VIDEOS)},
    outputs={"subjects": Table(SUBJECTS)},
    models=lambda params: _names(params),
)
def subjects(ctx: Context, params: SubjectParams) -> None:
    """Crop the main subject of every clip at 0.05, 0.5 and 0.95 of its length, and of every photograph."""
    records = [*_clips(ctx, params), *(_photographs(ctx, params) if params.photographs else ())]
    from models.subjects.rules import Rules

    models = chosen(params)
    names = _names(params)
    rules = Rules(
        params.min_area,
        params.max_area,
        params.min_side_px,
        params.max_iou,
        params.max_subjects,
        params.min_confidence,
        params.min_complete,
    )
    how = params.model_dump(mode="json", exclude={"photographs", "device", "workers_cpus", "workers_gpus", *names})
    work = run_items(
        ctx,
        group=Group("found", ctx.recipe("find", "4", {**names, **how})),
        items=[item for item, _ in records],
        make=Finder,
        init={"rules": rules, "models": models},
        unit="clips and photographs",
        cpus=params.workers_cpus,
        gpus=params.workers_gpus,
    )
    _settle(ctx, work, records, names["encoder"])


def _names(params: SubjectParams) -> dict[str, str]:
    from models.subjects.weights import WeightsError

    try:
        return chosen(params).names()
    except WeightsError as error:
        raise StageError(f"subjects: {error}") from error


def chosen(params: SubjectParams) -> Models:
    """The models that the parameters name; their checks come with ``Models.names``."""
    from models.subjects.load import KINDS, Choice, Models
    from models.subjects.weights import Weights

    def choice(model: ModelParams) -> Choice:
        return Choice(model.kind, Weights(model.weights, model.revision, model.sha256) if model.weights else None)

    return Models(**{role: choice(getattr(params, role)) for role in KINDS}, device=params.device)


def _clips(ctx: Context, params: SubjectParams) -> Iterator[tuple[Item, dict[str, Any]]]:
    from models.subjects.phrases import noun_phrases

    columns = ["clip_id", "video_id", "media_uri", "media_sha256", "caption", "frames", "fps"]
    folder = ctx.path("media")
    for row in ctx.dataset("subset").to_table(columns=columns).to_pylist():
        phrases = tuple(noun_phrases(row["caption"], params.max_subjects))
        duration = max(0.0, (row["frames"] - 1) / row["fps"]) if row["fps"] > 0 else 0.0
        payload = Payload("clip", str(in_folder(folder, row["media_uri"])), phrases, params.positions, duration)
        key = content_key("clip", row["media_sha256"], phrases, duration)
        ids = {"origin": "clip", "clip_id": row["clip_id"], "video_id": row["video_id"]}
        yield Item(key, row["clip_id"], payload), ids


def _photographs(ctx: Context, params: SubjectParams) -> Iterator[tuple[Item, dict[str, Any]]]:
    from models.subjects.phrases import noun_phrases

    columns = ["video_id", "uri", "media_type", "sha256", "caption", "status"]
    for row in ctx.dataset("videos").to_table(columns=columns).to_pylist():
        if row["media_type"] != "image" or row["status"] != "ok":
            continue
        if row["sha256"] is None:
            raise StageError(f"photograph {row['uri']} has status ok but no sha256; run again from analyze.")
        phrases = tuple(noun_phrases(row["caption"], params.max_subjects))
        ids = {"origin": "photo", "clip_id": None, "video_id": row["video_id"]}
        payload = Payload("photo", row["uri"], phrases)
        yield Item(content_key("photo", row["sha256"], phrases), row["video_id"], payload), ids


def _settle(ctx: Context, work: Work, records: list[tuple[Item, dict[str, Any]]], encoder: str) -> None:
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
        rows += _rows(row["record_id"], about, found, encoder)
        if len(rows) >= ROWS_A_FILE:
            ctx.write("subjects", SUBJECTS.table(rows))
            rows = []
        ledger.append(
            {
                "record_id": row["record_id"],
                "video_id": about["video_id"],
                "status": "accepted" if found else "rejected",
                "reason": None if found else row["reason"],
                "note": "; ".join(filter(None, (row["reader"], row["dropped"] and f"not taken: {row['dropped']}")))
                or None,
                "seconds": work.seconds.get(row["record_id"]),
            }
        )
    ctx.write("subjects", SUBJECTS.table(rows))
    ctx.ledger(ledger)


def _rows(record_id: str, about: dict[str, Any], found: list[dict[str, Any]], encoder: str) -> list[dict[str, object]]:
    """Rows of one record; a phrase is only what names this very subject."""
    rows = []
    for f in found:
        clip = about["origin"] == "clip"
        instant = f"{f['time_s']:.6f}" if clip else ""
        part = [f["part"]] if f["part"] else []
        rows.append(
            {
                **about,
                **{name: f[name] for name in FOUND.names},
                "subject_id": short_hash(
                    "subject", about["origin"], record_id, f["phrase"] or "", instant, f["subject"], *part
                ),
                "time_s": f["time_s"] if clip else None,
                "encoder": encoder,
            }
        )
    return rows

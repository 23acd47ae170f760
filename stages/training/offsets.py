"""Finds RoPE offsets for Consis-DPO: those at which the subject is lost and the scene stays, both measured.

The papers say that losers are sampled with offset reference positions and leave out by how much. So for each offset of a
grid the same noise is denoised with and without it, and a contact sheet shows what the numbers mean.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from data_schemas.tables import CACHE
from stages.contract import Context, Files, Group, NotEnoughRows, StageError, Table, stage
from stages.training.adapters import adapter_digest, read_adapter
from stages.training.generate import Studio, System, check_cache, entries_of, png, reference_picture
from stages.training.params import OffsetBackbone, SamplingParams, backbone_models
from stages.work import Item, Work, content_key, run_items

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    U8 = NDArray[np.uint8]

SYSTEM = "sft"
EMBEDDED = {"grounder": "motion-saliency/1", "segmenter": "grabcut/1", "identity": "closed-form/1"}
Offset = tuple[float, float, float]


class SweepOffsetsParams(OffsetBackbone):
    """Which offsets to try, on how many samples, and what counts as a good one."""

    sampling: SamplingParams = SamplingParams()
    offsets: tuple[Offset, ...] = Field(
        ((2, 0, 0), (8, 0, 0), (0, 2, 2), (0, 4, 4), (0, 8, 8), (0, 16, 16), (4, 8, 8)),
        min_length=1,
        description="(time, row, column) in latent patches: a gap in time first, then UNO's diagonal (papers, A6)",
    )
    samples: int = Field(16, ge=1, description="cross-pair training rows with references that are sampled")
    min_identity_drop: float = Field(
        0.05, gt=0, description="least mean fall of the cosine of subject and reference, winner to loser"
    )
    min_scene_kept: float = Field(
        0.5,
        le=1,
        description="least mean share of the scene that stays: 1 is the same, 0 as far as another noise's sample",
    )
    sheet_rows: int = Field(8, ge=1, description="samples on the contact sheet")


@dataclass(frozen=True)
class SweepPayload:
    """A sample and the seed of the noise that all offsets share."""

    sample_id: str
    seed: int


class SweepOffsets:
    """Samples one prompt without and with every offset, and measures both things."""

    def __init__(self, studio: Mapping[str, Any], offsets: Sequence[Offset]) -> None:
        from models.metrics.toolbox import Toolbox, ToolSpec

        self.studio, self.offsets = Studio(**studio), tuple(offsets)
        self.tools = Toolbox(ToolSpec()).tools

    def __call__(self, item: SweepPayload) -> Mapping[str, Any]:
        import numpy as np
        from PIL import Image

        from models.metrics.subject_similarity import subject_similarity
        from models.metrics.tools import Reference

        picture = reference_picture(self.studio.reader.folder, item.sample_id)
        if picture is None:
            raise ValueError(f"the cache holds no reference picture of sample {item.sample_id}")
        seen = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=np.uint8)
        references = [Reference(seen)]
        winner = self._video(item, item.seed)
        other = self._video(item, item.seed ^ 1)
        outside = outside_subject(winner, self.tools)
        found, shown = [], [seen, winner[len(winner) // 2]]
        for offset in self.offsets:
            loser = self._video(item, item.seed, offset)
            found.append(
                {
                    "identity": subject_similarity(loser, "", references, self.tools),
                    "scene": scene_kept(winner, loser, other, outside),
                }
            )
            shown.append(loser[len(loser) // 2])
        measured = {"identity": subject_similarity(winner, "", references, self.tools), "offsets": found}
        return {"measured": json.dumps(measured), "shown": png(np.concatenate(shown, axis=1))}

    def _video(self, item: SweepPayload, seed: int, offset: Offset = (0.0, 0.0, 0.0)) -> U8:
        from models.training.views import from_unit

        latents = self.studio.sample(SYSTEM, item.sample_id, seed, offset)
        return from_unit(self.studio.backbone.decode_video(latents[None])[0])


def outside_subject(video_FHWC: U8, tools: Any) -> NDArray[np.bool_]:
    """(F, H, W): what is not the subject, by the subject found in each frame; all of a frame in which none is found."""
    import numpy as np

    from models.metrics.tools import find_subjects

    regions = find_subjects(video_FHWC, range(len(video_FHWC)), tools)
    full = np.ones(video_FHWC.shape[1:3], bool)
    return np.stack([full if region is None else region.mask < 128 for region in regions])


def scene_kept(winner: U8, loser: U8, other: U8, outside: NDArray[np.bool_]) -> float:
    """1 - |winner - loser| / |winner - other| outside the subject: 1 is the same scene, 0 as far as ``other`` is, less is farther.

    ``other`` is a sample of the same prompt from another noise, so the number has no unit. 0 where even that is the same.
    """
    import numpy as np

    def distance(video: U8) -> float:
        return float(np.abs(winner.astype(np.float64) - video)[outside].mean()) if outside.any() else 0.0

    far = distance(other)
    return 1.0 - distance(loser) / far if far else 0.0


@stage(
    name="sweep_offsets",
    version="1",
    params=SweepOffsetsParams,
    inputs={"cache": Table(CACHE), "latents": Files("latents"), "adapter": Files("adapter")},
    outputs={"sweep": Files("offset_sweep")},
    models=lambda params: {**EMBEDDED, **backbone_models(params.backbone)},
    resources=lambda params: params.sampling.needs(),
)
def sweep_offsets(ctx: Context, params: SweepOffsetsParams) -> None:
    """Numbers of every offset, a contact sheet, and the offset to use, if there is one."""
    digest = check_cache(ctx, params.backbone)
    read_adapter(ctx.path("adapter"), "adapter", digest)
    rows = {
        row["sample_id"]: row
        for row in ctx.table("cache").to_pylist()
        if row["kind"] == "cross_pair" and row["split"] == "train" and row["references"]
    }
    if not rows:
        raise NotEnoughRows("cross_pair training rows with references", 1, 0, "Loosen the pair rules or add footage.")
    work, order = _sample(ctx, params, rows, digest)
    made = [i for i in order if i not in work.failed]
    ctx.ledger([_ended(work, i) for i in order])
    if not made:
        first = next(iter(work.failed.values()))
        raise StageError(f"no sample of the sweep could be made and measured; first: {first.error_message}")
    results = list(work.rows(ctx, made))
    points = summarise(params.offsets, [json.loads(r["measured"]) for r in results])
    best = choose(points, params)
    ctx.event("offset_sweep", samples=len(made), failed=len(work.failed), suggested=best["offset"] if best else None)
    folder = ctx.folder("sweep")
    note = {"points": points, "suggested": best, "samples": made, "asked": params.model_dump(mode="json")}
    (folder / "offsets.json").write_text(json.dumps(note, indent=1) + "\n")
    (folder / "sheet.png").write_bytes(contact_sheet([r["shown"] for r in results[: params.sheet_rows]], points, best))


def _sample(
    ctx: Context, params: SweepOffsetsParams, rows: Mapping[str, Mapping[str, Any]], digest: str
) -> tuple[Work, list[str]]:
    from models.training.randomness import seed_of

    order = sorted(rows, key=lambda i: (seed_of(ctx.seed, "offsets", i), i))[: params.samples]
    entries = {entry.sample_id: entry for entry in entries_of(rows[i] for i in order)}
    adapter = adapter_digest(ctx.path("adapter"))
    payloads = [SweepPayload(i, seed_of(ctx.seed, "offset sweep", i)) for i in order]
    recipe = {
        "backbone": digest,
        "sampling": params.sampling.model_dump(mode="json"),
        "offsets": params.offsets,
        "models": EMBEDDED,
    }
    work = run_items(
        ctx,
        group=Group("offsets", ctx.recipe("offsets", "1", recipe)),
        items=[
            Item(
                content_key(p.sample_id, p.seed, entries[p.sample_id].shard, entries[p.sample_id].text_key, adapter),
                p.sample_id,
                p,
            )
            for p in payloads
        ],
        make=SweepOffsets,
        init={
            "offsets": params.offsets,
            "studio": {
                "backbone": params.backbone,
                "sampling": params.sampling,
                "systems": [System(SYSTEM, ((SYSTEM, str(ctx.path("adapter"))),))],
                "cache": str(ctx.path("latents")),
                "entries": list(entries.values()),
            },
        },
        unit="samples",
        batch=1,
        cpus=params.sampling.workers_cpus,
        gpus=params.sampling.workers_gpus,
    )
    return work, order


def summarise(offsets: Sequence[Offset], measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per offset the means over samples: ``identity_drop``, the ``share`` of samples in which it falls, and ``scene_kept``."""
    points = []
    for index, offset in enumerate(offsets):
        drops = [
            m["identity"] - m["offsets"][index]["identity"]
            for m in measured
            if m["identity"] is not None and m["offsets"][index]["identity"] is not None
        ]
        scenes = [m["offsets"][index]["scene"] for m in measured]
        points.append(
            {
                "offset": list(offset),
                "identity_drop": sum(drops) / len(drops) if drops else None,
                "share": sum(d > 0 for d in drops) / len(drops) if drops else None,
                "scene_kept": sum(scenes) / len(scenes),
                "measured": len(drops),
            }
        )
    return points


def choose(points: Sequence[Mapping[str, Any]], params: SweepOffsetsParams) -> Mapping[str, Any] | None:
    """The offset that keeps most of the scene among those that lose enough identity and keep enough; None without one."""
    good = [
        p
        for p in points
        if p["identity_drop"] is not None
        and p["identity_drop"] >= params.min_identity_drop
        and p["scene_kept"] >= params.min_scene_kept
    ]
    return max(good, key=lambda p: (p["scene_kept"], p["identity_drop"]), default=None)


def contact_sheet(rows: Sequence[bytes], points: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> bytes:
    """Reference, winner and each offset's loser side by side, a sample a row, with the numbers above; PNG."""
    from PIL import Image, ImageDraw

    pictures = [Image.open(io.BytesIO(row)).convert("RGB") for row in rows]
    columns = 2 + len(points)
    scale = max(1, -(-128 // (pictures[0].width // columns)))
    pictures = [p.resize((p.width * scale, p.height * scale), Image.Resampling.NEAREST) for p in pictures]
    wide, head = max(p.width for p in pictures), 44
    sheet = Image.new("RGB", (wide, head + sum(p.height + 4 for p in pictures)), "white")
    draw, cell = ImageDraw.Draw(sheet), wide // columns
    titles = ["reference", "no offset"]
    for point in points:
        drop = "not measured" if point["identity_drop"] is None else f"identity {0.0 - point['identity_drop']:+.2f}"
        name = ", ".join(f"{v:g}" for v in point["offset"])
        mark = " (use)" if best is not None and point["offset"] == best["offset"] else ""
        titles.append(f"({name}){mark}\n{drop}\nscene {point['scene_kept']:.2f}")
    for index, title in enumerate(titles):
        draw.multiline_text((index * cell + 3, 2), title, fill="black", spacing=2)
    top = head
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + 4
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def _ended(work: Work, sample_id: str) -> dict[str, object]:
    failure = work.failed.get(sample_id)
    row: dict[str, object] = {"record_id": sample_id, "seconds": work.seconds.get(sample_id)}
    if failure is None:
        return {**row, "status": "accepted"}
    return {**row, "status": "failed", "error_type": failure.error_type, "error_message": failure.error_message}

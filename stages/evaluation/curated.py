"""What the report says of the training pairs: prompts, references and targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import Context
from stages.evaluation import media
from stages.evaluation.thresholds import thumbnails
from stages.subjects.locate import in_folder


def pair_rows(ctx: Context, count: int) -> list[dict[str, Any]]:
    """Training samples for the page, both kinds, spread over the range of similarity, most alike first."""
    columns = ["sample_id", "kind", "clip_id", "prompt", "references", "similarity", "same_source", "split"]
    rows = ctx.dataset("pairs").to_table(columns=columns).to_pylist()
    chosen: list[dict[str, Any]] = []
    kinds = sorted({r["kind"] for r in rows})
    for kind in kinds:
        mine = sorted(
            (r for r in rows if r["kind"] == kind),
            key=lambda r: (r["similarity"] is None, -(r["similarity"] or 0.0), r["sample_id"]),
        )
        chosen += spread(mine, max(1, count // len(kinds)))
    subjects = _crops(ctx, {ref["subject_id"] for r in chosen for ref in r["references"]})
    targets = _targets(ctx, [r["clip_id"] for r in chosen])
    for row in chosen:
        row["shown"] = [subjects.get(ref["subject_id"]) for ref in row["references"]]
        row["target"] = targets.get(row["clip_id"], {})
        row["parts"] = prompt_parts(row["prompt"])
    return chosen


def spread(rows: list[Any], count: int) -> list[Any]:
    """At most ``count`` rows, evenly over the list, ends included."""
    if len(rows) <= count:
        return rows
    return [rows[round(i * (len(rows) - 1) / max(1, count - 1))] for i in range(count)]


def _crops(ctx: Context, wanted: set[str]) -> dict[str, dict[str, str]]:
    from models.subjects.frames import picture

    if not ctx.has("subjects"):
        return {}
    found = {}
    only = pc.field("subject_id").isin(pa.array(sorted(wanted), pa.string()))
    for row in ctx.dataset("subjects").to_table(columns=["subject_id", "crop", "mask"], filter=only).to_pylist():
        crop, mask = picture(row["crop"], row["subject_id"]), picture(row["mask"], row["subject_id"])[..., 0]
        found[row["subject_id"]] = {"crop": media.jpeg(crop, 200), "cut": media.cut_out(crop, mask, 200)}
    return found


def _targets(ctx: Context, clip_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """For each clip a small video where the media are wired, else its key frame."""
    found: dict[str, dict[str, str]] = {c: {"poster": src} for c, src in thumbnails(ctx, clip_ids, 240).items()}
    if ctx.has("media") and ctx.has("subset"):
        only = pc.field("clip_id").isin(pa.array(sorted(set(clip_ids)), pa.string()))
        for row in ctx.dataset("subset").to_table(columns=["clip_id", "media_uri"], filter=only).to_pylist():
            video = media.webm(in_folder(ctx.path("media"), row["media_uri"]), side=240, seconds=2.5)
            if video:
                found.setdefault(row["clip_id"], {})["video"] = video
    return found


def prompt_parts(prompt: str) -> list[dict[str, Any]]:
    """The prompt in pieces, each with the number of the reference it speaks of, or 0."""
    from models.subjects.prompts import Binding, parse

    try:
        layout = parse(prompt)
    except ValueError:
        return [{"text": prompt, "ref": 0, "head": False}]
    parts: list[dict[str, Any]] = [
        {"text": f"Ref {i}: {a}.", "ref": i, "head": True} for i, a in enumerate(layout.appearances, 1)
    ]
    parts.append({"text": "Video:", "ref": 0, "head": True})
    for piece in layout.video:
        text, ref = (piece.phrase, piece.index) if isinstance(piece, Binding) else (piece, 0)
        parts.append({"text": text, "ref": ref, "head": False})
    return parts

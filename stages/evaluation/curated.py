"""What the report says of the data: the funnel, what lies either side of each threshold, and the training pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import Context
from stages.curation.funnel import either_side
from stages.curation.funnel import histogram as count_values
from stages.curation.rules import Bound, Rule, compile_rules
from stages.evaluation import charts, media
from stages.subjects.locate import in_folder


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


def funnel(ctx: Context, reviewers: Sequence[str] = ()) -> list[Level]:
    """Levels from source files to training samples, as far as the inputs reach; hours are of footage."""
    levels: list[Level] = []
    if ctx.has("videos"):
        levels.append(
            _files(ctx.dataset("videos").to_table(columns=["media_type", "status", "error_type", "duration_s"]))
        )
    clips = ctx.dataset("clips").to_table(columns=["clip_id", "duration_s"])
    hours = dict(zip(clips.column("clip_id").to_pylist(), clips.column("duration_s").to_pylist(), strict=True))
    alive = set(hours)
    levels.append(_level("shots", hours, alive, []))

    rows = ctx.dataset("selection").to_table(columns=["clip_id", "kept", "first_failing_rule"]).to_pylist()
    levels.append(
        _level("pass the rules", hours, alive, [(r["clip_id"], r["first_failing_rule"]) for r in rows if not r["kept"]])
    )
    if ctx.has("dedupe"):
        rows = ctx.dataset("dedupe").to_table(columns=["clip_id", "kept", "kind"]).to_pylist()
        gone = [(r["clip_id"], f"{r['kind']} duplicate") for r in rows if not r["kept"]]
        levels.append(_level("are not duplicates", hours, alive, gone))
    if ctx.has("verdicts"):
        rows = ctx.dataset("verdicts").to_table(columns=["external_id", "verdict", "reasons"]).to_pylist()
        gone = [(r["external_id"], _verdict(r)) for r in rows if r["verdict"] != "accept"]
        scripted = bool(reviewers) and all(name.startswith("script:") for name in reviewers)
        who = f"the scripted reviewer ({', '.join(reviewers)})" if scripted else "people"
        levels.append(_level(f"accepted by {who}", hours, alive, gone))
    if ctx.has("subset"):
        kept = set(ctx.dataset("subset").to_table(columns=["clip_id"]).column("clip_id").to_pylist())
        levels.append(_level("exported", hours, alive, [(c, "not exported") for c in alive - kept]))
    if ctx.has("subjects"):
        seen = set(ctx.dataset("subjects").to_table(columns=["clip_id"]).column("clip_id").to_pylist())
        levels.append(_level("show a subject", hours, alive, [(c, "no subject") for c in alive - seen]))
    if ctx.has("pairs"):
        table = ctx.dataset("pairs").to_table(columns=["clip_id", "kind", "split"])
        paired = set(table.column("clip_id").to_pylist())
        levels.append(_level("are paired", hours, alive, [(c, "no pair") for c in alive - paired]))
    # Files are another unit than clips: the bars compare clips with clips.
    widest = max((level.records for level in levels if level.unit == "clips"), default=1)
    return [
        Level(v.name, v.records, v.unit, v.hours, v.losses, v.records / max(1, widest) if v.unit == "clips" else 1.0)
        for v in levels
    ]


def _files(table: pa.Table) -> Level:
    rows = table.to_pylist()
    bad = Counter((r["error_type"] or r["status"]) for r in rows if r["status"] != "ok")
    seconds = sum(r["duration_s"] or 0.0 for r in rows if r["status"] == "ok" and r["media_type"] == "video")
    photos = sum(r["media_type"] == "image" and r["status"] == "ok" for r in rows)
    videos = sum(r["media_type"] == "video" and r["status"] == "ok" for r in rows)
    losses = [Loss(f"unreadable: {reason}", n, None) for reason, n in bad.most_common()]
    name = f"readable files, {videos:,} videos and {photos:,} photographs"
    return Level(name, videos + photos, "files", seconds / 3600, losses)


def _level(name: str, seconds: Mapping[str, float], alive: set[str], gone: Iterable[tuple[str, str | None]]) -> Level:
    """Take the clips that are gone out of ``alive`` and count what is left."""
    counted: dict[str, list[float]] = {}
    for clip_id, reason in gone:
        if clip_id in alive:
            alive.discard(clip_id)
            counted.setdefault(reason or "no reason given", []).append(seconds[clip_id])
    losses = [Loss(r, len(s), sum(s) / 3600) for r, s in sorted(counted.items(), key=lambda x: (-len(x[1]), x[0]))]
    return Level(name, len(alive), "clips", sum(seconds[c] for c in alive) / 3600, losses)


def _verdict(row: Mapping[str, Any]) -> str:
    reasons = ", ".join(sorted(row["reasons"] or []))
    return {"reject": f"rejected: {reasons}" if reasons else "rejected", "in_review": "undecided"}.get(
        row["verdict"], str(row["verdict"])
    )


@dataclass(frozen=True)
class Threshold:
    """A rule with the values it cuts through, and pictures from either side of each bound."""

    rule: str
    column: str
    told: str
    missing: int
    chart: Any
    sides: list[tuple[str, list[dict[str, str]]]]


def thresholds(ctx: Context, rules: Sequence[Rule], count: int) -> tuple[list[Threshold], list[str]]:
    """One entry per rule that bounds a column of this table, and a line for each rule that cannot be drawn."""
    clips = ctx.dataset("clips")
    drawn, apart = [], []
    for rule in rules:
        if rule.column is None:
            apart.append(f"{rule.name}: {rule.where}")
            continue
        if rule.column not in clips.schema.names:
            apart.append(f"{rule.name}: this table has no column {rule.column}")
            continue
        bounds = compile_rules([rule], clips)[0].bounds
        values = count_values(clips, rule.column, bounds)
        if not values.counts:
            apart.append(f"{rule.name}: no clip has a value of {rule.column}")
            continue
        sides = [s for bound in bounds for s in _pictures(ctx, bound, count)]
        unit = (clips.schema.field(rule.column).metadata or {}).get(b"unit", b"").decode()
        lines = [(b.value, b.side) for b in bounds]
        drawn.append(
            Threshold(
                rule.name,
                rule.column,
                unit,
                values.missing,
                charts.histogram(values.edges, values.counts, lines),
                sides,
            )
        )
    return drawn, apart


def _pictures(ctx: Context, bound: Bound, count: int) -> list[tuple[str, list[dict[str, str]]]]:
    if not ctx.has("keyframes") or not count:
        return []
    sides = either_side(ctx.dataset("clips"), bound, count)
    thumbs = keyframe_thumbs(ctx, [c for c, _ in (*sides.failing, *sides.passing)])
    result = []
    for name, clips in (("just rejected", sides.failing), ("just kept", sides.passing)):
        tiles = [{"src": thumbs[c], "value": charts.short(v), "clip": c} for c, v in clips if c in thumbs]
        result.append((name, tiles))
    return result


def keyframe_thumbs(ctx: Context, clip_ids: Sequence[str], side: int = 200) -> dict[str, str]:
    """For each clip its key frame nearest to the middle, as a data URI."""
    if not ctx.has("keyframes") or not clip_ids:
        return {}
    wanted = pc.field("clip_id").isin(pa.array(sorted(set(clip_ids)), pa.string()))
    columns = ["clip_id", "position", "jpeg"]
    best: dict[str, tuple[float, bytes]] = {}
    for row in ctx.dataset("keyframes").to_table(columns=columns, filter=wanted).to_pylist():
        off = abs(row["position"] - 0.5)
        if row["clip_id"] not in best or off < best[row["clip_id"]][0]:
            best[row["clip_id"]] = (off, row["jpeg"])
    thumbs = {clip_id: media.thumbnail(data, clip_id, side) for clip_id, (_, data) in best.items()}
    return {clip_id: src for clip_id, src in thumbs.items() if src is not None}


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
    found: dict[str, dict[str, str]] = {c: {"poster": src} for c, src in keyframe_thumbs(ctx, clip_ids, 240).items()}
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

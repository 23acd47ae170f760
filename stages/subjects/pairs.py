"""Stage ``pairs``: training samples of reference and target, in-pair and cross-pair, with prompts and a leak-free split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from data_schemas.ids import short_hash
from data_schemas.tables import CAPTIONS, DEDUPE, PAIRS, SUBJECTS, SUBSET
from stages.contract import Context, NotEnoughRows, Params, Table, stage
from stages.subjects.match import Candidates, held_out_videos, match


class PairParams(Params):
    """Bounds are cosines of the embedded encoder, from its separation of the DreamBooth photographs.

    Of pairs of different subjects there 5% score above 0.66 and 1% above 0.75; of pairs of one subject 65% score
    above 0.66 and 1% above 0.93. Another encoder needs its own bounds.
    """

    in_pair_per_clip: int = Field(1, ge=0, description="in-pair samples per clip")
    in_pair_lower: float = Field(
        0.5, ge=-1, le=1, description="least cosine of a reference with its clip's other crops"
    )
    cross_pair_per_clip: int = Field(2, ge=0, description="cross-pair samples per clip")
    lower: float = Field(0.66, ge=-1, le=1, description="below this a candidate is another subject")
    upper: float = Field(0.98, ge=-1, le=1, description="above this a candidate is a copy")
    names_must_agree: bool = Field(True, description="where both are named, their head nouns must be the same")
    held_out: float = Field(0.1, ge=0, le=0.5, description="share of source videos kept from training")
    min_in_pair: int = Field(1, ge=0, description="in-pair samples without which the pipeline stops here")
    min_cross_pair: int = Field(1, ge=0, description="cross-pair samples without which the pipeline stops here")

    @model_validator(mode="after")
    def _ordered(self) -> PairParams:
        if self.lower >= self.upper:
            raise ValueError(f"lower {self.lower} must be below upper {self.upper}")
        return self


@dataclass(frozen=True)
class Draft:
    """A sample before its prompt is written."""

    kind: str
    clip_id: str
    reference: str
    similarity: float | None


@stage(
    name="pairs",
    version="1",
    params=PairParams,
    inputs={"subset": Table(SUBSET), "subjects": Table(SUBJECTS), "dedupe": Table(DEDUPE), "captions": Table(CAPTIONS)},
    outputs={"pairs": Table(PAIRS)},
    optional=("dedupe", "captions"),
)
def pairs(ctx: Context, params: PairParams) -> None:
    """Pair every clip with crops of itself and with crops of the same identity from elsewhere."""
    clips = _clips(ctx)
    columns = ["subject_id", "origin", "clip_id", "video_id", "phrase", "time_s", "area", "embedding"]
    rows = ctx.dataset("subjects").to_table(columns=columns).to_pylist()
    main, ledger = main_subjects(rows, clips)
    files = {origin: [r["video_id"] for r in main if r["origin"] == origin] for origin in ("clip", "photo")}
    split = held_out_videos(files["clip"], files["photo"], ctx.seed, params.held_out)

    in_drafts, clip_reason = in_pairs(main, clips, ctx.seed, params)
    cross_drafts, cross_reason = cross_pairs(main, clips, split, params)
    drafts = [*in_drafts, *cross_drafts]
    by_id = {r["subject_id"]: r for r in main}
    told = _appearances(ctx, {d.reference for d in drafts}, by_id)
    samples = [_sample(d, clips[d.clip_id], by_id[d.reference], told, split) for d in drafts]
    ctx.write("pairs", PAIRS.table(samples))

    used = Counter(d.reference for d in drafts)
    ledger += [
        {"record_id": r["subject_id"], "video_id": r["video_id"], "status": "accepted"}
        if used[r["subject_id"]]
        else {"record_id": r["subject_id"], "video_id": r["video_id"], "status": "rejected", "reason": "never_drawn"}
        for r in main
    ]
    paired: dict[str, set[str]] = {}
    for draft in drafts:
        paired.setdefault(draft.clip_id, set()).add(draft.kind)
    with_subject = {r["clip_id"] for r in main}
    for clip_id, clip in clips.items():
        kinds = paired.get(clip_id, set())
        reason = cross_reason.get(clip_id) if clip_id in with_subject else "no_subject"
        if kinds == {"in_pair"}:
            reason = f"in_pair_only:{reason}" if reason else None
        elif not kinds and clip_id in with_subject:
            reason = clip_reason.get(clip_id) or reason or "no_pairs_asked_for"
        ledger.append(
            {
                "record_id": clip_id,
                "video_id": clip["video_id"],
                "status": "accepted" if kinds else "rejected",
                "reason": None if "cross_pair" in kinds else reason,
            }
        )
    ctx.ledger(ledger)
    _enough(samples, params, clip_reason, cross_reason, len(clips) - len(with_subject & set(clips)))


def _clips(ctx: Context) -> dict[str, dict[str, Any]]:
    columns = ["clip_id", "video_id", "media_sha256", "caption", "start_s", "end_s", "fps"]
    clips = {r["clip_id"]: {**r, "group": None} for r in ctx.dataset("subset").to_table(columns=columns).to_pylist()}
    if ctx.has("captions"):
        wanted = pc.field("clip_id").isin(pa.array(list(clips), pa.string()))
        for r in ctx.dataset("captions").to_table(columns=["clip_id", "caption"], filter=wanted).to_pylist():
            clips[r["clip_id"]]["caption"] = r["caption"] or clips[r["clip_id"]]["caption"]
    if ctx.has("dedupe"):
        wanted = pc.field("clip_id").isin(pa.array(list(clips), pa.string()))
        for r in ctx.dataset("dedupe").to_table(columns=["clip_id", "group_id"], filter=wanted).to_pylist():
            clips[r["clip_id"]]["group"] = r["group_id"]
    return clips


def main_subjects(
    rows: list[dict[str, Any]], clips: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The one subject of each clip and instant that its phrase names (the largest where none is named), and a ledger of
    the others. Subjects of clips outside the subset are left out as ``clip_not_in_subset``."""
    best: dict[tuple[str, float], dict[str, Any]] = {}
    ledger = []

    def reject(row: dict[str, Any], reason: str) -> None:
        ledger.append(
            {"record_id": row["subject_id"], "video_id": row["video_id"], "status": "rejected", "reason": reason}
        )

    for row in sorted(rows, key=lambda r: (r["phrase"] is None, -r["area"], r["subject_id"])):
        if row["origin"] == "clip" and row["clip_id"] not in clips:
            reject(row, "clip_not_in_subset")
            continue
        key = (row["clip_id"] or row["video_id"], row["time_s"] or 0.0)
        if key in best:
            reject(row, "secondary_subject")
        else:
            best[key] = row
    return sorted(best.values(), key=lambda r: (r["clip_id"] or "", r["video_id"], r["time_s"] or 0.0)), ledger


def in_pairs(
    main: list[dict[str, Any]], clips: Mapping[str, Mapping[str, Any]], seed: int, params: PairParams
) -> tuple[list[Draft], dict[str, str]]:
    """References from the target clip itself, never from its first frame, and why a clip has none.

    A reference must resemble the mean of the clip's other crops: a crop that does not shows something else.
    """
    import numpy as np

    groups: dict[str, list[dict[str, Any]]] = {}
    for row in main:
        if row["origin"] == "clip":
            groups.setdefault(row["clip_id"], []).append(row)
    drafts, reasons = [], {}
    for clip_id, rows in groups.items():
        later = [r for r in rows if r["time_s"] > 0.5 / max(clips[clip_id]["fps"], 1e-6)]
        later.sort(key=lambda r: short_hash("in_pair", seed, r["subject_id"]))
        fitting: list[Draft] = []
        for row in later:
            others = [np.asarray(r["embedding"]) for r in rows if r is not row]
            mean = np.mean(others, axis=0) if others else None
            cosine = (
                None if mean is None else round(float(np.asarray(row["embedding"]) @ mean / np.linalg.norm(mean)), 5)
            )
            if cosine is None or cosine >= params.in_pair_lower:
                fitting.append(Draft("in_pair", clip_id, row["subject_id"], cosine))
        drafts += fitting[: params.in_pair_per_clip]
        if not fitting:
            reasons[clip_id] = "subject_changes" if later else "only_the_first_frame"
    return drafts, reasons


def cross_pairs(
    main: list[dict[str, Any]], clips: Mapping[str, Mapping[str, Any]], held_out: set[str], params: PairParams
) -> tuple[list[Draft], dict[str, str]]:
    """References of the same identity from another clip or a photograph, and why a clip has none."""
    import numpy as np

    if not main or not params.cross_pair_per_clip:
        return [], {}
    codes: dict[str, dict[str | None, int]] = {"clip": {None: -1}, "video": {}, "group": {None: -1}, "name": {None: -1}}

    def code(kind: str, value: str | None) -> int:
        return codes[kind].setdefault(value, len(codes[kind]))

    def arrays(rows: list[dict[str, Any]], vectors: Any) -> Candidates:
        # Clips whose bytes are equal are one group whatever dedupe said.
        groups = [
            None if (c := clips.get(r["clip_id"] or "")) is None else c["group"] or f"bytes:{c['media_sha256']}"
            for r in rows
        ]
        spans = [clips.get(r["clip_id"] or "", {"start_s": np.nan, "end_s": np.nan}) for r in rows]
        return Candidates(
            np.asarray(vectors, np.float32),
            np.array([code("clip", r["clip_id"]) for r in rows], np.int64),
            np.array([code("video", r["video_id"]) for r in rows], np.int64),
            np.array([code("group", g) for g in groups], np.int64),
            np.array([int(r["video_id"] in held_out) for r in rows], np.int64),
            np.array([code("name", _head(r["phrase"]) if params.names_must_agree else None) for r in rows], np.int64),
            np.array([s["start_s"] for s in spans], np.float64),
            np.array([s["end_s"] for s in spans], np.float64),
        )

    of_clip: dict[str, list[dict[str, Any]]] = {}
    for row in main:
        if row["origin"] == "clip":
            of_clip.setdefault(row["clip_id"], []).append(row)
    targets = [rows[0] for rows in of_clip.values()]
    means = [np.mean([r["embedding"] for r in rows], axis=0) for rows in of_clip.values()]
    if not targets:
        return [], {}
    candidates = arrays(main, np.asarray([r["embedding"] for r in main], np.float32))
    wanted = arrays(targets, [m / max(float(np.linalg.norm(m)), 1e-9) for m in means])
    # A photograph has no clip; code -1 on both sides would look like one and the same.
    candidates.clip[candidates.clip < 0] = -2
    drafts, reasons = [], {}
    for found in match(wanted, candidates, lower=params.lower, upper=params.upper, most=params.cross_pair_per_clip):
        clip_id = targets[found.target]["clip_id"]
        drafts += [Draft("cross_pair", clip_id, main[row]["subject_id"], cosine) for row, cosine in found.chosen]
        if found.reason:
            reasons[clip_id] = found.reason
    return drafts, reasons


def _head(phrase: str | None) -> str | None:
    """The head noun of a phrase: its last word, "dog" of "a brown dog"."""
    words = (phrase or "").lower().split()
    return words[-1] if words else None


def _appearances(ctx: Context, wanted: set[str], by_id: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What each reference looks like; crops are read a batch at a time, and only those that are used."""
    from models.subjects.frames import picture
    from models.subjects.prompts import appearance

    told = {}
    scanner = ctx.dataset("subjects").scanner(
        columns=["subject_id", "crop", "mask"],
        filter=pc.field("subject_id").isin(pa.array(sorted(wanted), pa.string())),
        batch_size=64,
    )
    for batch in scanner.to_batches():
        for row in batch.to_pylist():
            crop, mask = picture(row["crop"], row["subject_id"]), picture(row["mask"], row["subject_id"])[..., 0]
            told[row["subject_id"]] = appearance(by_id[row["subject_id"]]["phrase"], crop, mask)
    return told


def _sample(
    draft: Draft,
    clip: Mapping[str, Any],
    reference: Mapping[str, Any],
    told: Mapping[str, str],
    held_out: set[str],
) -> dict[str, Any]:
    from models.subjects.prompts import compose, noun_phrase

    phrase = noun_phrase(clip["caption"]) or reference["phrase"] or told[reference["subject_id"]]
    return {
        "sample_id": short_hash("sample", draft.kind, draft.clip_id, draft.reference),
        "kind": draft.kind,
        "clip_id": draft.clip_id,
        "video_id": clip["video_id"],
        "prompt": compose(clip["caption"], [phrase], [told[reference["subject_id"]]]),
        "references": [
            {
                "subject_id": reference["subject_id"],
                "phrase": phrase,
                "appearance": told[reference["subject_id"]],
                "origin": reference["origin"],
                "video_id": reference["video_id"],
                "time_s": reference["time_s"],
            }
        ],
        "similarity": draft.similarity,
        "same_source": reference["video_id"] == clip["video_id"],
        "split": "held_out" if clip["video_id"] in held_out else "train",
    }


def _enough(
    samples: list[dict[str, Any]],
    params: PairParams,
    in_reason: Mapping[str, str],
    cross_reason: Mapping[str, str],
    without_subject: int,
) -> None:
    for kind, least, reasons in (
        ("in_pair", params.min_in_pair, in_reason),
        ("cross_pair", params.min_cross_pair, cross_reason),
    ):
        have = sum(s["kind"] == kind for s in samples)
        if have < least:
            counted = [f"{n} clips {reason}" for reason, n in sorted(Counter(reasons.values()).items())]
            if without_subject:
                counted.append(f"{without_subject} clips without a subject")
            raise NotEnoughRows(
                f"{kind.replace('_', '-')} samples",
                least,
                have,
                f"Why not: {', '.join(counted) or 'no clips'}. Add sources that show one subject twice, or change pairs.lower, "
                f"pairs.upper or pairs.min_{kind}.",
            )

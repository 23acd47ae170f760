"""Near copies in two steps: key frame hashes name the pairs worth a look, decoded signatures decide each of them.

Both steps are committed record by record under content keys: hashes by the pictures, signatures by the source's bytes and span,
verdicts by the pair of them. A killed run loses a batch, a rerun computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from stages.contract import Context, Group, Params, StageError
from stages.curation.keyframes import frame_batches, index_frames
from stages.curation.near_jobs import FRAMES, HashActor, spread
from stages.curation.near_verdicts import Verdicts

if TYPE_CHECKING:
    from models.video.near import NearRule

CLIPS_PER_BATCH = 512
_READ_KEYS = 500_000  # hashes read at once


class NearParams(Params):
    """Near copies: re-encoded, rescaled, cropped, trimmed, re-timed, with bars, a logo or other tones.

    Candidates: ``clip_bits`` is the mean number of bits, of 63 for each key frame, in which two clips may differ over all their key
    frames, ``frame_bits`` in a single one; where there are so many clips that chance alone would reach that far, the reach is
    shortened, and the event ``near_copies`` says to what. ``degree`` is the most candidates one clip brings. ``mirrored`` also finds
    copies turned left to right. ``verify``: ``frames`` decides every candidate by decoded pictures with the other numbers,
    which are ``models.video.near.NearRule``'s; ``hashes`` decodes nothing and takes clips for copies whose key frames differ in at
    most ``hash_bits`` of 63 on average and whose durations differ by a tenth at most: such rows say ``near_unverified`` in the ledger.
    ``quorum`` is the share of the comparisons between two groups of copies that must say the same before they become one: a single
    wrong verdict would join everything on both sides. 0 lets every verdict join.
    """

    enabled: bool = True
    verify: Literal["frames", "hashes"] = "frames"
    mirrored: bool = False
    clip_bits: float = Field(default=13.0, ge=0, le=20)
    frame_bits: int = Field(default=14, ge=0, le=20)
    hash_bits: float = Field(default=5.0, ge=0, le=20)
    degree: int = Field(default=16, ge=1, le=256)
    ratio: float = Field(default=0.6, gt=0, le=1)
    floor: float = Field(default=0.28, ge=0)
    ceiling: float = Field(default=0.7, gt=0)
    spot: float = Field(default=1.1, gt=0)
    stands_out: float = Field(default=1.6, gt=0)
    detail: float = Field(default=0.82, ge=-1, le=1)
    overlap: float = Field(default=0.8, gt=0, le=1)
    quorum: float = Field(default=0.1, ge=0, le=1)

    def rule(self) -> NearRule:
        from models.video.near import NearRule

        return NearRule(self.ratio, self.floor, self.ceiling, self.spot, self.stands_out, self.detail, self.overlap)


@dataclass(frozen=True)
class NearOutcome:
    """Pairs of rows that are near copies, whether pictures were compared for it, and by row what could not be compared and why."""

    pairs: np.ndarray
    verified: bool = True
    failed: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    without: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @staticmethod
    def none() -> NearOutcome:
        return NearOutcome(np.zeros((0, 2), np.int64))

    def errors(self, count: int) -> tuple[pa.Array, pa.Array]:
        """Error type and message of each of ``count`` rows, null where all went well."""
        kinds = [("NotCompared", "no key frame of this clip shows anything to compare near copies by")]
        kind = np.full(count, -1, np.int64)
        kind[self.without] = 0
        for row, error in self.failed.items():
            kind[row] = len(kinds)
            kinds.append((error["error_type"], error["error_message"]))
        at = pa.array(kind, mask=kind < 0)
        return tuple(pa.array([k[part] for k in kinds], pa.string()).take(at) for part in (0, 1))


def near_pairs(
    ctx: Context,
    clips: pa.Table,
    content: Callable[[np.ndarray], list[str | None]],
    rows: np.ndarray,
    params: NearParams,
) -> NearOutcome:
    """Compare the given rows of ``clips`` with each other. ``content`` gives rows their content keys."""
    from models.neighbours.hamming import Reach, candidate_pairs
    from models.video.phash import VIEWS

    hashes = _hashes(ctx, clips, rows, params.mirrored)
    reach = Reach(params.clip_bits, params.frame_bits, params.degree)
    found = candidate_pairs(hashes, reach, VIEWS)
    without = rows[(hashes[:, 0] == 0).all(axis=1)]
    del hashes
    pairs = rows[found.pairs]
    told = {
        "clips": len(rows),
        "without_hashes": len(without),
        "candidates": len(pairs),
        "cut_off": found.cut,
        "clip_radius": found.clip_radius,
        "frame_radius": found.frame_radius,
        "verified": params.verify == "frames",
    }
    if params.verify == "hashes":
        seconds = clips.column("duration_s").to_numpy()[pairs]
        alike = seconds.min(axis=1) >= 0.9 * seconds.max(axis=1)
        same = pairs[alike & (found.share <= params.hash_bits / 63)]
        outcome = NearOutcome(same, False, {}, without)
    else:
        verdicts = Verdicts(ctx, clips, content, params.rule(), params.quorum)
        verdicts.decide(pairs, found.mirrored)
        grown = verdicts.grow(rows)
        outvoted = verdicts.vote()
        grown += verdicts.adopt()
        outcome = NearOutcome(verdicts.joined(), True, verdicts.failed, without)
        told |= {"compared": verdicts.compared, "grown": grown, "outvoted": outvoted}
        told["not_comparable"] = len(verdicts.failed)
    told["joined"] = len(outcome.pairs)
    ctx.event("near_copies", **told)
    for name in ("candidates", "cut_off", "joined", "without_hashes"):
        ctx.metric(f"near_{name}", float(told[name]))
    return outcome


# -- hashes ------------------------------------------------------------------------------------------------------------


def _hashes(ctx: Context, clips: pa.Table, rows: np.ndarray, mirrored: bool) -> np.ndarray:
    """Hashes of the rows' key frames in all views: uint64 (rows, views, FRAMES), 0 where there is none."""
    if ctx.has("hashes"):
        return _given_hashes(ctx, clips, rows)
    if not ctx.has("keyframes"):
        raise StageError(
            "dedupe looks for near copies, but the pipeline gives it neither key frames nor hashes. Wire keyframes, wire hashes, "
            "or set dedupe.near.enabled=false."
        )
    from models.video.phash import VIEWS

    views = VIEWS * (2 if mirrored else 1)
    group = Group("hashes", ctx.recipe("hashes", "2", {"views": views, "frames": FRAMES}))
    ids = clips.column("clip_id").take(pa.array(rows)).combine_chunks()
    index = index_frames(ctx.dataset("keyframes"), ids)
    batches = frame_batches(index, ctx.records.done(group), CLIPS_PER_BATCH)
    if batches:
        init = {"shards": ctx.records.shards([group]), "mirrored": mirrored}
        with ctx.progress(sum(len(b.clip_ids) for b in batches), "clips") as bar:
            for done in ctx.map(HashActor, batches, init=init):
                bar.advance(done)
    values = np.zeros((len(rows), views * FRAMES), np.uint64)
    for start in range(0, index.clips.num_rows, _READ_KEYS):
        part = index.clips.slice(start, _READ_KEYS)
        at = pc.index_in(part.column("clip_id"), value_set=ids).to_numpy()
        keys = part.column("record_key").combine_chunks()
        stored = ctx.records.read(group, keys)
        where = pc.index_in(keys, value_set=stored.column("record_key").combine_chunks())
        flat = stored.column("hashes").combine_chunks().flatten().to_numpy().reshape(-1, views * FRAMES)
        values[at] = flat[where.to_numpy()]
    return values.reshape(len(rows), views, FRAMES)


def _given_hashes(ctx: Context, clips: pa.Table, rows: np.ndarray) -> np.ndarray:
    """Hashes that came with the pipeline, one view: uint64 (rows, 1, frames), as many frames as the clip with most has, at most
    ``FRAMES``."""
    ids = clips.column("clip_id").take(pa.array(rows)).combine_chunks()
    table = ctx.dataset("hashes").to_table(filter=pc.field("clip_id").isin(ids))
    table = table.sort_by([("clip_id", "ascending"), ("position", "ascending")])
    at = pc.index_in(table.column("clip_id").combine_chunks(), value_set=ids).to_numpy()
    values = table.column("hash").to_numpy()
    if not len(at):
        return np.zeros((len(rows), 1, 1), np.uint64)
    first = np.flatnonzero(np.concatenate([[True], at[1:] != at[:-1]]))
    counts = np.diff(np.append(first, len(at)))
    frames = min(FRAMES, int(counts.max()))
    result = np.zeros((len(rows), 1, frames), np.uint64)
    for count in np.unique(counts).tolist():
        mine = first[counts == count]
        for number, offset in enumerate(spread(count)[:frames] if frames == FRAMES else range(frames)):
            result[at[mine], 0, number] = values[mine + min(offset, count - 1)]
    return result

"""Near copies in two steps: key frame hashes name the pairs worth a look, decoded signatures decide each of them.

Both steps are committed record by record under content keys: hashes by the pictures, signatures by the source's bytes and span,
verdicts by the pair of them. A killed run loses a batch, a rerun computes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from stages.contract import Context, Group, Params, StageError
from stages.curation.groups import WHOLE, components, trees
from stages.curation.keyframes import frame_batches, index_frames
from stages.curation.near_growth import Link, Timeline, neighbours
from stages.curation.near_jobs import (
    FRAMES,
    CompareActor,
    Failures,
    HashActor,
    Pair,
    SignatureActor,
    VideoSpans,
    spread,
)
from stages.curation.near_votes import agreed, ballots

CLIPS_PER_BATCH = 512
SPANS_PER_BATCH = 48  # clips decoded and committed together: some seconds of work
PAIRS_PER_BATCH = 192
_READ_KEYS = 500_000  # hashes read at once
_DAMAGED = 0.5  # share of a clip from which it has no pictures of its own


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
    ratio: float = Field(default=0.55, gt=0, le=1)
    floor: float = Field(default=0.22, ge=0)
    ceiling: float = Field(default=0.65, gt=0)
    spot: float = Field(default=1.1, gt=0)
    stands_out: float = Field(default=8.0, gt=0)
    overlap: float = Field(default=0.8, gt=0, le=1)
    quorum: float = Field(default=0.1, ge=0, le=1)


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
        verdicts = _Verdicts(ctx, clips, content, params)
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


# -- verdicts ----------------------------------------------------------------------------------------------------------


class _Verdicts:
    """Decides pairs of rows by their decoded pictures, and remembers how those that match lie along each other."""

    def __init__(
        self, ctx: Context, clips: pa.Table, content: Callable[[np.ndarray], list[str | None]], params: NearParams
    ) -> None:
        from models.video.near import NEAR_VERSION, NearRule
        from models.video.signature import SIGNATURE_VERSION

        self.ctx, self.clips, self.content, self.quorum = ctx, clips, content, params.quorum
        self.rule = NearRule(params.ratio, params.floor, params.ceiling, params.spot, params.stands_out, params.overlap)
        recipe = ctx.recipe("signatures", SIGNATURE_VERSION, {})
        self.signatures, self.damage = Group("signatures", recipe), Group("damage", recipe)
        rule = {"rule": vars(self.rule), "near": NEAR_VERSION, "signatures": SIGNATURE_VERSION}
        self.verdicts = Group("verdicts", ctx.recipe("verdicts", NEAR_VERSION, rule))
        self.key_of: dict[int, str] = {}
        self.failed: dict[int, Mapping[str, str]] = {}
        self.links: list[Link] = []
        self.compared = 0
        self._beside = np.zeros((0, 2), np.int64), np.zeros(0, bool)

    def joined(self) -> np.ndarray:
        """The pairs that make groups: int64 (P, 2)."""
        cost = np.asarray([link.difference for link in self.links])
        return trees(self._pairs(), self._whole(), self.clips.column("duration_s").to_numpy(), cost)

    def _pairs(self) -> np.ndarray:
        return np.asarray([(link.one, link.two) for link in self.links], dtype=np.int64).reshape(-1, 2)

    def _whole(self) -> np.ndarray:
        """Whether the clips of each link last about as long, at equal speed: bool (P,)."""
        if not self.links:
            return np.zeros(0, bool)
        seconds = self.clips.column("duration_s").to_numpy()[self._pairs()] * np.asarray(
            [(1.0, k.speed) for k in self.links]
        )
        return np.asarray(seconds.min(axis=1) >= WHOLE * seconds.max(axis=1))

    def decide(self, pairs: np.ndarray, mirrored: np.ndarray) -> None:
        """First each clip's nearest candidate, then what those verdicts have not already joined: being the same passes on."""
        if not len(pairs):
            return
        self._sign(np.unique(pairs))
        nearest = np.zeros(len(pairs), bool)
        for side in (0, 1):
            nearest[np.unique(pairs[:, side], return_index=True)[1]] = True
        self._compare(pairs[nearest], mirrored[nearest])
        later, turned = pairs[~nearest], mirrored[~nearest]
        open_ = self._apart(later)
        self._compare(later[open_], turned[open_])

    def grow(self, rows: np.ndarray) -> int:
        """Look at the clips that lie beside verified copies on the same timeline; returns how many were joined.

        Their key frames may have missed each other.
        """
        timeline = Timeline.of(self.clips, rows)
        pairs, turned = neighbours(timeline, self.links)
        if not len(pairs):
            return 0
        known = {tuple(sorted(pair)) for pair in self._pairs().tolist()}
        fresh = np.asarray([tuple(sorted(pair)) not in known for pair in pairs.tolist()], bool) & self._apart(pairs)
        pairs, turned = pairs[fresh], turned[fresh]
        if not len(pairs):
            return 0
        self._sign(np.unique(pairs))
        before = len(self.links)
        self._compare(pairs, turned)
        self._beside = pairs, turned
        return len(self.links) - before

    def vote(self) -> int:
        """Ask further clips of each group about each other, and drop the links that too few of them confirm; returns how many."""
        held, _ = self._held()
        known = {(min(link.one, link.two), max(link.one, link.two)) for link in self.links}
        pairs, turned = ballots(held, self.key_of)
        fresh = np.asarray([tuple(pair) not in known for pair in pairs.tolist()], bool)
        said = self._compare(pairs[fresh], turned[fresh])
        held, parts = self._held()
        confirmed = [link for link, within in zip(held, agreed(held, said, self.quorum), strict=True) if within]
        before = len(self.links)
        self.links = [*confirmed, *parts]
        return before - len(self.links)

    def adopt(self) -> int:
        """Join what lies beside a copy and is mostly damaged: where the other video has good pictures it shows nothing else, though
        no comparison can say so. Returns how many were joined.
        """
        pairs, turned = self._beside
        if not len(pairs):
            return 0
        share = self._damage(np.unique(pairs))
        before = len(self.links)
        open_ = self._apart(pairs)
        for (one, two), mirror in zip(pairs[open_].tolist(), turned[open_].tolist(), strict=True):
            if max(share.get(one, 0.0), share.get(two, 0.0)) >= _DAMAGED:
                self.links.append(Link(one, two, 0.0, 1.0, mirror, 1.0))
        return len(self.links) - before

    def _held(self) -> tuple[list[Link], list[Link]]:
        """The links between clips that show the same from end to end, and those between a clip and a part of it."""
        whole = self._whole().tolist()
        held = [link for link, is_whole in zip(self.links, whole, strict=True) if is_whole]
        return held, [link for link, is_whole in zip(self.links, whole, strict=True) if not is_whole]

    def _apart(self, pairs: np.ndarray) -> np.ndarray:
        """Whether the rows of each pair are not known to show the same yet: bool (P,)."""
        rows, label = components(self._pairs()[self._whole()])
        group = np.full(self.clips.num_rows, -1, np.int64)
        group[rows] = label
        one, two = group[pairs[:, 0]], group[pairs[:, 1]]
        return (one < 0) | (one != two)

    def _sign(self, rows: np.ndarray) -> None:
        """Decode the signatures that are missing; a clip that cannot be decoded is remembered as failed."""
        rows = rows[[row not in self.key_of for row in rows.tolist()]] if len(rows) else rows
        if not len(rows):
            return
        ids = self.clips.column("clip_id").take(pa.array(rows))
        uris = self.ctx.dataset("clips").to_table(
            columns=["clip_id", "video_uri"], filter=pc.field("clip_id").isin(ids.combine_chunks())
        )
        where = pc.index_in(ids, value_set=uris.column("clip_id").combine_chunks())
        uri_of = uris.column("video_uri").take(where).to_pylist()
        start, end = (self.clips.column(name).to_numpy()[rows].tolist() for name in ("start_frame", "end_frame"))
        keys = [
            hashlib.sha256((known or f"clip:{clip_id}").encode()).hexdigest()
            for known, clip_id in zip(self.content(rows), ids.to_pylist(), strict=True)
        ]
        self.key_of.update(zip(rows.tolist(), keys, strict=True))
        done = self.ctx.records.done(self.signatures)
        by_video: dict[str, dict[str, tuple[str, int, int]]] = {}
        for key, uri, first, last in zip(keys, uri_of, start, end, strict=True):
            if key not in done:
                by_video.setdefault(uri, {})[key] = (key, first, last)
        jobs = [VideoSpans(uri, tuple(spans[key] for key in sorted(spans))) for uri, spans in sorted(by_video.items())]
        failed: Failures = {}
        if jobs:
            init = {"shards": self.ctx.records.shards([self.signatures, self.damage])}
            with self.ctx.progress(sum(len(job.spans) for job in jobs), "clips") as bar:
                for count, errors in self.ctx.map(SignatureActor, _batches(jobs), init=init):
                    failed |= errors
                    bar.advance(count + len(errors), failed=len(errors))
        self.failed.update({row: failed[key] for row, key in zip(rows.tolist(), keys, strict=True) if key in failed})

    def _compare(self, pairs: np.ndarray, mirrored: np.ndarray) -> dict[tuple[int, int], bool]:
        """Links the pairs that match; returns what was found of each pair (smaller row first)."""
        asked: dict[str, list[tuple[int, int]]] = {}
        jobs: dict[str, Pair] = {}
        for (one, two), mirror in zip(pairs.tolist(), mirrored.tolist(), strict=True):
            if one in self.failed or two in self.failed:
                continue
            if self.key_of[two] < self.key_of[one]:
                one, two = two, one
            pair = Pair(self.key_of[one], self.key_of[two], mirror)
            jobs[pair.key] = pair
            asked.setdefault(pair.key, []).append((one, two))
        done = self.ctx.records.done(self.verdicts)
        missing = sorted((pair for key, pair in jobs.items() if key not in done), key=lambda p: (p.one, p.two))
        if missing:
            used = sorted({key for pair in missing for key in (pair.one, pair.two)})
            init = {
                "shards": self.ctx.records.shards([self.verdicts]),
                "signatures": self.ctx.records.reader(self.signatures, used),
                "rule": self.rule,
            }
            batches = [tuple(missing[i : i + PAIRS_PER_BATCH]) for i in range(0, len(missing), PAIRS_PER_BATCH)]
            with self.ctx.progress(len(missing), "pairs") as bar:
                for count in self.ctx.map(CompareActor, batches, init=init):
                    bar.advance(count)
        self.compared += len(jobs)
        said: dict[tuple[int, int], bool] = {}
        stored = self.ctx.records.read(self.verdicts, pa.array(sorted(jobs), pa.string()))
        if not stored.num_rows:
            return said
        for verdict in stored.sort_by("record_key").to_pylist():
            for one, two in asked[verdict["record_key"]]:
                said[min(one, two), max(one, two)] = verdict["same"]
                if verdict["same"]:
                    mirror = jobs[verdict["record_key"]].mirrored
                    place = verdict["start_s"], verdict["speed"]
                    self.links.append(Link(one, two, *place, mirror, verdict["difference"]))
        return said

    def _damage(self, rows: np.ndarray) -> dict[int, float]:
        keys = {row: self.key_of[row] for row in rows.tolist() if row not in self.failed}
        stored = self.ctx.records.read(self.damage, pa.array(sorted(set(keys.values())), pa.string()))
        if not stored.num_rows:
            return {}
        share = dict(zip(*(stored.column(name).to_pylist() for name in ("record_key", "share")), strict=True))
        return {row: share[key] for row, key in keys.items()}


def _batches(jobs: Sequence[VideoSpans]) -> list[tuple[VideoSpans, ...]]:
    """Videos in one call of an actor: as many as make ``SPANS_PER_BATCH`` clips; one video is never split, but its clips may be many."""
    batches: list[tuple[VideoSpans, ...]] = []
    batch: list[VideoSpans] = []
    for job in jobs:
        batch.append(job)
        if sum(len(held.spans) for held in batch) >= SPANS_PER_BATCH:
            batches.append(tuple(batch))
            batch = []
    return [*batches, tuple(batch)] if batch else batches

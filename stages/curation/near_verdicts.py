"""Verdicts on pairs of clips by their decoded pictures, and the groups that the verdicts make."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import Context, Group
from stages.curation.groups import WHOLE, components, trees
from stages.curation.near_growth import Link, Timeline, neighbours
from stages.curation.near_jobs import CompareActor, Failures, Pair, SignatureActor, VideoSpans
from stages.curation.near_votes import agreed, ballots

if TYPE_CHECKING:
    from models.video.near import NearRule

SPANS_PER_BATCH = 48  # clips decoded and committed together: some seconds of work
PAIRS_PER_BATCH = 192
_DAMAGED = 0.5  # share of a clip from which it has no pictures of its own


class Verdicts:
    """Decides pairs of rows by their decoded pictures, and remembers how those that match lie along each other."""

    def __init__(
        self,
        ctx: Context,
        clips: pa.Table,
        content: Callable[[np.ndarray], list[str | None]],
        rule: NearRule,
        quorum: float,
    ) -> None:
        from models.video.near import NEAR_VERSION
        from models.video.signature import SIGNATURE_VERSION

        self.ctx, self.clips, self.content, self.rule, self.quorum = ctx, clips, content, rule, quorum
        recipe = ctx.recipe("signatures", SIGNATURE_VERSION, {})
        self.signatures, self.damage = Group("signatures", recipe), Group("damage", recipe)
        identity = {"rule": vars(rule), "near": NEAR_VERSION, "signatures": SIGNATURE_VERSION}
        self.verdicts = Group("verdicts", ctx.recipe("verdicts", NEAR_VERSION, identity))
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
        where_is = self.clips.select(["start_frame", "end_frame", "start_s", "end_s"]).take(pa.array(rows))
        spans = zip(*(column.to_pylist() for column in where_is.columns), strict=True)
        keys = [
            hashlib.sha256((known or f"clip:{clip_id}").encode()).hexdigest()
            for known, clip_id in zip(self.content(rows), ids.to_pylist(), strict=True)
        ]
        self.key_of.update(zip(rows.tolist(), keys, strict=True))
        done = self.ctx.records.done(self.signatures)
        by_video: dict[str, dict[str, tuple[str, int, int, float, float]]] = {}
        row_of: dict[str, int] = {}
        for row, key, uri, span in zip(rows.tolist(), keys, uri_of, spans, strict=True):
            if key not in done:
                by_video.setdefault(uri, {})[key] = (key, *span)
                row_of[uri] = row
        about = dict(zip(row_of, self._files(list(row_of.values())), strict=True))
        jobs = [
            VideoSpans(uri, *about[uri], tuple(of[key] for key in sorted(of))) for uri, of in sorted(by_video.items())
        ]
        failed: Failures = {}
        if jobs:
            init = {"shards": self.ctx.records.shards([self.signatures, self.damage])}
            with self.ctx.progress(sum(len(job.spans) for job in jobs), "clips") as bar:
                for count, errors in self.ctx.map(SignatureActor, _batches(jobs), init=init):
                    failed |= errors
                    bar.advance(count + len(errors), failed=len(errors))
        self.failed.update({row: failed[key] for row, key in zip(rows.tolist(), keys, strict=True) if key in failed})

    def _files(self, rows: Sequence[int]) -> list[tuple[str | None, int, int | None]]:
        """Digest, size and modification time of each row's source as it was analysed."""
        wanted = self.clips.column("video_id").take(pa.array(rows, pa.int64())).combine_chunks()
        columns = ["video_id", "sha256", "bytes", "mtime_ns"]
        videos = self.ctx.dataset("videos").to_table(
            columns=columns, filter=pc.field("video_id").isin(pc.unique(wanted))
        )
        found = videos.take(pc.index_in(wanted, value_set=videos.column("video_id").combine_chunks()))
        return list(zip(*(found.column(name).to_pylist() for name in columns[1:]), strict=True))

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

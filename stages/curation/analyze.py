"""Reads every source file once and derives from that one pass its facts, shots, scores and key frames."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from data_schemas.tables import CLIPS, KEYFRAMES, SOURCES, VIDEOS
from stages.contract import Context, Group, Params, Resources, Table, stage
from stages.curation import analyze_tables as tables
from stages.curation.analyze_worker import (
    CONTENT,
    FACTS,
    IDENTITY,
    SHOTS,
    AnalyzeActor,
    Item,
    Known,
    Outcome,
    Work,
    failed_group,
    scorer_group,
)

if TYPE_CHECKING:
    from models.scorers.base import Scorer

DEFAULT_SCORERS = ("motion", "sharpness", "exposure", "letterbox", "static", "text_area", "flicker")

_FILES_PER_BATCH = 8  # a batch is what a crash loses and what a progress bar moves by: seconds of work
_BYTES_PER_BATCH = 48 << 20


class ShotSettings(Params):
    """Thresholds of shot detection, as ``models.video.shots.ShotParams`` explains them; lengths in seconds."""

    adaptive_ratio: float = Field(default=3.0, gt=1)
    min_change: float = Field(default=15.0, ge=0, le=255)
    least_change: float = Field(default=12.0, ge=0, le=255)
    min_shot_s: float = Field(default=0.15, ge=0)
    flash_s: float = Field(default=0.25, ge=0)
    gradual_s: tuple[float, ...] = (0.4, 0.7, 1.0)
    gradual_change: float = Field(default=22.0, ge=0, le=255)
    gradual_residual: float = Field(default=0.2, ge=0, le=1)
    flat_spread: float = Field(default=6.0, ge=0)
    edge_flat_s: float = Field(default=2.0, ge=0)


class AnalyzeParams(Params):
    """``scorers`` are names of built-in ones or a user's own as ``package.module:Class``.

    Limits for one file: ``max_minutes`` of work, ``stall_seconds`` without a sign of life, ``memory_gib`` of memory,
    ``max_megapixels`` a picture. They decide which files fail, never what the others score.
    """

    scorers: tuple[str, ...] = DEFAULT_SCORERS
    shots: ShotSettings = ShotSettings()
    max_minutes: float = Field(default=60.0, gt=0)
    stall_seconds: float = Field(default=60.0, gt=0)
    memory_gib: float = Field(default=4.0, gt=0)
    max_megapixels: float = Field(default=64.0, gt=0)


def _scorer_versions(params: AnalyzeParams) -> Mapping[str, str]:
    from models.scorers.catalog import scorer_classes

    return {scorer_group(name): f"version {scorer.version}" for name, scorer in scorer_classes(params.scorers).items()}


@stage(
    name="analyze",
    version="1",
    params=AnalyzeParams,
    inputs={"sources": Table(SOURCES)},
    outputs={"videos": Table(VIDEOS), "shots": Table(CLIPS), "keyframes": Table(KEYFRAMES)},
    resources=Resources(cpus=1.0),
    models=_scorer_versions,
)
def analyze(ctx: Context, params: AnalyzeParams) -> None:
    """Decode what is new, score what lacks a score, and put the tables together from all that is recorded.

    Work is kept by content: a renamed file is only hashed, an unchanged one not even read, and a changed scorer runs alone
    over the recorded shots. A file that cannot be decoded is recorded as failed and not tried again unless asked.
    """
    run = _Run(ctx, params)
    # a second pass takes up what the first found to be less known than it looked; failures are tried once a run
    for first in (True, False):
        items = run.missing(first)
        if not items:
            break
        run.work_off(items)
    run.write()


class _Run:
    """One run of the stage: its groups, what is known, and how files ended that leave no record."""

    def __init__(self, ctx: Context, params: AnalyzeParams) -> None:
        from models.scorers.catalog import scorer_classes
        from models.video.analyze import ANALYZE_VERSION
        from models.video.shots import SHOTS_VERSION

        self.ctx, self.params = ctx, params
        self.scorers: dict[str, type[Scorer]] = scorer_classes(params.scorers)
        spec_of = {scorer: spec for spec, scorer in zip(params.scorers, self.scorers, strict=True)}
        content = {"analyze": ANALYZE_VERSION, "shots": SHOTS_VERSION, "params": params.shots.model_dump(mode="json")}
        recipe = ctx.recipe("content", ANALYZE_VERSION, content)
        self.groups = {IDENTITY: Group(IDENTITY, ctx.recipe(IDENTITY, "1", {}))}
        for name in CONTENT:
            self.groups[name] = Group(name, recipe)
        for name, scorer in self.scorers.items():
            # a scorer's numbers are per shot, so they stand on the shots' recipe too
            own = ctx.recipe(scorer_group(name), scorer.version, {"class": _path(spec_of[name]), "content": recipe})
            self.groups[scorer_group(name)] = Group(scorer_group(name), own)
        for name in (FACTS, *(scorer_group(n) for n in self.scorers)):
            self.groups[failed_group(name)] = Group(failed_group(name), self.groups[name].recipe)
        self.work = Work(
            scorers=spec_of,
            columns={name: tuple(c.name for c in scorer.columns) for name, scorer in self.scorers.items()},
            shot_params=params.shots.model_dump(),
            max_pixels=int(params.max_megapixels * 1e6),
            limit_s=params.max_minutes * 60,
            stall_s=params.stall_seconds,
            memory_bytes=int(params.memory_gib * (1 << 30)),
        )
        self.sources = _with_identity(ctx)
        self.unread: dict[str, Outcome] = {}  # by video_id: files that could not be read, so have no content key
        self.seconds: dict[str, float] = {}  # by video_id: what was worked on in this run

    # -- what is to be done --------------------------------------------------------------------------------------------

    def missing(self, first: bool) -> list[Item]:
        """Files that lack something: those never read, and one file for each content of which a group is missing."""
        done = {name: self.ctx.records.done(group) for name, group in self.groups.items() if name != IDENTITY}
        failed = {name: attempts(done[failed_group(name)]) for name in (FACTS, *map(scorer_group, self.scorers))}
        wanted = (*CONTENT, *(scorer_group(name) for name in self.scorers))
        again = self.ctx.retry_failed and first

        def lacking(sha: str) -> tuple[str, ...]:
            if sha in failed[FACTS] and sha not in done[FACTS] and not again:
                return ()
            return tuple(g for g in wanted if sha not in done[g] and (again or sha not in failed.get(g, {})))

        items: list[Item] = []
        taken: set[str] = set()
        columns = [self.sources.column(n).to_pylist() for n in ("video_id", "uri", "media_type", "identity")]
        for video, uri, media, identity, sha in zip(*columns, self.content_keys(), strict=True):
            if sha is None and video not in self.unread:
                items.append(Item(video, uri, media, identity, None, wanted))
            elif sha is not None and sha not in taken:
                taken.add(sha)
                groups = lacking(sha)
                if groups:
                    attempt = 1 + max(failed[g].get(sha, 0) for g in failed)
                    items.append(Item(video, uri, media, identity, sha, groups, None, attempt))
        self.known = Known.of([sha for sha in done[FACTS] | failed[FACTS].keys() if not lacking(sha)])
        return self._with_shots(items)

    def _with_shots(self, items: list[Item]) -> list[Item]:
        """Give the recorded shots to the files of which only scores are missing."""
        only = {str(item.sha256) for item in items if item.sha256 and not set(item.groups) & set(CONTENT)}
        if not only:
            return items
        recorded = tables.shots_by_key(self.ctx.records.read(self.groups[SHOTS], sorted(only)))
        return [replace(i, shots=recorded.get(str(i.sha256), ())) if i.sha256 in only else i for i in items]

    def content_keys(self) -> list[str | None]:
        """The content key of every source, where its path, size and change mark were seen before."""
        identities = self.sources.column("identity")
        recorded = self.ctx.records.read(self.groups[IDENTITY], identities.combine_chunks())
        if not recorded.num_rows:
            return [None] * len(identities)
        at = pc.index_in(identities.combine_chunks(), value_set=recorded.column("record_key").combine_chunks())
        keys: list[str | None] = recorded.column("sha256").combine_chunks().take(at).to_pylist()
        return keys

    # -- doing it ------------------------------------------------------------------------------------------------------

    def work_off(self, items: Sequence[Item]) -> None:
        sizes = dict(zip(*(self.sources.column(n).to_pylist() for n in ("video_id", "bytes")), strict=True))
        shards = self.ctx.records.shards(list(self.groups.values()))
        init = {"work": self.work, "shards": shards, "known": self.known}
        started = time.monotonic()
        failures = 0
        with self.ctx.progress(len(items), "videos") as progress:
            for outcomes in self.ctx.map(AnalyzeActor, _batches(items, sizes), init=init):
                failed = sum(outcome.error_type is not None for outcome in outcomes)
                failures += failed
                for outcome in outcomes:
                    self.seconds[outcome.video_id] = outcome.seconds
                    if outcome.sha256 is None:
                        self.unread[outcome.video_id] = outcome
                progress.advance(len(outcomes), failed=failed)
        self.ctx.event("analyzed", files=len(items), failed=failures, seconds=round(time.monotonic() - started, 1))

    # -- the tables ----------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Put the outputs and the ledger together from what is recorded."""
        keys = pa.array(self.content_keys(), pa.string())
        sources = self.ctx.dataset("sources").to_table().append_column("sha256", keys)
        tables.write_outputs(self.ctx, sources, self.groups, self.scorers, self.unread, self.seconds)


def attempts(keys: set[str]) -> dict[str, int]:
    """Failed content keys with the number of their last attempt, from record keys ``<sha256>#<attempt>``."""
    found: dict[str, int] = {}
    for key in keys:
        sha, _, number = key.partition("#")
        found[sha] = max(found.get(sha, 0), int(number))
    return found


def _with_identity(ctx: Context) -> pa.Table:
    """The sources with the key under which an unchanged file is recognised: its id, its size and its change mark.

    Where the storage keeps no change mark a file is recognised within one run only.
    """
    table = ctx.dataset("sources").to_table(columns=["video_id", "uri", "media_type", "bytes", "mtime_ns", "etag"])
    mark = pc.coalesce(table.column("mtime_ns").cast(pa.string()), table.column("etag"), pa.scalar(f"run {ctx.run_id}"))
    identity = pc.binary_join_element_wise(table.column("video_id"), table.column("bytes").cast(pa.string()), mark, ":")
    return table.append_column("identity", identity)


def _batches(items: Sequence[Item], sizes: Mapping[str, int]) -> list[list[Item]]:
    """A few files each, by bytes: large ones alone and first, so that no worker is left with one at the end."""
    batches: list[list[Item]] = []
    large = [item for item in items if sizes[item.video_id] >= _BYTES_PER_BATCH]
    batches.extend([item] for item in sorted(large, key=lambda item: -sizes[item.video_id]))
    batch: list[Item] = []
    total = 0
    for item in items:
        size = sizes[item.video_id]
        if size >= _BYTES_PER_BATCH:
            continue
        if batch and (len(batch) >= _FILES_PER_BATCH or total + size > _BYTES_PER_BATCH):
            batches.append(batch)
            batch, total = [], 0
        batch.append(item)
        total += size
    return [*batches, batch] if batch else batches


def _path(spec: str) -> str:
    from models.scorers.catalog import BUILT_IN

    return BUILT_IN.get(spec, spec)

"""Reads every source file once and derives from that one pass its facts, shots, scores and key frames."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from data_schemas.tables import CLIPS, KEYFRAMES, SOURCES, VIDEOS
from stages.contract import Context, Group, Params, Resources, StageError, Table, stage
from stages.curation import analyze_tables as tables
from stages.curation.analyze_worker import (
    CONTENT,
    FACTS,
    IDENTITY,
    SHOTS,
    AnalyzeActor,
    Item,
    Outcome,
    Work,
    failed_group,
    scorer_group,
)
from stages.curation.missing import LARGE, Committed, Missing, last_attempts

if TYPE_CHECKING:
    from models.scorers.base import Scorer

DEFAULT_SCORERS = (
    "motion",
    "sharpness",
    "exposure",
    "colourfulness",
    "noise",
    "letterbox",
    "static",
    "text_area",
    "flicker",
)

_FILES_PER_BATCH = 8  # a batch is what a crash loses and what a progress bar moves by: seconds of work


class ShotSettings(Params):
    """Thresholds of shot detection, as ``models.video.shots.ShotParams`` explains them; lengths in seconds."""

    detector: Literal["adaptive", "transnetv2"] = "adaptive"
    adaptive_ratio: float = Field(default=2.0, gt=1)
    min_change: float = Field(default=10.0, ge=0, le=255)
    least_change: float = Field(default=12.0, ge=0, le=255)
    stands_out: float = Field(default=1.6, ge=1)
    same_picture: float = Field(default=0.75, gt=0, le=1)
    min_shot_s: float = Field(default=0.15, ge=0)
    flash_s: float = Field(default=0.25, ge=0, le=0.5)
    gradual_change: float = Field(default=20.0, ge=0, le=255)
    gradual_score: float = 0.2
    flat_spread: float = Field(default=6.0, ge=0)
    edge_flat_s: float = Field(default=2.0, ge=0)
    transnetv2_weights: str | None = None
    transnetv2_threshold: float = Field(default=0.5, gt=0, lt=1)

    def recipe(self) -> dict[str, Any]:
        """What shots depend on: weights count by what they hold, not by where they lie. Raises ``StageError``."""
        settings = self.model_dump(mode="json", exclude={"transnetv2_weights"})
        if self.detector == "transnetv2":
            from models.video.transnet import WeightsError, check_weights

            try:
                settings["transnetv2_sha256"] = check_weights(self.transnetv2_weights)
            except WeightsError as error:
                raise StageError(str(error)) from error
        return settings


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

    versions = {scorer_group(n): f"version {scorer.version}" for n, scorer in scorer_classes(params.scorers).items()}
    weights = params.shots.recipe().get("transnetv2_sha256")
    return versions if weights is None else {**versions, "transnetv2": f"sha256 {weights}"}


@stage(
    name="analyze",
    version="1",
    params=AnalyzeParams,
    inputs={"sources": Table(SOURCES), "removed": Table(SOURCES)},
    optional=("removed",),
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
        missing = run.missing(first)
        if not len(missing):
            break
        run.work_off(missing)
    run.write()


class _Run:
    """One run of the stage: its groups, what is known, and how files ended that leave no record."""

    def __init__(self, ctx: Context, params: AnalyzeParams) -> None:
        self.ctx, self.params = ctx, params
        self.groups, self.scorers = column_groups(ctx, params)
        spec_of = {scorer: spec for spec, scorer in zip(params.scorers, self.scorers, strict=True)}
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
        self.content: pa.StringArray | None = None  # content key of every source; None when it may have changed
        self.unread: dict[str, Outcome] = {}  # by video_id: files that could not be read, so have no content key
        self.spent: list[pa.Table] = []  # video_id and seconds of what was worked on in this run

    # -- what is to be done --------------------------------------------------------------------------------------------

    def missing(self, first: bool) -> Missing:
        """Files that lack something: those never read, and one file for each content of which a group is missing."""
        wanted = (*CONTENT, *(scorer_group(name) for name in self.scorers))
        may_fail = (FACTS, *map(scorer_group, self.scorers))
        names = (*wanted, *map(failed_group, may_fail))
        keys = dict(zip(names, self.ctx.records.done_each([self.groups[name] for name in names]), strict=True))
        done = {name: keys[name] for name in wanted}
        failed = {name: last_attempts(keys[failed_group(name)]) for name in may_fail}
        known = Committed(wanted, done, failed, again=self.ctx.retry_failed and first)
        self.known = known.complete()
        unread = pa.array(list(self.unread), pa.string())
        return known.missing(self.sources, self.content_keys(), unread)

    def content_keys(self) -> pa.StringArray:
        """The content key of every source, where its path, size and change mark were seen before and it could be read; else null."""
        if self.content is None:
            identity = self.sources.column("identity").combine_chunks()
            group = self.groups[IDENTITY]
            seen = identity.filter(self.ctx.records.done(group).mask(identity))
            recorded = self.ctx.records.read(group, seen)
            self.content = pa.nulls(len(identity), pa.string())
            if recorded.num_rows:
                at = pc.index_in(identity, value_set=recorded.column("record_key").combine_chunks())
                self.content = recorded.column("sha256").combine_chunks().take(at)
            unread = pc.is_in(
                self.sources.column("video_id").combine_chunks(), value_set=pa.array(list(self.unread), pa.string())
            )
            self.content = pc.if_else(unread, pa.scalar(None, pa.string()), self.content)
        return self.content

    # -- doing it ------------------------------------------------------------------------------------------------------

    def work_off(self, missing: Missing) -> None:
        """Work through the files, the largest first; what waits is a few columns, a file is an object when its turn is near."""
        shards = self.ctx.records.shards(list(self.groups.values()))
        init = {"work": self.work, "shards": shards, "known": self.known}
        started = time.monotonic()
        failures = 0
        with self.ctx.progress(len(missing), "files", missing.bytes) as progress:
            for items, sizes in missing.in_turns(self.sources, self.content_keys()):
                items = self._with_shots(items)
                spent: dict[str, float] = {}
                for outcomes in self.ctx.map(AnalyzeActor, _batches(items, sizes), init=init):
                    failed = sum(outcome.error_type is not None for outcome in outcomes)
                    failures += failed
                    for outcome in outcomes:
                        spent[outcome.video_id] = outcome.seconds
                        if outcome.sha256 is None:
                            self.unread[outcome.video_id] = outcome
                        if outcome.error_type is not None:
                            told = {"error_type": outcome.error_type, "error_message": outcome.error_message}
                            self.ctx.event("record_failed", record_id=outcome.video_id, **told)
                    progress.advance(
                        len(outcomes),
                        failed=failed,
                        footage_s=sum(outcome.footage_s for outcome in outcomes),
                        weight=sum(sizes[outcome.video_id] for outcome in outcomes),
                    )
                self.spent.append(tables.spent(spent))
        self.content = None
        self.ctx.event("analyzed", files=len(missing), failed=failures, seconds=round(time.monotonic() - started, 1))

    def _with_shots(self, items: list[Item]) -> list[Item]:
        """Give the recorded shots to the files of which only scores are missing."""
        only = {str(item.sha256) for item in items if item.sha256 and not set(item.groups) & set(CONTENT)}
        if not only:
            return items
        recorded = tables.shots_by_key(self.ctx.records.read(self.groups[SHOTS], sorted(only)))
        return [replace(i, shots=recorded.get(str(i.sha256), ())) if i.sha256 in only else i for i in items]

    # -- the tables ----------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Put the outputs and the ledger together from what is recorded."""
        sources = self.ctx.dataset("sources").to_table().append_column("sha256", self.content_keys())
        tables.write_outputs(self.ctx, sources, self.groups, self.scorers, self.unread, self.spent)


def column_groups(ctx: Context, params: AnalyzeParams) -> tuple[dict[str, Group], dict[str, type[Scorer]]]:
    """Every column group with the recipe of its work, and the scorers by name."""
    from models.scorers.catalog import scorer_classes
    from models.video.analyze import ANALYZE_VERSION
    from models.video.shots import SHOTS_VERSION

    scorers: dict[str, type[Scorer]] = scorer_classes(params.scorers)
    content = {"analyze": ANALYZE_VERSION, "shots": SHOTS_VERSION, "params": params.shots.recipe()}
    recipe = ctx.recipe("content", ANALYZE_VERSION, content)
    groups = {IDENTITY: Group(IDENTITY, ctx.recipe(IDENTITY, "1", {}))}
    groups |= {name: Group(name, recipe) for name in CONTENT}
    for spec, (name, scorer) in zip(params.scorers, scorers.items(), strict=True):
        # a scorer's numbers are per shot, so they stand on the shots' recipe too
        own = ctx.recipe(scorer_group(name), scorer.version, {"class": _path(spec), "content": recipe})
        groups[scorer_group(name)] = Group(scorer_group(name), own)
    for name in (FACTS, *(scorer_group(n) for n in scorers)):
        groups[failed_group(name)] = Group(failed_group(name), groups[name].recipe)
    return groups, scorers


def _with_identity(ctx: Context) -> pa.Table:
    """The sources with the key under which an unchanged file is recognised: its id, its size and its change mark.

    Where the storage keeps no change mark a file is recognised within one run only.
    """
    table = ctx.dataset("sources").to_table(columns=["video_id", "uri", "media_type", "bytes", "mtime_ns", "etag"])
    mark = pc.coalesce(table.column("mtime_ns").cast(pa.string()), table.column("etag"), pa.scalar(f"run {ctx.run_id}"))
    identity = pc.binary_join_element_wise(table.column("video_id"), table.column("bytes").cast(pa.string()), mark, ":")
    return table.append_column("identity", identity)


def _batches(items: Sequence[Item], sizes: Mapping[str, int]) -> list[list[Item]]:
    """A few files each, by bytes; a large one alone."""
    batches: list[list[Item]] = []
    batch: list[Item] = []
    total = 0
    for item in items:
        size = sizes[item.video_id]
        if batch and (len(batch) >= _FILES_PER_BATCH or total + size > LARGE):
            batches.append(batch)
            batch, total = [], 0
        batch.append(item)
        total += size
    return [*batches, batch] if batch else batches


def _path(spec: str) -> str:
    from models.scorers.catalog import scorer_path

    return scorer_path(spec)

"""Finds clips that are copies of each other (exact, near, semantic), keeps the best of each group and names it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from data_schemas.tables import CLIPS, DEDUPE, EMBEDDINGS, HASHES, KEYFRAMES, SELECTION, VIDEOS
from stages.contract import Context, Params, StageError, Table, stage
from stages.curation.expressions import nearest
from stages.curation.groups import EXACT, PIXELS, Groups, ranking
from stages.curation.ledgers import ledger_table
from stages.curation.near_copies import NearOutcome, NearParams, near_pairs
from stages.curation.semantic import semantic_leaders

_SPAN = ("clip_id", "video_id", "duration_s", "start_s", "end_s", "start_frame", "end_frame", "width", "height")


class DedupeParams(Params):
    """``prefer``: columns of clips by which the kept one is chosen, highest first, missing last; ``pixels`` is width x height.

    ``semantic``: cosine of the embeddings from which two clips count as the same; null leaves it out, as it must be while
    the encoder's weights are random.
    """

    exact: bool = True
    near: NearParams = NearParams()
    semantic: float | None = Field(default=None, gt=0, le=1)
    prefer: tuple[str, ...] = (PIXELS, "sharpness", "duration_s")


@stage(
    name="dedupe",
    version="3",
    params=DedupeParams,
    inputs={
        "clips": Table(CLIPS),
        "selection": Table(SELECTION),
        "videos": Table(VIDEOS),
        "keyframes": Table(KEYFRAMES),
        "hashes": Table(HASHES),
        "embeddings": Table(EMBEDDINGS),
    },
    optional=("keyframes", "hashes", "embeddings"),
    outputs={"dedupe": Table(DEDUPE)},
)
def dedupe(ctx: Context, params: DedupeParams) -> None:
    """Group the selected clips kind by kind; each kind looks only at what the kinds before it kept.

    Groups are transitive within one kind and never across kinds, except that exact copies, being the same clip, are in the
    group of the one that stands for them. ``kept_id`` always names a clip that is kept in the end.
    """
    clips = _selected(ctx, params.prefer)
    content = Content.of(clips, ctx.dataset("videos"))
    groups = Groups(clips.column("clip_id"), ranking(clips, params.prefer), clips.column("duration_s").to_numpy())
    if params.exact:
        groups.join(EXACT, content.equal_pairs())
    outcome = NearOutcome.none()
    if params.near.enabled:
        outcome = near_pairs(ctx, clips, content.keys, np.flatnonzero(groups.alive), params.near)
        groups.join("near", outcome.pairs)
    if params.semantic is not None:
        rows, keepers = semantic_leaders(ctx, clips, np.flatnonzero(groups.alive), groups.rank, params.semantic)
        groups.follow("semantic", rows, keepers)
    columns = groups.columns()
    ctx.write("dedupe", pa.table(columns))
    _account(ctx, clips, columns, outcome)


class Content:
    """What each clip's frames are made from: the source's sha256 and the span; unknown where the source has none."""

    def __init__(self, digests: pa.Array, source: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
        self._digests, self._source, self._start, self._end = digests, source, start, end

    @classmethod
    def of(cls, clips: pa.Table, videos: Any) -> Content:
        wanted = pc.unique(clips.column("video_id"))
        table = videos.to_table(columns=["video_id", "sha256"], filter=pc.field("video_id").isin(wanted))
        where = pc.index_in(clips.column("video_id"), value_set=table.column("video_id").combine_chunks())
        known = table.column("sha256").combine_chunks().dictionary_encode()
        source = pc.fill_null(known.indices.take(where.combine_chunks()), -1).to_numpy(zero_copy_only=False)
        start, end = (clips.column(name).to_numpy() for name in ("start_frame", "end_frame"))
        return cls(known.dictionary, source, start, end)

    def keys(self, rows: np.ndarray) -> list[str | None]:
        """Content key of each of these rows, None where it is unknown."""
        sources = self._digests.take(pa.array(self._source[rows], mask=self._source[rows] < 0)).to_pylist()
        spans = zip(sources, self._start[rows].tolist(), self._end[rows].tolist(), strict=True)
        return [f"{sha}-{start}-{end}" if sha else None for sha, start, end in spans]

    def equal_pairs(self) -> np.ndarray:
        """Pairs of rows with the same content, each with the one before it: int64 (P, 2)."""
        order = np.lexsort((np.arange(len(self._source)), self._end, self._start, self._source))
        before, after = order[:-1], order[1:]
        same = self._source[before] >= 0
        for part in (self._source, self._start, self._end):
            same &= part[before] == part[after]
        return np.stack([before[same], after[same]], axis=1)


def _account(ctx: Context, clips: pa.Table, columns: dict[str, Any], near: NearOutcome) -> None:
    """Accepted, or rejected as a copy. A clip that could not be compared stays, with the reason beside it."""
    ids = clips.column("clip_id")
    status = pc.if_else(columns["kept"], "accepted", "rejected")
    kind = columns["kind"]
    if not near.verified:
        kind = pc.if_else(pc.equal(kind, "near"), "near_unverified", kind)
    rows = ledger_table(
        ctx.name,
        ids,
        status,
        video_id=clips.column("video_id"),
        reason=pc.if_else(columns["kept"], pa.scalar(None, pa.string()), kind),
    )
    for name, errors in zip(("error_type", "error_message"), near.errors(len(ids)), strict=True):
        rows = rows.set_column(rows.schema.get_field_index(name), name, errors)
    ctx.ledger(rows)
    counts = dict(zip(*(column.to_pylist() for column in pc.value_counts(columns["kind"]).flatten()), strict=True))
    for name, count in counts.items():
        if name is not None:
            ctx.metric(f"dedupe_in_{name}_groups", float(count))
    ctx.metric("dedupe_kept", float(pc.sum(columns["kept"]).as_py() or 0))


def _selected(ctx: Context, prefer: Sequence[str]) -> pa.Table:
    """The clips that every rule kept, sorted by id, with the columns at hand for choosing among copies."""
    dataset = ctx.dataset("clips")
    for name in prefer:
        if name != PIXELS and name not in dataset.schema.names:
            raise StageError(
                f"dedupe.prefer names {name}, which is no column of clips.{nearest(name, [*dataset.schema.names, PIXELS])}"
            )
    kept = ctx.dataset("selection").to_table(columns=["clip_id"], filter=pc.field("kept")).column("clip_id")
    columns = list(dict.fromkeys([*_SPAN, *(name for name in prefer if name != PIXELS)]))
    table = dataset.to_table(columns=columns, filter=pc.field("clip_id").isin(kept.combine_chunks()))
    return table.sort_by("clip_id")

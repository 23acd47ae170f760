"""Keeps the set balanced: at most so many clips from one source, semantic cluster or resolution, the better ones first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from pydantic import Field, model_validator

from data_schemas.tables import BALANCE, CLIPS, DEDUPE, EMBEDDINGS
from stages.contract import Context, Params, StageError, Table, stage
from stages.curation.clusters import cluster
from stages.curation.dedupe import PIXELS
from stages.curation.expressions import nearest
from stages.curation.joins import quoted
from stages.curation.ledgers import ledger_table
from stages.curation.quota import TAKEN, Grouping, allocate, in_turns


class Quota(Params):
    """``max`` clips of one group, or a ``share`` of the clips that can be kept at all: of ``max_total`` where that is set
    and smaller than what dedupe kept, else of what dedupe kept. The smaller of both counts; a group may always keep one."""

    max: int | None = Field(default=None, ge=1)
    share: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _says_something(self) -> Quota:
        if self.max is None and self.share is None:
            raise ValueError("a quota needs max, share or both")
        return self

    def cap(self, possible: int) -> int:
        """The most clips that one group may keep, of ``possible``."""
        by_share = possible if self.share is None else max(1, math.floor(self.share * possible + 1e-9))
        return by_share if self.max is None else min(self.max, by_share)


class ClusterQuota(Quota):
    """``clusters`` groups of embeddings, by seeded k-means over what dedupe kept. Clips without an embedding are one more."""

    clusters: int = Field(default=100, ge=2, le=10_000)


class ResolutionQuota(Quota):
    """Buckets of the short side in pixels: below the first edge, from edge to edge, from the last edge up."""

    edges: tuple[int, ...] = Field(default=(360, 480, 720, 1080), min_length=1)

    @model_validator(mode="after")
    def _rising(self) -> ResolutionQuota:
        if list(self.edges) != sorted(set(self.edges)) or self.edges[0] < 1:
            raise ValueError(f"edges must rise and be positive, are {list(self.edges)}")
        return self

    def names(self) -> list[str]:
        inner = [f"{low}-{high - 1}" for low, high in zip(self.edges[:-1], self.edges[1:], strict=True)]
        return [f"below {self.edges[0]}", *inner, f"{self.edges[-1]} up"]


class BalanceParams(Params):
    """Nothing set keeps everything.

    ``prefer``: columns of clips by which better clips come first, highest first, missing last; ``pixels`` is width x height.
    Ties, and everything where it is empty, are drawn by the run's seed. ``spread`` takes the best clip of every group
    before the second of any, so that under ``max_total`` groups come out as equal as they can.
    """

    max_total: int | None = Field(default=None, ge=1)
    per_source: Quota | None = None
    per_cluster: ClusterQuota | None = None
    per_resolution: ResolutionQuota | None = None
    spread: Literal["source", "cluster", "resolution"] | None = None
    prefer: tuple[str, ...] = ("sharpness",)

    @model_validator(mode="after")
    def _spread_is_grouped(self) -> BalanceParams:
        grouped = {"source": True, "cluster": self.per_cluster, "resolution": self.per_resolution}
        if self.spread is not None and not grouped[self.spread]:
            raise ValueError(f"spread: {self.spread} needs per_{self.spread}, which says what the groups are")
        return self

    @property
    def off(self) -> bool:
        return self.max_total is None and not (self.per_source or self.per_cluster or self.per_resolution)


@stage(
    name="balance",
    version="1",
    params=BalanceParams,
    inputs={"clips": Table(CLIPS), "dedupe": Table(DEDUPE), "embeddings": Table(EMBEDDINGS)},
    optional=("embeddings",),
    outputs={"balance": Table(BALANCE)},
)
def balance(ctx: Context, params: BalanceParams) -> None:
    """Keep what the quotas have room for. It stands after dedupe, so that copies use up no room, and before people are
    asked, so that nobody judges what a quota throws away."""
    if params.off:
        kept = ctx.dataset("dedupe").scanner(columns=["clip_id"], filter=pc.field("kept"))
        for batch in kept.to_batches():
            ctx.write("balance", _rows(batch.column("clip_id"), pa.repeat(True, batch.num_rows)))
        return
    if params.per_cluster and not ctx.has("embeddings"):
        raise StageError(
            "balance.per_cluster is set, but the pipeline gives balance no embeddings. Wire them, or unset it."
        )
    clips = ranked(ctx.dataset("clips"), ctx.dataset("dedupe"), params.prefer, ctx.seed)
    groups = _group(ctx, params, clips)
    order = in_turns(groups.codes[params.spread]) if params.spread else np.arange(clips.num_rows)
    possible = min(clips.num_rows, params.max_total or clips.num_rows)
    quotas: dict[str, Quota | None] = {
        "source": params.per_source,
        "cluster": params.per_cluster,
        "resolution": params.per_resolution,
    }
    groupings = [
        Grouping(name, groups.codes[name][order], quota.cap(possible)) for name, quota in quotas.items() if quota
    ]
    fate = np.empty(clips.num_rows, np.int8)
    fate[order] = allocate(groupings, clips.num_rows, params.max_total)

    names = pa.array([*(g.name for g in groupings), "total"])
    refused = pa.array(fate, mask=fate == TAKEN)
    quota = names.take(refused)
    kept = pa.array(fate == TAKEN)
    ctx.write("balance", _rows(clips.column("clip_id"), kept, quota, groups.cluster, groups.resolution))
    status = pc.if_else(kept, "accepted", "rejected")
    reason = pc.binary_join_element_wise("quota", quota, ":")
    ctx.ledger(
        ledger_table(ctx.name, clips.column("clip_id"), status, video_id=clips.column("video_id"), reason=reason)
    )
    _tell(ctx, groupings, fate[order])


def _rows(
    clip_id: pa.Array | pa.ChunkedArray,
    kept: pa.Array,
    quota: pa.Array | None = None,
    cluster: pa.Array | None = None,
    resolution: pa.Array | None = None,
) -> pa.Table:
    rows = len(clip_id)
    return pa.table(
        {
            "clip_id": clip_id,
            "kept": kept,
            "quota": pa.nulls(rows, pa.string()) if quota is None else quota,
            "cluster": pa.nulls(rows, pa.int32()) if cluster is None else cluster,
            "resolution": pa.nulls(rows, pa.string()) if resolution is None else resolution,
        }
    )


def ranked(clips: pads.Dataset, dedupe: pads.Dataset, prefer: Sequence[str], seed: int) -> pa.Table:
    """What dedupe kept, the most preferred first: clip_id, video_id and ``side``, the short side in pixels.

    Ties are broken by a hash of seed and clip_id, so the order depends on neither the order of rows nor on luck.
    """
    import duckdb

    keys = [f"{_preference(name, clips.schema)} DESC NULLS LAST" for name in prefer]
    with duckdb.connect(":memory:") as connection:
        connection.register("clips", clips)
        connection.register("dedupe", dedupe)
        # the seed is an integer and the columns were found in the schema: nothing a user types becomes SQL
        order = ", ".join([*keys, f"md5('{int(seed)} ' || clip_id)", "clip_id"])
        sql = (
            "SELECT clip_id, video_id, least(width, height) AS side FROM clips JOIN dedupe USING (clip_id) "
            f"WHERE dedupe.kept ORDER BY {order}"
        )
        return connection.sql(sql).to_arrow_table()


def _preference(name: str, schema: pa.Schema) -> str:
    if name == PIXELS:
        return "CAST(width AS BIGINT) * height"
    index = schema.get_field_index(name)
    if index < 0:
        raise StageError(
            f"balance.prefer names {name}, which is no column of clips.{nearest(name, [*schema.names, PIXELS])}"
        )
    kind = schema.field(index).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise StageError(f"balance.prefer names {name}, which is {kind}: clips are ordered by numbers.")
    value = f"CAST({quoted(name)} AS DOUBLE)"
    return f"CASE WHEN isnan({value}) THEN NULL ELSE {value} END"


@dataclass(frozen=True)
class _Groups:
    """Codes of every grouping that is needed, and the two columns that the table keeps of them."""

    codes: dict[str, np.ndarray]
    cluster: pa.Array | None
    resolution: pa.Array | None


def _group(ctx: Context, params: BalanceParams, clips: pa.Table) -> _Groups:
    video = clips.column("video_id").combine_chunks().dictionary_encode()
    codes = {"source": video.indices.to_numpy().astype(np.int64)}
    labels = resolution = None
    if params.per_cluster:
        ids = clips.column("clip_id").combine_chunks()
        found = cluster(ctx.dataset("embeddings"), ids, params.per_cluster.clusters, ctx.seed)
        codes["cluster"] = found.astype(np.int64) + 1  # the clips without an embedding are group 0
        labels = pa.array(found)
    if params.per_resolution:
        bucket = np.searchsorted(params.per_resolution.edges, clips.column("side").to_numpy(), side="right")
        codes["resolution"] = bucket.astype(np.int64)
        resolution = pa.array(params.per_resolution.names()).take(pa.array(bucket))
    return _Groups(codes, labels, resolution)


def _tell(ctx: Context, groupings: Sequence[Grouping], fate: np.ndarray) -> None:
    kept = fate == TAKEN
    groups = {}
    for grouping in groupings:
        sizes = np.bincount(grouping.codes[kept], minlength=1)
        groups[grouping.name] = {
            "cap": grouping.cap,
            "groups": int((sizes > 0).sum()),
            "largest": int(sizes.max(initial=0)),
        }
    ctx.event("balanced", clips=len(fate), kept=int(kept.sum()), groups=groups)

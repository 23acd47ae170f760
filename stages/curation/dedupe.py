"""Finds clips that are copies of each other (exact, near, semantic), keeps the best of each group and names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from data_schemas.ids import short_hash
from data_schemas.tables import CLIPS, DEDUPE, EMBEDDINGS, KEYFRAMES, SELECTION, VIDEOS
from stages.contract import Context, Params, StageError, Table, stage
from stages.curation.expressions import nearest
from stages.curation.ledgers import ledger_table
from stages.curation.near_copies import near_pairs

PIXELS = "pixels"
WHOLE = 0.8  # share of the longest copy's duration from which a copy can stand for the whole
_SPAN = ("clip_id", "video_id", "video_uri", "duration_s", "start_frame", "end_frame", "width", "height")


class NearParams(Params):
    """Near copies. ``max_bits``: of 63 bits in the hash of a key frame, how many may differ for a pair of clips to be looked
    at closely; the other numbers are ``models.video.near.NearRule``'s, which then decides."""

    enabled: bool = True
    max_bits: int = Field(default=14, ge=0, le=31)
    ratio: float = Field(default=0.45, gt=0, le=1)
    floor: float = Field(default=0.05, ge=0)
    overlap: float = Field(default=0.8, gt=0, le=1)


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
    version="1",
    params=DedupeParams,
    inputs={
        "clips": Table(CLIPS),
        "selection": Table(SELECTION),
        "videos": Table(VIDEOS),
        "keyframes": Table(KEYFRAMES),
        "embeddings": Table(EMBEDDINGS),
    },
    optional=("embeddings",),
    outputs={"dedupe": Table(DEDUPE)},
)
def dedupe(ctx: Context, params: DedupeParams) -> None:
    """Group the selected clips kind by kind; each kind looks only at what the kinds before it kept.

    Groups are transitive within one kind and never across kinds. ``kept_id`` always names a clip that is kept in the end.
    """
    clips = _selected(ctx, params.prefer)
    count = clips.num_rows
    rank = ranking(clips, params.prefer)
    content = _content(clips, ctx.dataset("videos"))
    alive = np.ones(count, bool)
    kept_for = np.arange(count)
    kind = np.full(count, None, dtype=object)
    group = np.full(count, None, dtype=object)
    ids = np.asarray(clips.column("clip_id").to_pylist(), dtype=object)
    seconds = clips.column("duration_s").to_numpy()

    def settle(name: str, pairs: np.ndarray) -> None:
        for members in components(pairs):
            best = _best(members, rank, seconds)
            identity = short_hash(name, *sorted(ids[members]))
            for member in members:
                kind[member], group[member] = name, identity
                if member != best:
                    alive[member] = False
                    kept_for[member] = best

    if params.exact:
        settle("exact", exact_pairs(content, clips))
    failed: dict[str, dict[str, str]] = {}
    if params.near.enabled:
        pairs, failed = near_pairs(ctx, clips, content, np.flatnonzero(alive), params.near)
        settle("near", pairs)
    if params.semantic is not None:
        settle("semantic", _semantic(ctx, clips, np.flatnonzero(alive), params.semantic))

    for member in range(count):  # a clip kept by one kind may have lost to another in a later kind
        while kept_for[kept_for[member]] != kept_for[member]:
            kept_for[member] = kept_for[kept_for[member]]
    ctx.write(
        "dedupe",
        pa.table(
            {
                "clip_id": clips.column("clip_id"),
                "kept": pa.array(alive),
                "kind": pa.array(kind, pa.string()),
                "group_id": pa.array(group, pa.string()),
                "kept_id": pa.array(ids[kept_for], pa.string()),
            }
        ),
    )
    _account(ctx, clips, alive, kind, failed)


def _best(members: np.ndarray, rank: np.ndarray, seconds: np.ndarray) -> int:
    """The best-ranked of the members that are about as long as the longest.

    A copy may be a part of another clip; keeping the part, however sharp, would lose the rest of the whole.
    """
    whole = members[seconds[members] >= WHOLE * seconds[members].max()]
    return int(whole[np.argmin(rank[whole])])


def _account(
    ctx: Context, clips: pa.Table, alive: np.ndarray, kind: np.ndarray, failed: Mapping[str, dict[str, str]]
) -> None:
    """Accepted, or rejected as a copy. A clip that could not be compared stays, with the reason beside it."""
    ids = clips.column("clip_id")
    odd = pc.is_in(ids, value_set=pa.array(list(failed), pa.string())).to_numpy()
    usual = pa.array(~odd)
    status = pa.array(np.where(alive, "accepted", "rejected"), pa.string())
    reason = pa.array(kind, pa.string(), mask=alive)
    ctx.ledger(
        ledger_table(
            ctx.name,
            ids.filter(usual),
            status.filter(usual),
            video_id=clips.column("video_id").filter(usual),
            reason=reason.filter(usual),
        )
    )
    ctx.ledger(
        [
            {
                "record_id": clips.column("clip_id")[row].as_py(),
                "video_id": clips.column("video_id")[row].as_py(),
                "status": status[row].as_py(),
                "reason": reason[row].as_py(),
                **failed[clips.column("clip_id")[row].as_py()],
            }
            for row in np.flatnonzero(odd).tolist()
        ]
    )


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
    return dataset.to_table(columns=columns, filter=pc.field("clip_id").isin(kept.combine_chunks())).sort_by("clip_id")


def ranking(clips: pa.Table, prefer: Sequence[str]) -> np.ndarray:
    """Rank of each clip by the preferred columns, 0 the best; missing after every value, ties by clip_id. int64 (N,)."""
    names = []
    table = clips
    for number, name in enumerate(prefer):
        if name == PIXELS:
            value = pc.multiply(clips.column("width").cast(pa.int64()), clips.column("height").cast(pa.int64()))
        else:
            value = clips.column(name)
        if pa.types.is_floating(value.type):
            value = pc.if_else(pc.is_nan(value), pa.scalar(None, value.type), value)
        table = table.append_column(f"__{number}", value)
        names.append((f"__{number}", "descending"))
    # Arrow puts nulls last in either direction
    order = pc.sort_indices(table, sort_keys=[*names, ("clip_id", "ascending")]).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def components(pairs: np.ndarray) -> list[np.ndarray]:
    """Groups of two or more rows that pairs connect, each sorted, in order of their first row."""
    from models.video.phash import Forest

    if not len(pairs):
        return []
    nodes, local = np.unique(pairs, return_inverse=True)
    forest = Forest(len(nodes))
    for one, two in local.reshape(-1, 2):
        forest.join(int(one), int(two))
    roots = np.asarray([forest.root(node) for node in range(len(nodes))])
    return [nodes[roots == root] for root in np.unique(roots)] if len(nodes) < 2000 else _split(nodes, roots)


def _split(nodes: np.ndarray, roots: np.ndarray) -> list[np.ndarray]:
    order = np.lexsort((nodes, roots))
    starts = np.flatnonzero(np.diff(roots[order])) + 1
    return np.split(nodes[order], starts)


def _content(clips: pa.Table, videos: Any) -> list[str | None]:
    """Content key of each clip: sha256 of its source and its span; None where the source has none."""
    table = videos.to_table(
        columns=["video_id", "sha256"], filter=pc.field("video_id").isin(pc.unique(clips.column("video_id")))
    )
    where = pc.index_in(clips.column("video_id"), value_set=table.column("video_id").combine_chunks())
    digests = table.column("sha256").take(where).to_pylist()
    spans = zip(clips.column("start_frame").to_pylist(), clips.column("end_frame").to_pylist(), strict=True)
    return [f"{sha}-{start}-{end}" if sha else None for sha, (start, end) in zip(digests, spans, strict=True)]


def exact_pairs(content: Sequence[str | None], clips: pa.Table) -> np.ndarray:
    """Pairs of rows with the same content key: each later row with the first. int64 (P, 2)."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(key, row), row) for row, key in enumerate(content) if key is not None]
    return np.asarray([pair for pair in pairs if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)


def _semantic(ctx: Context, clips: pa.Table, rows: np.ndarray, threshold: float) -> np.ndarray:
    """Pairs of rows whose unit embeddings have a cosine of at least ``threshold``; blocks of an exact product."""
    if not ctx.has("embeddings"):
        raise StageError("dedupe.semantic is set, but the pipeline gives dedupe no embeddings. Wire them, or unset it.")
    ids = clips.column("clip_id").take(pa.array(rows))
    table = ctx.dataset("embeddings").to_table(
        columns=["clip_id", "encoder", "vector"], filter=pc.field("clip_id").isin(ids.combine_chunks())
    )
    encoders = pc.unique(table.column("encoder")).to_pylist()
    if len(encoders) > 1:
        raise StageError(f"table embeddings has several encoders ({', '.join(sorted(encoders))}); dedupe needs one.")
    if table.num_rows < 2:
        return np.zeros((0, 2), np.int64)
    at = pc.index_in(table.column("clip_id"), value_set=clips.column("clip_id").combine_chunks()).to_numpy()
    vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    found = []
    for start in range(0, len(vectors), 2048):
        cosine = vectors[start : start + 2048] @ vectors[start:].T
        one, two = np.nonzero(np.triu(cosine >= threshold, k=1))
        found.append(np.stack([at[one + start], at[two + start]], axis=1))
    return np.concatenate(found).astype(np.int64)

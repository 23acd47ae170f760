"""Semantic copies: clips whose embeddings are nearly the same, each kept for the best clip that it is like."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import Context, StageError

_BATCH = 65_536


def semantic_leaders(
    ctx: Context, clips: pa.Table, rows: np.ndarray, rank: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have a better row within ``threshold`` (cosine), and that row: int64 (M,), int64 (M,).

    The embeddings are streamed into a memory-mapped file in order of rank. A clip without an embedding is compared with nothing.
    """
    from models.neighbours.cosine import leaders

    if not ctx.has("embeddings"):
        raise StageError("dedupe.semantic is set, but the pipeline gives dedupe no embeddings. Wire them, or unset it.")
    dataset = ctx.dataset("embeddings")
    ids = clips.column("clip_id").take(pa.array(rows)).combine_chunks()
    encoders: set[str] = set()
    where = np.full(len(rows), -1, np.int64)  # place by rank of each of the rows that has an embedding
    place = np.empty(len(rows), np.int64)
    place[np.argsort(rank[rows])] = np.arange(len(rows))
    file: np.memmap | None = None
    path = ctx.scratch / "vectors.f32"
    for batch in dataset.to_batches(columns=["clip_id", "encoder", "vector"], batch_size=_BATCH, batch_readahead=1):
        at = pc.index_in(batch.column("clip_id"), value_set=ids)
        batch = batch.filter(pc.is_valid(at))
        if not batch.num_rows:
            continue
        encoders.update(pc.unique(batch.column("encoder")).to_pylist())
        if len(encoders) > 1:
            raise StageError(
                f"table embeddings has several encoders ({', '.join(sorted(encoders))}); dedupe needs one."
            )
        mine = at.drop_null().to_numpy()
        vectors = batch.column("vector").flatten().to_numpy().reshape(batch.num_rows, -1)
        if file is None:
            file = np.memmap(path, np.float32, "w+", shape=(len(rows), vectors.shape[1]))
        file[place[mine]] = vectors
        where[mine] = place[mine]
    if file is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    try:
        present = np.sort(where[where >= 0])
        row_at = np.empty(len(rows), np.int64)
        row_at[place] = rows
        found = leaders(file, present, threshold)
        ctx.event("semantic_copies", clips=len(present), without_embedding=int((where < 0).sum()), joined=len(found.member),
                  exact=found.exact)  # fmt: skip
        ctx.metric("semantic_joined", float(len(found.member)))
        return row_at[found.member], row_at[found.leader]
    finally:
        del file
        path.unlink(missing_ok=True)

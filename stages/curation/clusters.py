"""Groups clips by what their embeddings show: seeded k-means, fitted on a sample, applied in one streaming pass."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from stages.contract import StageError

NO_EMBEDDING = -1
FIT_ROWS = 100_000  # 200 MB of 512 floats; centres of a few thousand clusters move little with more
SCAN_ROWS = 16_384


def cluster(embeddings: pads.Dataset, clip_ids: pa.Array, clusters: int, seed: int) -> np.ndarray:
    """Cluster of each clip, int32 (N,), ``NO_EMBEDDING`` where it has none.

    The same clips and seed give the same clusters in whatever order rows come: the sample is drawn from sorted ids and
    the arithmetic runs in one thread. With fewer clips than clusters each clip is its own.
    """
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    _one_encoder(embeddings)
    of_clips = pc.field("clip_id").isin(clip_ids)
    sample = _sample(clip_ids, max(FIT_ROWS, 20 * clusters), seed)
    table = embeddings.to_table(columns=["clip_id", "vector"], filter=pc.field("clip_id").isin(sample))
    vectors = _vectors(table.sort_by("clip_id").column("vector"))
    labels = np.full(len(clip_ids), NO_EMBEDDING, np.int32)
    if not len(vectors):
        return labels
    means = MiniBatchKMeans(min(clusters, len(vectors)), random_state=seed % 2**32, n_init=3, batch_size=4096)
    found: list[pa.Table] = []
    with threadpool_limits(1):
        means.fit(vectors)
        scan = embeddings.to_batches(columns=["clip_id", "vector"], filter=of_clips, batch_size=SCAN_ROWS)
        for batch in scan:
            if batch.num_rows:
                label = means.predict(_vectors(batch.column("vector"))).astype(np.int32)
                found.append(pa.table({"clip_id": batch.column("clip_id"), "label": label}))
    table = pa.concat_tables(found)
    at = pc.index_in(table.column("clip_id"), value_set=clip_ids).to_numpy()
    labels[at] = table.column("label").to_numpy()
    return labels


def _one_encoder(embeddings: pads.Dataset) -> None:
    names: set[str] = set()
    for batch in embeddings.to_batches(columns=["encoder"]):
        names |= set(pc.unique(batch.column("encoder")).to_pylist())
    if len(names) > 1:
        raise StageError(f"table embeddings has several encoders ({', '.join(sorted(names))}); balance needs one.")


def _sample(clip_ids: pa.Array, most: int, seed: int) -> pa.Array:
    if len(clip_ids) <= most:
        return clip_ids
    ordered = clip_ids.take(pc.sort_indices(clip_ids))
    return ordered.take(pa.array(np.random.default_rng(seed).choice(len(ordered), most, replace=False)))


def _vectors(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """float32 (N, D)."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = np.asarray(flat.flatten().to_numpy(zero_copy_only=False), np.float32)
    return values.reshape(len(flat), -1) if len(flat) else np.zeros((0, 1), np.float32)

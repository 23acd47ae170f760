"""Groups of copies as arrays: which rows hang together, which one stays, and what the others are kept for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.ids import short_hash

PIXELS = "pixels"
EXACT = "exact"
WHOLE = 0.8  # share of the longest copy's duration from which a copy can stand for the whole


class Groups:
    """How the rows of ``clips`` end, kind by kind: ``alive`` bool (N,), ``kept_for`` int64 (N,), kind and group of each.

    ``rank`` int64 (N,): 0 is the best. ``seconds`` float64 (N,).
    """

    def __init__(self, ids: pa.ChunkedArray, rank: np.ndarray, seconds: np.ndarray) -> None:
        count = len(rank)
        self.ids, self.rank, self.seconds = ids, rank, seconds
        self.alive = np.ones(count, bool)
        self.kept_for = np.arange(count)
        self.names: list[str] = []
        self.identities: list[str] = []
        self.kind = np.full(count, -1, np.int8)
        self.group = np.full(count, -1, np.int64)
        self.twin = np.arange(count)

    def join(self, name: str, pairs: np.ndarray) -> None:
        """Group the rows that ``pairs`` int64 (P, 2) connect; the best of those about as long as the longest stays.

        A copy may be a part of another clip; keeping the part, however sharp, would lose the rest of the whole.
        """
        rows, label = components(pairs)
        if not len(rows):
            return
        starts = np.flatnonzero(np.concatenate([[True], label[1:] != label[:-1]]))
        longest = np.maximum.reduceat(self.seconds[rows], starts)
        whole = self.seconds[rows] >= WHOLE * longest[label]
        rank = np.where(whole, self.rank[rows], np.iinfo(np.int64).max)
        order = np.lexsort((rank, label))
        self._settle(name, rows, label, starts, rows[order[starts]])

    def follow(self, name: str, rows: np.ndarray, keeper: np.ndarray) -> None:
        """Group rows with the one that each is kept for, both int64 (M,); a keeper is none of ``rows``."""
        if not len(rows):
            return
        keepers, label = np.unique(keeper, return_inverse=True)
        members = np.concatenate([keepers, rows])
        label = np.concatenate([np.arange(len(keepers)), label])
        order = np.lexsort((members, label))
        members, label = members[order], label[order]
        starts = np.flatnonzero(np.concatenate([[True], label[1:] != label[:-1]]))
        self._settle(name, members, label, starts, keepers)

    def _settle(self, name: str, rows: np.ndarray, label: np.ndarray, starts: np.ndarray, best: np.ndarray) -> None:
        number = len(self.names)
        self.names.append(name)
        ids = self.ids.take(pa.array(rows)).to_pylist()
        ends = np.append(starts[1:], len(rows))
        base = len(self.identities)
        # rows are sorted by clip_id, so members come in order of their ids
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            self.identities.append(short_hash(name, *ids[start:end]))
        self.kind[rows], self.group[rows] = number, base + label
        kept = best[label]
        self.kept_for[rows] = kept
        self.alive[rows] = rows == kept
        if name == EXACT:
            self.twin[rows] = kept

    def columns(self) -> dict[str, pa.Array | pa.ChunkedArray]:
        """The columns of the dedupe table. ``kept_id`` names the final winner: one kept by a kind may have lost in a later one.

        An exact copy is in whatever group its kept twin is: they are the same clip.
        """
        while True:
            further = self.kept_for[self.kept_for]
            if np.array_equal(further, self.kept_for):
                break
            self.kept_for = further
        return {
            "clip_id": self.ids,
            "kept": pa.array(self.alive),
            "kind": _take(self.names, self.kind),
            "group_id": _take(self.identities, self.group[self.twin]),
            "kept_id": self.ids.take(pa.array(self.kept_for)),
        }


def _take(values: Sequence[str], at: np.ndarray) -> pa.Array:
    return pa.array(list(values), pa.string()).take(pa.array(at, pa.int64(), mask=at < 0))


def components(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that pairs connect, sorted by group and row, and the number of each row's group from 0: int64 (M,), int64 (M,)."""
    if not len(pairs):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    nodes, local = np.unique(pairs, return_inverse=True)
    one, two = local.reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(one), np.int8), (one, two)), shape=(len(nodes), len(nodes)))
    _, label = connected_components(graph, directed=False)
    # numbered by their first row, whatever the library's order is
    _, first = np.unique(label, return_index=True)
    number = np.argsort(np.argsort(first))
    label = number[label]
    order = np.lexsort((nodes, label))
    return nodes[order].astype(np.int64), label[order].astype(np.int64)


def trees(pairs: np.ndarray, whole: np.ndarray, seconds: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """The pairs by which groups may be joined, where some pairs only say that one clip is a part of the other.

    ``pairs`` int64 (P, 2); ``whole`` bool (P,): the two show the same from end to end, which passes on; ``cost`` float64 (P,).
    Two clips that share a part need not be the same, so a part never joins two wholes: clips that hang together by whole
    pairs are attached to one longer set of clips of which they are a part, that of the least cost.
    """
    rows, label = components(pairs[whole])
    of = np.arange(len(seconds)) + len(rows)  # a clip without a whole pair is a set of its own
    of[rows] = label
    length = np.zeros(len(seconds) + len(rows))
    np.maximum.at(length, of, seconds)
    one, two = of[pairs].T
    part = np.flatnonzero(~whole & (length[one] != length[two]) & (one != two))
    child = np.where(length[one[part]] < length[two[part]], one[part], two[part])
    part = part[np.lexsort((pairs[part, 1], pairs[part, 0], cost[part], child))]
    child = np.where(length[one[part]] < length[two[part]], one[part], two[part])
    _, first = np.unique(child, return_index=True)
    return np.concatenate([pairs[whole], pairs[part[first]]])


def ranking(clips: pa.Table, prefer: Sequence[str]) -> np.ndarray:
    """Rank of each clip by the preferred columns, 0 the best; missing after every value, ties by clip_id. int64 (N,)."""
    names = []
    table = clips.select(["clip_id"])
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

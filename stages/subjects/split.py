"""A split that leaks neither footage nor identities: connected components of videos go to one side as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.ids import short_hash
from stages.subjects.identities import F32, I64, Identities
from stages.subjects.retrieve import CODE, NONE, SAME_IDENTITY, Candidates

Edges = tuple[I64, I64]


@dataclass(frozen=True)
class Split:
    """``held_out`` by video code, and the ``component`` of each video; ``cut`` identity links were let go, see ``components``."""

    held_out: NDArray[np.bool_]
    component: I64
    cut: int


def links(found: Candidates, identities: Identities) -> tuple[Edges, Edges, F32]:
    """Pairs of videos that must stay together, pairs that show one identity, and the cosine of the latter.

    Together: members of a group of copies, and crops above the upper bound (the same picture again). One identity: what lies
    within the bounds, whatever else forbids the pair.
    """
    video = identities.video
    query, place = np.nonzero((found.reason != NONE) & (found.row >= 0))
    reason, other = found.reason[query, place], found.row[query, place].astype(np.int64)
    copy = (reason == CODE["above_upper_bound"]) | (reason == CODE["near_duplicate"])
    grouped = np.flatnonzero(identities.group >= 0)
    order = grouped[np.argsort(identities.group[grouped], kind="stable")]
    neighbours = identities.group[order[1:]] == identities.group[order[:-1]]
    must = (
        np.concatenate([video[query[copy]], video[order[:-1][neighbours]]]),
        np.concatenate([video[other[copy]], video[order[1:][neighbours]]]),
    )
    same = (reason == 0) | np.isin(reason, SAME_IDENTITY)
    apart = same & (video[query] != video[other])
    return must, (video[query[apart]], video[other[apart]]), found.cosine[query[apart], place[apart]]


def components(videos: int, must: Edges, same: Edges, cosine: F32, largest: float) -> tuple[I64, int]:
    """The component of each video, and how many identity links lie between two of them.

    Links that must hold always hold. Identity links join from the strongest on, but never into a component of more than
    ``largest`` of all videos: an encoder that takes many things for one would tie everything together, and nothing could be held
    out. With ``largest`` 1 no link is cut.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    def joined(edges: Edges) -> I64:
        graph = coo_matrix((np.ones(len(edges[0]), np.int8), edges), shape=(videos, videos))
        return np.asarray(connected_components(graph, directed=False)[1], np.int64)

    if not videos:
        return np.zeros(0, np.int64), 0
    whole = joined((np.concatenate([must[0], same[0]]), np.concatenate([must[1], same[1]])))
    most = max(1, int(largest * videos))
    size = np.bincount(whole)
    if largest >= 1 or size.max() <= most:
        return whole, 0
    parent = joined(must)
    weight = np.bincount(parent)
    root = np.arange(len(weight))

    def find(a: int) -> int:
        while root[a] != a:
            root[a] = root[root[a]]
            a = int(root[a])
        return a

    # Only the strongest links that connect anything are gone through: a spanning tree of the least 2 - cosine.
    a, b = parent[same[0]], parent[same[1]]
    low, high = np.minimum(a, b), np.maximum(a, b)
    order = np.lexsort((-cosine, high, low))
    first = np.ones(len(order), bool)
    first[1:] = (low[order][1:] != low[order][:-1]) | (high[order][1:] != high[order][:-1])
    order = order[first & (low[order] != high[order])]
    graph = coo_matrix((2.0 - cosine[order].astype(np.float64), (low[order], high[order])), shape=(len(weight),) * 2)
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    for at in np.lexsort((tree.col, tree.row, np.round(tree.data, 6))):
        one, two = find(int(tree.row[at])), find(int(tree.col[at]))
        if one != two and weight[one] + weight[two] <= most:
            root[two] = one
            weight[one] += weight[two]
    label = np.array([find(i) for i in range(len(root))], np.int64)[parent]
    return label, int((label[same[0]] != label[same[1]]).sum())


def split(names: pa.Array, target: NDArray[np.bool_], component: I64, cut: int, *, seed: int, share: float) -> Split:
    """Draw the components that no training sample may touch.

    Each component's draw is the hash of one of its videos, so that a new video moves no other one unless it joins their
    components; ``names`` are the video_ids and ``target`` says which videos have target clips. The largest component, and those of
    more than twice the share (and more than one video), always train, or else one draw would take the data away. A collection of two
    or more components of targets always has one held out: where none was drawn, the one whose size is nearest to the share.
    """
    count = len(component)
    held = np.zeros(count, bool)
    if share <= 0 or not count:
        return Split(held, component, cut)
    _, label = np.unique(component, return_inverse=True)
    size = np.bincount(label)
    with_target = np.bincount(label, weights=target) > 0
    texts = names.to_pylist()
    first = np.array([int(short_hash("representative", seed, v), 16) / 16.0**20 for v in texts])
    leader = np.full(len(size), -1, np.int64)
    for video in np.lexsort((first,)):
        if leader[label[video]] < 0:
            leader[label[video]] = video
    mark = np.array([int(short_hash("split", seed, texts[v]), 16) / 16.0**20 for v in leader])
    small = size <= max(1.0, 2 * share * count)
    drawn = small & (mark < share)
    wanted = np.flatnonzero(with_target)
    if len(wanted) < 2:
        drawn &= ~with_target
        return Split(drawn[label], component, cut)
    targets = np.bincount(label, weights=target)
    largest = wanted[np.lexsort((-mark[wanted], -size[wanted], -targets[wanted]))[0]]
    drawn[largest] = False
    if not drawn[wanted].any():
        others = wanted[wanted != largest]
        distance = np.abs(size[others] - share * count)
        drawn[others[np.lexsort((mark[others], distance))[0]]] = True
    return Split(drawn[label], component, cut)

"""A few clips' pictures out of a table that may hold millions: ids are scanned, pictures read only where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads


def middle_frames(keyframes: pads.Dataset, clip_ids: Sequence[str]) -> dict[str, bytes]:
    """For each of these clips the JPEG of its key frame nearest to the middle; clips without one are left out."""
    wanted = pa.array(sorted(set(clip_ids)), pa.string())
    best: dict[str, tuple[float, pads.Fragment, int]] = {}
    for fragment in keyframes.get_fragments():
        pieces = fragment.split_by_row_group() if isinstance(fragment, pads.ParquetFileFragment) else [fragment]
        for piece in pieces:
            table = piece.to_table(schema=keyframes.schema, columns=["clip_id", "position"])
            rows = np.flatnonzero(pc.is_in(table.column("clip_id"), value_set=wanted).to_numpy())
            for row, clip in zip(rows.tolist(), table.column("clip_id").take(rows).to_pylist(), strict=True):
                off = abs(table.column("position")[row].as_py() - 0.5)
                if clip not in best or off < best[clip][0]:
                    best[clip] = (off, piece, row)
    by_piece: dict[int, list[tuple[str, pads.Fragment, int]]] = {}
    for clip, (_, piece, row) in best.items():
        by_piece.setdefault(id(piece), []).append((clip, piece, row))
    found: dict[str, bytes] = {}
    for members in by_piece.values():
        pictures = members[0][1].to_table(schema=keyframes.schema, columns=["jpeg"]).column("jpeg")
        found |= {clip: pictures[row].as_py() for clip, _, row in members}
    return found

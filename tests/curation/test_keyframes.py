"""However the key frame table is cut into files and row groups, each wanted clip is found, with its own pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from data_schemas.tables import KEYFRAMES
from stages.curation.keyframes import FrameIndex, frame_batches, index_frames, read_frames


def write(folder: Path, counts: Sequence[int], rows_per_file: int, rows_per_group: int) -> pads.Dataset:
    """A table of ``counts[n]`` key frames of clip n, whose pictures are their names."""
    rows = [
        {"clip_id": f"clip-{n:03d}", "position": k / count, "time_s": k / 2, "jpeg": f"{n}/{k}".encode()}
        for n, count in enumerate(counts)
        for k in range(count)
    ]
    table = KEYFRAMES.table(rows)
    for number, start in enumerate(range(0, table.num_rows, rows_per_file)):
        part = table.slice(start, rows_per_file)
        pq.write_table(part, folder / f"part-{number:05d}.parquet", row_group_size=rows_per_group)
    return pads.dataset(folder, format="parquet")


class Done:
    """Nothing is done yet."""

    def mask(self, keys: pa.ChunkedArray) -> pa.BooleanArray:
        return pa.array(np.zeros(len(keys), bool))


def pictures(index: FrameIndex) -> dict[str, list[bytes]]:
    keys = dict(zip(*(index.clips.column(name).to_pylist() for name in ("record_key", "clip_id")), strict=True))
    found = {}
    for batch in frame_batches(index, Done(), 3):  # type: ignore[arg-type]
        found |= {keys[key]: [picture for _, picture in frames] for key, frames in read_frames(batch).items()}
    return found


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    rows_per_file=st.integers(1, 40),
    rows_per_group=st.integers(1, 12),
    left_out=st.sets(st.integers(0, 11)),
)
def test_every_wanted_clip_is_indexed(
    counts: list[int], rows_per_file: int, rows_per_group: int, left_out: set[int]
) -> None:
    wanted = [n for n in range(len(counts)) if n not in left_out]
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(Path(folder), counts, rows_per_file, rows_per_group)
        index = index_frames(dataset, pa.array([f"clip-{n:03d}" for n in wanted], pa.string()))
        assert index.clips.column("clip_id").to_pylist() == [f"clip-{n:03d}" for n in wanted]
        assert pictures(index) == {f"clip-{n:03d}": [f"{n}/{k}".encode() for k in range(counts[n])] for n in wanted}
    with tempfile.TemporaryDirectory() as folder:
        whole = index_frames(write(Path(folder), counts, 1000, 1000), index.clips.column("clip_id"))
    assert whole.clips.column("record_key").equals(index.clips.column("record_key"))

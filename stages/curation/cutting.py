"""Cuts the clips that no record holds yet, video by video in a pool, so that a file is read once for all of its clips."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import Context, Group
from stages.curation.columns import first_of_each
from stages.curation.cut_worker import Also, CutActor, Failures, Span, VideoCuts

if TYPE_CHECKING:
    from models.video.encode import Encoding

_AT_ONCE = 65_536  # clips that are objects at the same time
_VIDEO = ("video_id", "video_uri", "sha256", "source_bytes", "source_mtime_ns")
_SPAN = ("key", "start_frame", "end_frame", "start_s", "end_s")
NOTHING: Also = {}


def cut_missing(
    ctx: Context, encoding: Encoding, group: Group, clips: pa.Table, *, unit: str = "clips", also: Also = NOTHING
) -> Failures:
    """Encode every clip whose ``key`` is not committed under the group; returns the failures by key.

    ``clips`` has the columns key, video_id, video_uri, sha256, source_bytes, source_mtime_ns (of the video as it was analysed),
    start_frame, end_frame, start_s and end_s, and the clips of a video in neighbouring rows. A record holds the file's bytes as
    ``content``, its frames, fps, width, height and sound, and the columns of ``also``.
    """
    missing = clips.filter(pc.invert(ctx.records.done(group).mask(clips.column("key"))))
    missing = missing.take(
        pa.array(first_of_each(missing.column("key")))
    )  # two videos of the same content are cut once
    failed: Failures = {}
    if not missing.num_rows:
        return failed
    init: Mapping[str, object] = {
        "encoding": encoding,
        "shards": ctx.records.shards([group]),
        "group": group.name,
        "scratch": str(ctx.scratch / "cut"),
        "also": also,
    }
    with ctx.progress(missing.num_rows, unit) as bar:
        for videos in _in_turns(missing):
            for outcome in ctx.map(CutActor, videos, init=init):
                failed |= outcome.failed
                bar.advance(outcome.clips, failed=len(outcome.failed), footage_s=outcome.footage_s)
    return failed


def _in_turns(missing: pa.Table) -> Iterator[list[VideoCuts]]:
    """The clips to cut, gathered by video, some ten thousand clips at a time: what waits is columns."""
    video = missing.column("video_id").combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(video)) + 1, [len(video)]])
    begin = 0
    while begin < len(video):
        # up to the last video that ends within the turn, and one at least
        end = int(max(starts[starts <= begin + _AT_ONCE][-1], starts[starts > begin][0]))
        rows = missing.select([*_VIDEO, *_SPAN]).slice(begin, end - begin).to_pylist()
        yield [_cuts(list(of_video)) for _, of_video in itertools.groupby(rows, key=lambda row: row["video_id"])]
        begin = end


def _cuts(rows: Sequence[Mapping[str, Any]]) -> VideoCuts:
    first = rows[0]
    return VideoCuts(
        first["video_uri"], first["sha256"], first["source_bytes"], first["source_mtime_ns"],
        tuple(Span(*(row[name] for name in _SPAN)) for row in rows),
    )  # fmt: skip

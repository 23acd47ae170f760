"""Cuts the clips that no record holds yet, video by video in a pool, so that a file is read once for all of its clips."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import Context, Group
from stages.curation.cut_worker import Also, CutActor, Failures, Span, VideoCuts

if TYPE_CHECKING:
    from models.video.encode import Encoding

_ROWS = 65_536
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
    done = pa.array(sorted(ctx.records.done(group)), pa.string())
    missing = clips.filter(pc.invert(pc.is_in(clips.column("key"), value_set=done)))
    videos = list(_by_video(missing))
    failed: Failures = {}
    if not videos:
        return failed
    init: Mapping[str, object] = {
        "encoding": encoding,
        "shards": ctx.records.shards([group]),
        "group": group.name,
        "scratch": str(ctx.scratch / "cut"),
        "also": also,
    }
    total = sum(len(video.spans) for video in videos)
    with ctx.progress(total, unit) as bar:
        for outcome in ctx.map(CutActor, videos, init=init):
            failed |= outcome.failed
            bar.advance(outcome.clips, failed=len(outcome.failed), footage_s=outcome.footage_s)
    return failed


def _by_video(missing: pa.Table) -> Iterator[VideoCuts]:
    """The clips to cut, gathered by video; two videos of the same content are cut once."""
    batches = missing.select([*_VIDEO, *_SPAN]).to_batches(max_chunksize=_ROWS)
    rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
    taken: set[str] = set()
    for _, of_video in itertools.groupby(rows, key=lambda row: row["video_id"]):
        mine = [row for row in of_video if row["key"] not in taken]
        taken.update(row["key"] for row in mine)
        if mine:
            first = mine[0]
            yield VideoCuts(
                first["video_uri"], first["sha256"], first["source_bytes"], first["source_mtime_ns"],
                tuple(Span(*(row[name] for name in _SPAN)) for row in mine),
            )  # fmt: skip

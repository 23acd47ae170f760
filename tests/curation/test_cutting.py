"""The clips to cut are handed out in turns: a video stays whole, its order is kept, and no clip is lost or cut twice."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.curation import cutting
from stages.curation.columns import first_of_each


def clips(counts: list[int], keys: list[int]) -> pa.Table:
    rows = [(video, frame) for video, count in enumerate(counts) for frame in range(count)]
    return pa.table(
        {
            "key": [str(key) for key in keys[: len(rows)]],
            "video_id": [f"v{video}" for video, _ in rows],
            "video_uri": [f"/{video}.mp4" for video, _ in rows],
            "sha256": pa.nulls(len(rows), pa.string()),
            "source_bytes": [1] * len(rows),
            "source_mtime_ns": [1] * len(rows),
            "start_frame": [10 * frame for _, frame in rows],
            "end_frame": [10 * frame + 10 for _, frame in rows],
            "start_s": [float(frame) for _, frame in rows],
            "end_s": [float(frame + 1) for _, frame in rows],
        }
    )


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=12),
    keys=st.lists(st.integers(0, 60), min_size=84, max_size=84),
    at_once=st.integers(1, 9),
)
def test_turns_keep_videos_whole_and_cut_each_content_once(
    monkeypatch: pytest.MonkeyPatch, counts: list[int], keys: list[int], at_once: int
) -> None:
    monkeypatch.setattr(cutting, "_AT_ONCE", at_once)
    given_rows = clips(counts, keys)
    first = given_rows.take(pa.array(first_of_each(given_rows.column("key"))))
    wanted = list(dict.fromkeys(given_rows.column("key").to_pylist()))
    assert first.column("key").to_pylist() == wanted
    turns = list(cutting._in_turns(first))
    assert [span.key for turn in turns for video in turn for span in video.spans] == wanted
    videos = [video.uri for turn in turns for video in turn]
    assert len(videos) == len(set(videos))
    assert all(len(turn) == 1 or sum(len(video.spans) for video in turn) <= at_once for turn in turns)

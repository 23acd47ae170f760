"""The media of a filter campaign are a stage's own outputs: chosen, encoded once per content, committed record by record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from data_schemas.tables import CLIPS, DEDUPE, SELECTION, VIDEOS
from pipelines.config import load
from pipelines.curate import PIPELINE
from pipelines.dag.engine import InlineEngine
from pipelines.dag.nodes import Worker
from stages.review import clip_media
from stages.review.clip_media import PICTURES_SHOWN, ReviewMediaParams, review_media
from stages.review.proxies import poster_name
from tests.context import LocalContext
from tests.review.clips import KEPT, REJECTED, curated, media_of
from tests.review.conftest import write_webm


class Counting(InlineEngine):
    """Counts the spans that are encoded; after ``most`` batches the machine loses power."""

    def __init__(self, most: int = 1_000_000) -> None:
        self.most, self.spans = most, 0

    def map(
        self, actor: Callable[..., Any], batches: Sequence[Any], init: Mapping[str, Any], worker: Worker, size: int
    ) -> Iterator[Any]:
        for batch in list(batches):
            if self.most == 0:
                raise KeyboardInterrupt
            self.most -= 1
            self.spans += len(batch.spans)
            yield from super().map(actor, [batch], init, worker, size)


def run(tmp_path: Path, inputs: dict[str, Any], engine: Counting, **params: Any) -> LocalContext:
    mine = {name: table for name, table in inputs.items() if name != "captions"}
    ctx = LocalContext(tmp_path, review_media, mine, engine=engine)
    ctx.run(ReviewMediaParams(**params))
    return ctx


def files(ctx: LocalContext) -> set[str]:
    return {path.name for path in ctx.outputs["proxies"].iterdir()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.webm"
    write_webm(path, frames=20)
    return path


def test_every_shown_clip_has_its_proxy_poster_and_pictures_and_nothing_else_lies_there(
    tmp_path: Path, source: Path
) -> None:
    ctx = media_of(tmp_path, curated(source), rejected_share=0.5)
    rows = ctx.outputs["shown"].to_pylist()
    assert len(rows) == KEPT + 3
    drawn = [row for row in rows if row["stratum"] == "motion"]
    assert {row["inclusion_probability"] for row in drawn} == {3 / REJECTED}
    assert files(ctx) == {name for row in rows for name in (row["media"], poster_name(row["media"]), *row["pictures"])}
    assert all(len(row["pictures"]) == 3 for row in rows)
    assert {(row["record_id"], row["status"]) for row in ctx.ledger_rows} == {
        (f"clip-{n:03d}", "accepted") for n in range(KEPT)
    }


def test_of_many_key_frames_a_few_are_shown_and_stored(tmp_path: Path, source: Path) -> None:
    inputs = curated(source)
    frames = inputs["keyframes"]
    inputs["keyframes"] = pa.concat_tables(
        frames.set_column(1, "position", pc.add(frames.column("position"), shift)) for shift in (0.0, 0.01)
    )
    ctx = media_of(tmp_path, inputs, rejected_share=0)
    assert {len(row["pictures"]) for row in ctx.outputs["shown"].to_pylist()} == {PICTURES_SHOWN}


def test_for_a_script_everything_is_named_and_nothing_is_made(tmp_path: Path, source: Path) -> None:
    engine = Counting()
    ctx = run(tmp_path, curated(source), engine, reviewer="script:rules")
    assert engine.spans == 0
    assert files(ctx) == set()
    assert ctx.outputs["shown"].equals(media_of(tmp_path, curated(source)).outputs["shown"])


def test_another_threshold_encodes_only_the_clips_that_are_new(tmp_path: Path, source: Path) -> None:
    inputs = curated(source)
    first, second = Counting(), Counting()
    before = run(tmp_path, inputs, first, rejected_share=0)
    assert first.spans == KEPT
    rows = inputs["selection"].to_pylist()
    rows[KEPT + 2] |= {"kept": True, "first_failing_rule": None}
    dedupe = inputs["dedupe"].to_pylist()
    dedupe += [{"clip_id": rows[KEPT + 2]["clip_id"], "kept": True, "kept_id": rows[KEPT + 2]["clip_id"]}]
    inputs |= {"selection": SELECTION.table(rows), "dedupe": DEDUPE.table(dedupe)}
    after = run(tmp_path, inputs, second, rejected_share=0)
    assert second.spans == 1
    assert files(before) < files(after)


def test_a_stage_that_was_killed_goes_on_where_it_was(tmp_path: Path, source: Path) -> None:
    inputs = curated(source)
    other = tmp_path / "other.webm"
    write_webm(other, hue=3, frames=20)
    video = inputs["videos"].to_pylist()[0]
    more = video | {"video_id": "w", "uri": str(other), "bytes": other.stat().st_size, "sha256": "o" * 64}
    clips = inputs["clips"].to_pylist()
    for row in clips[:2]:
        row |= {"video_id": "w", "video_uri": str(other)}
    inputs |= {"videos": VIDEOS.table([video, more]), "clips": CLIPS.table(clips)}
    killed, resumed = Counting(most=1), Counting()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, inputs, killed, rejected_share=0)
    run(tmp_path, inputs, resumed, rejected_share=0)
    assert killed.spans > 0
    assert killed.spans + resumed.spans == KEPT


def test_the_same_content_under_two_names_is_encoded_once(tmp_path: Path, source: Path) -> None:
    inputs = curated(source)
    clips = inputs["clips"].to_pylist()
    copy = inputs["videos"].to_pylist()[0] | {"video_id": "w"}
    clips[1] |= {name: clips[0][name] for name in ("start_frame", "end_frame")} | {"video_id": "w"}
    inputs |= {"clips": CLIPS.table(clips), "videos": VIDEOS.table([*inputs["videos"].to_pylist(), copy])}
    engine = Counting()
    ctx = run(tmp_path, inputs, engine, rejected_share=0)
    assert engine.spans == KEPT - 1
    names = [row["media"] for row in ctx.outputs["shown"].to_pylist()]
    assert names[0] == names[1]
    assert len(set(names)) == KEPT - 1


def test_a_clip_that_cannot_be_encoded_has_failed_with_the_reason_and_the_others_go_on(
    tmp_path: Path, source: Path
) -> None:
    inputs = curated(source)
    clips = inputs["clips"].to_pylist()
    clips[0] |= {"start_frame": 15, "end_frame": 90}  # the source holds 20 frames
    ctx = media_of(tmp_path, inputs | {"clips": CLIPS.table(clips)}, rejected_share=0)
    rows = {row["clip_id"]: row for row in ctx.outputs["shown"].to_pylist()}
    assert rows["clip-000"]["media"] is None
    assert "ended after frame 20" in rows["clip-000"]["error_message"]
    assert all(row["media"] and row["error_type"] is None for name, row in rows.items() if name != "clip-000")
    failed = [row for row in ctx.ledger_rows if row["status"] == "failed"]
    assert [(row["record_id"], row["error_type"]) for row in failed] == [("clip-000", "EncodeError")]
    assert len(ctx.ledger_rows) == KEPT


def test_a_source_that_is_gone_fails_alone(tmp_path: Path, source: Path) -> None:
    inputs = curated(source)
    video = inputs["videos"].to_pylist()[0]
    gone = video | {"video_id": "w", "uri": str(tmp_path / "gone.mp4"), "sha256": "o" * 64}
    clips = inputs["clips"].to_pylist()
    clips[0] |= {"video_id": "w", "video_uri": gone["uri"]}
    inputs |= {"videos": VIDEOS.table([video, gone]), "clips": CLIPS.table(clips)}
    rows = media_of(tmp_path, inputs, rejected_share=0).outputs["shown"].to_pylist()
    assert [row["clip_id"] for row in rows if row["media"] is None] == ["clip-000"]
    assert "gone.mp4" in rows[0]["error_message"]


def test_a_clip_of_which_no_poster_can_be_made_fails_alone(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def second_fails(video: Path) -> bytes:
        seen.append(video)
        if len(seen) == 2:
            raise ValueError(f"{video.name} shows no picture")
        return b"a picture"

    monkeypatch.setattr(clip_media, "poster", second_fails)
    rows = media_of(tmp_path, curated(source), rejected_share=0).outputs["shown"].to_pylist()
    lost = [row for row in rows if row["media"] is None]
    assert len(lost) == 1
    assert lost[0]["error_message"] == f"{seen[1].name} shows no picture"
    assert len(rows) == len(seen) == KEPT


@pytest.mark.parametrize("reviewer", ["people", "script:rules"])
def test_in_the_pipeline_the_media_follow_who_reviews(reviewer: str) -> None:
    config = load(PIPELINE, None, [f"review_clips.reviewer={reviewer}"], {})
    media = config.params["review_media"]
    assert isinstance(media, ReviewMediaParams)
    assert media.reviewer == reviewer

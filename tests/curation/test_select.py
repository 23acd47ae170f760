"""Selection, captions and the clips table: every clip gets a verdict, a caption or null, and all its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data_schemas.tables import CLIPS, EMBEDDINGS, VIDEOS
from stages.contract import StageError
from stages.curation.caption import caption
from stages.curation.clips import ClipsParams, clips
from stages.curation.default_rules import DEFAULT_RULES
from stages.curation.distributions import either_side, histogram
from stages.curation.funnel import rule_funnel
from stages.curation.rules import Bound, Rule, RuleError
from stages.curation.select import DEAR, SelectParams, in_order, preselect, rule_columns, select
from tests.context import LocalContext


def shots(rows: list[dict[str, Any]]) -> pa.Table:
    base = {
        "video_id": "v", "video_uri": "/v.mp4", "start_s": 0.0, "end_s": 2.0, "start_frame": 0, "end_frame": 50,
        "boundary_in": "start", "boundary_out": "end", "duration_s": 2.0, "width": 640, "height": 360, "fps": 25.0,
    }  # fmt: skip
    return CLIPS.table([{**base, **row} for row in rows])


SHOTS = [
    {"clip_id": "a", "motion": 0.5, "duration_s": 3600.0},
    {"clip_id": "b", "motion": 0.01, "duration_s": 1800.0},
    {"clip_id": "c", "motion": None, "duration_s": 0.5},
    {"clip_id": "d", "motion": None, "video_id": "w", "duration_s": 1800.0},
]
RULES = (
    Rule(name="plain", column="aesthetic", min=4, missing="keep"),
    Rule(name="still", column="motion", min=0.1, missing="review"),
    Rule(name="short", column="duration_s", min=1),
)


def embedding(clip_id: str, encoder: str = "e1", **scores: float | None) -> dict[str, Any]:
    return {
        "clip_id": clip_id,
        "encoder": encoder,
        "vector": [1.0, 0.0],
        "aesthetic": None,
        "clip_text": None,
        **scores,
    }


def test_preselect_uses_the_cheap_rules_and_keeps_what_a_person_must_see(tmp_path: Path) -> None:
    context = LocalContext(tmp_path, preselect, {"shots": shots(SHOTS)})
    context.run(SelectParams(rules=RULES))
    rows = {
        row["clip_id"]: (row["kept"], row["first_failing_rule"]) for row in context.outputs["candidates"].to_pylist()
    }
    assert rows == {"a": (True, None), "b": (False, "still"), "c": (False, "short"), "d": (True, None)}


def test_select_names_the_first_failing_rule_and_tells_the_ledger(tmp_path: Path) -> None:
    table = shots([{**row, "aesthetic": score} for row, score in zip(SHOTS, (3.0, None, None, None), strict=True)])
    context = LocalContext(tmp_path, select, {"clips": table})
    context.run(SelectParams(rules=RULES))
    rows = {row["clip_id"]: row for row in context.outputs["selection"].to_pylist()}
    assert {k: (r["kept"], r["first_failing_rule"], r["review"]) for k, r in rows.items()} == {
        "a": (False, "plain", False),
        "b": (False, "still", False),
        "c": (False, "short", False),
        "d": (True, None, True),
    }
    ledger = {row["record_id"]: (row["status"], row["reason"], row["video_id"]) for row in context.ledger_rows}
    assert ledger == {
        "a": ("rejected", "plain", "v"),
        "b": ("rejected", "still", "v"),
        "c": ("rejected", "short", "v"),
        "d": ("in_review", None, "w"),
    }


def test_rules_on_dear_scores_are_judged_last() -> None:
    assert [rule.name for rule in in_order(RULES)] == ["still", "short", "plain"]
    assert rule_columns(Rule(name="r", where="clip_text > 0.2 or motion is None")) == {"clip_text", "motion"}


def test_no_default_rule_looks_at_an_encoder_that_may_be_random() -> None:
    assert all(not rule_columns(rule) & DEAR for rule in DEFAULT_RULES)


def test_a_misspelt_rule_stops_preselect_already(tmp_path: Path) -> None:
    context = LocalContext(tmp_path, preselect, {"shots": shots(SHOTS)})
    with pytest.raises(RuleError, match="Did you mean motion"):
        context.run(SelectParams(rules=(Rule(name="r", column="moton", min=1),)))


def test_every_clip_gets_its_sources_caption_or_null(tmp_path: Path) -> None:
    video = {"uri": "/v.mp4", "path": "v.mp4", "media_type": "video", "bytes": 1, "status": "ok"}
    videos = VIDEOS.table(
        [{"video_id": "v", **video, "caption": "a cat", "caption_source": "sidecar"}, {"video_id": "w", **video}]
    )
    context = LocalContext(tmp_path, caption, {"shots": shots(SHOTS), "videos": videos})
    context.run()
    rows = {row["clip_id"]: (row["caption"], row["source"]) for row in context.outputs["captions"].to_pylist()}
    assert rows == {**dict.fromkeys("abc", ("a cat", "sidecar")), "d": (None, None)}


def test_clips_are_all_shots_with_all_scores_and_say_which_encoder(tmp_path: Path) -> None:
    embeddings = EMBEDDINGS.table([embedding("a", aesthetic=5.0, clip_text=0.3), embedding("d", clip_text=None)])
    context = LocalContext(tmp_path, clips, {"shots": shots(SHOTS), "embeddings": embeddings})
    context.run()
    table = context.outputs["clips"]
    rows = {row["clip_id"]: (row["motion"], row["aesthetic"], row["clip_text"]) for row in table.to_pylist()}
    assert rows == {"a": (0.5, 5.0, 0.3), "b": (0.01, None, None), "c": (None, None, None), "d": (None, None, None)}
    assert table.schema.field("aesthetic").metadata[b"encoder"] == b"e1"
    assert table.schema.field("width").type == pa.int32()


def test_clips_without_embeddings_are_the_shots(tmp_path: Path) -> None:
    context = LocalContext(tmp_path, clips, {"shots": shots(SHOTS)})
    context.run()
    assert sorted(context.outputs["clips"].column("clip_id").to_pylist()) == ["a", "b", "c", "d"]


def test_two_encoders_must_be_told_apart(tmp_path: Path) -> None:
    embeddings = EMBEDDINGS.table([embedding("a", aesthetic=5.0), embedding("a", "e2", aesthetic=6.0)])
    inputs = {"shots": shots(SHOTS), "embeddings": embeddings}
    with pytest.raises(StageError, match=r"several encoders \(e1, e2\)"):
        LocalContext(tmp_path / "one", clips, inputs).run()
    context = LocalContext(tmp_path / "two", clips, inputs)
    context.run(ClipsParams(encoder="e2"))
    assert {r["clip_id"]: r["aesthetic"] for r in context.outputs["clips"].to_pylist()}["a"] == 6.0


# -- the funnel -------------------------------------------------------------------------------------------------------


def test_the_funnel_accounts_for_every_record_and_hour() -> None:
    funnel = rule_funnel(in_order(RULES)[:2], shots(SHOTS))
    # hours: a 1, b 0.5, c 0.5 s, d 0.5; b fails still, c fails short, d has no motion and asks
    assert funnel.records == 4
    assert funnel.hours == pytest.approx(2 + 0.5 / 3600)
    still, short = funnel.steps
    assert (still.records_in, still.lost, still.fails, still.only, still.missing) == (4, 1, 1, 1, 2)
    assert still.hours_lost == pytest.approx(0.5)
    assert still.bounds == (Bound("motion", 0.1, "lower"),)
    assert (short.records_in, short.lost, short.only) == (3, 1, 1)
    assert (funnel.kept, funnel.review) == (2, 1)
    assert funnel.overlap == ((1, 0), (0, 1))
    assert funnel.hours == pytest.approx(funnel.hours_kept + sum(step.hours_lost for step in funnel.steps))


def test_overlap_counts_what_two_rules_both_reject() -> None:
    rules = [Rule(name="one", column="motion", min=1), Rule(name="two", where="not (motion < 0.1 or duration_s < 1)")]
    funnel = rule_funnel(rules, shots(SHOTS))
    # one rejects a and b; two rejects b (motion) and c (duration); d has no motion and both keep it
    assert funnel.overlap == ((2, 1), (1, 2))
    assert [step.lost for step in funnel.steps] == [2, 1]
    assert [step.only for step in funnel.steps] == [1, 1]


def test_a_histogram_covers_its_threshold_and_counts_every_row() -> None:
    table = shots([{"clip_id": str(i), "motion": i / 100} for i in range(100)] + [{"clip_id": "none", "motion": None}])
    drawn = Bound("motion", -3.0, "lower")
    result = histogram(table, "motion", [drawn, Bound("width", 1.0, "lower")], bins=10)
    assert result.edges[0] == -3.0
    assert result.bounds == (drawn,)
    assert sum(result.counts) + result.below + result.above + result.missing == 101
    empty = histogram(shots([{"clip_id": "x", "motion": None}]), "motion")
    assert (empty.counts, empty.missing) == ((), 1)


def test_the_clips_either_side_of_a_line_come_nearest_first() -> None:
    table = shots([{"clip_id": f"{i:02d}", "motion": i / 10} for i in range(10)])
    sides, upper = either_side(table, [Bound("motion", 0.45, "lower"), Bound("motion", 0.45, "upper")], count=2)
    assert [clip for clip, _ in sides.failing] == ["04", "03"]
    assert [clip for clip, _ in sides.passing] == ["05", "06"]
    assert [clip for clip, _ in upper.failing] == ["05", "06"]

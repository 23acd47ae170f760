"""The funnel accounts for every clip, agrees with a count row by row, and names what another rule set would change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_schemas.tables import BALANCE, CLIPS, DEDUPE, KEYFRAMES, LEDGER, SELECTION, SUBSET, VERDICTS, VIDEOS
from stages.curation.distributions import either_side
from stages.curation.funnel import compare_rules, rule_funnel
from stages.curation.middle_frames import middle_frames
from stages.curation.road import failures, road
from stages.curation.rules import Bound, Rule, told, where_bounds

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("duration_s", pa.float64()),
        ("a", pa.float64()),
        ("b", pa.float64()),
        ("n", pa.int32()),
    ]
)
NUMBER = st.none() | st.sampled_from([0.0, 1.0, 2.0, float("nan")]) | st.floats(-2, 4)
ROW = st.fixed_dictionaries(
    {"duration_s": st.floats(0.1, 9), "a": NUMBER, "b": NUMBER, "n": st.none() | st.integers(-2, 4)}
)
RULE = st.builds(
    lambda column, low, high, missing: Rule(
        name="r",
        column=column,
        min=low if low is None or high is None else min(low, high),
        max=high if low is None or high is None else max(low, high),
        missing=missing,
    ),
    st.sampled_from(["a", "b", "n"]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.none() | st.sampled_from([1.0, 2.0]),
    st.sampled_from(["keep", "drop", "review"]),
)


def named(rules: list[Rule]) -> list[Rule]:
    return [rule.model_copy(update={"name": f"r{i}"}) for i, rule in enumerate(rules)]


def verdicts(rules: list[Rule], row: dict[str, Any]) -> tuple[list[bool], list[bool]]:
    """For one row and each rule in plain Python: does it fail, and is its value missing."""
    fails, missing = [], []
    for rule in rules:
        value = row[str(rule.column)]
        gone = value is None or value != value
        inside = gone or ((rule.min is None or value >= rule.min) and (rule.max is None or value <= rule.max))
        fails.append(rule.missing == "drop" if gone else not inside)
        missing.append(gone)
    return fails, missing


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(ROW, max_size=15), rules=st.lists(RULE, max_size=4))
def test_the_funnel_is_a_count_row_by_row(rows: list[dict[str, Any]], rules: list[Rule]) -> None:
    rules = named(rules)
    table = pa.Table.from_pylist([{"clip_id": str(i), **row} for i, row in enumerate(rows)], schema=SCHEMA)
    funnel = rule_funnel(rules, table)
    told_of = [verdicts(rules, row) for row in rows]
    first = [next((i for i, fail in enumerate(fails) if fail), None) for fails, _ in told_of]
    assert funnel.records == len(rows)
    assert funnel.kept == first.count(None)
    for i, step in enumerate(funnel.steps):
        assert step.lost == first.count(i)
        assert step.records_in == len(rows) - sum(first.count(j) for j in range(i))
        assert step.hours_lost == pytest.approx(
            sum(r["duration_s"] for r, f in zip(rows, first, strict=True) if f == i) / 3600
        )
        assert step.fails == sum(fails[i] for fails, _ in told_of)
        assert step.only == sum(fails[i] and sum(fails) == 1 for fails, _ in told_of)
        assert step.missing == sum(missing[i] for _, missing in told_of)
        assert funnel.overlap[i] == tuple(sum(f[i] and f[j] for f, _ in told_of) for j in range(len(rules)))
    asks = [i for i, rule in enumerate(rules) if rule.missing == "review"]
    assert funnel.review == sum(f is None and any(m[i] for i in asks) for f, (_, m) in zip(first, told_of, strict=True))
    assert funnel.hours == pytest.approx(funnel.hours_kept + sum(step.hours_lost for step in funnel.steps))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, max_size=15), before=st.lists(RULE, max_size=3), after=st.lists(RULE, max_size=3))
def test_a_comparison_is_two_funnels_and_the_clips_between_them(
    rows: list[dict[str, Any]], before: list[Rule], after: list[Rule]
) -> None:
    before, after = named(before), [*named(after)]
    table = pa.Table.from_pylist([{"clip_id": str(i), **row} for i, row in enumerate(rows)], schema=SCHEMA)
    one, two, change = compare_rules(before, after, table)
    assert (one, two) == (rule_funnel(before, table), rule_funnel(after, table))
    kept = [{i for i, row in enumerate(rows) if not any(verdicts(rules, row)[0])} for rules in (before, after)]
    assert (change.gained, change.dropped) == (len(kept[1] - kept[0]), len(kept[0] - kept[1]))
    assert change.hours_gained == pytest.approx(sum(rows[i]["duration_s"] for i in kept[1] - kept[0]) / 3600)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.none() | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-2, 2), max_size=30),
    line=st.sampled_from([0.0, 0.5, 7.0]),
    side=st.sampled_from(["lower", "upper"]),
    count=st.integers(1, 5),
)
def test_either_side_are_the_nearest_clips_there_are(
    values: list[float | None], line: float, side: Any, count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = pa.table({"clip_id": [f"{i:02d}" for i in range(len(values))], "a": pa.array(values, pa.float64())})
    halves = pads.dataset([pads.dataset(table.slice(0, 11)), pads.dataset(table.slice(11))])  # more than one batch
    [sides] = either_side(halves, [Bound("a", line, side)], count)
    near = sorted((abs(v - line), f"{i:02d}", v) for i, v in enumerate(values) if v is not None)
    passes = [(c, v) for _, c, v in near if (v >= line if side == "lower" else v <= line)]
    fails = [(c, v) for _, c, v in near if not (v >= line if side == "lower" else v <= line)]
    assert (sides.passing, sides.failing) == (tuple(passes[:count]), tuple(fails[:count]))


def test_the_lines_of_an_expression_are_found_where_it_has_some() -> None:
    assert where_bounds("dark_share <= 0.9") == [Bound("dark_share", 0.9, "upper")]
    assert where_bounds("width >= 64 and height > 64 and codec == 'h264'") == [
        Bound("width", 64.0, "lower"),
        Bound("height", 64.0, "lower"),
    ]
    assert where_bounds("width >= 64 or height >= 64") == []
    assert where_bounds("width >= height") == where_bounds("1 <") == where_bounds("") == []


def test_a_rule_is_told_in_a_line() -> None:
    rule = Rule.model_validate({"name": "r", "column": "a", "min": 0.5, "quantile": {"upper": 0.9}, "where": "b < 2"})
    assert told(rule) == "a >= 0.5 and a <= its 0.9 quantile and b < 2"


# -- the whole way ------------------------------------------------------------------------------------------------------


class Held:
    """Tables by name, as a run holds them."""

    def __init__(self, **tables: pa.Table) -> None:
        self.tables = tables

    def has(self, name: str) -> bool:
        return name in self.tables

    def dataset(self, name: str) -> pads.Dataset:
        return pads.dataset(self.tables[name])


def clip(name: str, **more: Any) -> dict[str, Any]:
    base = {
        "clip_id": name, "video_id": "v", "video_uri": "/v.mp4", "start_s": 0.0, "end_s": 2.0, "start_frame": 0, "end_frame": 50,
        "boundary_in": "start", "boundary_out": "end", "duration_s": 3600.0, "width": 640, "height": 360, "fps": 25.0,
    }  # fmt: skip
    return {**base, **more}


def held() -> Held:
    names = "abcdefgh"
    video = {"uri": "/v", "path": "v", "bytes": 1}
    return Held(
        videos=VIDEOS.table(
            [
                {"video_id": "v", "media_type": "video", "status": "ok", "duration_s": 7200.0, **video},
                {"video_id": "w", "media_type": "video", "status": "failed", "error_type": "CrashedError", **video},
                {"video_id": "x", "media_type": "image", "status": "ok", **video},
            ]
        ),
        clips=CLIPS.table([clip(n) for n in names]),
        selection=SELECTION.table(
            [{"clip_id": n, "kept": n != "a", "first_failing_rule": "still" if n == "a" else None, "review": False} for n in names]
        ),
        dedupe=DEDUPE.table(
            [{"clip_id": n, "kept": n != "b", "kind": "near" if n == "b" else None, "kept_id": "c"} for n in names[1:]]
        ),
        balance=BALANCE.table(
            [{"clip_id": n, "kept": n not in "cd", "quota": {"c": "source", "d": "total"}.get(n)} for n in names[2:]]
        ),
        verdicts=VERDICTS.table(
            [
                {"external_id": "e", "item_id": "e", "verdict": "reject", "reasons": ["text or logo", "still"], "answers": 1},
                {"external_id": "f", "item_id": "f", "verdict": "in_review", "reasons": [], "answers": 0},
                {"external_id": "g", "item_id": "g", "verdict": "accept", "reasons": [], "answers": 1},
                {"external_id": "a", "item_id": "a", "verdict": "reject", "reasons": [], "answers": 1},
                {"external_id": "h", "item_id": "h", "verdict": "accept", "reasons": [], "answers": 1},
            ]
        ),
        subset=SUBSET.table(
            [
                {"clip_id": "g", "video_id": "v", "media_uri": "/g", "media_sha256": "0", "media_bytes": 1, "start_s": 0.0,
                 "end_s": 1.0, "frames": 1, "fps": 1.0, "width": 1, "height": 1}
            ]
        ),
    )  # fmt: skip


def test_every_clip_is_lost_once_and_with_its_reason() -> None:
    levels = road(held(), ["script:rules"])
    assert [(level.name, level.records, level.hours) for level in levels] == [
        ("readable files, 1 videos and 1 photographs", 2, 2.0),
        ("shots", 8, 8.0),
        ("pass the rules", 7, 7.0),
        ("are not duplicates", 6, 6.0),
        ("are within the quotas", 4, 4.0),
        ("accepted by the scripted reviewer (script:rules)", 2, 2.0),
        ("exported", 1, 1.0),
    ]
    reasons = {loss.reason: loss.records for level in levels for loss in level.losses}
    assert reasons == {
        "unreadable: CrashedError": 1,
        "still": 1,
        "near duplicate": 1,
        "over the quota of its source": 1,
        "over max_total": 1,
        "rejected: still, text or logo": 1,  # the drawn clip a was rejected by a rule before, and is not lost twice
        "undecided": 1,
        "not exported": 1,
    }


def test_failures_are_counted_by_kind_with_an_example() -> None:
    rows = [
        {"record_id": str(n), "stage": "analyze", "status": status, "error_type": kind, "error_message": f"{n} {kind}"}
        for n, (status, kind) in enumerate([("failed", "A"), ("failed", "A"), ("failed", "B"), ("accepted", None)])
    ]
    found = failures(pads.dataset(LEDGER.table(rows)))
    assert [(f.stage, f.error_type, f.records, f.example) for f in found] == [
        ("analyze", "A", 2, "0 A"),
        ("analyze", "B", 1, "2 B"),
    ]


def test_pictures_are_read_where_they_lie(tmp_path: Path) -> None:
    rows = [
        {"clip_id": f"{n:03d}", "position": position, "time_s": 0.0, "jpeg": f"{n} {position}".encode()}
        for n in range(60)
        for position in (0.1, 0.6, 0.9)
    ]
    pq.write_table(KEYFRAMES.table(rows), tmp_path / "part.parquet", row_group_size=16)
    found = middle_frames(pads.dataset(tmp_path), ["007", "059", "absent"])
    assert found == {"007": b"7 0.6", "059": b"59 0.6"}

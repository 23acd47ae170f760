"""The judge, on a truth small enough to reckon by hand.

a.mp4 has four shots of 20 frames: [0, 20) good, a cut, [20, 40) dark, a cut, [40, 60) good, a dissolve over [56, 64),
[60, 80) good. b.mp4 is a copy of it. x.mp4 is broken.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tinyworld.judge import Boundary, judge_curation, match_boundaries

STARTS = (0, 20, 40, 60)


def _shots() -> list[dict[str, Any]]:
    return [
        {"start": start, "end": start + 20, "keep": start != 20, "defects": ["dark"] if start == 20 else []}
        for start in STARTS
    ]


def _truth() -> dict[str, Any]:
    marks = [
        {"kind": "cut", "frame": 20, "start": 20, "end": 20},
        {"kind": "cut", "frame": 40, "start": 40, "end": 40},
        {"kind": "dissolve", "frame": 60, "start": 56, "end": 64},
    ]
    return {
        "schema_version": "1.0",
        "videos": [
            {"file": "a.mp4", "kind": "film", "copy_of": None, "shots": _shots(), "boundaries": marks},
            {"file": "b.mp4", "kind": "copy", "copy_of": "a.mp4", "shots": _shots(), "boundaries": marks},
            {"file": "x.mp4", "kind": "broken", "copy_of": None, "shots": [], "boundaries": []},
        ],
    }


def _videos(**status: str) -> pa.Table:
    files = {"a": "ok", "b": "ok", "x": "failed", **status}
    return pa.Table.from_pylist(
        [{"video_id": name, "path": f"{name}.mp4", "status": value} for name, value in files.items()]
    )


def _clips(spans: dict[str, list[tuple[int, int, str]]]) -> pa.Table:
    rows = [
        {"clip_id": f"{video}{index}", "video_id": video, "start_frame": a, "end_frame": b, "boundary_in": kind}
        for video, cuts in spans.items()
        for index, (a, b, kind) in enumerate(cuts)
    ]
    schema = pa.schema(
        [
            ("clip_id", pa.string()),
            ("video_id", pa.string()),
            ("start_frame", pa.int64()),
            ("end_frame", pa.int64()),
            ("boundary_in", pa.string()),
        ]
    )
    return pa.Table.from_pylist(rows, schema)


def _selection(kept: dict[str, bool]) -> pa.Table:
    rows = [{"clip_id": k, "kept": v, "first_failing_rule": None if v else "luma"} for k, v in kept.items()]
    schema = pa.schema([("clip_id", pa.string()), ("kept", pa.bool_()), ("first_failing_rule", pa.string())])
    return pa.Table.from_pylist(rows, schema)


def _dedupe(groups: dict[str, str | None]) -> pa.Table:
    rows = [
        {"clip_id": clip, "kept": True, "kind": "near" if group else None, "group_id": group}
        for clip, group in groups.items()
    ]
    schema = pa.schema(
        [("clip_id", pa.string()), ("kept", pa.bool_()), ("kind", pa.string()), ("group_id", pa.string())]
    )
    return pa.Table.from_pylist(rows, schema)


PERFECT = [(0, 20, "start"), (20, 40, "cut"), (40, 60, "cut"), (60, 80, "dissolve")]


def test_a_perfect_curation_is_perfect() -> None:
    kept = {f"{v}{i}": i != 1 for v in "ab" for i in range(4)}
    groups = {f"{v}{i}": f"g{i}" for v in "ab" for i in (0, 2, 3)}
    told = judge_curation(_truth(), _videos(), _clips({"a": PERFECT, "b": PERFECT}), _selection(kept), _dedupe(groups))
    for group, count in (("all", 6), ("hard", 4), ("gradual", 2)):
        score = told["boundaries"][group]
        assert (score["truth"], score["found"]) == (count, count)
        assert (score["precision"], score["recall"], score["f1"]) == (1.0, 1.0, 1.0)
    assert told["boundaries"]["kind_right"] == 6
    assert (told["filter"]["precision"], told["filter"]["recall"]) == (1.0, 1.0)
    assert told["filter"]["defects"] == {"dark": {"shots": 2, "rejected": 2, "recall": 1.0}}
    dedupe = told["dedupe"]
    assert (dedupe["true_pairs"], dedupe["found"], dedupe["missed"], dedupe["false"]) == (3, 3, 0, 0)
    assert told["files"]["failed_as_expected"] == ["x.mp4"]
    assert told["files"]["sound_but_not_ok"] == told["files"]["missing"] == told["files"]["broken_but_not_failed"] == []
    assert told["unknown_clips"] == 0


def test_an_empty_curation_finds_nothing_and_has_no_precision() -> None:
    nothing = _videos().slice(0, 0)
    told = judge_curation(_truth(), nothing, _clips({}), _selection({}), None)
    everything = told["boundaries"]["all"]
    assert (everything["truth"], everything["found"], everything["recall"]) == (6, 0, 0.0)
    assert everything["precision"] is None
    assert everything["f1"] is None
    # Three good shots in each of two videos, none of which any clip matches.
    assert (told["filter"]["lost_good"], told["filter"]["good_shots_without_a_clip"]) == (6, 6)
    assert told["filter"]["recall"] == 0.0
    assert told["filter"]["precision"] is None
    assert told["filter"]["defects"]["dark"]["recall"] == 1.0
    assert told["dedupe"] is None
    assert set(told["files"]["missing"]) == {"a.mp4", "b.mp4", "x.mp4"}


@pytest.mark.parametrize(("shift", "cuts_found"), [(1, 2), (2, 2), (3, 0), (-2, 2), (-3, 0)])
def test_a_cut_counts_within_two_frames_and_a_dissolve_anywhere_in_its_span(shift: int, cuts_found: int) -> None:
    moved = [(0, 20 + shift, "start"), (20 + shift, 40 + shift, "cut"), (40 + shift, 60 + shift, "cut")]
    moved.append((60 + shift, 80, "cut"))
    told = judge_curation(_truth(), _videos(), _clips({"a": moved}), _selection({}), None)["boundaries"]
    # a.mp4 alone has clips: of four hard truths (two files) two can be hit, and one of two dissolves is.
    assert told["hard"]["truth_matched"] == cuts_found
    assert told["gradual"]["truth_matched"] == 1
    # The dissolve was labelled a cut: three boundaries are labelled hard, those that hit count for hard precision.
    assert (told["hard"]["found"], told["hard"]["found_matched"]) == (3, cuts_found + 1)
    assert told["gradual"]["found"] == 0
    assert told["kind_right"] == cuts_found


def test_matching_is_one_to_one_and_as_large_as_possible() -> None:
    truth = [Boundary(10, 10, "cut"), Boundary(13, 13, "cut")]
    # 12 is within 2 of both, 15 only of the second: greedy nearest-first by truth would take 12 for 10, and 15 for 13.
    found = [Boundary(12, 12, "cut"), Boundary(15, 15, "cut")]
    assert match_boundaries(truth, found) == [(0, 0), (1, 1)]
    # Both found boundaries hit the same single truth: one is false.
    assert match_boundaries(truth[:1], [Boundary(9, 9, "cut"), Boundary(10, 10, "cut")]) == [(0, 1)]
    # An augmenting path: 11 is nearest to both truths 10 and 12, so 10 must give it up for 8.
    both = [Boundary(10, 10, "cut"), Boundary(12, 12, "cut")]
    assert match_boundaries(both, [Boundary(11, 11, "cut"), Boundary(8, 8, "cut")]) == [(0, 1), (1, 0)]


def test_a_gap_between_clips_is_one_boundary_at_its_middle() -> None:
    gap = [(0, 20, "start"), (20, 40, "cut"), (40, 57, "cut"), (63, 80, "dissolve")]
    told = judge_curation(_truth(), _videos(), _clips({"a": gap, "b": gap}), _selection({}), None)["boundaries"]
    assert told["gradual"]["f1"] == 1.0
    assert told["kind_right"] == 6


def test_filter_counts_are_those_reckoned_by_hand() -> None:
    # Of a.mp4: good 0 kept, dark 1 kept (bad), good 2 rejected (lost), good 3 kept. b.mp4 has no clips: 3 more lost.
    kept = {"a0": True, "a1": True, "a2": False, "a3": True}
    told = judge_curation(_truth(), _videos(), _clips({"a": PERFECT}), _selection(kept), None)["filter"]
    assert (told["kept_good"], told["kept_bad"], told["lost_good"], told["rejected_bad"]) == (2, 1, 4, 0)
    assert told["precision"] == pytest.approx(2 / 3)
    assert told["recall"] == pytest.approx(2 / 6)
    assert told["defects"]["dark"] == {"shots": 2, "rejected": 1, "recall": 0.5}
    assert told["good_rejected_by_rule"] == {"luma": 1}
    assert told["bad_kept_by_defect"] == {"dark": 1}


def test_a_clip_that_spans_two_shots_is_judged_by_the_larger_part() -> None:
    spans = [(0, 45, "start"), (45, 80, "cut")]  # overlaps 20, 20, 5 and 15, 20: first shot 0 (first of equals), then 3
    told = judge_curation(_truth(), _videos(), _clips({"a": spans}), _selection({"a0": True, "a1": True}), None)
    assert (told["filter"]["kept_good"], told["filter"]["kept_bad"]) == (2, 0)
    # Shot 2 of a.mp4 has no clip, nor has any of b.mp4's three good ones.
    assert told["filter"]["good_shots_without_a_clip"] == 4


def test_duplicates_found_missed_and_false_are_counted_as_pairs() -> None:
    kept = {f"{v}{i}": True for v in "ab" for i in range(4)}
    # a0 and b0 found; a2 and b2 missed; a3 and b1 false (other shots); a0 with a0's own file never asked for.
    groups = {"a0": "g", "b0": "g", "a2": None, "b2": None, "a3": "h", "b1": "h"}
    told = judge_curation(_truth(), _videos(), _clips({"a": PERFECT, "b": PERFECT}), _selection(kept), _dedupe(groups))
    dedupe = told["dedupe"]
    assert (dedupe["true_pairs"], dedupe["found"], dedupe["missed"], dedupe["false"]) == (2, 1, 1, 1)
    assert (dedupe["precision"], dedupe["recall"], dedupe["f1"]) == (0.5, 0.5, 0.5)
    assert dedupe["false_by_kind"] == {"near": 1}


def test_two_parts_of_one_shot_are_neither_a_true_nor_a_false_pair() -> None:
    over_cut = [(0, 10, "start"), (10, 20, "cut"), (20, 40, "cut"), (40, 60, "cut"), (60, 80, "dissolve")]
    groups = {"a0": "g", "a1": "g"}
    told = judge_curation(_truth(), _videos(), _clips({"a": over_cut}), _selection({}), _dedupe(groups))["dedupe"]
    assert (told["true_pairs"], told["found"], told["false"]) == (0, 0, 0)


def test_files_that_failed_wrongly_or_did_not_fail_are_named() -> None:
    told = judge_curation(_truth(), _videos(b="failed", x="ok"), _clips({}), _selection({}), None)["files"]
    assert told["sound_but_not_ok"] == ["b.mp4"]
    assert told["broken_but_not_failed"] == ["x.mp4"]
    assert told["failed_as_expected"] == []


def test_clips_of_unknown_videos_are_counted_and_not_judged() -> None:
    clips = _clips({"a": PERFECT, "stranger": [(0, 10, "start")]})
    assert judge_curation(_truth(), _videos(), clips, _selection({}), None)["unknown_clips"] == 1


def test_a_table_without_a_column_and_a_newer_truth_are_refused_by_name() -> None:
    clips = _clips({"a": PERFECT}).drop_columns(["boundary_in"])
    with pytest.raises(ValueError, match="the clips table has no column boundary_in"):
        judge_curation(_truth(), _videos(), clips, _selection({}), None)
    with pytest.raises(ValueError, match=r"schema version 2\.0 cannot be judged"):
        judge_curation({**_truth(), "schema_version": "2.0"}, _videos(), _clips({}), _selection({}), None)

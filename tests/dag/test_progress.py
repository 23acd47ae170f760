"""Progress tells what is done, how fast, what failed and what is left; to machines as one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.dag import progress as progress_module
from pipelines.dag.progress import Bar, Tally, clock, footage, line, progress
from pipelines.dag.runs import NodeRecord, RunRecord
from pipelines.report_run import JsonLines
from stages.contract import Params, stage
from tests.context import LocalContext


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    found = Hand()
    monkeypatch.setattr(progress_module, "time", found)
    return found


def test_time_left_goes_by_bytes_where_they_are_known(hand: Hand) -> None:
    by_bytes, by_count = Tally("analyze", 10, "files", weight=1000.0), Tally("analyze", 10, "files")
    assert by_bytes.left_s is None
    hand.now += 30
    for tally in (by_bytes, by_count):
        tally.add(1, 0, 90.0, 600.0)  # the one large file is done
    assert by_bytes.left_s == pytest.approx(20.0)
    assert by_count.left_s == pytest.approx(270.0)


def test_lines_say_footage_rates_failures_and_time_left(hand: Hand, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("analyze", 4000, "files", quiet=False, weight=4e9) as bar:
        hand.now += 2
        bar.advance(100, footage_s=400.0, weight=1e8)
        assert capsys.readouterr().err == ""  # not yet
        hand.now += 8
        bar.advance(1900, failed=3, footage_s=7600.0, weight=1.9e9)
        said = capsys.readouterr().err
        assert said == (
            "  analyze: 2,000 of 4,000 files (2.2 h of footage, 200.0/s, 800.0x real time, 3 failed, 0:10 left)\n"
        )
        hand.now += 1
    assert capsys.readouterr().err == ""  # what was told is not told again


def test_a_bar_moves_by_weight(hand: Hand) -> None:
    bar = Bar(Tally("analyze", 10, "files", weight=1000.0))
    hand.now += 10
    bar.advance(1, footage_s=30.0, weight=600.0)
    task = bar.bar.tasks[0]
    assert (task.completed, task.total) == (600.0, 1000.0)
    assert task.fields["note"] == "1 of 10 files, 30.0 s of footage, 0.1/s, 3.0x real time, 0:07 left"


def test_events_are_emitted_for_short_steps_too(hand: Hand) -> None:
    told: list[Any] = []
    with progress("embed", 3, "clips", quiet=True, emit=told.append) as bar:
        hand.now += 1
        bar.advance(2, failed=1)
    assert told == [
        {
            "stage": "embed", "done": 2, "total": 3, "unit": "clips", "failed": 1, "footage_s": 0.0, "seconds": 1.0,
            "per_second": 2.0, "realtime": 0.0, "left_s": 0.5,
        }
    ]  # fmt: skip
    with progress("embed", 3, "clips", quiet=True, emit=told.append) as bar:
        hand.now += 6
        bar.advance(3)
    assert len(told) == 2  # told once, though the step ended right after


def test_nothing_done_leaves_the_time_open(hand: Hand, capsys: pytest.CaptureFixture[str]) -> None:
    hand.now += 9
    line(Tally("analyze", 4, "files"))
    assert capsys.readouterr().err == "  analyze: 0 of 4 files (0.0/s)\n"


@pytest.mark.parametrize(("seconds", "told"), [(59.4, "59.4 s"), (90, "1.5 min"), (7200, "2.0 h")])
def test_footage_reads_well(seconds: float, told: str) -> None:
    assert footage(seconds) == told


def test_clock() -> None:
    assert [clock(s) for s in (5, 65, 3605)] == ["0:05", "1:05", "1:00:05"]


def test_every_line_is_an_object_with_event_time_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = JsonLines()
    run = RunRecord("p", "r1", "", "running", [NodeRecord("a")], "", 0, "")
    reporter.run_started(run)
    reporter.node_started(run.nodes[0])
    reporter.progress(Tally("a", 2, "files").fields())
    reporter.event(
        "record_failed", {"run_id": "r1", "stage": "a", "record_id": "x", "error_type": "E", "error_message": "\n"}
    )
    reporter.note("a word")
    reporter.node_ended(run.nodes[0])
    reporter.run_ended(run)
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in lines] == [
        "run_started", "stage_started", "progress", "record_failed", "note", "stage_ended", "run_ended",
    ]  # fmt: skip
    assert all(e["run_id"] == "r1" and e["at"].endswith("+00:00") for e in lines)


def test_each_failure_is_told_once_whether_the_stage_told_it_or_its_ledger(tmp_path: Path) -> None:
    @stage(name="fails", version="1", params=Params, outputs={})
    def fails(ctx: Any, params: Params) -> None:
        ctx.event("record_failed", record_id="a", error_type="E", error_message="while it ran")
        ctx.ledger(
            [
                {"record_id": "a", "status": "failed", "error_type": "E", "error_message": "in the end"},
                {"record_id": "b", "status": "failed", "error_type": "F", "error_message": "only here"},
                {"record_id": "c", "status": "accepted"},
            ]
        )

    context = LocalContext(tmp_path, fails)
    context.run()
    context.tell_failures()
    assert [(kind, told["record_id"], told["error_message"]) for kind, told in context.events] == [
        ("record_failed", "a", "while it ran"),
        ("record_failed", "b", "only here"),
    ]

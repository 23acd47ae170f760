"""The log says of every line whose it is, also when many processes write at once."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.dag.logs import EventLog
from pipelines.dag.records import RecordStore
from pipelines.dag.store import Store
from pipelines.report_run import Logged, Terminal
from stages.contract import Group
from tests.dag.toy import ToyParams, make_pipeline, run_toy


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _many(path: str, who: str) -> None:
    log = EventLog(path).bind(run_id=who)
    for number in range(200):
        log.write("note", {"text": "x" * (number * 7), "number": number})


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "events.jsonl"
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.starmap(_many, [(str(path), who) for who in "abc"])
    found = lines(path)
    assert len(found) == 600
    for who in "abc":
        assert [f["number"] for f in found if f["run_id"] == who] == list(range(200))


def test_a_committed_shard_is_told_with_run_stage_and_shard(tmp_path: Path) -> None:
    store, path = Store(str(tmp_path / "store")), tmp_path / "events.jsonl"
    log = EventLog(str(path)).bind(run_id="r1", stage="analyze")
    group = Group("g", "recipe")
    records = RecordStore(store, "analyze", log=log)
    records.shards([group]).commit({"g": pa.table({"record_key": ["a", "b"], "x": [1, 2]})}, ["a", "b"])
    [told] = lines(path)
    assert {k: told[k] for k in ("event", "run_id", "stage", "records", "rows")} == {
        "event": "shard_committed", "run_id": "r1", "stage": "analyze", "records": 2, "rows": {"g": 2},
    }  # fmt: skip
    assert store.exists(f"records/analyze/{told['shard']}.shard")


def test_a_log_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    EventLog(str(tmp_path / "file" / "events.jsonl")).write("note", {})  # raises nothing
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "")]


def test_every_step_of_a_run_is_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    reporter = Logged(Terminal("again", "serve"), EventLog(str(path)))
    record = run_toy(tmp_path, make_pipeline({"a": [], "b": ["a"]}), {"b": ToyParams(fail=True)}, reporter=reporter)  # type: ignore[arg-type]
    told = [(line["event"], line.get("stage"), line.get("state")) for line in lines(path)]
    assert told == [
        ("run_started", None, None),
        ("stage_started", "a", None),
        ("stage_ended", "a", "SUCCEEDED"),
        ("stage_started", "b", None),
        ("stage_ended", "b", "FAILED"),
        ("run_ended", None, "failed"),
    ]
    assert {line["run_id"] for line in lines(path)} == {record.run_id}
    assert "asked to fail" in str([line for line in lines(path) if line.get("state") == "FAILED"])

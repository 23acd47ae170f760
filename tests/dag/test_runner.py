"""A pipeline run redoes exactly what must be redone, whatever happened before."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dag.artifacts import latest_manifest, open_table
from pipelines.dag.canonical import encode
from pipelines.dag.plan import Action, plan
from pipelines.dag.runs import load_run
from pipelines.dag.state import State, exit_code
from pipelines.dag.store import Store
from tests.dag.toy import DONE, NUMBERS, Quiet, ToyParams, make_pipeline, run_toy, states, world

DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}


def test_second_run_does_no_work(tmp_path: Path) -> None:
    pipeline = make_pipeline(DIAMOND)
    assert set(states(run_toy(tmp_path, pipeline)).values()) == {"SUCCEEDED"}
    DONE.clear()
    assert set(states(run_toy(tmp_path, pipeline)).values()) == {"CACHED"}
    assert not DONE


def test_changed_parameter_redoes_the_node_and_what_hangs_on_it(tmp_path: Path) -> None:
    pipeline = make_pipeline(DIAMOND)
    run_toy(tmp_path, pipeline)
    after = states(run_toy(tmp_path, pipeline, {"b": ToyParams(add=100)}))
    assert after == {"a": "CACHED", "b": "SUCCEEDED", "c": "CACHED", "d": "SUCCEEDED"}


def test_equal_output_stops_the_rerun(tmp_path: Path) -> None:
    """7 // 10 == 8 // 10 and 20 // 10 == 21 // 10: b is redone, comes out the same, and d is not redone."""
    pipeline = make_pipeline(DIAMOND)
    run_toy(tmp_path, pipeline, {"b": ToyParams(divide=10)})
    after = states(run_toy(tmp_path, pipeline, {"b": ToyParams(divide=10, add=1)}))
    assert after == {"a": "CACHED", "b": "SUCCEEDED", "c": "CACHED", "d": "CACHED"}


def test_raised_version_redoes_and_a_comment_does_not(tmp_path: Path) -> None:
    run_toy(tmp_path, make_pipeline(DIAMOND))
    assert states(run_toy(tmp_path, make_pipeline(DIAMOND, {"c": "2"})))["c"] == "SUCCEEDED"
    store = Store(str(tmp_path / "store"))
    manifest = latest_manifest(store, "a")
    assert manifest is not None
    edited = store.read_json(f"stages/a/{manifest.fingerprint}.json")
    edited["source"] = "as if the module had been edited since"
    store.put_json(f"stages/a/{manifest.fingerprint}.json", edited)
    assert states(run_toy(tmp_path, make_pipeline(DIAMOND)))["a"] == "CACHED"
    pipeline = make_pipeline(DIAMOND)
    planned = plan(pipeline, store, {n.name: ToyParams() for n in pipeline.nodes}, world(), 0)
    assert "version did not" in (planned[0].warning or "")


def test_going_back_to_old_parameters_finds_the_old_work(tmp_path: Path) -> None:
    pipeline = make_pipeline(DIAMOND)
    run_toy(tmp_path, pipeline)
    run_toy(tmp_path, pipeline, {"a": ToyParams(add=5)})
    DONE.clear()
    run_toy(tmp_path, pipeline)
    assert not DONE


def test_plan_names_the_field_that_changed(tmp_path: Path) -> None:
    pipeline = make_pipeline(DIAMOND)
    run_toy(tmp_path, pipeline)
    params = {n.name: ToyParams() for n in pipeline.nodes} | {"b": ToyParams(add=3)}
    planned = {p.node: p for p in plan(pipeline, Store(str(tmp_path / "store")), params, world(), 0)}
    assert planned["b"].action is Action.RUN
    assert planned["b"].why == ["params.add: 0 -> 3"]
    assert planned["d"].action is Action.MAYBE
    assert planned["c"].action is Action.CACHED


def test_a_waiting_gate_blocks_only_what_hangs_on_it(tmp_path: Path) -> None:
    pipeline = make_pipeline(DIAMOND)
    record = run_toy(tmp_path, pipeline, {"b": ToyParams(wait=True)})
    assert states(record) == {"a": "SUCCEEDED", "b": "WAITING_HUMAN", "c": "SUCCEEDED", "d": "BLOCKED"}
    assert exit_code([State(s) for s in states(record).values()]) == 75
    assert record.state == "waiting"
    assert record.node("b").page == "http://page"


def test_a_failure_keeps_what_was_committed_and_the_other_branch_goes_on(tmp_path: Path) -> None:
    pipeline = make_pipeline(DIAMOND)
    record = run_toy(tmp_path, pipeline, {"b": ToyParams(fail=True)})
    assert states(record) == {"a": "SUCCEEDED", "b": "FAILED", "c": "SUCCEEDED", "d": "BLOCKED"}
    assert exit_code([State(s) for s in states(record).values()]) == 1
    assert "asked to fail" in (record.node("b").message or "")
    assert states(run_toy(tmp_path, pipeline))["c"] == "CACHED"


def test_what_may_pass_is_tried_again_and_then_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("pipelines.dag.runner.time.sleep", pauses.append)
    DONE.clear()
    pipeline = make_pipeline({"a": []})
    assert states(run_toy(tmp_path, pipeline, {"a": ToyParams(lose=1)})) == {"a": "SUCCEEDED"}
    assert (DONE["a"], pauses) == (2, [2.0])
    DONE.clear()
    record = run_toy(tmp_path, pipeline, {"a": ToyParams(lose=5)})
    assert states(record) == {"a": "FAILED"}
    assert "the connection was lost (tried 2 times)" in (record.node("a").message or "")


def test_status_finds_the_latest_run_and_its_outputs_open_as_tables(tmp_path: Path) -> None:
    run_toy(tmp_path, make_pipeline(DIAMOND))
    store = Store(str(tmp_path / "store"))
    record = load_run(store)
    assert record.state == "done"
    uri = record.node("d").outputs["out"]
    table = open_table(store, uri.removeprefix(store.root + "/"), NUMBERS).to_table()
    assert sorted(table.column("value").to_pylist()) == [14, 40]
    assert record.ledger is not None
    assert {p.name for p in Path(record.ledger).iterdir()} == {f"{n}.parquet" for n in DIAMOND}


def test_a_living_run_is_awaited_and_a_dead_one_is_not(tmp_path: Path) -> None:
    pipeline = make_pipeline({"a": []})
    record = run_toy(tmp_path, pipeline)
    store = Store(str(tmp_path / "store"))
    fingerprint = record.node("a").fingerprint
    store.delete(f"stages/a/{fingerprint}.json")
    beat = {"run_id": "another", "host": socket.gethostname(), "pid": os.getpid(), "born": "1", "at": time.time()}
    store.put_json(f"live/{fingerprint}.json", beat)  # this pid, but of an earlier process: dead
    assert states(run_toy(tmp_path, pipeline)) == {"a": "SUCCEEDED"}
    store.delete(f"stages/a/{fingerprint}.json")
    store.put_json(f"live/{fingerprint}.json", {**beat, "host": "another-machine", "at": time.time() - 29.8})
    reporter = Quiet()
    assert states(run_toy(tmp_path, pipeline, reporter=reporter)) == {"a": "SUCCEEDED"}
    assert "another-machine" in reporter.notes[0]


# -- any DAG, any history ---------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, list[str]], list[dict[str, tuple[int, int, str]]]]:
    """A random DAG and a sequence of (add, divide, version) settings for its nodes."""
    size = draw(st.integers(1, 6))
    names = [f"n{i}" for i in range(size)]
    edges = {
        n: draw(st.lists(st.sampled_from(names[:i]), unique=True, max_size=3)) if i else [] for i, n in enumerate(names)
    }
    change = st.dictionaries(
        st.sampled_from(names),
        st.tuples(st.integers(0, 3), st.sampled_from([1, 10]), st.sampled_from(["1", "2"])),
        max_size=2,
    )
    return edges, draw(st.lists(change, min_size=1, max_size=4))


@settings(max_examples=40, deadline=None)
@given(histories())
def test_exactly_the_work_that_must_be_redone_is_redone(
    history: tuple[dict[str, list[str]], list[dict[str, tuple[int, int, str]]]],
) -> None:
    """Oracle: a node must run if and only if its (settings, input values) were never seen before."""
    edges, changes = history
    root = Path(tempfile.mkdtemp())
    seen: set[bytes] = set()
    current = dict.fromkeys(edges, (0, 1, "1"))
    try:
        for change in [{}, *changes, {}]:
            current |= change
            expected, values = set(), {}
            for name, sources in edges.items():
                total = {k: sum(values[s][k] for s in sources) for k in ("a", "b")} if sources else {"a": 7, "b": 20}
                add, divide, _ = current[name]
                key = encode([name, current[name], {s: values[s] for s in sources}])
                if key not in seen:
                    expected.add(name)
                    seen.add(key)
                values[name] = {k: (v + add) // divide for k, v in total.items()}
            DONE.clear()
            pipeline = make_pipeline(edges, {n: v[2] for n, v in current.items()})
            record = run_toy(root, pipeline, {n: ToyParams(add=v[0], divide=v[1]) for n, v in current.items()})
            assert set(DONE) == expected
            assert {n for n, s in states(record).items() if s == "SUCCEEDED"} == expected
            store = Store(str(root / "store"))
            for name in edges:
                uri = record.node(name).outputs["out"]
                rows = open_table(store, uri.removeprefix(store.root + "/"), NUMBERS).to_table().to_pylist()
                assert {r["key"]: r["value"] for r in rows} == values[name]
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize(
    ("found", "code"), [(["CACHED"], 0), (["WAITING_HUMAN", "BLOCKED"], 75), (["FAILED", "WAITING_HUMAN"], 1)]
)
def test_exit_codes(found: list[str], code: int) -> None:
    assert exit_code([State(s) for s in found]) == code

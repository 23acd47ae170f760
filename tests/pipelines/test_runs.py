"""What differs between two runs is told, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli.runs_commands import app, named_run
from pipelines.commits import Commits
from pipelines.compare_runs import compare
from pipelines.dag.runs import load_runs
from pipelines.dag.store import Store
from stages.contract import StageError
from tests.dag.toy import ToyParams, make_pipeline, run_toy

DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root: Path = tmp_path_factory.mktemp("runs")
    run_toy(root, make_pipeline(DIAMOND))
    run_toy(root, make_pipeline(DIAMOND), {"b": ToyParams(add=3)})
    run_toy(root, make_pipeline(DIAMOND, {"c": "2"}), {"b": ToyParams(fail=True)})
    store = Store(str(root / "store"))
    for number, run in enumerate(load_runs(store)):
        store.put_json(
            f"runs/{run.run_id}/config.json", {"seed": number, "source": None, "stages": {"b": "told by nodes"}}
        )
    return store


def call(store: Store, *words: str) -> str:
    # the store is given to whichever command takes it, as on a command line
    done = CliRunner().invoke(
        app, [*words, "--store", store.root] if "diff" in words else ["--store", store.root, *words]
    )
    assert done.exit_code == 0, done.output
    return done.output


def test_parameters_inputs_content_and_versions_that_differ_are_named(store: Store) -> None:
    one, two, three = load_runs(store)
    nodes = {n.node: n for n in compare(Commits(store), one, two).nodes}
    assert [name for name, node in nodes.items() if not node.same] == ["b", "d"]
    assert nodes["b"].recipe == {"params.add": (0, 3)}
    assert nodes["b"].content == ("out",)
    assert list(nodes["d"].inputs) == ["from_b"]
    assert not nodes["d"].recipe
    again = compare(Commits(store), two, three)
    nodes = {n.node: n for n in again.nodes}
    assert nodes["c"].recipe == {"version": ("1", "2")}
    assert not nodes["c"].content  # it came out the same
    assert nodes["b"].state == ("SUCCEEDED", "FAILED")
    assert nodes["d"].state == ("SUCCEEDED", "BLOCKED")
    assert again.run == {"state": ("done", "failed")}
    assert again.config == {"seed": (1, 2)}


def test_a_run_and_itself_are_the_same(store: Store) -> None:
    for run in load_runs(store):
        found = compare(Commits(store), run, run)
        assert all(node.same for node in found.nodes)
        assert not found.run
        assert not found.config


def test_the_commands_list_and_compare(store: Store) -> None:
    one, two, three = (run.run_id for run in load_runs(store))
    assert [run["run_id"] for run in json.loads(call(store, "--json"))] == [one, two, three]
    text = call(store)
    assert "failed" in text
    assert "1 blocked" in text
    assert "params.add: 0 -> 3" in call(store, "diff", one, two)
    told = json.loads(call(store, "diff", "latest~2", "latest~1", "--json"))
    assert [n["node"] for n in told["nodes"] if not n["same"]] == ["b", "d"]
    assert told["nodes"][1]["recipe"] == {"params.add": {"before": 0, "after": 3}}


def test_a_run_is_named_by_as_much_as_tells_it_from_others(store: Store) -> None:
    ids = [run.run_id for run in load_runs(store)]
    assert named_run(store, ids[1][:-2]) == ids[1]
    assert named_run(store, "latest") == ids[-1]
    with pytest.raises(StageError, match="any of 3 runs"):
        named_run(store, "2")
    with pytest.raises(StageError, match="only 3 runs"):
        named_run(store, "latest~3")
    with pytest.raises(StageError, match="no run"):
        named_run(store, "x")


def test_a_run_whose_process_was_killed_is_not_said_to_run(store: Store) -> None:
    run = load_runs(store)[0]
    run.state = "running"
    run.save(store)
    assert json.loads(call(store, "--json"))[0]["state"] == "killed"

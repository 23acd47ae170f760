"""Several runs at once on one store, and branches of one run side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dag.engine import InlineEngine
from pipelines.dag.graph import Node, Output, Pipeline
from pipelines.dag.room import Room
from pipelines.dag.runner import Job, run
from pipelines.dag.runs import RunRecord, living
from pipelines.dag.store import Store
from stages.contract import Context, Params, Resources, Table, stage
from stages.machine import MachineFailure
from tests.dag.toy import NUMBERS, Quiet, make_pipeline, run_toy, states, world

ROOT = Path(__file__).parents[2]


class NoParams(Params):
    """No parameters."""


class Wide(InlineEngine):
    """An engine on a machine that has room."""

    def __init__(self, cpus: float, gpus: float = 0.0) -> None:
        self.has = Resources(cpus, gpus)

    def capacity(self) -> Resources:
        return self.has


class Meeting:
    """Stages that are inside at the same time, and the most that they declared together."""

    def __init__(self) -> None:
        self.lock, self.inside, self.peak, self.met = threading.Lock(), 0.0, 0.0, set[frozenset[str]]()
        self.names: list[str] = []

    def stay(self, name: str, cpus: float, seconds: float = 0.15) -> None:
        with self.lock:
            self.names.append(name)
            self.inside += cpus
            self.peak = max(self.peak, self.inside)
            self.met.add(frozenset(self.names))
        time.sleep(seconds)
        with self.lock:
            self.names.remove(name)
            self.inside -= cpus


def branches(meeting: Meeting, cpus: Mapping[str, float], fails: Sequence[str] = ()) -> Pipeline:
    """One source, from which as many branches go out as there are ``cpus``, and one node that reads them all."""

    def made(name: str, inputs: Sequence[str], needs: float) -> Node:
        def work(ctx: Context, params: NoParams) -> None:
            meeting.stay(name, needs)
            if name in fails:
                raise MachineFailure("the disk is full")
            ctx.write("out", NUMBERS.table([{"key": name, "value": len(inputs)}]))

        one = stage(name=name, version="1", params=NoParams, inputs={f"from_{i}": Table(NUMBERS) for i in inputs},
                    outputs={"out": Table(NUMBERS)}, resources=Resources(needs))(work)  # fmt: skip
        return Node(name, one, {f"from_{i}": Output(i, "out") for i in inputs}, {})

    middle = [made(name, ["source"], needs) for name, needs in cpus.items()]
    return Pipeline("branches", (made("source", [], 1), *middle, made("end", list(cpus), 1)))


def go(root: Path, pipeline: Pipeline, engine: InlineEngine) -> RunRecord:
    params = {n.name: NoParams() for n in pipeline.nodes}
    store = Store(str(root / "store"))
    return run(Job(pipeline=pipeline, store=store, params=params, world=world(), seed=0, engine=engine, local=root / "local",
                   quiet=True, wait_s=0.01), Quiet())  # fmt: skip


def test_branches_run_side_by_side_where_there_is_room(tmp_path: Path) -> None:
    meeting = Meeting()
    record = go(tmp_path, branches(meeting, {"a": 1, "b": 1, "c": 3}), Wide(4))
    assert set(states(record).values()) == {"SUCCEEDED"}
    assert frozenset({"a", "b"}) in meeting.met
    assert meeting.peak <= 4
    assert not any({"a", "b", "c"} <= met for met in meeting.met)  # five CPUs
    assert living(Store(str(tmp_path / "store"))) == set()


def test_without_room_they_run_one_after_the_other_in_the_order_of_the_recipe(tmp_path: Path) -> None:
    meeting = Meeting()
    pipeline = branches(meeting, {"a": 1, "b": 1})
    assert set(states(go(tmp_path, pipeline, InlineEngine())).values()) == {"SUCCEEDED"}
    assert all(len(met) == 1 for met in meeting.met)


def test_what_fits_nowhere_is_admitted_alone(tmp_path: Path) -> None:
    meeting = Meeting()
    assert set(states(go(tmp_path, branches(meeting, {"a": 8, "b": 1}), Wide(2))).values()) == {"SUCCEEDED"}
    assert all(len(met) == 1 for met in meeting.met)


def test_a_failure_of_the_machine_stops_what_runs_beside_it(tmp_path: Path) -> None:
    record = go(tmp_path, branches(Meeting(), {"a": 1, "b": 1}, fails=["a"]), Wide(4))
    assert record.state == "failed"
    assert states(record) == {"source": "SUCCEEDED", "a": "FAILED", "b": "FAILED", "end": "BLOCKED"}
    assert set(states(go(tmp_path, branches(Meeting(), {"a": 1, "b": 1}), Wide(4))).values()) == {"CACHED", "SUCCEEDED"}


@given(
    st.lists(st.tuples(st.sampled_from(["admit", "leave", "pool"]), st.integers(0, 4), st.integers(0, 5)), max_size=30)
)
def test_a_room_is_never_overfull_but_by_one_that_is_alone(moves: list[tuple[str, int, int]]) -> None:
    room, inside = Room(Resources(4.0, 1.0)), dict[str, float]()
    for move, who, cpus in moves:
        name = str(who)
        if move == "admit" and name not in inside and room.admit(name, Resources(cpus)):
            inside[name] = cpus
            assert sum(inside.values()) <= 4 or len(inside) == 1
        elif move == "leave" and name in inside:
            room.leave(name)
            del inside[name]
        share = room.share(name)
        assert share is not None
        assert share.cpus == 4 - sum(needs for other, needs in inside.items() if other != name)


# -- several processes -------------------------------------------------------------------------------------------------

SLOW = """
import sys, time
from pathlib import Path
from tests.dag.toy import NUMBERS, Quiet, ToyParams, run_toy
from pipelines.dag.graph import Pipeline, node
from stages.contract import Table, stage

root, folder = Path(sys.argv[1]), Path(sys.argv[2])

@stage(name="slow", version="1", params=ToyParams, outputs={"out": Table(NUMBERS)})
def slow(ctx, params):
    (folder / "begun").write_text(ctx.run_id)
    while not (folder / "release").exists():
        time.sleep(0.02)
    ctx.write("out", NUMBERS.table([{"key": "a", "value": 1}]))

class Telling(Quiet):
    def note(self, text):
        (folder / "waits").write_text(text)

record = run_toy(root, Pipeline("slow", (node("slow", slow),)), reporter=Telling())
print(record.node("slow").state)
"""


def start(root: Path, folder: Path) -> subprocess.Popen[str]:
    """A run whose one stage works until there is a file ``release`` in the folder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", SLOW, str(root), str(folder)], env=env, text=True,
                            stdout=subprocess.PIPE, cwd=ROOT)  # fmt: skip


def wait_for(what: Path) -> None:
    end = time.monotonic() + 120
    while not what.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_a_stage_that_a_living_run_makes_is_awaited_and_taken_from_it(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    folder, store = tmp_path / "folder", tmp_path / "store"
    processes.append(start(tmp_path, folder))
    wait_for(folder / "begun")
    first = (folder / "begun").read_text()
    assert first in living(Store(str(store)))
    processes.append(start(tmp_path, folder))
    wait_for(folder / "waits")
    assert f"run {first}" in (folder / "waits").read_text()
    (folder / "release").touch()
    assert [process.communicate(timeout=120)[0].strip() for process in processes] == ["SUCCEEDED", "CACHED"]
    assert (folder / "begun").read_text() == first


def test_a_killed_runs_stage_is_taken_over_without_waiting(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "folder"
    processes.append(start(tmp_path, folder))
    wait_for(folder / "begun")
    store = Store(str(tmp_path / "store"))
    assert len(store.names("live")) == 2  # the run's heartbeat and its stage's
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()
    assert store.names("live")  # they are still there, and say nothing: the process is dead
    assert living(store) == set()
    (folder / "release").touch()
    processes.append(start(tmp_path, folder))
    assert processes[1].communicate(timeout=120)[0].strip() == "SUCCEEDED"
    assert not (folder / "waits").exists()


def test_a_run_goes_on_with_its_other_branches_while_it_waits_for_one(tmp_path: Path) -> None:
    pipeline = make_pipeline({"a": [], "b": []})
    first = run_toy(tmp_path, pipeline)
    store = Store(str(tmp_path / "store"))
    for name in ("a", "b"):
        store.delete(f"stages/{name}/{first.node(name).fingerprint}.json")
    beat: dict[str, Any] = {
        "run_id": "another",
        "host": "another-machine",
        "pid": 1,
        "born": "1",
        "at": time.time() - 29.0,
    }
    store.put_json(f"live/{first.node('a').fingerprint}.json", beat)  # it goes stale in a second
    ended: list[str] = []

    class Watching(Quiet):
        def node_ended(self, node: Any) -> None:
            ended.append(node.name)

    reporter = Watching()
    assert set(states(run_toy(tmp_path, pipeline, reporter=reporter)).values()) == {"SUCCEEDED"}
    assert ended == ["b", "a"]
    assert len(reporter.notes) == 1
    assert json.dumps(beat["host"]).strip('"') in reporter.notes[0]


POOLS = """
import sys, time
from pathlib import Path
from pipelines.dag.engine import RayEngine
from pipelines.dag.graph import Pipeline, node
from stages.contract import Table, stage
from tests.dag.test_concurrent import NoParams, go
from tests.dag.toy import NUMBERS

class Slow:
    def __call__(self, batch):
        began = time.time()
        time.sleep(0.5)
        return began, time.time()

spans = {}

def made(name, inputs=()):
    @stage(name=name, version="1", params=NoParams, inputs={i: Table(NUMBERS) for i in inputs}, outputs={"out": Table(NUMBERS)})
    def work(ctx, params):
        found = list(ctx.map(Slow, list(range(4))))
        spans[name] = (min(began for began, _ in found), max(ended for _, ended in found))
        ctx.write("out", NUMBERS.table([{"key": name, "value": len(found)}]))
    return work

nodes = (node("a", made("a")), node("b", made("b")), node("c", made("c", ("a", "b")), a="a.out", b="b.out"))
record = go(Path(sys.argv[1]), Pipeline("pools", nodes), RayEngine(num_cpus=2))
assert [n.state for n in record.nodes] == ["SUCCEEDED"] * 3, [n.message for n in record.nodes]
assert spans["a"][0] < spans["b"][1] and spans["b"][0] < spans["a"][1], spans
print("fine")
"""


@pytest.mark.ray
def test_pools_of_two_branches_share_a_ray_that_outlives_the_branch_that_started_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", POOLS, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT,
                          capture_output=True, text=True, timeout=240)  # fmt: skip
    assert done.stdout.strip() == "fine", done.stderr[-2000:]

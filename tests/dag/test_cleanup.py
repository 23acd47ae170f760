"""Cleaning up never deletes what somebody needs, and does delete the rest: over random stores."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipelines.cleanup import Campaign, Needs, Policy, survey, sweep
from pipelines.commits import Commits, Place, place
from pipelines.dag.artifacts import Manifest, open_table
from pipelines.dag.records import RecordStore
from pipelines.dag.runs import RunRecord, _born, load_run, load_runs
from pipelines.dag.store import Store
from pipelines.registered import Registered
from stages.contract import Group
from tests.dag.toy import DONE, NUMBERS, ToyParams, make_pipeline, run_toy, states

DAY = 86_400.0
DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}


@dataclass
class World:
    """A store with a history, and who needs what of it."""

    root: Path
    campaigns: list[Campaign] = field(default_factory=list)
    versions: list[Registered] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(str(self.root / "store"))

    def run(self, add: dict[str, int], waits: str | None = None) -> RunRecord:
        params = {n: ToyParams(add=add.get(n, 0), wait=n == waits) for n in DIAMOND}
        return run_toy(self.root, make_pipeline(DIAMOND), params)

    def needs(self, days: float, grace: float = 7, keep: int = 1) -> Needs:
        """As many days from now."""
        policy = Policy(grace * DAY, keep, now=time.time() + days * DAY)
        return Needs(self.store, policy, lambda: self.campaigns, lambda: self.versions)

    def alive(self, run: RunRecord) -> None:
        beat = {"run_id": run.run_id, "host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}
        self.store.put_json(f"live/run-{run.run_id}.json", {**beat, "at": time.time()})

    def readable(self) -> set[Place]:
        """Commits whose outputs open and hold rows."""
        found = set()
        for manifest in Commits(self.store).manifests:
            for output in manifest.outputs.values():
                assert open_table(self.store, output.path, NUMBERS).count_rows() == output.rows
            found.add(place(manifest))
        return found


@pytest.fixture
def history(tmp_path: Path) -> World:
    return World(tmp_path)


def places(run: RunRecord) -> set[Place]:
    return {(n.name, n.fingerprint) for n in run.nodes if n.fingerprint and n.outputs}


def adapter(manifest: Manifest, *aliases: str) -> Registered:
    return Registered("model", "1", aliases, manifest.outputs["out"].digest, "")


def test_only_what_nobody_needs_goes_and_going_back_makes_it_again(history: World) -> None:
    old, new = history.run({"a": 1}), history.run({"a": 2})
    assert not survey(history.needs(days=1)).garbage  # all of it is young
    found = survey(history.needs(days=30))
    assert {place(g.manifest) for g in found.garbage if g.manifest} == places(old) - places(new)
    assert history.readable() == places(old) | places(new)  # a survey changes nothing
    sweep(history.needs(days=30), found)
    assert history.readable() == places(new)
    assert set(states(history.run({"a": 2})).values()) == {"CACHED"}
    assert "SUCCEEDED" in states(history.run({"a": 1})).values()


def test_a_failed_newest_run_does_not_cost_the_work_of_the_one_before(history: World) -> None:
    good = history.run({})
    run_toy(history.root, make_pipeline(DIAMOND), {"a": ToyParams(fail=True)})
    sweep(history.needs(days=30), survey(history.needs(days=30)))
    assert history.readable() == places(good)


def test_an_alias_pins_all_that_the_adapter_was_made_of_and_a_version_without_one_its_files(history: World) -> None:
    old = history.run({"a": 1})
    made = Commits(history.store).at[("d", str(old.node("d").fingerprint))]
    history.run({"a": 2})
    history.versions = [adapter(made, "champion")]
    assert not [g for g in survey(history.needs(days=30)).garbage if g.manifest]
    history.versions = [adapter(made)]
    sweep(history.needs(days=30), survey(history.needs(days=30)))
    assert places(old) & history.readable() == {place(made)}


def test_a_waiting_campaign_pins_what_it_was_made_of_until_it_is_committed(history: World) -> None:
    waiting = history.run({"a": 1}, waits="b")
    gate = str(waiting.node("b").fingerprint)
    new = history.run({"a": 2})
    history.campaigns = [Campaign(f"b-{gate[-24:]}", gate[-24:], closed=True)]
    sweep(history.needs(days=30), survey(history.needs(days=30)))
    assert history.readable() == places(waiting) | places(new)
    history.campaigns = []
    sweep(history.needs(days=30), survey(history.needs(days=30)))
    assert history.readable() == places(new)


def test_a_campaign_is_not_forgotten_when_others_made_all_that_its_run_used(history: World) -> None:
    history.run({"a": 1})
    waiting = history.run({"a": 1}, waits="d")
    assert set(states(waiting).values()) == {"CACHED", "WAITING_HUMAN"}
    gate = str(waiting.node("d").fingerprint)
    history.campaigns = [Campaign(f"d-{gate[-24:]}", gate[-24:], closed=False)]
    for add in (2, 3):
        history.run({"a": add})
    for _ in range(2):  # the second time by the records that the first has left
        sweep(history.needs(days=30), survey(history.needs(days=30)))
    assert places(waiting) <= history.readable()
    assert waiting.run_id in {run.run_id for run in load_runs(history.store)}


def test_what_killed_runs_left_goes_after_the_grace_period(history: World) -> None:
    run = history.run({})
    store = history.store
    store.put(f"data/a/{'9' * 16}-deadbeef/out/part-00000.parquet", b"half")
    store.put("stages/a/x.json.01234567.tmp", b"torn")
    store.put_json("live/dead.json", {"run_id": "x", "host": "gone", "pid": 1, "born": None, "at": 0})
    work = history.root / "local" / "work" / ("8" * 32)
    work.mkdir(parents=True)
    (work / "checkpoint").write_bytes(b"weights")
    assert not survey(history.needs(days=1), history.root / "local").garbage
    found = survey(history.needs(days=30), history.root / "local")
    assert {g.kind for g in found.garbage} == {"attempt", "unfinished file", "heartbeat", "work folder"}
    sweep(history.needs(days=30), found)
    assert not work.exists()
    assert store.names("data/a") == [Path(run.node("a").outputs["out"]).parts[-2]]
    assert not survey(history.needs(days=30), history.root / "local").garbage


def test_an_attempt_of_a_living_run_stays_however_old(history: World) -> None:
    run = history.run({})
    history.store.put(f"data/a/{str(run.node('a').fingerprint)[:16]}-deadbeef/out/part-0.parquet", b"half")
    history.alive(run)
    assert not [g for g in survey(history.needs(days=300)).garbage if g.kind == "attempt"]


def test_merged_shards_let_the_small_ones_go_but_not_under_a_living_run(history: World) -> None:
    run = history.run({})
    group = Group("g", "recipe")
    rows = pa.table({"record_key": ["k"], "value": [1], "picture": pa.array([b"p"], pa.large_binary())})
    records = RecordStore(history.store, "stage")
    for number in range(80):
        mine = rows.set_column(0, "record_key", pa.array([f"k{number:03d}"]))
        plain = {"g": mine.drop_columns(["picture"])}
        records.shards([group]).commit(plain if number % 2 else {"g": mine}, [f"k{number:03d}"])
    before = RecordStore(history.store, "stage").read(group).sort_by("record_key")
    assert RecordStore(history.store, "stage", tidy=False).replaced()  # reading merged them
    history.alive(run)
    assert not [g for g in survey(history.needs(days=30)).garbage if g.kind == "shard"]
    history.store.delete(f"live/run-{run.run_id}.json")
    found = survey(history.needs(days=30))
    assert sum(g.kind == "shard" for g in found.garbage) == 40  # those with pictures are still read from
    sweep(history.needs(days=30), found)
    after = RecordStore(history.store, "stage").read(group).sort_by("record_key")
    assert after.equals(before)


@pytest.mark.parametrize("when", ["before the manifests go", "after the manifests are gone"])
def test_a_run_that_goes_back_to_an_old_commit_while_it_is_cleaned_up_loses_nothing(history: World, when: str) -> None:
    history.run({"a": 1})
    history.run({"a": 2})
    needs = history.needs(days=30)
    found = survey(needs)
    assert [g for g in found.garbage if g.manifest]
    again: list[RunRecord] = []

    def comes_back() -> None:
        again.append(history.run({"a": 1}))
        history.alive(again[0])  # it goes on with what hangs on these

    if when.startswith("before"):
        comes_back()
    sweep(needs, found, between=comes_back if when.startswith("after") else lambda: None)
    assert states(again[0])["a"] == ("CACHED" if when.startswith("before") else "SUCCEEDED")
    assert places(again[0]) <= history.readable()


# -- any history, anybody's needs --------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, int]]:
    change = st.dictionaries(st.sampled_from(list(DIAMOND)), st.integers(0, 2), max_size=2)
    return draw(st.lists(change, min_size=2, max_size=5))


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])  # shrinking runs pipelines
@given(histories(), st.data())
def test_what_somebody_needs_is_never_deleted(adds: Sequence[dict[str, int]], data: st.DataObject) -> None:
    """Oracle: the places in the records of the runs that are needed, closed over the recipe's wiring."""
    root = Path(tempfile.mkdtemp())
    try:
        history = World(root)
        runs = []
        for add in adds:
            waits = data.draw(st.sampled_from([None, None, "b", "d"]))
            runs.append(history.run(add, waits))
        indexes = st.sets(st.integers(0, len(runs) - 1), max_size=2)
        grace, keep = data.draw(st.sampled_from([0.0, 7.0])), data.draw(st.integers(1, 2))
        needed: set[Place] = set()
        for index in data.draw(indexes):  # alive
            history.alive(runs[index])
            needed |= places(runs[index])
        for index in data.draw(indexes):  # asks people
            for node in runs[index].nodes:
                if node.state == "WAITING_HUMAN" and not history.store.exists(
                    f"stages/{node.name}/{node.fingerprint}.json"
                ):
                    tail = str(node.fingerprint)[-24:]
                    history.campaigns.append(Campaign(f"{node.name}-{tail}", tail, closed=False))
                    needed |= places(runs[index])
        commits = Commits(history.store)
        for index in data.draw(indexes):  # has an adapter that is registered
            node = runs[index].node("d")
            if node.outputs:
                aliased = data.draw(st.booleans())
                history.versions.append(
                    adapter(commits.at[("d", str(node.fingerprint))], *(["champion"] if aliased else []))
                )
                digest = history.versions[-1].digest
                same = {place(m) for m, _ in commits.makers(str(digest))}
                assert ("d", node.fingerprint) in same
                if len(same) == 1:
                    needed |= places(runs[index]) if aliased else same
        for run in runs[-keep:]:
            needed |= places(run)
        for name in DIAMOND:  # the newest of each node
            needed |= {found[-1] for found in [[p for run in runs for p in places(run) if p[0] == name]] if found}
        before = history.readable()
        young = data.draw(st.booleans()) and grace > 0
        needs = history.needs(days=0 if young else 30, grace=grace, keep=keep)
        found = survey(needs)
        sweep(needs, found)
        after = history.readable()
        assert needed <= after
        assert after == (before if young else set(found.kept))
        DONE.clear()
        assert load_run(history.store).run_id == runs[-1].run_id
        assert {run.run_id for run in load_runs(history.store)} >= {run.run_id for run in runs[-keep:]}
        for run in runs[-keep:]:  # what they hold is found again, and nothing of it made anew
            for name, fingerprint in places(run):
                assert commits.at[(name, fingerprint)] == Commits(history.store).at[(name, fingerprint)]
        assert not survey(replace_now(needs)).garbage or young
    finally:
        shutil.rmtree(root)


def replace_now(needs: Needs) -> Needs:
    """The same question a moment later."""
    policy: Any = replace(needs.policy, now=needs.policy.now + 1)
    return Needs(needs.store, policy, needs.campaigns, needs.versions)

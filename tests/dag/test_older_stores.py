"""Stores of released versions open, and their work is found again; a store of a later format is refused with the way out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pipelines.cleanup import Needs, Policy, survey
from pipelines.commits import Commits, find_artifact
from pipelines.compare_runs import compare
from pipelines.dag.records import RecordStore
from pipelines.dag.runs import load_runs
from pipelines.dag.store import Store, StoreError
from pipelines.status.snapshot import Watcher
from tests.dag.toy import DONE, ToyParams, make_pipeline, run_toy, states
from tests.golden.write_store import DIAMOND, GROUP

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("store_*.zip"))


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with zipfile.ZipFile(request.param) as packed:
        packed.extractall(tmp_path)
    return tmp_path


def test_nothing_is_done_again(root: Path) -> None:
    DONE.clear()
    assert set(states(run_toy(root, make_pipeline(DIAMOND))).values()) == {"CACHED"}
    assert set(states(run_toy(root, make_pipeline(DIAMOND), {"b": ToyParams(add=3)})).values()) == {"CACHED"}
    assert not DONE
    records = RecordStore(Store(str(root / "store")), "analyze")
    assert sorted(records.done(GROUP)) == ["one", "two"]
    assert records.read(GROUP).column("frames").to_pylist() == [3, 3]


def test_what_came_later_reads_it(root: Path) -> None:
    """Lineage by digests, since its manifests do not name their sources; runs, their difference, cleaning, the status page."""
    store = Store(str(root / "store"))
    commits = Commits(store)
    first, second = load_runs(store)
    artifact = find_artifact(commits, "d.out")
    assert artifact is not None
    ancestry = {(m.node, m.fingerprint) for m in commits.ancestry(artifact[0])}
    assert ancestry == {(n.name, n.fingerprint) for n in second.nodes}
    assert [n.node for n in compare(commits, first, second).nodes if not n.same] == ["b", "d"]
    far = Needs(store, Policy(0, 1, now=4e9), tuple, tuple)
    gone = {(g.manifest.node, g.manifest.fingerprint) for g in survey(far).garbage if g.manifest}
    assert gone == {(n.name, n.fingerprint) for n in first.nodes} - {(n.name, n.fingerprint) for n in second.nodes}
    snapshot = Watcher(store).look()
    assert snapshot is not None
    assert {n.state for n in snapshot.nodes} <= {"SUCCEEDED", "CACHED"}


def test_a_store_of_a_later_format_is_refused_with_the_way_out(root: Path) -> None:
    Store(str(root / "store")).put_json("fulcrum-store.json", {"format": 2})
    with pytest.raises(StoreError, match=r"has format 2.*Use the release that wrote it"):
        Store(str(root / "store"))

"""`fulcrum submit` on a real cluster of a head and two nodes, one of which is killed: the short form of benchmarks/kill_nodes.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from benchmarks.kill_nodes import Job, Kill, submit
from benchmarks.nodes import Cluster, NodeSpec
from pipelines.dag.runs import RunRecord, load_run
from pipelines.dag.store import Store

HERE = Path(__file__).resolve().parent
pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]
SMALL, CPU = {"fulcrum/group": "gpu-small"}, {"fulcrum/group": "cpu"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(
        tmp_path_factory.mktemp("cluster"), [NodeSpec("one", "cpu", 1), NodeSpec("two", "gpu-small", 1)]
    ) as made:
        yield made


def run_of(store: Path) -> RunRecord:
    return load_run(Store(str(store), create=False))


def rows_of(store: Path, node: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pads.dataset(run_of(store).node(node).outputs["squares"]).to_table().to_pylist()
    return rows


def spread(*options: str) -> Job:
    return Job("spread:PIPELINE", ["--set", "tracking.enabled=false", *options], HERE / "spread")


def test_a_submitted_pipeline_survives_a_killed_node_and_ends_with_its_own_code(
    cluster: Cluster, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    # the last number waits for the kill: a node may join in late, when the other has done everything else
    killed = tmp_path / "killed"
    stage = ["--set", "spread.pause_s=0.5", "--set", f"spread.hold_until={killed}"]
    job = spread(*stage, "--set", f"engine.labels.pinned={SMALL}")
    done = submit(cluster, job, store, {"spread": Kill("one", 0.7, back=False, mark=killed)})
    # 75, though for Ray the job succeeded: the pipeline waits for people
    assert done.code == 75, done.said
    assert [kill["node"] for kill in done.kills] == ["one"], done.said
    assert "as Ray sees it SUCCEEDED" in done.said
    found = rows_of(store, "spread")
    assert sorted((row["number"], row["square"]) for row in found) == [(n, n * n) for n in range(6)]
    assert {row["group"] for row in found} >= {"gpu-small"}
    assert {row["group"] for row in rows_of(store, "pinned")} == {"gpu-small"}
    # every worker ran the wheel, not this checkout
    homes = {str(row["code"]) for node in ("spread", "pinned") for row in rows_of(store, node)}
    assert all("py_modules_files" in home for home in homes), homes
    assert run_of(store).submission is not None
    again = subprocess.run(
        [sys.executable, "-m", "fulcrum", "attach", str(run_of(store).submission), "--address", cluster.jobs, "--store", str(store)],
        env=cluster.client, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert again.returncode == 75
    assert '"run_ended"' in again.stdout
    assert cluster.token not in done.said + again.stdout + again.stderr

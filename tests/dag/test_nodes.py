"""Which nodes hold which workers, and how long a stage waits for a node that is not there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dag.nodes import Node, NodeWatch, Worker, holds, missing, selects
from stages.contract import StageError

TRAIN = {"fulcrum/group": "gpu-train"}


def test_a_worker_is_on_one_node_so_halves_of_two_nodes_hold_none() -> None:
    assert holds([Node(1), Node(1)], Worker(2)) == 0
    assert holds([Node(5), Node(3)], Worker(2)) == 3  # two on the first, one on the second; eight CPUs would make four
    assert holds([Node(8, 2), Node(64)], Worker(1, 1)) == 2
    assert holds([Node(3, 1)], Worker(1, 1 / 3)) == 3  # thirds of a GPU add up to one


def test_labels_choose_nodes() -> None:
    nodes = [Node(4, labels={"fulcrum/group": "cpu"}), Node(2, 1, labels=TRAIN)]
    assert holds(nodes, Worker(1, labels=TRAIN)) == 2
    assert holds(nodes, Worker(1, labels={"fulcrum/group": "!gpu-train"})) == 4
    assert holds(nodes, Worker(1, labels={"fulcrum/group": "in(cpu, gpu-train)"})) == 6
    assert holds(nodes, Worker(1, labels={"zone": "a"})) == 0


@given(st.text("abc!(,)", min_size=1, max_size=6), st.none() | st.sampled_from(["a", "b", "cpu"]))
def test_not_a_selector_is_its_opposite(selector: str, value: str | None) -> None:
    if not selector.startswith("!"):
        assert selects(selector, value) is not selects(f"!{selector}", value)


def test_what_is_missing_names_what_there_is_and_the_remedy() -> None:
    text = missing([Node(0), Node(8, 1, {"fulcrum/group": "gpu-small"})], Worker(2, 4, TRAIN))
    assert "2 CPUs and 4 GPUs on a node with fulcrum/group=gpu-train" in text
    assert "8 CPUs and 1 GPUs (fulcrum/group=gpu-small)" in text
    assert "engine.labels" in text


class Cluster:
    """Nodes that come and go, a clock to turn, and what a watch says."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.now = 0.0
        self.told: list[str] = []

    def watch(self, worker: Worker, patience_s: float, count: int = 1) -> NodeWatch:
        return NodeWatch(worker, patience_s, self.told.append, lambda: self.nodes, count, lambda: self.now)


def test_a_stage_waits_for_a_node_that_comes_back_and_says_so_once() -> None:
    cluster = Cluster()
    watch = cluster.watch(Worker(1, labels=TRAIN), 60.0)
    for cluster.now in range(0, 50, 5):
        watch.look()
    assert len(cluster.told) == 1
    assert "waiting up to 60 s" in cluster.told[0]
    cluster.nodes = [Node(8, labels=TRAIN)]
    cluster.now = 55
    watch.look()
    cluster.nodes = []  # lost again: it has its whole patience anew
    for cluster.now in range(60, 120, 5):
        watch.look()
    assert len(cluster.told) == 2
    cluster.now = 125
    with pytest.raises(StageError, match="no node of the cluster can hold it"):
        watch.look()


def test_a_training_whose_workers_fit_only_one_after_another_is_told_how_many_fit() -> None:
    cluster = Cluster()
    cluster.nodes = [Node(8, 8, TRAIN)]
    with pytest.raises(StageError, match=r"16 workers .* the cluster can hold 8.*Lower num_workers"):
        cluster.watch(Worker(1, 1, TRAIN), 0.0, count=16).look()


def test_looking_is_cheap_however_often_it_is_called() -> None:
    cluster = Cluster()
    asked: list[float] = []

    def nodes() -> list[Node]:
        asked.append(cluster.now)
        return [Node(1)]

    watch = NodeWatch(Worker(), 1.0, cluster.told.append, nodes, clock=lambda: cluster.now)
    for step in range(1000):
        cluster.now = step / 100
        watch.look()
    assert len(asked) == 2  # at 0 s and at 5 s

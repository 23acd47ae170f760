"""A pipeline as plain data: nodes, their stages and who feeds whom; every wiring error is found before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from stages.contract import Artifact, Files, Stage


class WiringError(ValueError):
    """All the wiring errors of a pipeline, one a line."""

    def __init__(self, pipeline: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(f"pipeline {pipeline} is wired wrongly:\n" + "\n".join(f"  - {p}" for p in problems))


@dataclass(frozen=True)
class Output:
    """An output of a node, as another node's input."""

    node: str
    name: str

    def __str__(self) -> str:
        return f"{self.node}.{self.name}"


@dataclass(frozen=True)
class Node:
    """A stage at its place in a pipeline.

    ``inputs`` maps the stage's input names to ``"node.output"``. ``params`` are this pipeline's defaults, over which
    the user's configuration goes; ``follow`` maps a parameter to the node whose parameter of that name it takes. ``names``
    gives outputs of the stage the names that they have in this pipeline.
    """

    name: str
    stage: Stage
    inputs: Mapping[str, Output]
    params: Mapping[str, object]
    follow: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, str]:
        """The pipeline's name of each output -> the stage's own."""
        return {self.names.get(name, name): name for name in self.stage.outputs}

    def with_params(self, more: Mapping[str, object]) -> Node:
        """The same node, with these parameters over its own."""
        return replace(self, params={**self.params, **more})


def node(
    name: str,
    stage: Stage,
    wired: Mapping[str, str] | None = None,
    *,
    params: Mapping[str, object] | None = None,
    follow: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    **inputs: str,
) -> Node:
    """A node: ``node("select", select, clips="clips.clips", params={...})``; ``wired`` holds inputs that several share."""
    sources = {}
    for key, value in {**(wired or {}), **inputs}.items():
        source, _, output = value.partition(".")
        sources[key] = Output(source, output or key)
    return Node(name, stage, sources, dict(params or {}), dict(follow or {}), dict(names or {}))


@dataclass(frozen=True)
class Pipeline:
    """A named DAG of nodes; ``doc`` is what ``fulcrum run --help`` says of it."""

    name: str
    nodes: tuple[Node, ...]
    doc: str = ""

    def __getitem__(self, name: str) -> Node:
        for candidate in self.nodes:
            if candidate.name == name:
                return candidate
        raise KeyError(name)

    def road_to(self, *names: str) -> tuple[Node, ...]:
        """These nodes and all that they hang on, in the order in which they were written."""
        wanted, todo = set[str](), list(names)
        while todo:
            here = todo.pop()
            if here not in wanted:
                wanted.add(here)
                todo += [source.node for source in self[here].inputs.values()] + list(self[here].follow.values())
        return tuple(item for item in self.nodes if item.name in wanted)

    def order(self) -> list[Node]:
        """Nodes so that each comes after all it reads from; ties keep the order in which they were written."""
        problems = self.problems()
        if problems:
            raise WiringError(self.name, problems)
        position = {n.name: i for i, n in enumerate(self.nodes)}
        sorter = TopologicalSorter({n.name: {o.node for o in n.inputs.values()} for n in self.nodes})
        sorter.prepare()
        ordered: list[Node] = []
        ready = list(sorter.get_ready())
        while ready:
            ready.sort(key=position.__getitem__)
            name = ready.pop(0)
            ordered.append(self[name])
            sorter.done(name)
            ready += sorter.get_ready()
        return ordered

    def problems(self) -> list[str]:
        """Every wiring error at once, as sentences."""
        found: list[str] = []
        names = [n.name for n in self.nodes]
        found += [f"two nodes are called {name}" for name in sorted({n for n in names if names.count(n) > 1})]
        by_name = {n.name: n for n in self.nodes}
        for item in self.nodes:
            found += self._node_problems(item, by_name)
        graph = {n.name: {o.node for o in n.inputs.values() if o.node in by_name} for n in self.nodes}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            found.append("the nodes form a cycle: " + " -> ".join(error.args[1]))
        return found

    def _node_problems(self, item: Node, by_name: Mapping[str, Node]) -> list[str]:
        found: list[str] = []
        wants = item.stage.inputs
        for missing in sorted(set(wants) - set(item.inputs) - item.stage.optional):
            found.append(f"{item.name}: input {missing} ({_kind(wants[missing])}) is not wired")
        for unknown in sorted(set(item.inputs) - set(wants)):
            found.append(f"{item.name}: stage {item.stage.name} has no input {unknown}{_near(unknown, wants)}")
        for key, source in sorted(item.inputs.items()):
            if key not in wants:
                continue
            feeder = by_name.get(source.node)
            if feeder is None:
                found.append(
                    f"{item.name}.{key} comes from {source}, but there is no node {source.node}{_near(source.node, by_name)}"
                )
                continue
            made = feeder.stage.outputs.get(feeder.outputs.get(source.name, ""))
            if made is None:
                found.append(
                    f"{item.name}.{key} comes from {source}, but {source.node} has no output {source.name}"
                    f"{_near(source.name, feeder.outputs)}"
                )
            elif not wants[key].accepts(made):
                found.append(f"{item.name}.{key} wants {_kind(wants[key])}, but {source} is {_kind(made)}")
        for key in sorted(set(item.names) - set(item.stage.outputs)):
            found.append(
                f"{item.name}: stage {item.stage.name} has no output {key} to name{_near(key, item.stage.outputs)}"
            )
        for key, leader in sorted(item.follow.items()):
            led = by_name.get(leader)
            if led is None or key not in led.stage.params.model_fields or key not in item.stage.params.model_fields:
                found.append(f"{item.name}: cannot take parameter {key} from {leader}{_near(leader, by_name)}")
        for key in sorted(set(item.params) - set(item.stage.params.model_fields)):
            found.append(
                f"{item.name}: stage {item.stage.name} has no parameter {key}{_near(key, item.stage.params.model_fields)}"
            )
        return found

    def source(self, output: Output) -> tuple[str, str]:
        """The node that makes an output, and the stage's own name for it."""
        return output.node, self[output.node].outputs[output.name]

    def downstream(self, name: str) -> set[str]:
        """Every node that hangs on this one, directly or not."""
        found: set[str] = set()
        for item in self.order():
            if any(o.node == name or o.node in found for o in item.inputs.values()):
                found.add(item.name)
        return found


def _kind(artifact: Artifact) -> str:
    return f"files of kind {artifact.kind}" if isinstance(artifact, Files) else f"table {artifact.schema.name}"


def _near(name: str, names: Mapping[str, object]) -> str:
    close = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""

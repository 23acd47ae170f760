"""The two keys of a node: its recipe (what would be done) and its fingerprint (done to what)."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.dag.canonical import difference, digest, plain
from pipelines.dag.graph import Node
from stages.contract import Params, Stage, StageError, World


@dataclass(frozen=True)
class Preimage:
    """Everything that decides a node's output, kept readable so that ``plan --why`` can name what changed.

    ``source`` is the hash of the stage's module. It is kept beside the key, not in it: a changed comment redoes
    nothing; a change of meaning is declared by raising the stage's version.
    """

    key: Mapping[str, Any]
    source: str

    @property
    def fingerprint(self) -> str:
        return digest(self.key)

    def to_json(self) -> dict[str, Any]:
        return {"key": plain(self.key), "source": self.source}


def recipe(node: Node, params: Params, world: World, seed: int) -> dict[str, Any]:
    """What would be done, without inputs: stage, version, parameters, seed, model digests, the world outside."""
    stage = node.stage
    try:
        models = dict(stage.models(params)) if stage.models else {}
        outside = dict(stage.world(params, world)) if stage.world else {}
    except ValueError as error:
        raise StageError(f"{node.name}: {error}") from error
    return {
        "node": node.name,
        "stage": stage.name,
        "version": stage.version,
        "params": plain(params, f"parameters of {node.name}"),
        "seed": seed,
        "models": models,
        "world": outside,
    }


def preimage(node: Node, made: Mapping[str, Any], inputs: Mapping[str, str]) -> Preimage:
    """The recipe together with the digests of the node's inputs, by input name."""
    return Preimage({**made, "inputs": dict(inputs)}, source_hash(node.stage))


def source_hash(stage: Stage) -> str:
    """sha256 of the source text of the module that defines the stage's function."""
    try:
        text = inspect.getsource(inspect.getmodule(stage.run) or stage.run)
    except (OSError, TypeError):
        return "unknown"
    return hashlib.sha256(text.encode()).hexdigest()


def record_recipe(stage: str, part: str, version: str, params: Mapping[str, Any]) -> str:
    """The key under which one column group's work on records is kept, across pipelines and runs."""
    return digest({"stage": stage, "part": part, "version": version, "params": plain(params, part)})


def reasons(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Which fields of the preimage changed, as sentences."""
    said = []
    for path, before, after in difference(plain(old), plain(new)):
        if path.startswith("inputs."):
            said.append(f"input {path.removeprefix('inputs.')} changed")
        elif path.startswith("world."):
            said.append(f"{path.removeprefix('world.')} changed outside the store")
        elif path == "version":
            said.append(f"the stage's version went from {before} to {after}")
        else:
            said.append(f"{path}: {_short(before)} -> {_short(after)}")
    return said


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."

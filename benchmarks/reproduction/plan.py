"""The frozen plan: everything that a cell's numbers depend on, under one digest, committed before the first cell."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.reproduction.cells import CELLS, FILMS, WORLD, ordered
from benchmarks.reproduction.hypotheses import AGREEMENTS, HYPOTHESES, SETTLED
from models import embedded
from models.backbones.load import BackboneSpec, backbone_digest
from pipelines.config import load
from tinyworld.train.cards import difficulty_sha256, file_sha256

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "reproduction"
PLAN = FOLDER / "plan.json"


def make_plan() -> dict[str, Any]:
    """Cells with their stages and parameters, hypotheses, order, and digests of base, oracles and world."""
    plan: dict[str, Any] = {
        "films": FILMS,
        "first_world_seed": WORLD,
        "base": backbone_digest(BackboneSpec(weights=embedded.NAME)),
        "encoder": file_sha256(embedded.FOLDER / "encoder" / "open_clip_model.safetensors"),
        "oracles": file_sha256(embedded.ORACLES / "model.safetensors"),
        "difficulty": difficulty_sha256(),
        "order": [f"{cell.name}-{seed}" for cell, seed in ordered()],
        "hypotheses": [
            {"row": h.row, "claim": h.claim, "paper": h.paper, "terms": [list(t) for t in h.terms], "above": h.above}
            for h in HYPOTHESES
        ],
        "agreements": [
            {"claim": a.claim, "cell": a.cell, "low": a.low, "high": a.high, "from_step": SETTLED} for a in AGREEMENTS
        ],
        "exams": {cell.name: {exam: list(systems) for exam, systems in cell.exams.items()} for cell in CELLS},
        **_pipelines(),
    }
    return {"digest": digest_of(plan), **plan}


def _pipelines() -> dict[str, Any]:
    """``cells``: each cell's nodes by their keys in ``nodes``, where a node that many cells share stands once.

    A node has all its parameters as ``fulcrum run`` resolves them, those left at their defaults too.
    """
    nodes: dict[str, Any] = {}
    cells: dict[str, list[str]] = {}
    for cell in CELLS:
        resolved = load(cell.pipeline, None, (), {}, elsewhere=True).params
        for node in cell.pipeline.nodes:
            told = {
                "stage": f"{node.stage.name} {node.stage.version}",
                "params": resolved[node.name].model_dump(mode="json"),
                "inputs": {name: str(source) for name, source in sorted(node.inputs.items())},
            }
            key = f"{node.name} {digest_of(told)[:8]}"
            nodes[key] = told
            cells.setdefault(cell.name, []).append(key)
    return {"cells": cells, "nodes": nodes}


def digest_of(plan: dict[str, Any]) -> str:
    """sha256 of the plan without its digest."""
    content = {key: value for key, value in plan.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def committed() -> dict[str, Any] | None:
    """The plan in docs/reproduction, if one was frozen."""
    if not PLAN.exists():
        return None
    found: dict[str, Any] = json.loads(PLAN.read_text(encoding="utf-8"))
    return found


def freeze() -> str:
    """Write the plan and remove results of another one; returns its digest."""
    plan = make_plan()
    FOLDER.mkdir(parents=True, exist_ok=True)
    PLAN.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    for file in sorted((FOLDER / "cells").glob("*.json")):
        if json.loads(file.read_text(encoding="utf-8"))["plan"] != plan["digest"]:
            file.unlink()
    return str(plan["digest"])

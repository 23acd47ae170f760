"""A finished cell as a small committed file: marks per question, gradients, seconds, digests and where it ran."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyarrow.dataset import dataset

from benchmarks.measured import machine
from benchmarks.reproduction.cells import BY_NAME, Cell
from benchmarks.reproduction.hypotheses import Marks
from benchmarks.reproduction.plan import FOLDER
from models.training.adapter import FILE_NAME
from stages.training.adapters import adapter_digest

GRADIENTS = ("gradient/cosine", "gradient/image_norm", "gradient/video_norm")


def file_of(cell: Cell, seed: int, folder: Path = FOLDER) -> Path:
    return folder / "cells" / f"{cell.name}-{seed}.json"


def write(
    cell: Cell, seed: int, plan: str, stages: list[dict[str, Any]], wall_s: float, code: str, folder: Path = FOLDER
) -> Path:
    """From the last event of the cell's run (``status --json``'s stages)."""
    by_name = {stage["name"]: stage for stage in stages}
    systems: dict[str, Any] = {}
    for exam, examined in cell.exams.items():
        marks = json.loads((Path(by_name[exam]["outputs"][exam]) / "marks.json").read_text())
        for system in examined:
            answers = marks[system]
            systems[system] = {mark: [round(a[mark], 4) for a in answers] for mark in answers[0]}
    adapters = {
        name: Path(uri)
        for stage in stages
        for name, uri in stage["outputs"].items()
        if (Path(uri) / FILE_NAME).is_file()
    }
    value = {
        "cell": cell.name,
        "seed": seed,
        "plan": plan,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code,
        "machine": machine(),
        "wall_s": round(wall_s, 1),
        "stage_s": {
            name: round(stage["seconds"], 1) for name, stage in by_name.items() if stage["state"] == "SUCCEEDED"
        },
        "clips": dataset(by_name["export"]["outputs"]["subset"]).count_rows(),
        "adapters": {name: adapter_digest(path) for name, path in sorted(adapters.items())},
        "gradients": _gradients(adapters["adapter"]) if cell.switched else None,
        "systems": systems,
    }
    target = file_of(cell, seed, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(value, separators=(",", ":")) + "\n", encoding="utf-8")
    return target


def _gradients(adapter: Path) -> list[list[float]]:
    """Step, cosine, norm of image and of video gradients."""
    rows = [json.loads(line) for line in (adapter / "log.jsonl").read_text().splitlines()]
    return [[row["step"], *(round(row[key], 5) for key in GRADIENTS)] for row in rows if GRADIENTS[0] in row]


def load(plan: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All finished cells of this plan."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((folder / "cells").glob("*.json"))]
    return [cell for cell in found if cell["plan"] == plan and cell["cell"] in BY_NAME]


def table(cells: list[dict[str, Any]]) -> dict[int, dict[str, Marks]]:
    """By seed, the marks of every system."""
    found: dict[int, dict[str, Marks]] = {}
    for cell in cells:
        found.setdefault(cell["seed"], {}).update(cell["systems"])
    return found

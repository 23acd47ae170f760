"""Writes what a counted run found, with the commit and the machine it was found on."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipelines.launch import code_revision

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "measured"


def machine() -> dict[str, object]:
    """Processor, cores, memory and versions; no host name."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
    }


def as_typed(words: Sequence[str], module: str | None) -> str:
    """A command to be typed in the checkout: ``words`` is its ``sys.argv``, ``module`` the name it was run by with ``-m``.

    Where what an option names lies outside the checkout, the option's own name stands for it: ``--data /films`` is ``--data DATA``.
    """
    told = [f"python -m {module}" if module else f"python {os.path.relpath(words[0], ROOT)}"]
    option = "--path"
    for word in [part for typed in words[1:] for part in (typed.split("=", 1) if typed.startswith("--") else [typed])]:
        option = word if word.startswith("--") else option
        path = Path(word).absolute()
        outside = path.exists() and not path.is_relative_to(ROOT)
        told.append(option.removeprefix("--").replace("-", "_").upper() if outside else word)
    return " ".join(told)


def write(name: str, found: Mapping[str, object]) -> Path:
    """Put what this command found into its file in ``docs/measured``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    run = sys.modules["__main__"].__spec__
    value = {
        "command": as_typed(sys.argv, run.name.removesuffix(".__main__") if run else None),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_revision(),
        "machine": machine(),
        **found,
    }
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return path

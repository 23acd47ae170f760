"""Writes what a counted run found, with the commit and the machine it was found on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pipelines.launch import code_revision

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "measured"


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


def write(name: str, found: Mapping[str, object], command: str) -> Path:
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    value = {
        "command": command,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_revision(),
        "machine": machine(),
        **found,
    }
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return path

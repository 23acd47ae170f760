"""The command as a user types it, run in a process of its own, or (``typed``) in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.app import run_app

FULCRUM = Path(sys.executable).parent / "fulcrum"
INLINE = ("--set", "engine.kind=inline", "--set", "tracking.enabled=false")
SCRIPTED = ("--set", "review_clips.reviewer=script:rules")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def states(self) -> dict[str, str]:
        """State by stage, of a run with --json."""
        return {e["name"]: e["state"] for e in self.events if e["event"] == "stage_ended"}


def fulcrum(*arguments: str | Path, cwd: Path | None = None, timeout: float = 280, **env: str) -> Done:
    done = subprocess.run(
        [str(FULCRUM), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert "Traceback (most recent call last)" not in done.stderr + done.stdout, done.stderr[-3000:]
    return Done(done.returncode, done.stdout, done.stderr)


def outputs(store: Path) -> dict[str, Path]:
    """Outputs of the latest run, as ``status --json`` gives them."""
    value = json.loads(fulcrum("status", "--store", store, "--json").out)
    return {name: Path(uri) for stage in value["stages"] for name, uri in stage["outputs"].items()}


def typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path
) -> tuple[int, str, str]:
    """``fulcrum`` with these words, in this process: exit code, standard output and error, in which no traceback may be."""
    monkeypatch.setattr("sys.argv", ["fulcrum", *map(str, words)])
    code = run_app()
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    return code, said.out, said.err

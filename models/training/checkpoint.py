"""Checkpoints that are either whole or not there: written aside, hashed, renamed; torn ones are seen and skipped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from models.training.adapter import read_tensors, write_tensors

_MANIFEST = "manifest.json"
_STATE = "state.json"
_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """``tensors`` by file stem (adapter, optimizer, ema), then by name; ``state`` is JSON data."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}"


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes ``folder``/step_<n> and leaves the ``keep`` newest; a process killed at any instant leaves no half of it.

    The manifest holds the size and sha256 of every file, and the folder gets its name last, by rename.
    """
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".writing-{checkpoint.step}-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for stem, tensors in checkpoint.tensors.items():
        write_tensors(aside / f"{stem}.safetensors", tensors, {"format": "pt"})
    _write_json(aside / _STATE, {"format": _FORMAT, "step": checkpoint.step, **checkpoint.state})
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(aside.iterdir())}
    _write_json(aside / _MANIFEST, {"files": files})
    final = checkpoint_path(folder, checkpoint.step)
    if final.exists():  # a torn one of the same step; a whole one would have been resumed from
        _remove(final)
    aside.rename(final)
    _sync_folder(folder)
    for old in _steps(folder)[keep:]:
        _remove(old)
    return final


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """(the newest whole checkpoint, what was skipped and why). Reads and verifies; changes nothing."""
    skipped: list[str] = []
    for path in _steps(folder):
        fault = _fault(path)
        if fault is None:
            return _read(path), tuple(skipped)
        skipped.append(f"{path.name}: {fault}")
    return None, tuple(skipped)


def clear_unfinished(folder: Path) -> None:
    """Removes what a killed process left half written or half deleted. Only for the one writer of ``folder``."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith((".writing-", ".removing-")):
                shutil.rmtree(path, ignore_errors=True)


def _steps(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.startswith("step_")), reverse=True)


def _fault(path: Path) -> str | None:
    try:
        files = json.loads((path / _MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"no readable manifest ({type(error).__name__})"
    for name, expected in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != expected["bytes"]:
            return f"{name} is missing or has another size"
        if _sha256(file) != expected["sha256"]:
            return f"{name} has another content"
    return None


def _read(path: Path) -> Checkpoint:
    state = json.loads((path / _STATE).read_text())
    if state.pop("format") != _FORMAT:
        raise ValueError(f"{path} was written by another version of this program; train in another checkpoint folder")
    tensors = {file.stem: read_tensors(file)[0] for file in sorted(path.glob("*.safetensors"))}
    return Checkpoint(int(state.pop("step")), tensors, state)


def _remove(path: Path) -> None:
    # Renamed first: a process killed while deleting must not leave something that looks like a torn checkpoint.
    doomed = path.with_name(f".removing-{path.name}-{os.getpid()}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with path.open("w") as stream:
        json.dump(content, stream, sort_keys=True, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Adapter artifacts: reading one with the check that it belongs to this backbone, and writing one with its parents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.contract import StageError

if TYPE_CHECKING:
    from models.training.adapter import AdapterState

CARD = "adapter.json"


def read_adapter(folder: Path, role: str, backbone_digest: str | None = None) -> AdapterState:
    """The adapter in ``folder``; refused when it was trained on another backbone than ``backbone_digest``."""
    from models.training.adapter import load_adapter

    try:
        adapter = load_adapter(folder)
    except ValueError as error:
        raise StageError(f"adapter {role}: {error}. Run the stage that makes it again.") from error
    made_on = adapter.metadata.get("backbone_digest")
    if backbone_digest is not None and made_on is not None and made_on != backbone_digest:
        raise StageError(
            f"adapter {role} was trained on another backbone ({str(made_on)[:12]}, this is {backbone_digest[:12]}). "
            "Give all training stages the same backbone."
        )
    return adapter


def adapter_digest(folder: Path) -> str:
    """sha256 of the weights' file: what children name as their parent."""
    from models.training.adapter import FILE_NAME

    with (folder / FILE_NAME).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_adapter(adapter: AdapterState, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Weights that diffusers loads, and beside them ``adapter.json``, the same metadata for people and reports."""
    from models.training.adapter import save_adapter

    save_adapter(adapter, folder, metadata)
    (folder / CARD).write_text(json.dumps(dict(metadata), indent=2, sort_keys=True) + "\n")


def read_card(folder: Path) -> dict[str, Any]:
    """The metadata beside an adapter."""
    card: dict[str, Any] = json.loads((folder / CARD).read_text())
    return card

"""Whether a model's references can be moved by RoPE offsets, told from its configuration alone; imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from models.backbones.load import BackboneSpec
from models.backbones.tiny import tiny_config

REASON = (
    "CogVideoX 2B adds sine positions to its tokens instead of rotating by them, so there is no RoPE to offset and "
    "Consis-DPO cannot make its losers; use CogVideoX 5B or 1.5; SFT and Real-Fake DPO train the 2B too"
)


def rotates(family: str, config: Mapping[str, Any]) -> bool:
    """By the transformer's configuration; all families but CogVideoX's 2B rotate."""
    return family != "cogvideox" or bool(config.get("use_rotary_positional_embeddings", False))


def check_offsets(spec: BackboneSpec) -> None:
    """ValueError for weights without RoPE. Says nothing of weights that are not there: ``spec.check`` does."""
    config: Mapping[str, Any]
    if spec.is_tiny:
        spec.check()
        config = tiny_config(spec.family, spec.variant)["transformer"]
    else:
        path = spec.folder / "transformer" / "config.json"
        if not path.is_file():
            return
        config = json.loads(path.read_text(encoding="utf-8"))
    if not rotates(spec.family, config):
        raise ValueError(f"backbone {spec.weights}: {REASON}")

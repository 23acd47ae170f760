"""Where the small models of the rendered world lie once ``make embedded`` has trained them, each with its card."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NAME = "embedded:tinyworld"
"""How a configuration names them: as a backbone's weights, as an encoder's model and as its aesthetic head."""

BASE = FOLDER / "base"
ENCODER = FOLDER / "encoder"
AESTHETIC_HEAD = ENCODER / "aesthetic_head.safetensors"
ORACLES = FOLDER / "oracles"

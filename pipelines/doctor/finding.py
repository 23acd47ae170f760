"""What a check found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "warning", "bad"]
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """What a check found. ``remedy`` is what to do, for whatever is not good."""

    subject: str
    level: Level
    what: str
    remedy: str = ""

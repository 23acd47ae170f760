"""What a peer is asked to do, and how it says that it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class PeerError(Exception):
    """The peer cannot run this job here; the message says why and what would help."""


@dataclass(frozen=True)
class Job:
    """One SFT without references, of ``steps`` steps at least.

    A peer writes its model and data under ``folder``, which is kept from turn to turn, and the rest under ``work``.
    ``half`` is bfloat16, ``device`` where random weights are drawn.
    """

    folder: Path
    work: Path
    device: str
    half: bool
    samples: int
    rank: int
    checkpointing: bool
    steps: int

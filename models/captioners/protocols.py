"""The door through which any model that writes about pictures enters: a local one or an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and what it cost; ``attempts`` counts the tries it took."""

    text: str
    tokens_in: int
    tokens_out: int
    attempts: int = 1


class WriterRefused(Exception):
    """The model cannot be asked at all as configured (wrong key, wrong name, wrong request): trying again is no use."""


class WriterUnavailable(Exception):
    """The model gave no usable answer in all attempts; another time it may."""


@runtime_checkable
class Writer(Protocol):
    """Answers an instruction about pictures."""

    name: str

    def ask(self, instruction: str, pictures: Sequence[bytes] = ()) -> Answer:
        """``pictures`` are encoded (JPEG or PNG), in order. Raises ``WriterRefused`` or ``WriterUnavailable``."""
        ...

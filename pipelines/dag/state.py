"""The five ways in which a stage can end."""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never


class State(StrEnum):
    SUCCEEDED = "SUCCEEDED"
    CACHED = "CACHED"
    WAITING_HUMAN = "WAITING_HUMAN"
    FAILED = "FAILED"
    BLOCKED = "BLOCKED"

    @property
    def done(self) -> bool:
        """Whether the stage's outputs exist, so that what hangs on it may run."""
        match self:
            case State.SUCCEEDED | State.CACHED:
                return True
            case State.WAITING_HUMAN | State.FAILED | State.BLOCKED:
                return False
            case _:
                assert_never(self)


EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_WAITING, EXIT_INTERRUPTED = 0, 1, 2, 75, 130


def exit_code(states: list[State]) -> int:
    """0 done, 75 waiting for people, 1 failed. A failure outweighs waiting; blocked alone cannot happen."""
    if State.FAILED in states:
        return EXIT_FAILED
    if State.WAITING_HUMAN in states:
        return EXIT_WAITING
    return EXIT_FAILED if State.BLOCKED in states else EXIT_DONE

"""Reads of files that may lie elsewhere, tried again after a pause where the storage or the network failed on the way.

Storage clients try again what was refused; an answer that breaks off in its middle they leave to whoever reads it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from stages.contract import RetryableError
from stages.machine import machine_failure

T = TypeVar("T")

_PAUSES_S = (0.2, 0.5, 1.0, 2.0)  # beside those that a storage's client makes


class TornReadError(OSError):
    """A file ended early or changed while it was read, every time it was tried."""


def retried(work: Callable[[], T]) -> T:
    """``work()``, which may be done twice without harm; up to four times more, after growing pauses, where it fails for a reason
    that may pass. Raises the last ``OSError``."""
    for pause in (*_PAUSES_S, None):
        try:
            return work()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            if pause is None or not _may_pass(error):
                raise
            time.sleep(pause * random.uniform(0.75, 1.25))  # workers that failed together do not return together
    raise AssertionError("unreachable")


def _may_pass(error: OSError) -> bool:
    """Whether the same read may succeed a moment later."""
    return isinstance(error, TornReadError) or isinstance(machine_failure(error), RetryableError)

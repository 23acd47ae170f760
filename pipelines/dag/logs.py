"""The log of a machine: one JSON object a line, each with the run, and where there is one the stage and the shard.

All processes of a machine append to one file, ``events.jsonl`` beside the store; a line is one write, so lines of several
processes never mix. Workers on another machine write to a file of that name there, for whoever gathers its logs.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

NAME = "events.jsonl"


@dataclass(frozen=True)
class EventLog:
    """Appends events; picklable, so that workers write to it too. A log that cannot be written costs no work."""

    path: str
    bound: tuple[tuple[str, str], ...] = ()
    """Fields of every line, such as run_id and stage."""

    def bind(self, **fields: str) -> EventLog:
        return EventLog(self.path, tuple({**dict(self.bound), **fields}.items()))

    def write(self, event: str, fields: Mapping[str, object]) -> None:
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        where = {"host": socket.gethostname(), "pid": os.getpid()}
        value = {"at": at, "event": event, **dict(self.bound), **fields, **where}
        line = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "surrogateescape") + b"\n"
        try:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, line)
            finally:
                os.close(file)
        except OSError:
            pass  # a full disk stops the run itself, with its own message

"""Videos that were taken down, as a log in the store to which entries are only added; the last entry of a video counts."""

from __future__ import annotations

import getpass
import re
import secrets
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from pipelines.dag.store import Store

FOLDER = "takedowns"


@dataclass(frozen=True)
class Entry:
    """Who took which video down (or back), when and why."""

    action: Literal["remove", "undo"]
    video_id: str
    uri: str
    path: str
    sha256: str | None
    reason: str
    by: str
    at: str


def record(store: Store, action: Literal["remove", "undo"], video_id: str, *, uri: str, path: str, sha256: str | None,
           reason: str) -> Entry:  # fmt: skip
    """Add an entry in the name of this user and machine; it is durable when this returns."""
    now = datetime.now(UTC)
    entry = Entry(action, video_id, uri, path, sha256, reason, _who(), now.isoformat(timespec="microseconds"))
    store.put_json(f"{FOLDER}/{now.strftime('%Y%m%dT%H%M%S.%f')}-{secrets.token_hex(4)}.json", asdict(entry))
    return entry


def log(store: Store) -> list[Entry]:
    """All entries, oldest first."""
    names = [name for name in store.names(FOLDER) if re.fullmatch(r"[0-9T.]+-[0-9a-f]+\.json", name)]
    return [Entry(**store.read_json(f"{FOLDER}/{name}")) for name in names]


def taken_down(store: Store) -> dict[str, Entry]:
    """By video_id, the entries that hold now."""
    last = {entry.video_id: entry for entry in log(store)}
    return {video: entry for video, entry in last.items() if entry.action == "remove"}


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"

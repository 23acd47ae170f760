"""Where a stage has got to, kept in a remote store: what a machine leaves in its work folder, another one goes on from.

A local store has its work folders beside it, and nothing is copied. In a remote one each state lies under a name of its own, and
``work/<fingerprint>/newest.json``, written last, says which is the newest: what is half there is named nowhere.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from pipelines.dag.store import Store

NEWEST = "newest.json"


class KeptWork:
    """The kept states of one stage at one fingerprint."""

    def __init__(self, store: Store, fingerprint: str) -> None:
        self.store, self.folder = store, f"work/{fingerprint[:32]}"

    def put(self, step: int, files: Mapping[str, Path]) -> None:
        """Keep these files, by their path within the work, as the state at ``step``; states before it go."""
        if self.store.is_local:
            return
        name = f"{step:08d}-{uuid.uuid4().hex[:8]}"
        for path, file in files.items():
            self.store.send(file, f"{self.folder}/{name}/{path}")
        self.store.put_json(f"{self.folder}/{NEWEST}", {"step": step, "name": name, "files": sorted(files)})
        for old in self.store.names(self.folder):
            if old != NEWEST and int(old.partition("-")[0]) < step:  # another machine may be keeping a later one
                self.store.delete(f"{self.folder}/{old}")

    def take(self, folder: Path, beyond: int) -> int | None:
        """Replace a local folder by the newest state if that is beyond this step; returns its step, None where nothing was done."""
        if self.store.is_local:
            return None
        try:
            note = self.store.read_json(f"{self.folder}/{NEWEST}")
        except FileNotFoundError:
            return None
        if note["step"] <= beyond:
            return None
        coming = folder.with_name(f".{folder.name}.coming")
        shutil.rmtree(coming, ignore_errors=True)
        coming.mkdir(parents=True)
        self.store.download(f"{self.folder}/{note['name']}", coming)
        if not all((coming / path).is_file() for path in note["files"]):
            return None  # a machine that is further has taken it away since
        shutil.rmtree(folder, ignore_errors=True)
        coming.rename(folder)
        return int(note["step"])

    def forget(self) -> None:
        """Delete all states, as far as the store lets us: the stage is committed, and ``gc`` finds what is left."""
        if not self.store.is_local:
            with contextlib.suppress(OSError):
                self.store.delete(self.folder)

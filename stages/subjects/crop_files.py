"""The crops that a model is asked about, read from the table once and kept as files, since a table of pictures has no index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import Context, StageError


class CropFiles:
    """Crops and masks of subjects by subject_id, PNG bytes as the table holds them, in the stage's scratch folder."""

    def __init__(self, ctx: Context) -> None:
        self.ctx, self.folder = ctx, ctx.scratch / "crops"
        self.digests: dict[str, str] = {}

    def fetch(self, subject_ids: Iterable[str]) -> None:
        """Have these at hand. Raises ``StageError`` for one that the table lacks."""
        wanted = set(subject_ids) - set(self.digests)
        if not wanted:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        only = pc.field("subject_id").isin(pa.array(sorted(wanted), pa.string()))
        columns = ["subject_id", "crop", "mask"]
        for batch in self.ctx.dataset("subjects").scanner(columns=columns, filter=only, batch_size=64).to_batches():
            for row in batch.to_pylist():
                digest = hashlib.sha256(hashlib.sha256(row["crop"]).digest() + row["mask"]).hexdigest()
                self._path(digest, "crop").write_bytes(row["crop"])
                self._path(digest, "mask").write_bytes(row["mask"])
                self.digests[row["subject_id"]] = digest
        lost = sorted(wanted - set(self.digests))
        if lost:
            raise StageError(
                f"{self.ctx.name}: subject {lost[0]} is not in the table subjects. Run again from subjects."
            )

    def crop(self, subject_id: str) -> bytes:
        return self._path(self.digests[subject_id], "crop").read_bytes()

    def mask(self, subject_id: str) -> bytes:
        return self._path(self.digests[subject_id], "mask").read_bytes()

    def _path(self, digest: str, kind: str) -> Path:
        return self.folder / f"{digest}.{kind}"

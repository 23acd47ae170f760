"""Which samples a step trains on: a pure function of (manifest digest, seed, global step, world size, rank).

There is no iterator and no state to lose. A step's global batch is computed from its number, so resuming is O(1), a
second epoch is as exact as the first, and the same global batches come out for any number of workers.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from models.training.randomness import seed_of

Remainder = Literal["drop", "repeat"]


@dataclass(frozen=True, order=True)
class Row:
    """A trainable sample. Only rows of one ``bucket`` (tensor shapes) may share a batch."""

    sample_id: str
    bucket: str


@dataclass(frozen=True)
class Draw:
    """A sample in a batch. ``visit`` numbers its appearances, so that no two of them share noise or timestep."""

    sample_id: str
    visit: int


@dataclass(frozen=True)
class BucketPlan:
    bucket: str
    rows: int
    batches: int
    dropped: int
    repeated: int


@dataclass(frozen=True)
class Plan:
    """What one epoch does with the data. ``dropped`` and ``repeated`` count rows an epoch, by bucket and in all."""

    rows: int
    kept: int
    dropped: int
    repeated: int
    steps_per_epoch: int
    global_batch: int
    buckets: tuple[BucketPlan, ...]

    @property
    def dropped_share(self) -> float:
        return self.dropped / self.rows if self.rows else 0.0

    def describe(self) -> str:
        lines = [
            f"{self.rows} rows, {self.kept} kept, {self.dropped} dropped ({self.dropped_share:.1%}) and "
            f"{self.repeated} repeated in an epoch of {self.steps_per_epoch} steps of {self.global_batch}"
        ]
        lines += [
            f"  {b.bucket}: {b.rows} rows, {b.batches} batches, {b.dropped} dropped, {b.repeated} repeated"
            for b in self.buckets
        ]
        return "\n".join(lines)


def manifest_digest(rows: Iterable[Row]) -> str:
    """Digest of a set of rows; their order does not matter."""
    digest = hashlib.sha256()
    for row in sorted(rows):
        digest.update(f"{len(row.sample_id)}:{row.sample_id}{len(row.bucket)}:{row.bucket}".encode())
    return digest.hexdigest()


class Sampler:
    """Bucket-pure global batches, shuffled anew each epoch and split by rank.

    Rows of a bucket that fill no whole batch are left out of that epoch (``remainder="drop"``; another epoch leaves
    out others) or the last batch is filled with further visits to rows of the bucket (``"repeat"``). The shuffle sorts
    by a keyed hash, so it depends on no library's random stream and not on the order of the manifest.
    """

    def __init__(self, rows: Sequence[Row], *, seed: int, global_batch: int, remainder: Remainder = "drop") -> None:
        if global_batch < 1:
            raise ValueError(f"global_batch is {global_batch}, must be at least 1")
        seen: set[str] = set()
        for row in rows:
            if row.sample_id in seen:
                raise ValueError(f"sample {row.sample_id} is in the manifest twice; sample_id must be unique")
            seen.add(row.sample_id)
        self.seed, self.global_batch, self.remainder = seed, global_batch, remainder
        self.digest = manifest_digest(rows)
        self._buckets: dict[str, list[str]] = defaultdict(list)
        for row in sorted(rows):
            self._buckets[row.bucket].append(row.sample_id)
        self._epoch: tuple[int, list[list[Draw]]] | None = None
        self.steps_per_epoch = sum(self._batches(len(ids)) for ids in self._buckets.values())
        if not self.steps_per_epoch:
            sizes = ", ".join(f"{bucket}: {len(ids)}" for bucket, ids in self._buckets.items()) or "no rows at all"
            raise ValueError(
                f"no bucket holds a whole batch of {global_batch} ({sizes}). "
                "Use a smaller batch, more data, or remainder: repeat."
            )

    def plan(self) -> Plan:
        """Kept, dropped and repeated rows and steps of one epoch (the same numbers in every epoch)."""
        buckets = []
        for bucket, ids in sorted(self._buckets.items()):
            batches = self._batches(len(ids))
            slots = batches * self.global_batch
            buckets.append(BucketPlan(bucket, len(ids), batches, max(len(ids) - slots, 0), max(slots - len(ids), 0)))
        rows, dropped = sum(b.rows for b in buckets), sum(b.dropped for b in buckets)
        return Plan(
            rows=rows,
            kept=rows - dropped,
            dropped=dropped,
            repeated=sum(b.repeated for b in buckets),
            steps_per_epoch=self.steps_per_epoch,
            global_batch=self.global_batch,
            buckets=tuple(buckets),
        )

    def global_step_batch(self, step: int) -> list[Draw]:
        """The ``global_batch`` draws of global step ``step`` (from 0), all of one bucket."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._batches_of(epoch)[index]

    def rank_batch(self, step: int, *, world_size: int, rank: int) -> list[Draw]:
        """This rank's contiguous part of the step's global batch."""
        if self.global_batch % world_size:
            raise ValueError(
                f"a global batch of {self.global_batch} cannot be split evenly over {world_size} workers; "
                "change the batch size or the number of workers"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
        share = self.global_batch // world_size
        return self.global_step_batch(step)[rank * share : (rank + 1) * share]

    def dropped(self, epoch: int) -> list[str]:
        """The rows that this epoch leaves out."""
        used = {draw.sample_id for batch in self._batches_of(epoch) for draw in batch}
        return sorted(i for ids in self._buckets.values() for i in ids if i not in used)

    def repeated(self, epoch: int) -> list[str]:
        """The rows that this epoch visits again, once per further visit."""
        return sorted(d.sample_id for batch in self._batches_of(epoch) for d in batch if d.visit % self.global_batch)

    def state(self, step: int) -> dict[str, int | str]:
        """All that a checkpoint must hold to go on at ``step``: a few numbers, whatever the size of the data."""
        return {
            "step": step,
            "seed": self.seed,
            "global_batch": self.global_batch,
            "remainder": self.remainder,
            "manifest": self.digest,
        }

    def check(self, state: dict[str, int | str]) -> None:
        """Refuse to go on from a checkpoint whose data or batches were others."""
        mine = self.state(0)
        changed = [k for k in mine if k != "step" and state.get(k) != mine[k]]
        if changed:
            what = ", ".join(f"{k} was {state.get(k)}, is {mine[k]}" for k in changed)
            raise ValueError(f"the checkpoint belongs to another run of the sampler ({what}); start a new run")

    def _batches(self, rows: int) -> int:
        whole, rest = divmod(rows, self.global_batch)
        return whole + (1 if rest and self.remainder == "repeat" else 0)

    def _batches_of(self, epoch: int) -> list[list[Draw]]:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffle(epoch))
        return self._epoch[1]

    def _shuffle(self, epoch: int) -> list[list[Draw]]:
        keyed: list[tuple[int, str, list[Draw]]] = []
        # A sample is visited at most global_batch times in an epoch, so visits of different epochs never meet.
        first = epoch * self.global_batch
        for bucket, ids in self._buckets.items():
            order = sorted(ids, key=lambda i: (seed_of(self.seed, "row", epoch, i), i))
            slots = self._batches(len(ids)) * self.global_batch
            draws = [Draw(order[k % len(order)], first + k // len(order)) for k in range(slots)]
            for k in range(0, slots, self.global_batch):
                key = seed_of(self.seed, "batch", epoch, bucket, k)
                keyed.append((key, bucket, draws[k : k + self.global_batch]))
        keyed.sort(key=lambda item: item[:2])
        return [batch for _, _, batch in keyed]

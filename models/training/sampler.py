"""Which samples a step trains on: a pure function of (manifest digest, seed, global step, world size, rank).

There is no iterator and no state to lose. A step's global batch is computed from its number, so resuming is O(1), a
second epoch is as exact as the first, and the same global batches come out for any number of workers.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

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
    """One bucket's epoch: ``batches`` of ``size`` rows each."""

    bucket: str
    rows: int
    size: int
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
    title: str = ""

    @property
    def dropped_share(self) -> float:
        return self.dropped / self.rows if self.rows else 0.0

    def describe(self) -> str:
        lines = [
            f"{self.title}{self.rows} rows, {self.kept} kept, {self.dropped} dropped ({self.dropped_share:.1%}) and "
            f"{self.repeated} repeated in an epoch of {self.steps_per_epoch} steps of {self.global_batch}"
        ]
        lines += [
            f"  {b.bucket}: {b.rows} rows, {b.batches} batches"
            + (f" of {b.size}" if b.size != self.global_batch else "")
            + f", {b.dropped} dropped, {b.repeated} repeated"
            for b in self.buckets
        ]
        return "\n".join(lines)


def manifest_digest(rows: Iterable[Row]) -> str:
    """Digest of a set of rows; their order does not matter."""
    digest = hashlib.sha256()
    for row in sorted(rows):
        digest.update(f"{len(row.sample_id)}:{row.sample_id}{len(row.bucket)}:{row.bucket}".encode())
    return digest.hexdigest()


class Batches(Protocol):
    """What a training job needs of its sampler: one of rows, or one of two kinds of steps."""

    digest: str

    def rank_batch(self, step: int, *, world_size: int, rank: int) -> list[Draw]: ...

    def plans(self) -> tuple[Plan, ...]: ...

    def leftovers(self, epoch: int) -> dict[str, list[str]]: ...

    def state(self, step: int) -> dict[str, int | float | str | None]: ...

    def check(self, state: Mapping[str, int | float | str | None]) -> None: ...


def balanced_sizes(rows: Iterable[Row], costs: Mapping[str, float], batch: int) -> dict[str, int]:
    """Rows of a global batch by bucket, so that steps cost about the same: ``batch`` in the dearest bucket.

    ``costs`` are FLOPs of one sample by bucket. A cheaper bucket takes as many whole multiples of ``batch`` (which every
    number of workers that divides ``batch`` divides too) as cost no more than a step of the dearest, and no more
    than it has rows for.
    """
    counts = Counter(row.bucket for row in rows)
    dearest = max((costs[bucket] for bucket in counts), default=0.0)
    return {
        bucket: batch * max(1, min(int(dearest / costs[bucket] + 1e-9), count // batch))
        for bucket, count in counts.items()
    }


class Sampler:
    """Bucket-pure global batches, shuffled anew each epoch and split by rank.

    Rows of a bucket that fill no whole batch are left out of that epoch (``remainder="drop"``; another epoch leaves
    out others) or the last batch is filled with further visits to rows of the bucket (``"repeat"``). The shuffle sorts
    by a keyed hash, so it depends on no library's random stream and not on the order of the manifest. ``sizes`` gives
    buckets a batch of their own (``balanced_sizes``); others take ``global_batch``.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        seed: int,
        global_batch: int,
        remainder: Remainder = "drop",
        sizes: Mapping[str, int] | None = None,
    ) -> None:
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
        self._sizes = {bucket: (sizes or {}).get(bucket, global_batch) for bucket in self._buckets}
        self._largest = max(self._sizes.values(), default=global_batch)
        self._epoch: tuple[int, list[list[Draw]]] | None = None
        self.steps_per_epoch = sum(self._batches(bucket) for bucket in self._buckets)
        if not self.steps_per_epoch:
            held = ", ".join(f"{bucket}: {len(ids)}" for bucket, ids in self._buckets.items()) or "no rows at all"
            raise ValueError(
                f"no bucket holds a whole batch of {global_batch} ({held}). "
                "Use a smaller batch, more data, or remainder: repeat."
            )

    def plan(self) -> Plan:
        """Kept, dropped and repeated rows and steps of one epoch (the same numbers in every epoch)."""
        buckets = []
        for bucket, ids in sorted(self._buckets.items()):
            batches, size = self._batches(bucket), self._sizes[bucket]
            lost = len(ids) - batches * size
            buckets.append(BucketPlan(bucket, len(ids), size, batches, max(lost, 0), max(-lost, 0)))
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

    def plans(self) -> tuple[Plan, ...]:
        return (self.plan(),)

    def global_step_batch(self, step: int) -> list[Draw]:
        """The draws of global step ``step`` (from 0), all of one bucket and as many as its batch holds."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._batches_of(epoch)[index]

    def rank_batch(self, step: int, *, world_size: int, rank: int) -> list[Draw]:
        """This rank's contiguous part of the step's global batch."""
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
        batch = self.global_step_batch(step)
        if len(batch) % world_size:
            raise ValueError(
                f"a global batch of {len(batch)} cannot be split evenly over {world_size} workers; "
                "change the batch size or the number of workers"
            )
        share = len(batch) // world_size
        return batch[rank * share : (rank + 1) * share]

    def dropped(self, epoch: int) -> list[str]:
        """The rows that this epoch leaves out."""
        used = {draw.sample_id for batch in self._batches_of(epoch) for draw in batch}
        return sorted(i for ids in self._buckets.values() for i in ids if i not in used)

    def repeated(self, epoch: int) -> list[str]:
        """The rows that this epoch visits again, once per further visit."""
        return sorted(d.sample_id for batch in self._batches_of(epoch) for d in batch if d.visit % self._largest)

    def leftovers(self, epoch: int) -> dict[str, list[str]]:
        """Rows by name that this epoch leaves out (``dropped``) and visits again (``repeated``)."""
        return {"dropped": self.dropped(epoch), "repeated": self.repeated(epoch)}

    def state(self, step: int) -> dict[str, int | float | str | None]:
        """All that a checkpoint must hold to go on at ``step``: a few numbers, whatever the size of the data."""
        return {
            "step": step,
            "seed": self.seed,
            "global_batch": self.global_batch,
            "remainder": self.remainder,
            "manifest": self.digest,
            # The sizes themselves may be many; that they are the same is what counts.
            "sizes": hashlib.sha256(repr(sorted(self._sizes.items())).encode()).hexdigest()[:16],
        }

    def check(self, state: Mapping[str, int | float | str | None]) -> None:
        """Refuse to go on from a checkpoint whose data or batches were others."""
        check_state(self.state(0), state)

    def _batches(self, bucket: str) -> int:
        whole, rest = divmod(len(self._buckets[bucket]), self._sizes[bucket])
        return whole + (1 if rest and self.remainder == "repeat" else 0)

    def _batches_of(self, epoch: int) -> list[list[Draw]]:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffle(epoch))
        return self._epoch[1]

    def _shuffle(self, epoch: int) -> list[list[Draw]]:
        keyed: list[tuple[int, str, list[Draw]]] = []
        # A sample is visited at most as often in an epoch as a batch holds, so visits of different epochs never meet.
        first = epoch * self._largest
        for bucket, ids in self._buckets.items():
            order = sorted(ids, key=lambda i: (seed_of(self.seed, "row", epoch, i), i))
            size = self._sizes[bucket]
            slots = self._batches(bucket) * size
            draws = [Draw(order[k % len(order)], first + k // len(order)) for k in range(slots)]
            for k in range(0, slots, size):
                key = seed_of(self.seed, "batch", epoch, bucket, k)
                keyed.append((key, bucket, draws[k : k + size]))
        keyed.sort(key=lambda item: item[:2])
        return [batch for _, _, batch in keyed]


def check_state(mine: Mapping[str, int | float | str | None], found: Mapping[str, int | float | str | None]) -> None:
    """ValueError, naming what changed, unless two samplers' states agree in all but their step."""
    changed = [k for k in mine if k != "step" and found.get(k) != mine[k]]
    if changed:
        what = ", ".join(f"{k} was {found.get(k)}, is {mine[k]}" for k in changed)
        raise ValueError(f"the checkpoint belongs to another run of the sampler ({what}); start a new run")

"""Committed records: the work of record stages, one shard at a time, kept across runs.

A shard is one object that holds, for a few records, the rows of one or more column groups. It appears whole or not at all.
Two runs that do the same record commit the same content twice, and a reader takes one of them.

Workers commit small shards, a few files each, so that a crash costs little. A million videos would leave a hundred
thousand of them, to be opened again by every later run. So whoever looks at the records merges what has gathered, in steps
(many small shards into one, several merged ones into a larger), and the merged shard names those it stands for. Nothing
is moved, renamed or deleted: a kill leaves the small shards as they were, two runs that merge at the same time leave two
merged shards with the same records, and a reader that knows the small ones can go on reading them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dag.logs import EventLog
from pipelines.dag.shards import KEY, MERGED, SUFFIX, Shard, ShardWriter, merge, open_shard
from pipelines.dag.sorted_keys import SortedKeys
from pipelines.dag.store import Store
from stages.contract import Group

_LEAVE = 64  # so many fresh shards are read as they are; more are worth merging
_AT_ONCE = 2048  # fresh shards opened and merged at once: some 100 MB
_FAN = 8  # merged shards of one kind that are merged again
_LARGEST = 128 << 20  # bytes from which a merged shard is left alone; merging needs a few times this in memory


class Keys(AbstractSet[str]):
    """Record keys as one Arrow array; a set of strings to whoever wants one."""

    def __init__(self, parts: Sequence[pa.StringArray]) -> None:
        whole = pa.concat_arrays(parts) if parts else pa.array([], pa.string())
        self.array: pa.StringArray = pc.unique(whole) if len(parts) > 1 else whole
        self._sorted: SortedKeys | None = None

    def mask(self, keys: pa.Array | pa.ChunkedArray) -> pa.BooleanArray:
        """For each of ``keys`` whether it is one of these; false for null."""
        keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
        if self._sorted is None:
            if len(keys) * 2 > len(self.array):  # asked once for all, there is nothing to sort for
                return pc.is_in(keys, value_set=self.array)
            self._sorted = SortedKeys(self.array.take(pc.sort_indices(self.array)))
        return pa.array(self._sorted.find(keys.cast(pa.string())) >= 0)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(self.mask(pa.array([key]))[0].as_py())

    def __iter__(self) -> Iterator[str]:
        return (value.as_py() for value in self.array)

    def __len__(self) -> int:
        return len(self.array)


class RecordStore:
    """The records of one record stage (by stage name, so that pipelines share them)."""

    def __init__(self, store: Store, stage: str, *, tidy: bool = True, log: EventLog | None = None) -> None:
        self.store, self.log = store, log
        self.folder = f"records/{stage}"
        self.tidy = tidy
        self._shards: dict[str, Shard] = {}
        self._replaced: set[str] = set()
        self._written = True  # somebody may have committed since the last look

    def done(self, group: Group) -> Keys:
        """Keys that are committed under the group's recipe, as of now."""
        return self.done_each([group])[0]

    def done_each(self, groups: Sequence[Group]) -> list[Keys]:
        """The same for several groups, by one look at the store."""
        self._look()
        return [Keys([shard.keys for shard in self._holding(group)]) for group in groups]

    def shards(self, groups: Sequence[Group]) -> ShardWriter:
        self._written = True
        return ShardWriter(self.store.uri, self.folder, tuple(groups), self.log)

    def read(self, group: Group, keys: pa.Array | Sequence[str] | None = None) -> pa.Table:
        """Rows of these keys; cheapest for keys that are neighbours in sorted order. Without ``keys``, all rows."""
        if keys is None:
            self._look()
            wanted = Keys([shard.keys for shard in self._holding(group)]).array
        else:
            if self._written:
                self._look()
            wanted = pc.unique(keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())).drop_null()
        wanted = wanted.take(pc.sort_indices(wanted))
        plan, lost = self._plan(group, wanted)
        if lost and keys is not None:
            self._look()
            plan, _ = self._plan(group, wanted)
        parts = [shard.rows(self.store, self.folder, group.name, mine) for shard, mine in plan]
        found = [part for part in parts if part is not None]
        if not found:
            return pa.table({KEY: pa.array([], pa.string())})
        return pa.concat_tables(found, promote_options="permissive")

    def as_stored(self, group: Group, keys: pa.StringArray) -> pa.StringArray:
        """Those of the keys that are committed, in the order in which their rows lie, so that neighbours are read together."""
        self._look()
        wanted = pc.unique(keys).drop_null()
        plan, _ = self._plan(group, wanted.take(pc.sort_indices(wanted)))
        parts = [shard.as_stored(self.store, self.folder, group.name, mine) for shard, mine in plan]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string())

    def reader(self, group: Group, keys: Sequence[str]) -> RecordReader:
        """A reader of these records, by key, that travels to workers."""
        self._look()
        wanted = pc.unique(pa.array(keys, pa.string()))
        plan, _ = self._plan(group, wanted.take(pc.sort_indices(wanted)))
        return RecordReader(
            self.store.uri, self.folder, group, tuple((shard.name, tuple(mine.to_pylist())) for shard, mine in plan)
        )

    def committed(self, group: str) -> int:
        """How many records of this group are committed, each counted once under each recipe."""
        self._look()
        keys: dict[str, list[pa.StringArray]] = defaultdict(list)
        for shard in self._shards.values():
            if group in shard.groups:
                keys[shard.groups[group].recipe].append(shard.keys)
        return sum(len(Keys(parts)) for parts in keys.values())

    def groups_with(self, keys: Sequence[str]) -> list[str]:
        """Names of the groups, under whatever recipe, in which one of these keys is committed."""
        self._look()
        wanted = pa.array(sorted(set(keys)), pa.string())
        found: set[str] = set()
        for shard in self._shards.values():
            if pc.any(pc.is_in(wanted, value_set=shard.keys)).as_py():
                found.update(shard.groups)
        return sorted(found)

    def replaced(self) -> list[str]:
        """Names of shards that a merged one stands for and from which none reads any bytes: nobody who looks now needs them."""
        self._look()
        read_from = {name for shard in self._shards.values() if shard.objects for name in shard.objects.to_pylist()}
        return [name for name in self.store.names(self.folder) if name in self._replaced - read_from]

    def _holding(self, group: Group) -> list[Shard]:
        """Shards that hold the group under its recipe, in an order that every process finds."""
        return [
            shard
            for _, shard in sorted(self._shards.items())
            if group.name in shard.groups and shard.groups[group.name].recipe == group.recipe
        ]

    def _plan(self, group: Group, wanted: pa.StringArray) -> tuple[list[tuple[Shard, pa.StringArray]], int]:
        """Which keys to read from which shard, each from one; and how many are nowhere. ``wanted`` is sorted."""
        plan = []
        for shard in self._holding(group):
            if not len(wanted):
                break
            here = pa.array(shard.find(wanted) >= 0)
            mine = wanted.filter(here)
            if len(mine):
                plan.append((shard, mine))
                wanted = wanted.filter(pc.invert(here))
        return plan, len(wanted)

    # -- looking and merging -------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Take notice of shards that appeared since the last look, and merge them where they have become many."""
        self._written = False
        names = [name for name in self.store.names(self.folder) if name.endswith(SUFFIX)]
        for name in names:
            if name.startswith(MERGED) and name not in self._shards and name not in self._replaced:
                self._know(name)
        fresh = [n for n in names if not n.startswith(MERGED) and n not in self._shards and n not in self._replaced]
        small = sum(not shard.merged for shard in self._shards.values())
        merging = self.tidy and len(fresh) + small >= _LEAVE
        for start in range(0, len(fresh), _AT_ONCE):
            for name in fresh[start : start + _AT_ONCE]:
                self._know(name)
            if merging:
                self._merge_small()
            for shard in self._shards.values():
                shard.forget_tail()
        if merging:
            self._merge_merged()

    def _know(self, name: str) -> None:
        """Open a shard and forget those it stands for."""
        try:
            shard = open_shard(self.store, self.folder, name)
        except FileNotFoundError:
            return  # swept away since it was listed; what stands for it was listed too, or is at the next look
        replaced = shard.replaced(self.store, self.folder).to_pylist()
        self._replaced.update(replaced)
        for old in replaced:
            self._shards.pop(old, None)
        if name not in self._replaced:
            self._shards[name] = shard

    def _merge_small(self) -> None:
        for shards in self._alike(lambda shard: not shard.merged):
            if len(shards) >= _FAN:
                self._merge(shards)

    def _merge_merged(self) -> None:
        """Merge the smallest together until fewer than a handful of each kind are left that may still grow."""
        again = True
        while again:
            again = False
            for shards in self._alike(lambda shard: shard.merged and shard.size < _LARGEST):
                if len(shards) >= _FAN:
                    self._merge(sorted(shards, key=lambda shard: shard.size)[:_FAN])
                    again = True

    def _alike(self, which: Any) -> list[list[Shard]]:
        by_signature: dict[tuple[tuple[str, str, bool], ...], list[Shard]] = defaultdict(list)
        for _, shard in sorted(self._shards.items()):
            if which(shard):
                by_signature[shard.signature].append(shard)
        return list(by_signature.values())

    def _merge(self, shards: list[Shard]) -> None:
        gone = {old for shard in shards for old in shard.replaced(self.store, self.folder).to_pylist()}
        made = merge(self.store, self.folder, shards, gone)
        made.forget_tail()
        for shard in shards:
            del self._shards[shard.name]
        self._replaced.update(gone, (shard.name for shard in shards))
        self._shards[made.name] = made


class RecordReader:
    """Reads committed records one by one, a few shards at a time in memory; picklable, so that workers read what others did.

    Callers go through neighbours together: what was read around a key is at hand for the next.
    """

    def __init__(
        self, store_uri: str, folder: str, group: Group, shards: Sequence[tuple[str, tuple[str, ...]]], held: int = 64
    ) -> None:
        self.store_uri, self.folder, self.group, self.shards, self.held = store_uri, folder, group, shards, held
        self._shard_of = {key: name for name, keys in shards for key in keys}
        self._open: dict[str, Shard] = {}
        self._store: Store | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return RecordReader, (self.store_uri, self.folder, self.group, self.shards, self.held)

    def __contains__(self, key: str) -> bool:
        return key in self._shard_of

    def get(self, key: str) -> dict[str, Any] | None:
        """The record's row, or None where none was committed."""
        name = self._shard_of.get(key)
        if name is None:
            return None
        self._store = self._store or Store(self.store_uri, create=False)
        if name not in self._open:
            if len(self._open) >= self.held:
                self._open.pop(next(iter(self._open)))
            self._open[name] = open_shard(self._store, self.folder, name)
        table = self._open[name].rows(self._store, self.folder, self.group.name, pa.array([key], pa.string()))
        row: dict[str, Any] | None = table.slice(0, 1).to_pylist()[0] if table is not None else None
        return row

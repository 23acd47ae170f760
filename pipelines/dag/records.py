"""Committed records: the work of record stages, one shard at a time, kept across runs.

A shard holds, for a few records, the rows of one or more column groups. Its files are written under a name nobody else
uses, its manifest last; what has no manifest does not exist. Two runs that do the same record commit the same content
twice, and a reader takes one of them.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.dag.store import Store
from stages.contract import Group

KEY = "record_key"


class RecordStore:
    """The records of one record stage (by stage name, so that pipelines share them)."""

    def __init__(self, store: Store, stage: str) -> None:
        self.store = store
        self.folder = f"records/{stage}"
        self._index: dict[str, dict[str, list[tuple[str, str]]]] = {}  # group -> recipe -> [(shard, key file)]
        self._seen: set[str] = set()
        self._keys: dict[str, pa.Array] = {}

    def _refresh(self) -> None:
        """Read manifests that appeared since the last look."""
        for name in self.store.names(self.folder):
            if name in self._seen:
                continue
            try:
                manifest = self.store.read_json(f"{self.folder}/{name}/manifest.json")
            except FileNotFoundError:
                continue  # being written, or torn: nothing there counts
            self._seen.add(name)
            self._keys[name] = pa.array(manifest["keys"], type=pa.string())
            for group, entry in manifest["groups"].items():
                by_recipe = self._index.setdefault(group, {})
                by_recipe.setdefault(entry["recipe"], []).append((name, entry["file"]))

    def done(self, group: Group) -> set[str]:
        self._refresh()
        keys: set[str] = set()
        for shard, _ in self._index.get(group.name, {}).get(group.recipe, []):
            keys.update(self._keys[shard].to_pylist())
        return keys

    def shards(self, groups: Sequence[Group]) -> ShardWriter:
        return ShardWriter(self.store.uri, self.folder, tuple(groups))

    def read(self, group: Group, keys: pa.Array | Sequence[str] | None = None) -> pa.Table:
        self._refresh()
        wanted = None if keys is None else pa.array(keys, type=pa.string()) if not isinstance(keys, pa.Array) else keys
        taken: set[str] = set()
        parts: list[pa.Table] = []
        for shard, file in sorted(self._index.get(group.name, {}).get(group.recipe, [])):
            mine = self._keys[shard]
            fresh = [k for k in mine.to_pylist() if k not in taken]
            if wanted is not None:
                fresh = pc.filter(
                    pa.array(fresh, pa.string()), pc.is_in(pa.array(fresh, pa.string()), wanted)
                ).to_pylist()
            if not fresh:
                continue
            taken.update(fresh)
            table = pq.read_table(io.BytesIO(self.store.read(f"{self.folder}/{shard}/{file}")))
            parts.append(table.filter(pc.is_in(table.column(KEY), pa.array(fresh, pa.string()))))
        if not parts:
            return pa.table({KEY: pa.array([], pa.string())})
        return pa.concat_tables(parts, promote_options="permissive")


@dataclass(frozen=True)
class ShardWriter:
    """Commits finished records; picklable, so that the worker that did the work commits it."""

    store_uri: str
    folder: str
    groups: tuple[Group, ...]

    def commit(self, rows: Mapping[str, pa.Table], keys: Sequence[str]) -> None:
        known = {g.name: g for g in self.groups}
        unknown = sorted(set(rows) - set(known))
        if unknown:
            raise ValueError(f"shard of {self.folder}: rows for groups that were not declared: {', '.join(unknown)}")
        for name, table in rows.items():
            if KEY not in table.column_names:
                raise ValueError(f"shard of {self.folder}: rows of group {name} have no column {KEY}")
            stray = set(table.column(KEY).to_pylist()) - set(keys)
            if stray:
                raise ValueError(
                    f"shard of {self.folder}: rows of group {name} for keys not committed: {sorted(stray)[:3]}"
                )
        if not keys:
            return
        store = Store(self.store_uri, create=False)
        shard = f"{self.folder}/{uuid.uuid4().hex}"
        entries = {}
        for name in rows:
            file = f"{name.replace(':', '-').replace('/', '-')}.parquet"
            buffer = io.BytesIO()
            pq.write_table(rows[name], buffer, compression="zstd")
            store.put(f"{shard}/{file}", buffer.getvalue())
            entries[name] = {"recipe": known[name].recipe, "file": file, "rows": rows[name].num_rows}
        store.put_json(f"{shard}/manifest.json", {"groups": entries, "keys": list(keys)})

"""Every commit of a store and how they hang together: who made what, of which commits, and which runs use it now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from functools import cached_property
from urllib.parse import unquote

import pyarrow.dataset as pads

from data_schemas.schema import TABLE_KEY
from pipelines.dag.artifacts import Committed, Manifest, read_manifest
from pipelines.dag.runs import RunRecord, load_runs
from pipelines.dag.store import Store
from stages.contract import StageError

Place = tuple[str, str]
"""Node and fingerprint: what names a commit."""


class Commits:
    """The commits and runs of a store as they are now. ``runs`` and ``manifests`` are in the order in which they started.

    ``also`` are commits whose manifests have been taken away.
    """

    def __init__(self, store: Store, also: Iterable[Manifest] = ()) -> None:
        self.store = store
        found = list(also)
        for node in store.names("stages"):
            for name in store.names(f"stages/{node}"):
                manifest = read_manifest(store, node, name.removesuffix(".json")) if name.endswith(".json") else None
                if manifest is not None:
                    found.append(manifest)
        self.manifests = sorted({place(m): m for m in found}.values(), key=lambda manifest: manifest.started)
        self.at: dict[Place, Manifest] = {place(manifest): manifest for manifest in self.manifests}
        self.runs: list[RunRecord] = load_runs(store)
        self.latest = {record.pipeline: record for record in self.runs}
        self.current = {(n.name, n.fingerprint) for run in self.latest.values() for n in run.nodes if n.fingerprint}

    @cached_property
    def _makers(self) -> dict[str, list[tuple[Manifest, str]]]:
        makers: dict[str, list[tuple[Manifest, str]]] = {}
        for manifest in self.manifests:
            for output, committed in manifest.outputs.items():
                makers.setdefault(committed.digest, []).append((manifest, output))
        return makers

    @cached_property
    def _called(self) -> dict[str, str]:
        """What pipelines call an output, by its path: ``adapter_final``."""
        return {
            below(uri): name for run in self.runs for node in run.nodes for name, uri in node.outputs.items() if uri
        }

    def name(self, manifest: Manifest, output: str) -> str:
        """The output as its pipeline calls it: ``merge_final.adapter_final``."""
        return f"{manifest.node}.{self._called.get(manifest.outputs[output].path, output)}"

    def makers(self, digest: str) -> list[tuple[Manifest, str]]:
        """Commits that made content of this digest, oldest first."""
        return self._makers.get(digest, [])

    def sources(self, manifest: Manifest) -> dict[str, tuple[Manifest, str]]:
        """For each input the commit it was read from, with the output's own name; without those that are gone.

        Manifests of releases before 0.2 do not say it: then it is the commit with that digest that their run used, else
        the newest before them.
        """
        found = {}
        for name, digest in dict(manifest.preimage.get("inputs", {})).items():
            told = manifest.sources.get(name)
            if told is not None and (told[0], told[1]) in self.at:
                found[name] = (self.at[told[0], told[1]], told[2])
                continue
            makers = [m for m in self.makers(digest) if m[0].started < manifest.started]
            same_run = [m for m in makers if place(m[0]) in self._used_by(manifest.run_id)]
            if makers:  # equal content: rather the one that is called like the input
                found[name] = max(same_run or makers, key=lambda m: (m[1] == name or m[0].node in name, m[0].started))
        return found

    def _used_by(self, run_id: str) -> AbstractSet[Place]:
        return self._places.get(run_id, frozenset())

    @cached_property
    def _places(self) -> dict[str, frozenset[Place]]:
        return {run.run_id: frozenset((n.name, n.fingerprint) for n in run.nodes if n.fingerprint) for run in self.runs}

    def ancestry(self, *made: Manifest) -> list[Manifest]:
        """These commits and all that they were made of, directly or not; in the order in which they were started."""
        seen = {place(manifest): manifest for manifest in made}
        waiting = list(made)
        while waiting:
            for source, _ in self.sources(waiting.pop()).values():
                if place(source) not in seen:
                    seen[place(source)] = source
                    waiting.append(source)
        return sorted(seen.values(), key=lambda manifest: manifest.started)

    def tables(self, *names: str) -> Iterator[tuple[Manifest, str, pads.Dataset]]:
        """Committed tables with their output's name, the newest first; of these kinds, or all."""
        for manifest in reversed(self.manifests):
            for output, committed in manifest.outputs.items():
                dataset = self.open(committed)
                if dataset is not None and (not names or kind_of(dataset) in names):
                    yield manifest, output, dataset

    def open(self, committed: Committed) -> pads.Dataset | None:
        """The committed table, whatever its version is; None for a folder of files."""
        if committed.kind != "table":
            return None
        names = [
            f"{self.store.full(committed.path)}/{n}" for n in self.store.names(committed.path) if n.endswith(".parquet")
        ]
        return pads.dataset(names, filesystem=self.store.fs, format="parquet") if names else None


def place(manifest: Manifest) -> Place:
    return manifest.node, manifest.fingerprint


def kind_of(dataset: pads.Dataset) -> str:
    """Name of the table's schema, or nothing where the file does not say."""
    return (dataset.schema.metadata or {}).get(TABLE_KEY, b"").decode()


def find_artifact(commits: Commits, what: str) -> tuple[Manifest, str] | None:
    """The output that ``what`` names, or None: ``node.output`` or an output's name alone (of the newest run that has it),
    the beginning of a fingerprint or digest, or an address in the store, of the output or of a file in it.

    Raises ``StageError`` where several are meant.
    """
    named = [
        (commits.at[n.name, n.fingerprint], uri)
        for run in commits.runs
        for n in run.nodes
        if n.fingerprint and (n.name, n.fingerprint) in commits.at
        for name, uri in n.outputs.items()
        if what in (name, f"{n.name}.{name}")
    ]
    if named:
        manifest, uri = named[-1]
        return manifest, _own_name(manifest, below(uri))
    digest = what.removeprefix("sha256:")
    if len(digest) >= 8 and all(c in "0123456789abcdef" for c in digest):
        found = [
            (m, o)
            for m in commits.manifests
            for o, c in m.outputs.items()
            if c.digest.removeprefix("sha256:").startswith(digest)
        ]
        found = found[-1:] or [
            (m, o) for m in commits.manifests if m.fingerprint.startswith(digest) for o in list(m.outputs)[:1]
        ]
        if len(found) > 1:
            shown = ", ".join(f"{m.node} {m.fingerprint[:16]}" for m, _ in found)
            raise StageError(f"{what} is the beginning of several fingerprints: {shown}. Give more of it.")
        return found[0] if found else None
    path = below(what)
    for manifest in commits.manifests:
        for output, committed in manifest.outputs.items():
            if path == committed.path or path.startswith(f"{committed.path}/"):
                return manifest, output
    return None


def below(uri: str) -> str:
    """An address in the store from ``data/`` on, wherever the store lies or lay."""
    base, found, rest = uri.rpartition("/data/")
    if found and "://" in base:
        rest = unquote(rest.partition("?")[0])
    return f"data/{rest}" if found else uri


def _own_name(manifest: Manifest, path: str) -> str:
    return next(
        (o for o, committed in manifest.outputs.items() if committed.path == path), next(iter(manifest.outputs))
    )

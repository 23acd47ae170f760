"""Committed artifacts: what a manifest says of them, and how to open them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from data_schemas.schema import SchemaError, TableSchema
from pipelines.dag.store import Store
from stages.contract import StageError

MANIFEST_FORMAT = 1


@dataclass(frozen=True)
class Committed:
    """One output of a committed stage. ``path`` is relative to the store."""

    kind: str  # "table" or "files"
    path: str
    digest: str
    rows: int | None
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The commit of a stage: it is done if and only if this exists."""

    node: str
    stage: str
    fingerprint: str
    preimage: Mapping[str, Any]
    source: str
    outputs: Mapping[str, Committed]
    ledger: str | None
    metrics: str | None
    run_id: str
    started: str
    seconds: float
    attempts: int
    code: str
    format: int = MANIFEST_FORMAT
    counts: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By input: node, fingerprint and output it was read from. Lineage only: what decides is the input's digest."""

    @property
    def digests(self) -> dict[str, str]:
        return {name: output.digest for name, output in self.outputs.items()}


def manifest_path(node: str, fingerprint: str) -> str:
    return f"stages/{node}/{fingerprint}.json"


def write_manifest(store: Store, manifest: Manifest) -> None:
    store.put_json(manifest_path(manifest.node, manifest.fingerprint), asdict(manifest))


def read_manifest(store: Store, node: str, fingerprint: str) -> Manifest | None:
    """The manifest under this fingerprint, or None when the stage is not committed."""
    try:
        value = store.read_json(manifest_path(node, fingerprint))
    except FileNotFoundError:
        return None
    except ValueError:
        raise StageError(
            f"the manifest {store.uri_of(manifest_path(node, fingerprint))} is damaged. Delete it and run again: "
            "the stage will be redone, its committed records reused."
        ) from None
    if value.get("format") != MANIFEST_FORMAT:
        raise StageError(
            f"the manifest of {node} has format {value.get('format')}, this release reads {MANIFEST_FORMAT}. "
            "Use the release that wrote it, or start a new store with --store."
        )
    value["outputs"] = {name: Committed(**output) for name, output in value["outputs"].items()}
    known = {f.name for f in fields(Manifest)}  # a later release of the same format may have added some
    return Manifest(**{key: item for key, item in value.items() if key in known})


def latest_manifest(store: Store, node: str) -> Manifest | None:
    """The node's newest commit under any fingerprint, for ``plan --why``."""
    found: list[tuple[str, Manifest]] = []
    for name in store.names(f"stages/{node}"):
        if name.endswith(".json"):
            manifest = read_manifest(store, node, name.removesuffix(".json"))
            if manifest:
                found.append((manifest.started, manifest))
    return max(found, key=lambda item: item[0])[1] if found else None


def open_table(store: Store, path: str, schema: TableSchema) -> pads.Dataset:
    """A committed table as a dataset; refuses another table, another major version, or a missing column.

    Columns that came with a later minor version are null in a table of an earlier one.
    """
    where = store.uri_of(path)
    names = [f"{store.full(path)}/{name}" for name in store.names(path) if name.endswith(".parquet")]
    if not names:
        raise StageError(
            f"{where} holds no Parquet file, though its manifest says it does. Delete the stage's manifest and run again."
        )
    try:
        dataset = pads.dataset(names, filesystem=store.fs, format="parquet")
        schema.check_readable(dataset.schema, where)
        later = [field for field in schema.arrow if field.name not in dataset.schema.names]
        if later:
            dataset = dataset.replace_schema(pa.schema([*dataset.schema, *later], dataset.schema.metadata))
    except SchemaError as error:
        raise StageError(str(error)) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise StageError(
            f"cannot read table {schema.name} at {where}: {error}. Delete the stage's manifest and run again."
        ) from error
    return dataset

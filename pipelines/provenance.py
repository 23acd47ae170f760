"""From an artifact back to what it was made of: source videos, rules, thresholds, people's answers, models and code.

Videos are followed row by row, as ``traces`` follows them forward: the rows that an adapter was trained on name samples, those
name subjects and clips, those name videos. A folder of files that was read beside the table that describes it (latents
beside the cache) is left to that table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from data_schemas.tables import TABLES
from pipelines.commits import Commits, Place, kind_of, place
from pipelines.dag.artifacts import Manifest
from pipelines.traces import OWNER, Video, leaves
from pipelines.tracking import flatten
from stages.review.answers import trains

_TRAINED = ("sft", "dpo")
_MACHINE = re.compile(r"seed|cpus|gpus|batch|per_forward|workers|memory|seconds")  # speed and luck, not a standard
_ROWS = 65_536


@dataclass(frozen=True)
class Step:
    """A commit on the way to the artifact."""

    node: str
    stage: str
    version: str
    fingerprint: str
    run_id: str
    started: str
    seconds: float
    code: str
    params: Mapping[str, Any]
    models: Mapping[str, str]
    inputs: Mapping[str, str]
    rows: Mapping[str, int]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class RuleCut:
    """A rule of a selection, and how many clips it was the first to stop."""

    node: str
    rule: Mapping[str, Any]
    stopped: int


@dataclass(frozen=True)
class Answers:
    """What people (or a named script) said at a gate; ``about`` holds the answers on what went into the artifact."""

    node: str
    campaign: str | None
    by: Mapping[str, int]
    verdicts: Mapping[str, int]
    about: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Origin:
    """A source video of which the artifact was made."""

    video: Video
    sha256: str | None
    licence: str | None
    taken_down: bool


@dataclass(frozen=True)
class Provenance:
    """All that an artifact was made of. ``steps`` are in the order in which they were made, the artifact's own last.

    ``read`` counts the source videos that the run read in all.
    """

    name: str
    uri: str
    digest: str
    fingerprint: str
    origins: Sequence[Origin]
    read: int
    steps: Sequence[Step]
    rules: Sequence[RuleCut]
    answers: Sequence[Answers]
    identities: frozenset[str] = field(repr=False)

    @property
    def models(self) -> dict[str, str]:
        return {f"{step.node}.{name}": digest for step in self.steps for name, digest in step.models.items()}

    @property
    def thresholds(self) -> dict[str, Any]:
        """Numbers of the steps that turned records away, by ``node.parameter``, without those of machines and rules."""
        found: dict[str, Any] = {}
        for step in self.steps:
            if step.counts.get("rejected"):
                params = {k: v for k, v in step.params.items() if k not in ("rules", "backbone", "sampling")}
                numbers = {k: v for k, v in flatten(params).items() if _number(v) and not _MACHINE.search(k)}
                found.update({f"{step.node}.{k}": v for k, v in numbers.items()})
        return found


def provenance(commits: Commits, manifest: Manifest, output: str, taken_down: Iterable[str] = ()) -> Provenance:
    """What this output was made of."""
    steps = commits.ancestry(manifest)
    identities = _own(commits, manifest, output) or _read(commits, manifest, {})
    _upstream(commits, steps, identities)
    origins, read = _origins(commits, steps, identities, frozenset(taken_down))
    committed = manifest.outputs[output]
    return Provenance(
        name=commits.name(manifest, output),
        uri=commits.store.uri_of(committed.path),
        digest=committed.digest,
        fingerprint=manifest.fingerprint,
        origins=origins,
        read=read,
        steps=[_step(commits, step) for step in steps],
        rules=[cut for step in steps for cut in _cuts(commits, step)],
        answers=[answers for step in steps for answers in _answers(commits, step, identities)],
        identities=frozenset(identities),
    )


# -- videos, row by row ------------------------------------------------------------------------------------------------


def _own(commits: Commits, manifest: Manifest, output: str) -> set[str]:
    """Identities in the rows of a table; none for a folder, or for a table that names nobody."""
    dataset = commits.open(manifest.outputs[output])
    return _named(dataset) if dataset is not None else set()


def _read(commits: Commits, manifest: Manifest, seen: dict[Place, set[str]]) -> set[str]:
    """Identities in the rows that a commit was made of; where its inputs name nobody, in those that these were made of."""
    if place(manifest) in seen:
        return seen[place(manifest)]
    found = seen[place(manifest)] = set()
    described: set[Place] = set()
    folders = []
    for name, (source, output) in commits.sources(manifest).items():
        dataset = commits.open(source.outputs[output])
        if dataset is None:
            folders.append(source)
        elif OWNER & set(dataset.schema.names):
            described.add(place(source))
            found |= _used(commits, manifest, name, dataset)
        elif not (manifest.stage in _TRAINED and name == "verdicts"):  # they say which pairs count, in _used
            found |= _read(commits, source, seen)
    for source in folders:
        if place(source) not in described:
            found |= _read(commits, source, seen)
    return found


def _used(commits: Commits, manifest: Manifest, name: str, dataset: pads.Dataset) -> set[str]:
    """Identities in the rows of an input that a stage worked with: a training reads a part of its tables."""
    if manifest.stage == "dpo" and name == "cache":
        return set()  # the samples of its pairs, which name them
    if manifest.stage == "dpo" and name == "preferences":
        return _named(dataset, pc.field("pair_id").isin(_trained_pairs(commits, manifest)))
    if (
        name == "cache"
        and any(c.kind == "files" for c in manifest.outputs.values())
        and "split" in dataset.schema.names
    ):
        rows = pc.field("split") == "train"
        if manifest.stage == "sft":
            rows &= pc.field("kind") == manifest.preimage["params"]["kind"]
        return _named(dataset, rows) if manifest.stage in (*_TRAINED, "switching") else _named(dataset)
    return _named(dataset)


def _trained_pairs(commits: Commits, manifest: Manifest) -> pa.StringArray:
    source, output = commits.sources(manifest)["verdicts"]
    verdicts = commits.open(source.outputs[output])
    assert verdicts is not None
    kind = manifest.preimage["params"]["kind"]
    rows = verdicts.to_table(columns=["external_id", "verdict"]).to_pylist()
    return pa.array([row["external_id"] for row in rows if trains(kind, row["verdict"])], pa.string())


def _upstream(commits: Commits, steps: Sequence[Manifest], identities: set[str]) -> None:
    """Add whom the rows of these identities name: of a sample its subjects and clip, of a clip its video."""
    while True:
        before = len(identities)
        for step in reversed(steps):
            for committed in step.outputs.values():
                dataset = commits.open(committed)
                kind = kind_of(dataset) if dataset is not None else ""
                keys = [k for k in (TABLES[kind].key if kind in TABLES else ()) if k in OWNER]
                if dataset is not None and keys:
                    wanted = pa.array(sorted(identities), pa.string())
                    identities |= _named(dataset, pc.field(keys[0]).isin(wanted))
        if len(identities) == before:
            return


def _named(dataset: pads.Dataset, rows: pc.Expression | None = None) -> set[str]:
    """What stands in the columns that say whose a row is, nested ones too."""
    columns = [f.name for f in dataset.schema if any(leaf in OWNER for leaf in leaves(f))]
    found: set[str] = set()
    for batch in dataset.scanner(columns=columns, filter=rows, batch_size=_ROWS).to_batches():
        for name in columns:
            found |= _values(name, batch.column(name))
    return found


def _values(name: str, array: pa.Array) -> set[str]:
    if pa.types.is_struct(array.type):
        return set().union(*(_values(f.name, v) for f, v in zip(array.type, array.flatten(), strict=True)))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _values(name, pc.list_flatten(array))
    return set(array.unique().drop_null().to_pylist()) if name in OWNER else set()


def _origins(
    commits: Commits, steps: Sequence[Manifest], identities: set[str], taken_down: frozenset[str]
) -> tuple[list[Origin], int]:
    """The videos among the identities, and how many there were to choose from."""
    found: dict[str, Origin] = {}
    read = 0
    wanted = pa.array(sorted(identities), pa.string())
    for step in steps:
        for committed in step.outputs.values():
            dataset = commits.open(committed)
            if dataset is None or kind_of(dataset) not in ("sources", "videos"):
                continue
            read = max(read, dataset.count_rows())
            columns = [c for c in ("video_id", "uri", "path", "sha256", "licence") if c in dataset.schema.names]
            for row in dataset.to_table(columns=columns, filter=pc.field("video_id").isin(wanted)).to_pylist():
                video = Video(row["video_id"], row["uri"], row["path"])
                down = video.video_id in taken_down
                found[video.video_id] = Origin(video, row.get("sha256"), row.get("licence"), down)
    return sorted(found.values(), key=lambda origin: origin.video.path), read


# -- what was decided --------------------------------------------------------------------------------------------------


def _step(commits: Commits, manifest: Manifest) -> Step:
    return Step(
        node=manifest.node,
        stage=manifest.stage,
        version=str(manifest.preimage.get("version", "")),
        fingerprint=manifest.fingerprint,
        run_id=manifest.run_id,
        started=manifest.started,
        seconds=manifest.seconds,
        code=manifest.code,
        params=manifest.preimage.get("params", {}),
        models=manifest.preimage.get("models", {}),
        inputs={name: commits.name(*source) for name, source in commits.sources(manifest).items()},
        rows={name: o.rows for name, o in manifest.outputs.items() if o.rows is not None},
        counts=manifest.counts,
    )


def _cuts(commits: Commits, manifest: Manifest) -> list[RuleCut]:
    """The rules of a commit that made a table of selections."""
    rules = manifest.preimage.get("params", {}).get("rules") or []
    for committed in manifest.outputs.values():
        dataset = commits.open(committed)
        if dataset is not None and kind_of(dataset) == "selection":
            failing = dataset.to_table(columns=["first_failing_rule"]).column(0)
            stopped = Counter(failing.to_pylist())
            return [RuleCut(manifest.node, rule, stopped[rule["name"]]) for rule in rules]
    return []


def _answers(commits: Commits, manifest: Manifest, identities: set[str]) -> list[Answers]:
    found = []
    for committed in manifest.outputs.values():
        dataset = commits.open(committed)
        if dataset is None or kind_of(dataset) != "decisions":
            continue
        columns = ["campaign_id", "external_id", "reviewer", "verdict", "reasons", "submitted_at"]
        rows = dataset.to_table(columns=columns).to_pylist()
        campaign = rows[0]["campaign_id"] if rows else None
        about = [
            {k: v for k, v in row.items() if k != "campaign_id"} for row in rows if row["external_id"] in identities
        ]
        by, said = (dict(Counter(row[name] for row in rows)) for name in ("reviewer", "verdict"))
        found.append(Answers(manifest.node, campaign, by, said, about))
    return found


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

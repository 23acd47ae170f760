"""``fulcrum gc``: what of a store nobody needs any more, and its removal while runs go on.

Nothing is locked. A run says in its record that it uses a commit and then looks whether the commit is (still) there; cleaning
deletes a manifest and then looks who uses it, and puts it back if a run does. Whichever comes first, the run finds the
commit or makes it again, and its data are deleted only after that second look.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pyarrow.fs as pafs

from pipelines.commits import Commits, Place, place
from pipelines.dag.artifacts import Manifest, manifest_path, write_manifest
from pipelines.dag.records import RecordStore
from pipelines.dag.runs import Heartbeat, RunRecord, living
from pipelines.dag.store import Store
from pipelines.registered import Registered, commit_of
from stages import s3
from stages.review.spec import PEOPLE

Kind = Literal[
    "commit", "attempt", "shard", "run", "ledger", "heartbeat", "unfinished file", "unfinished upload", "work folder"
]
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp$")


@dataclass(frozen=True)
class Campaign:
    """A campaign of the review database: its gate's fingerprint ends in ``tail``."""

    id: str
    tail: str
    closed: bool


@dataclass(frozen=True)
class Policy:
    """``keep`` newest runs of each pipeline; nothing younger than ``grace_s`` seconds goes. ``now`` is seconds since 1970."""

    grace_s: float
    keep: int
    now: float = field(default_factory=time.time)

    @property
    def before(self) -> float:
        return self.now - self.grace_s


@dataclass(frozen=True)
class Garbage:
    """Something that nobody needs. ``path`` is relative to the store, or absolute for a local work folder."""

    kind: Kind
    path: str
    bytes: int
    age_s: float
    manifest: Manifest | None = None
    upload: s3.Upload | None = None


@dataclass
class Found:
    """Why each commit stays, and what may go."""

    kept: dict[Place, str]
    garbage: list[Garbage]
    live: set[str]


class Needs:
    """Who needs which commit: asked once for the list, and again after the manifests are gone."""

    def __init__(
        self,
        store: Store,
        policy: Policy,
        campaigns: Callable[[], Sequence[Campaign]],
        versions: Callable[[], Sequence[Registered]],
    ) -> None:
        self.store, self.policy, self.campaigns, self.versions = store, policy, campaigns, versions

    def waiting(self, commits: Commits) -> list[tuple[Campaign, RunRecord]]:
        """Campaigns whose gate is not committed, with the runs that ask them."""
        return [
            (campaign, run)
            for campaign in self.campaigns()
            for run in commits.runs
            for n in run.nodes
            if n.fingerprint and n.fingerprint.endswith(campaign.tail) and (n.name, n.fingerprint) not in commits.at
        ]

    def reasons(self, commits: Commits, live: set[str]) -> dict[Place, str]:
        """By commit the first reason why it stays; what is not in it may go."""
        kept: dict[Place, str] = {}

        def keep(manifests: Iterable[Manifest], why: str, *, ancestry: bool = True) -> None:
            some = list(manifests)
            for manifest in commits.ancestry(*some) if ancestry else some:
                kept.setdefault(place(manifest), why)

        for run in commits.runs:
            if run.run_id in live:
                keep(_of_run(commits, run), f"run {run.run_id} is at work")
        for one in self.versions():
            found = commit_of(commits, one)
            if found and one.aliases:
                keep([found[0]], f"registered: {one.shown}")
            elif found:
                keep([found[0]], f"registered: {one.shown}", ancestry=False)
        for campaign, run in self.waiting(commits):
            keep(_of_run(commits, run), f"campaign {campaign.id} waits")
        for run in _newest(commits.runs, self.policy.keep):
            keep(_of_run(commits, run), f"run {run.run_id} of {run.pipeline}")
        newest: dict[tuple[str, str], Manifest] = {}
        for run in commits.runs:
            newest.update({(run.pipeline, m.node): m for m in _of_run(commits, run)})
        keep(newest.values(), "the newest of its node")
        for manifest in commits.manifests:
            if _answered_by_people(manifest):
                keep([manifest], "people's answers", ancestry=False)
            if _seconds(manifest.started) + manifest.seconds > self.policy.before:
                keep([manifest], "younger than the grace period")
        return kept


def survey(needs: Needs, local: Path | None = None) -> Found:
    """What stays and why, and what may go; changes nothing. ``local`` is the folder beside the store."""
    store, before = needs.store, needs.policy.before
    live = living(store)
    commits = Commits(store)
    kept = needs.reasons(commits, live)
    garbage = [
        Garbage("commit", manifest_path(m.node, m.fingerprint), _size(m), needs.policy.now - _seconds(m.started), m)
        for m in commits.manifests
        if place(m) not in kept
    ]
    runs = _kept_runs(commits, kept, needs.policy, live) | {run.run_id for _, run in needs.waiting(commits)}
    named = {folder for m in commits.manifests for folder in _folders(m)}
    at_work = {n.fingerprint[:16] for run in commits.runs if run.run_id in live for n in run.nodes if n.fingerprint}
    aged: list[tuple[Kind, str]] = []
    for node in store.names("data"):
        for attempt in store.names(f"data/{node}"):
            if f"data/{node}/{attempt}" not in named and attempt.partition("-")[0] not in at_work:
                aged.append(("attempt", f"data/{node}/{attempt}"))
    aged += [("run", f"runs/{r.run_id}") for r in commits.runs if r.run_id not in runs]
    beats = [name.removesuffix(".json") for name in store.names("live") if name.endswith(".json")]
    aged += [("heartbeat", f"live/{key}.json") for key in beats if Heartbeat(store, key, "").owner() is None]
    aged += [("unfinished file", path) for path in _unfinished(store)]
    if not live:  # one may be about to name a ledger of old, or to read the small shards that a larger one stands for
        ledgers = {r.ledger.rpartition("/")[2] for r in commits.runs if r.run_id in runs and r.ledger}
        aged += [("ledger", f"ledgers/{name}") for name in store.names("ledgers") if name not in ledgers]
        for stage in store.names("records"):
            records = RecordStore(store, stage, tidy=False)
            aged += [("shard", f"records/{stage}/{name}") for name in records.replaced()]
    for kind, path in aged:
        size, newest = _extent(store, path)
        if newest < before:
            garbage.append(Garbage(kind, path, size, needs.policy.now - newest))
    garbage += _uploads(store, needs.policy)
    used = {n.fingerprint[:32] for r in commits.runs if r.run_id in runs for n in r.nodes if n.fingerprint}
    for name in sorted(set(store.names("work")) - used):
        size, newest = _extent(store, f"work/{name}")
        if newest < before:
            garbage.append(Garbage("work folder", f"work/{name}", size, needs.policy.now - newest))
    if local is not None:
        garbage += _work_folders(local, used, bool(live), needs.policy)
    return Found(kept, garbage, live)


def sweep(needs: Needs, found: Found, between: Callable[[], None] = lambda: None) -> list[Garbage]:
    """Remove what the survey found, but for what somebody has come to need since; returns what is gone.

    ``between`` is called after the manifests are deleted and before anybody is asked again: tests put a run there.
    """
    store = needs.store
    condemned = [one for one in found.garbage if one.manifest is not None]
    for one in condemned:
        store.delete(one.path)
    between()
    commits = Commits(store, also=[one.manifest for one in condemned if one.manifest])
    live = living(store)
    needed = needs.reasons(commits, live)
    gone = []
    for one in condemned:
        assert one.manifest is not None
        if place(one.manifest) in needed:
            write_manifest(store, one.manifest)
            continue
        for folder in _folders(one.manifest):
            store.delete(folder)
        gone.append(one)
    resumed = {str(n.fingerprint)[:32] for run in commits.runs if run.run_id in live for n in run.nodes}
    for one in found.garbage:
        if one.manifest is not None or (one.kind in ("shard", "ledger") and live) or Path(one.path).name in resumed:
            continue
        if one.upload is not None:
            s3.abort(store.uri, one.upload)
        elif Path(one.path).is_absolute():
            shutil.rmtree(one.path, ignore_errors=True)
        else:
            store.delete(one.path)
        gone.append(one)
    return gone


# -- who needs what ----------------------------------------------------------------------------------------------------


def _of_run(commits: Commits, run: RunRecord) -> list[Manifest]:
    places = [(n.name, n.fingerprint) for n in run.nodes if n.fingerprint]
    return [commits.at[where] for where in places if where in commits.at]


def _newest(runs: Sequence[RunRecord], keep: int) -> list[RunRecord]:
    by_pipeline: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_pipeline.setdefault(run.pipeline, []).append(run)
    return [run for some in by_pipeline.values() for run in some[-keep:]]


def _answered_by_people(manifest: Manifest) -> bool:
    return "decisions" in manifest.outputs and manifest.preimage.get("params", {}).get("reviewer", PEOPLE) == PEOPLE


def _kept_runs(commits: Commits, kept: Mapping[Place, str], policy: Policy, live: set[str]) -> set[str]:
    """Runs whose record stays: the newest, the young, the living, and those that made what stays."""
    found = {run.run_id for run in _newest(commits.runs, policy.keep)} | live
    found |= {m.run_id for m in commits.manifests if place(m) in kept}
    return found | {run.run_id for run in commits.runs if _seconds(run.started) > policy.before}


# -- what lies there ---------------------------------------------------------------------------------------------------


def _folders(manifest: Manifest) -> set[str]:
    """The folders of its attempts: ``data/<node>/<attempt>``."""
    paths = [output.path for output in manifest.outputs.values()]
    paths += [path for path in (manifest.ledger, manifest.metrics) if path]
    return {"/".join(path.split("/")[:3]) for path in paths}


def _size(manifest: Manifest) -> int:
    return sum(output.bytes for output in manifest.outputs.values())


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).replace(tzinfo=UTC).timestamp()


def _extent(store: Store, path: str) -> tuple[int, float]:
    """Bytes below a path and the time of its newest change, in seconds since 1970; 0 for what is gone already."""
    full = store.full(path)
    info = store.fs.get_file_info(full)
    if info.type == pafs.FileType.NotFound:
        return 0, 0.0
    files = [info]
    if info.type == pafs.FileType.Directory:
        files = store.fs.get_file_info(pafs.FileSelector(full, recursive=True, allow_not_found=True)) or [info]
    size = sum(f.size for f in files if f.is_file)
    return size, max((f.mtime_ns or 0) for f in files) / 1e9


def _unfinished(store: Store) -> list[str]:
    """What a process that was killed while it wrote has left beside the place; in ``data`` it goes with its attempt."""
    if not store.is_local:
        return []
    folders = [f"{top}/{name}" for top in ("stages", "runs", "records") for name in store.names(top)]
    return [
        f"{folder}/{name}"
        for folder in (*folders, "live", "takedowns")
        for name in (store.names(folder) if Path(store.full(folder)).is_dir() else [])
        if _TEMPORARY.search(name)
    ]


def _uploads(store: Store, policy: Policy) -> list[Garbage]:
    """Uploads in parts of processes that were killed: S3 shows no object and keeps the parts, at a price, for good."""
    if not store.uri.startswith("s3://"):
        return []
    old = [one for one in s3.unfinished(store.uri) if one.started < policy.before]
    prefix = store.root.partition("/")[2]
    return [
        Garbage(
            "unfinished upload", one.key[len(prefix) :].lstrip("/"), one.bytes, policy.now - one.started, upload=one
        )
        for one in old
    ]


def _work_folders(local: Path, used: set[str], busy: bool, policy: Policy) -> list[Garbage]:
    """Checkpoints of stages that no kept run speaks of, and scratch of processes that were killed."""
    folders = [p for p in (local / "work").glob("*") if p.name not in used]
    if not busy:
        folders += list((local / "scratch").glob("*"))
    found = []
    for folder in folders:
        stats = [p.stat() for p in (folder, *folder.rglob("*"))]
        newest = max(s.st_mtime for s in stats)
        if newest < policy.before:
            size = sum(s.st_size for s in stats)
            found.append(Garbage("work folder", str(folder.absolute()), size, policy.now - newest))
    return found


def campaigns_of(database_url: str) -> list[Campaign]:
    """Campaigns of a review database that gates have made; none where there is no database yet."""
    import sqlalchemy as sa

    from stages.review import schema
    from stages.review.database import open_database

    if database_url.startswith("sqlite:///") and not Path(database_url.removeprefix("sqlite:///")).exists():
        return []
    opened = open_database(database_url)
    try:
        with opened.read() as connection:
            rows = connection.execute(sa.select(schema.campaign.c.id, schema.campaign.c.state)).all()
    finally:
        opened.close()
    tails = [(row.id, row.id.rpartition("-")[2], row.state == "closed") for row in rows]
    return [Campaign(*one) for one in tails if re.fullmatch(r"[0-9a-f]{24}", one[1])]

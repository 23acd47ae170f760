"""Analyses a few files in a worker: hashes them, decodes them in a guarded process, and commits what was found."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from stages.contract import Shards
from stages.machine import MachineFailure, folder_lost, is_ffmpeg, machine_failure
from stages.spool import LocalFile, local_copy

if TYPE_CHECKING:
    import numpy as np

    from models.video.analyze import Analysis, Shot

IDENTITY = "identity"
FACTS, SHOTS, KEYFRAMES = "facts", "shots", "keyframes"
CONTENT = (FACTS, SHOTS, KEYFRAMES)

STR, I64, I32, F64 = pa.string(), pa.int64(), pa.int32(), pa.float64()

_KEY = ("record_key", STR)
TABLES: dict[str, pa.Schema] = {
    IDENTITY: pa.schema([_KEY, ("sha256", STR)]),
    FACTS: pa.schema(
        [_KEY, ("duration_s", F64), ("fps", F64), ("width", I32), ("height", I32), ("codec", STR), ("rotation", I32),
         ("frames", I64), ("decode_errors", I64), ("time_faults", I64)]
    ),
    SHOTS: pa.schema(
        [_KEY, ("shot", I32), ("start_frame", I64), ("end_frame", I64), ("start_s", F64), ("end_s", F64),
         ("boundary_in", STR), ("boundary_out", STR)]
    ),
    KEYFRAMES: pa.schema([_KEY, ("shot", I32), ("position", F64), ("time_s", F64), ("jpeg", pa.large_binary())]),
}  # fmt: skip
FAILED = pa.schema([_KEY, ("sha256", STR), ("attempt", I32), ("error_type", STR), ("error_message", STR)])

_COMMIT_S = 30.0  # seconds of work that a worker may lose in a crash, beside the file it is at

_UNFORESEEN = 5  # files in a row that may end in an error which no part of the analysis announces


def scorer_group(name: str) -> str:
    return f"scorer:{name}"


def failed_group(group: str) -> str:
    """Failures have a group of their own, so that a later success is simply there and needs no deletion."""
    return f"failed:{group}"


@dataclass(frozen=True)
class Item:
    """A file to work on. ``sha256`` is None where its content is not known yet; ``groups`` are those that are missing."""

    video_id: str
    uri: str
    media_type: str
    identity: str
    sha256: str | None
    groups: tuple[str, ...]
    shots: tuple[Shot, ...] | None = None
    attempt: int = 1


@dataclass(frozen=True)
class Outcome:
    """How a file ended: its content key (None when it could not be read), the footage that was decoded, its failure, if any."""

    video_id: str
    sha256: str | None
    seconds: float
    error_type: str | None = None
    error_message: str | None = None
    footage_s: float = 0.0


@dataclass(frozen=True)
class Known:
    """Content that needs no decoding, as 64-bit prefixes of sha256: for a new file that turns out to be a copy.

    A wrong yes (once in 10^7 runs of a million files) is caught by the stage, which looks again with whole keys.
    """

    prefixes: np.ndarray

    @staticmethod
    def of(keys: Sequence[str]) -> Known:
        import numpy as np

        return Known(np.sort(np.array([int(key[:16], 16) for key in keys], np.uint64)))

    def __contains__(self, sha256: str) -> bool:
        import numpy as np

        value = np.uint64(int(sha256[:16], 16))
        at = int(np.searchsorted(self.prefixes, value))
        return at < len(self.prefixes) and self.prefixes[at] == value


@dataclass(frozen=True)
class Work:
    """What every file of a run is analysed with."""

    scorers: Mapping[str, str]  # scorer name -> built-in name or package.module:Class
    columns: Mapping[str, tuple[str, ...]]  # scorer name -> its columns
    shot_params: Mapping[str, Any]
    max_pixels: int
    limit_s: float
    stall_s: float
    memory_bytes: int


@dataclass
class _Found:
    """Rows gathered for one commit: the keys done in exactly these groups."""

    keys: list[str] = field(default_factory=list)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class AnalyzeActor:
    """``actor(items) -> outcomes``; one file's failure is its outcome, the machine's failure is an exception."""

    def __init__(self, work: Work, shards: Shards, known: Known) -> None:
        from models.video.guard import Guard, Limits

        self.work, self.shards, self.known = work, shards, known
        self.fresh: dict[str, dict[str, str]] = {}  # content this actor has worked on, with its failure if any
        self.unforeseen = 0
        self.guard = Guard(Limits(work.limit_s, work.stall_s, work.memory_bytes))

    def close(self) -> None:
        self.guard.close()

    def __call__(self, items: Sequence[Item]) -> list[Outcome]:
        found: dict[tuple[str, ...], _Found] = {}
        outcomes: list[Outcome] = []
        committed = time.monotonic()
        try:
            for item in items:
                outcomes.append(self._one(item, found))
                if time.monotonic() - committed > _COMMIT_S:
                    self._commit(found)
                    committed = time.monotonic()
        finally:  # what was finished before the machine failed is kept, if the store still takes it
            self._commit(found)
        return outcomes

    def _commit(self, found: dict[tuple[str, ...], _Found]) -> None:
        # identities last: a crash between the commits costs hashing again, never a decode
        for groups in sorted(found, key=lambda g: g == (IDENTITY,)):
            batch = found[groups]
            # popped, so that a film's key frames are not held as rows and as a table
            tables = {g: self._table(g, batch.rows.pop(g, [])) for g in groups}
            self.shards.commit(tables, batch.keys)
        found.clear()

    def _table(self, group: str, rows: list[dict[str, Any]]) -> pa.Table:
        if group.startswith("failed:"):
            return pa.Table.from_pylist(rows, schema=FAILED)
        if group in TABLES:
            return pa.Table.from_pylist(rows, schema=TABLES[group])
        columns = self.work.columns[group.removeprefix("scorer:")]
        schema = pa.schema([_KEY, ("shot", I32), *((name, F64) for name in columns)])
        return pa.Table.from_pylist(rows, schema=schema)

    # -- one file ------------------------------------------------------------------------------------------------------

    def _one(self, item: Item, found: dict[tuple[str, ...], _Found]) -> Outcome:
        from models.video.analyze import file_sha256

        started = time.monotonic()
        sha = item.sha256
        groups = item.groups
        try:
            with local_copy(item.uri) as local:
                path = local.path
                before = _mark(path)
                _check_listed(item, local, before)
                if sha is None:
                    sha = local.sha256 or file_sha256(path)
                    if sha in self.known or sha in self.fresh:
                        _verify(path, before, None)
                        _identify(found, item, sha)
                        return Outcome(
                            item.video_id, sha, time.monotonic() - started, footage_s=0.0, **self.fresh.get(sha, {})
                        )
                try:
                    analysis, groups = self._analyze(item, path, groups)
                except _Quarantined as failure:
                    # a file that fails must be the file that was hashed, and readable: else it is the storage that failed
                    _verify(path, before, sha)
                    told = {"error_type": failure.kind, "error_message": failure.message}
                    row = {"sha256": sha, "attempt": item.attempt, **told}
                    _identify(found, item, sha)
                    _add(found, (failed_group(FACTS),), f"{sha}#{item.attempt}", {failed_group(FACTS): [row]})
                    self.fresh[sha] = told
                    return Outcome(item.video_id, sha, time.monotonic() - started, footage_s=0.0, **told)
                _verify(path, before, sha if analysis and analysis.facts.decode_errors else None)
                _identify(found, item, sha)
                footage_s = self._keep(analysis, item, sha, groups, found)
                self.fresh[sha] = {}
        except (OSError, MemoryError) as error:
            stop = machine_failure(error, f"while analysing {item.uri}") or folder_lost(error, item.uri)
            if stop is not None:
                raise stop from error
            message = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
            return Outcome(item.video_id, None, time.monotonic() - started, type(error).__name__, message)
        return Outcome(item.video_id, sha, time.monotonic() - started, footage_s=footage_s)

    def _analyze(self, item: Item, path: Path, groups: tuple[str, ...]) -> tuple[Analysis | None, tuple[str, ...]]:
        """What the guarded process finds in the file and the groups it fills; None for a photograph that only lacks scores."""
        from models.video.analyze import ShotsChangedError

        if item.media_type == "image" and not set(groups) & set(CONTENT):
            return None, groups
        try:
            return self._guarded(item, path, groups, item.shots), groups
        except ShotsChangedError:
            # another release of the decoder counts other frames: everything that rests on them is made anew
            groups = (*CONTENT, *(scorer_group(name) for name in self.work.scorers))
            return self._guarded(item, path, groups, None), groups

    def _guarded(self, item: Item, path: Path, groups: tuple[str, ...], shots: tuple[Shot, ...] | None) -> Analysis:
        from models.video.analyze import ShotsChangedError
        from models.video.guard import GuardedFailure, WorkerStartError
        from models.video.reader import UndecodableError

        names = [g.removeprefix("scorer:") for g in groups if g.startswith("scorer:")]
        arguments = {
            "path": str(path),
            "media_type": item.media_type,
            "scorers": [self.work.scorers[name] for name in names],
            "shots": shots,
            "shot_params": dict(self.work.shot_params),
            "keyframes": KEYFRAMES in groups,
            "max_pixels": self.work.max_pixels,
        }
        try:
            result: Analysis = self.guard.call("models.video.analyze:analyze_request", arguments)
            self.unforeseen = 0
            return result
        except (GuardedFailure, UndecodableError) as error:
            self.unforeseen = 0
            raise _Quarantined(type(error).__name__, str(error)) from error
        except WorkerStartError as error:
            raise MachineFailure(f"{error}. What was finished is kept; run again.") from error
        except ShotsChangedError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and not is_ffmpeg(error):
                raise
            # a file that nobody foresaw must not stop the run for all the others; a defect that meets every file must
            self.unforeseen += 1
            if self.unforeseen >= _UNFORESEEN:
                raise
            where = "".join(f" (at {note})" for note in getattr(error, "__notes__", ()))
            raise _Quarantined(type(error).__name__, f"analysing it ended unexpectedly: {error}{where}") from error

    def _keep(
        self,
        analysis: Analysis | None,
        item: Item,
        sha: str,
        groups: tuple[str, ...],
        found: dict[tuple[str, ...], _Found],
    ) -> float:
        """Add what was found to the next commit; returns the seconds of footage."""
        if analysis is None:
            _add(found, groups, sha, {})  # a photograph has no shots, so every scorer is done with it
            return 0.0
        rows, failed = _rows(analysis, item, groups)
        done = tuple(g for g in groups if g not in failed)
        _add(found, done, sha, rows)
        for group, message in failed.items():
            kind, _, text = message.partition(": ")
            failure = {"sha256": sha, "attempt": item.attempt, "error_type": kind, "error_message": text or kind}
            _add(found, (failed_group(group),), f"{sha}#{item.attempt}", {failed_group(group): [failure]})
        return analysis.facts.duration_s if item.media_type == "video" else 0.0


def _rows(
    analysis: Analysis, item: Item, groups: tuple[str, ...]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """The analysis as rows by group, and the groups whose scorer failed with what it said."""
    rows: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    for group in groups:
        if group == FACTS:
            facts = analysis.facts
            rows[group] = [{name: getattr(facts, name) for name in TABLES[FACTS].names[1:]}]
        elif group == SHOTS:
            rows[group] = [
                {"shot": n, **{name: getattr(shot, name) for name in TABLES[SHOTS].names[2:]}}
                for n, shot in enumerate(analysis.shots)
            ]
        elif group == KEYFRAMES:
            rows[group] = [
                {"shot": n, "position": k.position, "time_s": k.time_s, "jpeg": k.jpeg}
                for n, frames in enumerate(analysis.keyframes)
                for k in frames
            ]
        else:
            name = group.removeprefix("scorer:")
            if name in analysis.score_errors:
                failed[group] = analysis.score_errors[name]
            else:
                rows[group] = [{"shot": n, **row} for n, row in enumerate(analysis.scores.get(name, []))]
    return rows, failed


def _add(
    found: dict[tuple[str, ...], _Found], groups: tuple[str, ...], key: str, rows: Mapping[str, list[dict[str, Any]]]
) -> None:
    """Add a record's rows to the commit of its groups; a key that is already there (a copy) is not added twice."""
    if not groups:
        return
    batch = found.setdefault(groups, _Found())
    if key in batch.keys:
        return
    batch.keys.append(key)
    for group in groups:
        batch.rows.setdefault(group, []).extend({"record_key": key, **row} for row in rows.get(group, []))


# -- failures and places ---------------------------------------------------------------------------------------------


class _Quarantined(Exception):
    """A file failed; ``kind`` and ``message`` go into the ledger."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def _identify(found: dict[tuple[str, ...], _Found], item: Item, sha256: str) -> None:
    """Record the content of a file that was read for the first time, once it is certain that it is the file that was listed."""
    if item.sha256 is None:
        _add(found, (IDENTITY,), item.identity, {IDENTITY: [{"sha256": sha256}]})


def _check_listed(item: Item, local: LocalFile, mark: tuple[int, int]) -> None:
    """Raise ``OSError`` for a file that was replaced after it was listed: what is found in it is not what its record is about."""
    if local.sha256 is not None:
        same = item.sha256 in (None, local.sha256)
    else:
        same = item.identity == ":".join(map(str, (item.video_id, *mark)))
    if not same:
        raise OSError("it changed since it was listed; run again")


def _mark(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _verify(path: Path, before: tuple[int, int], sha256: str | None) -> None:
    """Raise ``OSError`` where a file is not what it was when work on it began, or can no longer be read.

    With ``sha256`` it is read again: to a decoder a disk that fails looks like a damaged file, and damage is remembered.
    """
    from models.video.analyze import file_sha256

    if _mark(path) != before or (sha256 is not None and file_sha256(path) != sha256):
        raise OSError("it changed while it was being read; is it still being written?")

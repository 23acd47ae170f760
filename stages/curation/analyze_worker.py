"""Analyses a few files in a worker: hashes them, decodes them in a guarded process, and commits what was found."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from stages.contract import Shards, StageError

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

# What says that the machine or its storage is in trouble, not the file: the run stops, and goes on later where it was.
_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.EMFILE,
    errno.ENFILE,
}


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
    """How a file ended: its content key (None when it could not be read) and its failure, if any."""

    video_id: str
    sha256: str | None
    seconds: float
    error_type: str | None = None
    error_message: str | None = None


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
        self.guard = Guard(Limits(work.limit_s, work.stall_s, work.memory_bytes))

    def close(self) -> None:
        self.guard.close()

    def __call__(self, items: Sequence[Item]) -> list[Outcome]:
        found: dict[tuple[str, ...], _Found] = {}
        outcomes = [self._one(item, found) for item in items]
        # identities last: a crash between the commits costs hashing again, never a decode
        for groups in sorted(found, key=lambda g: g == (IDENTITY,)):
            batch = found[groups]
            tables = {g: self._table(g, batch.rows.get(g, [])) for g in groups}
            self.shards.commit(tables, batch.keys)
        return outcomes

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
            with _local(item.uri) as path:
                if sha is None:
                    sha = file_sha256(path)
                    _add(found, (IDENTITY,), item.identity, {IDENTITY: [{"sha256": sha}]})
                    if sha in self.known or sha in self.fresh:
                        return Outcome(item.video_id, sha, time.monotonic() - started, **self.fresh.get(sha, {}))
                self._decode(item, sha, path, groups, found)
                self.fresh[sha] = {}
        except (StageError, MemoryError):
            raise
        except OSError as error:
            _stop_if_machine(error, item.uri)
            message = f"the file cannot be read: {error.strerror or error}"
            return Outcome(item.video_id, None, time.monotonic() - started, type(error).__name__, message)
        except Exception as error:
            if not _is_record_failure(error):
                raise
            failure = {"sha256": sha, "attempt": item.attempt, **_error(error)}
            _add(found, (failed_group(FACTS),), f"{sha}#{item.attempt}", {failed_group(FACTS): [failure]})
            self.fresh[str(sha)] = _error(error)
            return Outcome(item.video_id, sha, time.monotonic() - started, **_error(error))
        return Outcome(item.video_id, sha, time.monotonic() - started)

    def _decode(
        self, item: Item, sha: str, path: Path, groups: tuple[str, ...], found: dict[tuple[str, ...], _Found]
    ) -> None:
        from models.video.analyze import ShotsChangedError

        if item.media_type == "image" and not set(groups) & set(CONTENT):
            _add(found, groups, sha, {})  # a photograph has no shots, so every scorer is done with it
            return
        try:
            analysis = self._analyze(item, path, groups, item.shots)
        except ShotsChangedError:
            # another release of the decoder counts other frames: everything that rests on them is made anew
            groups = (*CONTENT, *(scorer_group(name) for name in self.work.scorers))
            analysis = self._analyze(item, path, groups, None)
        rows, failed = _rows(analysis, item, groups)
        done = tuple(g for g in groups if g not in failed)
        _add(found, done, sha, rows)
        for group, message in failed.items():
            kind, _, text = message.partition(": ")
            failure = {"sha256": sha, "attempt": item.attempt, "error_type": kind, "error_message": text or kind}
            _add(found, (failed_group(group),), f"{sha}#{item.attempt}", {failed_group(group): [failure]})

    def _analyze(self, item: Item, path: Path, groups: tuple[str, ...], shots: tuple[Shot, ...] | None) -> Analysis:
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
        result: Analysis = self.guard.call("models.video.analyze:analyze_request", arguments)
        return result


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


def _is_record_failure(error: Exception) -> bool:
    from models.video.guard import GuardedFailure
    from models.video.reader import UndecodableError

    return isinstance(error, UndecodableError | GuardedFailure)


def _error(error: Exception) -> dict[str, str]:
    return {"error_type": type(error).__name__, "error_message": str(error)}


def _stop_if_machine(error: OSError, uri: str) -> None:
    if error.errno in _MACHINE:
        raise StageError(
            f"while analysing {uri}: {error.strerror}. This is a failure of the machine or its storage, not of the file; "
            "what was finished is kept. Mend it and run again."
        ) from error
    if "://" not in uri and isinstance(error, FileNotFoundError) and not Path(uri).parent.is_dir():
        raise StageError(
            f"the folder {Path(uri).parent} is gone while its files are being analysed. Is the storage mounted? "
            "What was finished is kept; run again when it is back, or run with the source as it is now."
        ) from error


@contextlib.contextmanager
def _local(uri: str) -> Iterator[Path]:
    """The file on this machine: itself, or for a remote one a copy that is deleted after use."""
    if "://" not in uri:
        yield Path(uri)
        return
    import pyarrow.fs as pafs

    filesystem, inside = pafs.FileSystem.from_uri(uri)
    handle, name = tempfile.mkstemp(prefix="fulcrum-", suffix=Path(inside).suffix)
    try:
        with os.fdopen(handle, "wb") as out, filesystem.open_input_stream(inside, compression=None) as stream:
            while chunk := stream.read(1 << 20):
                out.write(chunk)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)

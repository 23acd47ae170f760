"""Cuts and encodes the clips of one video in a worker, in one pass, and commits each file's bytes as a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from stages.contract import Shards, StageError
from stages.curation.unchanged import changed
from stages.machine import machine_failure
from stages.spool import LocalFile, local_copy

if TYPE_CHECKING:
    from models.video.encode import EncodedInfo, Encoding

Failures = dict[str, dict[str, str]]
# Further columns of a record, each made of the finished file. Raises ``ValueError`` for a file it can make nothing of.
Also = Mapping[str, Callable[[Path], bytes]]

# What a worker that is killed may lose, and what it holds in memory.
_COMMIT_S = 30.0
_COMMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Span:
    """A clip to cut: the key of its record, its frames, and their instants in seconds as the analysis measured them."""

    key: str
    start_frame: int
    end_frame: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class VideoCuts:
    """Clips of one source. ``sha256``, ``bytes`` and ``mtime_ns`` are those of the file that was analysed, null where not known."""

    uri: str
    sha256: str | None
    bytes: int
    mtime_ns: int | None
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class CutOutcome:
    """What became of the clips of one video: how many there were, the seconds that were encoded, failures by record key."""

    clips: int
    footage_s: float
    failed: Failures


class CutActor:
    """``actor(video) -> outcome``; what could be cut is committed to the column group ``group``."""

    def __init__(self, encoding: Encoding, shards: Shards, group: str, scratch: str, also: Also) -> None:
        self.encoding, self.shards, self.group, self.also = encoding, shards, group, also
        self.scratch = Path(scratch)

    def __call__(self, video: VideoCuts) -> CutOutcome:
        from models.video.cut import Cut, cut_clips
        from models.video.encode import EncodedInfo, EncodeError
        from models.video.reader import UndecodableError

        self.scratch.mkdir(parents=True, exist_ok=True)  # a worker may run on another machine than the driver
        failed: Failures = {}
        footage_s = 0.0
        ready = _Ready(self.shards, self.group, tuple(self.also))
        cuts = [
            Cut(s.start_frame, s.end_frame, self.scratch / f"{s.key[:32]}{self.encoding.suffix}", s.start_s, s.end_s)
            for s in video.spans
        ]
        left = {span.key for span in video.spans}
        try:
            with local_copy(video.uri) as local:
                _check_unchanged(video, local)
                for number, result in cut_clips(local.path, cuts, self.encoding):
                    key, out = video.spans[number].key, cuts[number].out
                    left.discard(key)
                    if not isinstance(result, EncodedInfo):
                        failed[key] = _told(result, str(local.path), video.uri)
                        continue
                    try:
                        row = _record(key, result, out, self.also)
                    except ValueError as error:
                        failed[key] = _told(error, "", "")
                    else:
                        ready.add(row)
                        footage_s += result.duration_s
                    out.unlink()
        except (UndecodableError, EncodeError, StageError, OSError, MemoryError) as error:
            stop = error if isinstance(error, StageError) else machine_failure(error, f"while cutting {video.uri}")
            if stop is not None:
                raise stop from error
            failed |= dict.fromkeys(left, _told(error, "", ""))
        finally:  # what was finished is kept, whatever happened to the rest
            ready.commit()
        return CutOutcome(len(video.spans), footage_s, failed)


class _Ready:
    """Encoded clips on their way into a shard."""

    def __init__(self, shards: Shards, group: str, also: Sequence[str]) -> None:
        self.shards, self.group = shards, group
        self._schema = pa.schema([*RECORD, *(pa.field(name, pa.large_binary()) for name in also)])
        self._rows: list[dict[str, Any]] = []
        self._bytes, self._since = 0, time.monotonic()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += sum(len(value) for value in row.values() if isinstance(value, bytes))
        if self._bytes > _COMMIT_BYTES or time.monotonic() - self._since > _COMMIT_S:
            self.commit()

    def commit(self) -> None:
        if self._rows:
            table = pa.Table.from_pylist(self._rows, self._schema)
            self.shards.commit({self.group: table}, [row["record_key"] for row in self._rows])
        self._rows, self._bytes, self._since = [], 0, time.monotonic()


RECORD = pa.schema(
    [("record_key", pa.string()), ("content", pa.large_binary()), ("frames", pa.int64()), ("fps", pa.float64()),
     ("width", pa.int32()), ("height", pa.int32()), ("sound", pa.bool_())]
)  # fmt: skip


def _record(key: str, info: EncodedInfo, file: Path, also: Also) -> dict[str, Any]:
    made = {name: make(file) for name, make in also.items()}
    facts = {name: getattr(info, name) for name in ("frames", "fps", "width", "height", "sound")}
    return {"record_key": key, "content": file.read_bytes(), **made, **facts}


def _check_unchanged(video: VideoCuts, local: LocalFile) -> None:
    from models.video.encode import EncodeError

    if changed(local, video.sha256, video.bytes, video.mtime_ns):
        raise EncodeError(f"{video.uri} changed since it was analysed; run the pipeline again")


def _told(error: Exception, path: str, uri: str) -> dict[str, str]:
    message = str(error).replace(path, uri) if path else str(error)
    return {"error_type": type(error).__name__, "error_message": message}

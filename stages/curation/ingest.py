"""Lists a source: one row per file that is a video or an image, with the caption and licence that came with it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.ids import video_id
from data_schemas.tables import LEDGER, SOURCES
from models.video.sniff import HEAD_BYTES, media_type_of_head, media_type_of_name
from stages.contract import Context, Params, RetryableError, StageError, Table, World, stage
from stages.curation.columns import CHUNK, Rows
from stages.curation.gone import TAKEN_DOWN, Register, outside, say_rejected, write_gone
from stages.curation.ledgers import ledger_table
from stages.curation.listing import FILES, PROBLEMS, Listing, list_source
from stages.curation.tar_source import (
    Refused,
    is_compressed_tar,
    is_tar,
    member_uri,
    members,
    open_member,
    split_member_uri,
)
from stages.location import in_threads, is_remote, open_location, why_not
from stages.machine import MachineFailure, machine_failure
from stages.retried import retried

SIDECAR_BYTES = 1 << 20  # a caption longer than 1 MiB is some other file that happens to share the name
_SIDECARS = (".json", ".txt")  # the text file last: it holds the caption and nothing else
_NO_MEDIA = (".txt", ".json", ".jsonl", ".csv", ".parquet", ".md")
_LOCAL_THREADS = 4
_OWN = {"path", "uri", "bytes", "mtime_ns", "media_type", "caption", "licence", "license", *_SIDECARS}


class IngestParams(Params):
    """``source_name`` enters every video_id; empty takes the last part of the source's path."""

    source_name: str = ""


def _world(params: IngestParams, world: World) -> Mapping[str, str]:
    listing = list_source(world.source)
    records = world.records("ingest") if world.records else None
    past = outside(records, params.source_name or listing.name, listing.files.column("path"), world.taken_down)
    return {"listing": listing.digest(), "limit": str(world.limit), **past}


@stage(
    name="ingest",
    version="2",
    params=IngestParams,
    outputs={"sources": Table(SOURCES), "removed": Table(SOURCES)},
    world=_world,
)
def ingest(ctx: Context, params: IngestParams) -> None:
    """List the source and carry along captions, licences and further columns, from sidecars or the list itself.

    Files that are neither video nor image are counted and get no row; what is listed but cannot be used ends in the ledger
    as failed. Tars give a row for each of their members. ``limit`` takes the first media files by path.

    Files that were listed before and are gone make the table ``removed``. Videos that were taken down are left out.
    """
    listing = list_source(ctx.world.source)
    name = params.source_name or listing.name
    register = Register(ctx.records, name)
    taken_down = pa.array(sorted(ctx.world.taken_down), pa.string())
    seen = _Seen(hidden=listing.hidden)
    met = [taken_down]
    total = 0
    for media in _gathered(_limited(_media(listing, seen), ctx.world.limit)):
        for start in range(0, media.num_rows, CHUNK):
            rows = _rows(ctx, media.slice(start, CHUNK), listing.is_list)
            table = SOURCES.table([{"video_id": video_id(name, row["path"]), **row} for row in rows])
            met.append(table.column("video_id").combine_chunks())
            out = pc.is_in(table.column("video_id"), value_set=taken_down)
            say_rejected(ctx, table.column("video_id").filter(out), TAKEN_DOWN)
            total += table.num_rows
            table = table.filter(pc.invert(out))
            register.add(table)
            ctx.write("sources", table)
            ids = table.column("video_id")
            ctx.ledger(ledger_table(ctx.name, ids, "accepted", video_id=ids))
    problems = pa.concat_tables([listing.problems, seen.problems.table()])
    if not total:
        first = f" The first: {problems.column('path')[0]}: {problems.column('message')[0]}." if len(problems) else ""
        raise StageError(
            f"the source {ctx.world.source} holds no video and no image ({sum(seen.ignored.values())} other files, "
            f"{seen.hidden} hidden, {len(problems)} that cannot be used). Check --source.{first}"
        )
    gone = register.without(listing.files.column("path"))
    if ctx.world.limit is None:
        gone = register.rows.filter(
            pc.invert(pc.is_in(register.rows.column("record_key"), value_set=pa.concat_arrays(met)))
        )
        # what cannot be read is not gone, nor is what lies in a tar that cannot be read
        unusable = problems.column("path").combine_chunks()
        gone = gone.filter(pc.invert(pc.is_in(gone.column("path"), value_set=unusable)))
        in_unusable = pc.is_in(gone.column("file"), value_set=unusable)
        problems = pa.concat_tables([problems, _unreachable(gone.filter(in_unusable))])
        gone = gone.filter(pc.invert(in_unusable))
    removed = write_gone(ctx, gone)
    for batch in problems.to_batches(max_chunksize=CHUNK):
        ctx.ledger(_failures(ctx, name, batch.to_pylist()))
    ctx.event(
        "listed",
        source=ctx.world.source,
        media=total,
        failed=len(problems),
        removed=removed,
        hidden=seen.hidden,
        ignored=dict(sorted(seen.ignored.items())),
    )


@dataclass
class _Seen:
    """What was met on the way and is no row of the sources."""

    hidden: int
    ignored: Counter[str] = field(default_factory=Counter)
    problems: Rows = field(default_factory=lambda: Rows(PROBLEMS))


def _unreachable(members: pa.Table) -> pa.Table:
    """Problems of what was listed before in a tar that cannot be read any more, or not to its end."""
    message = "it was listed in this tar before, and the tar can no longer be read so far"
    columns = [members.column("path"), pa.repeat("DamagedTar", members.num_rows), pa.repeat(message, members.num_rows)]
    return pa.Table.from_arrays(columns, schema=PROBLEMS)


def _failures(ctx: Context, name: str, problems: list[dict[str, Any]]) -> pa.Table:
    rows: list[dict[str, object]] = []
    for problem in problems:
        record = video_id(name, problem["path"])
        error = {"error_type": problem["error_type"], "error_message": f"{problem['path']}: {problem['message']}"}
        rows.append(
            {"record_id": record, "video_id": record, "stage": ctx.name, "status": "failed", "attempts": 1, **error}
        )
    return LEDGER.table(rows)


# -- what is video or image --------------------------------------------------------------------------------------------


def _limited(parts: Iterator[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    left = math.inf if limit is None else limit
    for part in parts:
        part = part if left >= part.num_rows else part.slice(0, int(left))
        if part.num_rows:
            yield part
        left -= part.num_rows
        if left <= 0:
            return


def _gathered(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in larger tables: a thousand small tars must not become a thousand files and records."""
    waiting: list[pa.Table] = []
    for part in parts:
        waiting.append(part)
        if sum(table.num_rows for table in waiting) >= CHUNK:
            yield pa.concat_tables(waiting, promote_options="default")
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting, promote_options="default")


def _media(listing: Listing, seen: _Seen) -> Iterator[pa.Table]:
    """The files that are video or image, in the order of their paths: with columns media_type and, beside a list, sidecar URIs."""
    files = listing.files
    if not listing.is_list:
        files = _with_sidecars(files)
    for batch in files.to_batches(max_chunksize=CHUNK):
        part = pa.Table.from_batches([batch])
        tars = [n for n, path in enumerate(part.column("path").to_pylist()) if is_tar(path)]
        start = 0
        for at in [*tars, part.num_rows]:
            yield _of_kind(part.slice(start, at - start), seen)
            if at < part.num_rows:
                yield from _of_tar(part.slice(at, 1), seen)
            start = at + 1


def _of_kind(files: pa.Table, seen: _Seen) -> pa.Table:
    """These files that are video or image; by name, else by their first bytes."""
    paths, uris = files.column("path").to_pylist(), files.column("uri").to_pylist()
    kinds: list[str | None] = [media_type_of_name(path) for path in paths]
    unsure = [
        n
        for n, (path, kind) in enumerate(zip(paths, kinds, strict=True))
        if kind is None and not path.lower().endswith(_NO_MEDIA) and not is_compressed_tar(path)
    ]
    failed = set()
    for n, head in zip(unsure, in_threads(_head, (uris[n] for n in unsure), _threads(uris)), strict=True):
        if isinstance(head, bytes):
            kinds[n] = media_type_of_head(head)
        else:
            failed.add(n)
            seen.problems.add(paths[n], type(head).__name__, f"cannot be read: {why_not(uris[n], head)}")
    for n, (path, kind) in enumerate(zip(paths, kinds, strict=True)):
        if is_compressed_tar(path):
            seen.problems.add(
                path, "CompressedTar", "a compressed tar cannot be read by parts; unpack it to a plain .tar"
            )
        elif kind is None and n not in failed:
            seen.ignored[_suffix(path)] += 1
    files = files.append_column("media_type", pa.array(kinds, pa.string()))
    return files.filter(pc.is_valid(files.column("media_type")))


def _of_tar(row: pa.Table, seen: _Seen) -> Iterator[pa.Table]:
    """The media in the tar of this one row; its further columns hold for every member."""
    [tar] = row.to_pylist()
    found, names = Rows(FILES), Counter[str]()
    try:
        for member in members(tar["uri"]):
            if isinstance(member, Refused):
                where = f"{tar['path']}/{member.name}" if member.name else tar["path"]
                seen.problems.add(where, member.error_type, member.message)
            elif any(part.startswith(".") for part in member.name.split("/")):
                seen.hidden += 1
            else:
                names[member.name] += 1
                path = f"{tar['path']}/{member.name}"
                found.add(path, member_uri(tar["uri"], member), member.bytes, tar["mtime_ns"])
    except OSError as error:
        failure = machine_failure(error)
        if failure is not None:
            raise failure from error
        seen.problems.add(tar["path"], type(error).__name__, why_not(tar["uri"], error))
        return
    inside = found.table()
    twice = pa.array([f"{tar['path']}/{name}" for name, count in names.items() if count > 1], pa.string())
    for path in twice.to_pylist():
        seen.problems.add(path, "RepeatedName", "the tar holds more than one file of this name; name each once")
    inside = inside.filter(pc.invert(pc.is_in(inside.column("path"), value_set=twice))).sort_by("path")
    inside = _with_sidecars(inside)
    for name in row.column_names:
        if name not in inside.column_names:
            inside = inside.append_column(row.schema.field(name), pa.repeat(row.column(name)[0], inside.num_rows))
    yield _of_kind(inside, seen)


def _with_sidecars(files: pa.Table) -> pa.Table:
    """Columns ``.json`` and ``.txt``: the URI of the file of that suffix beside each file, null where there is none.

    Beside means the same name up to its last dot, or, as WebDataset has it, up to the first dot of its last part.
    """
    path, uri = files.column("path"), files.column("uri")
    for suffix in _SIDECARS:
        at = None
        for rest in (r"\.[^./]*$", r"\.[^/]*$"):
            candidate = pc.binary_join_element_wise(pc.replace_substring_regex(path, rest, ""), suffix, "")
            found = pc.index_in(candidate, value_set=path.combine_chunks())
            at = found if at is None else pc.coalesce(at, found)
        files = files.append_column(suffix, uri.combine_chunks().take(at))
    return files


def _suffix(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return "." + name.rsplit(".", 1)[1].lower() if "." in name else "(no extension)"


def _threads(uris: list[str]) -> int:
    return 32 if any(is_remote(uri) for uri in uris[:1]) else _LOCAL_THREADS


def _head(uri: str, most: int = HEAD_BYTES) -> bytes | Exception:
    """The first ``most`` bytes of a file or of a member of a tar, or why they cannot be read.

    Raises where the machine or the storage is in trouble: that says nothing of the file.
    """

    def read() -> bytes:
        member = split_member_uri(uri)
        if member is not None:
            with open_member(*member) as stream:
                return bytes(stream.read(min(most, member[1].bytes)))
        filesystem, path = open_location(uri)
        with filesystem.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read(most))

    try:
        return retried(read)
    except (OSError, StageError) as error:
        failure = machine_failure(error)
        if failure is not None:
            raise failure from error
        return error


# -- rows ------------------------------------------------------------------------------------------------------------


def _rows(ctx: Context, media: pa.Table, from_list: bool) -> list[dict[str, Any]]:
    """Rows of the table of sources. What a sidecar says comes before what the list says of the whole tar it lies in."""
    rows = []
    listed = media.to_pylist()
    told = list(in_threads(_sidecars, listed, _threads(media.column("uri").slice(0, 1).to_pylist())))
    for row, (sidecar, problems) in zip(listed, told, strict=True):
        extra = {k: v for k, v in row.items() if k not in _OWN} if from_list else {}
        for path, message in problems.items():
            # the video is good; what is wrong with its sidecar is said beside it
            extra["sidecar_problem"] = f"{path}: {message}"
            ctx.event("sidecar_unreadable", path=path, message=message)
        own = _text(sidecar.pop("caption", None))
        caption = own or _text(row.get("caption"))
        licence = _licence(sidecar) or _licence(row)
        rows.append(
            {
                **{name: row[name] for name in ("path", "uri", "media_type", "bytes", "mtime_ns")},
                "caption": caption,
                "caption_source": "sidecar" if own else "column" if caption else None,
                "licence": licence,
                "extra": _extra(extra | sidecar),
            }
        )
    return rows


def _licence(told: dict[str, Any]) -> str | None:
    """The licence in a row or a sidecar, by either spelling; both keys are taken out."""
    both = [_text(told.pop(key, None)) for key in ("licence", "license")]
    return both[0] or both[1]


def _sidecars(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What the files beside a video say, and by name of the file what is wrong with one."""
    told: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for suffix in _SIDECARS:
        uri = row.get(suffix)
        if uri is None:
            continue
        try:
            said = _sidecar(uri, suffix)
        except (MachineFailure, RetryableError):
            raise
        except (OSError, StageError, ValueError, RecursionError) as error:
            member = split_member_uri(uri)
            problems[member[1].name if member else uri.split("?")[0].rsplit("/", 1)[-1]] = str(error)
            continue
        if _text(said.get("caption")) is None:
            said.pop("caption", None)
        told |= said
    return told, problems


def _sidecar(uri: str, suffix: str) -> dict[str, Any]:
    """What a ``.txt`` (a caption) or ``.json`` (an object) says; ``ValueError`` where it cannot be used."""
    raw = _head(uri, SIDECAR_BYTES + 1)
    if isinstance(raw, Exception):
        raise raw
    if len(raw) > SIDECAR_BYTES:
        raise ValueError(f"larger than {SIDECAR_BYTES} bytes")
    text = raw.decode("utf-8-sig")
    if suffix == ".txt":
        return {"caption": text}
    told = json.loads(text, parse_constant=lambda number: None)  # NaN and Infinity are no JSON
    if not isinstance(told, dict):
        raise ValueError("not a JSON object")
    for key in ("caption", "licence", "license"):
        if isinstance(told.get(key), dict | list):
            raise ValueError(f"its {key} is not a text")
    try:
        json.dumps(told, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a character (a lone surrogate)") from error
    return told


def _text(value: object) -> str | None:
    """A caption or licence as text without surrounding space; null when nothing is left."""
    if value is None:
        return None
    return str(value).strip() or None


def _extra(columns: Mapping[str, Any]) -> str | None:
    kept = {k: v for k, v in _finite(columns).items() if v is not None}
    return json.dumps(kept, ensure_ascii=False, sort_keys=True, default=str, allow_nan=False) if kept else None


def _finite(value: Any) -> Any:
    """The value with null for every number that is none, however deep: JSON has no words for them."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

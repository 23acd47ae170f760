"""Lists a source: one row per file that is a video or an image, with the caption and licence that came with it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from data_schemas.ids import video_id
from data_schemas.tables import SOURCES
from models.video.sniff import HEAD_BYTES, media_type_of_head, media_type_of_name
from stages.contract import Context, Params, StageError, Table, World, stage
from stages.curation.ledgers import ledger_table
from stages.curation.listing import Listing, Problem, chunks, list_source, open_location

SIDECAR_BYTES = 1 << 20  # a caption longer than 1 MiB is some other file that happens to share the name
_OWN = {"path", "uri", "bytes", "mtime_ns", "caption", "licence", "license"}


class IngestParams(Params):
    """``source_name`` enters every video_id; empty takes the last part of the source's path."""

    source_name: str = ""


def _world(params: IngestParams, world: World) -> Mapping[str, str]:
    return {"listing": list_source(world.source).digest(), "limit": str(world.limit)}


@stage(name="ingest", version="1", params=IngestParams, outputs={"sources": Table(SOURCES)}, world=_world)
def ingest(ctx: Context, params: IngestParams) -> None:
    """List the source and carry along captions, licences and further columns, from sidecars or the list itself.

    Files that are neither video nor image are counted and get no row; what is listed but cannot be read ends in the ledger
    as failed. ``limit`` takes the first media files by path.
    """
    listing = list_source(ctx.world.source)
    name = params.source_name or listing.name
    ignored: Counter[str] = Counter()
    problems = list(listing.problems)
    media = _media(listing, ctx.world.limit, ignored, problems)
    if not media.num_rows:
        raise StageError(
            f"the source {ctx.world.source} holds no video and no image "
            f"({listing.files.num_rows} other files, {listing.hidden} hidden, {len(listing.problems)} unreadable). "
            "Check --source."
        )
    rows = _from_list(media) if listing.is_list else _from_folder(ctx, media, listing)
    for part in rows:
        table = SOURCES.table([{"video_id": video_id(name, row["path"]), **row} for row in part])
        ctx.write("sources", table)
        ctx.ledger(ledger_table(ctx.name, table.column("video_id"), "accepted", video_id=table.column("video_id")))
    for problem in problems:
        record = video_id(name, problem.path)
        error = {"error_type": problem.error_type, "error_message": f"{problem.path}: {problem.message}"}
        ctx.ledger([{"record_id": record, "video_id": record, "status": "failed", **error}])
    ctx.event(
        "listed",
        source=ctx.world.source,
        media=media.num_rows,
        failed=len(problems),
        hidden=listing.hidden,
        ignored=dict(sorted(ignored.items())),
    )


def _media(listing: Listing, limit: int | None, ignored: Counter[str], problems: list[Problem]) -> pa.Table:
    """The files that are video or image, with a ``media_type`` column; by name, else by their first bytes."""
    kept: list[pa.Table] = []
    total = 0
    beside = listing.files.column("path").combine_chunks()
    for batch in listing.files.to_batches(max_chunksize=10_000):
        table = pa.Table.from_batches([batch])
        kinds: list[str | None] = []
        for path, uri in zip(table.column("path").to_pylist(), table.column("uri").to_pylist(), strict=True):
            kind = media_type_of_name(path)
            if kind is None and not path.lower().endswith((".txt", ".json", ".csv", ".parquet", ".md")):
                try:
                    kind = media_type_of_head(_read(uri, HEAD_BYTES))
                except (OSError, StageError) as error:
                    problems.append(Problem(path, type(error).__name__, f"cannot be read: {error}"))
                    kinds.append(None)
                    continue
            if kind is None:
                ignored[_suffix(path)] += 1
            kinds.append(kind)
        table = table.append_column("media_type", pa.array(kinds, pa.string()))
        table = table.filter(pc.is_valid(table.column("media_type")))
        kept.append(table)
        total += table.num_rows
        if limit is not None and total >= limit:
            break
    media = (
        pa.concat_tables(kept)
        if kept
        else listing.files.schema.append(pa.field("media_type", pa.string())).empty_table()
    )
    media = media.slice(0, limit)
    if listing.is_list:
        return media
    stem = pc.replace_substring_regex(media.column("path"), r"\.[^./]*$", "")
    for suffix in (".txt", ".json"):
        candidate = pc.binary_join_element_wise(stem, suffix, "")
        there = pc.if_else(pc.is_in(candidate, value_set=beside), candidate, pa.scalar(None, pa.string()))
        media = media.append_column(suffix, there)
    return media


def _suffix(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return "." + name.rsplit(".", 1)[1].lower() if "." in name else "(no extension)"


def _read(uri: str, most: int) -> bytes:
    filesystem, path = open_location(uri)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return stream.read(most)


# -- rows ------------------------------------------------------------------------------------------------------------


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("path", "uri", "media_type", "bytes", "mtime_ns")}


def _from_list(media: pa.Table) -> Iterator[list[dict[str, Any]]]:
    for part in chunks(media):
        yield [
            {
                **_row(row),
                "caption": _text(row.get("caption")),
                "caption_source": "column" if _text(row.get("caption")) else None,
                "licence": _text(row.get("licence")) or _text(row.get("license")),
                "extra": _extra({k: v for k, v in row.items() if k not in _OWN and k != "media_type"}),
            }
            for row in part
        ]


def _from_folder(ctx: Context, media: pa.Table, listing: Listing) -> Iterator[list[dict[str, Any]]]:
    assert ctx.world.source is not None
    filesystem, root = open_location(ctx.world.source)
    for part in chunks(media):
        rows = []
        for row in part:
            caption, licence, extra = None, None, {}
            for suffix in (".json", ".txt"):  # the text file last: it holds the caption and nothing else
                if row[suffix] is None:
                    continue
                try:
                    told = _sidecar(filesystem, f"{root.rstrip('/')}/{row[suffix]}")
                except (OSError, ValueError) as error:
                    # the video is good; what is wrong with its sidecar is said beside it
                    extra["sidecar_problem"] = f"{row[suffix]}: {error}"
                    ctx.event("sidecar_unreadable", path=row[suffix], message=str(error))
                    continue
                caption = _text(told.pop("caption", None)) or caption
                licence = _text(told.pop("licence", None)) or _text(told.pop("license", None)) or licence
                extra |= told
            rows.append(
                {
                    **_row(row),
                    "caption": caption,
                    "caption_source": "sidecar" if caption else None,
                    "licence": licence,
                    "extra": _extra(extra),
                }
            )
        yield rows


def _sidecar(filesystem: pafs.FileSystem, path: str) -> dict[str, Any]:
    """What a ``.txt`` (a caption) or ``.json`` (an object) beside a file says; ``ValueError`` where it cannot be used."""
    with filesystem.open_input_stream(path, compression=None) as stream:
        raw = stream.read(SIDECAR_BYTES + 1)
    if len(raw) > SIDECAR_BYTES:
        raise ValueError(f"larger than {SIDECAR_BYTES} bytes")
    text = raw.decode("utf-8-sig")
    if path.endswith(".txt"):
        return {"caption": text}
    told = json.loads(text)
    if not isinstance(told, dict):
        raise ValueError("not a JSON object")
    return told


def _text(value: object) -> str | None:
    """A caption or licence as text without surrounding space; null when nothing is left."""
    if value is None:
        return None
    return str(value).strip() or None


def _extra(columns: Mapping[str, Any]) -> str | None:
    kept = {k: v for k, v in columns.items() if v is not None and not (isinstance(v, float) and not math.isfinite(v))}
    return json.dumps(kept, ensure_ascii=False, sort_keys=True, default=str) if kept else None

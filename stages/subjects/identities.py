"""Who is in the clips: one identity per subject of a clip or photograph, as columns, with the crops that show it.

Everything is a numpy or Arrow column and vectors are read a batch at a time, so that a million subjects cost their mean
vectors and a few numbers each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_BATCH = 16_384
_TEXT = ("subject_id", "origin", "clip_id", "video_id", "phrase", "appearance")
_OPTIONAL: Mapping[str, pa.DataType] = {
    "subject": pa.int32(), "appearance": pa.string(), "sharpness": pa.float64(), "part": pa.string(),
}  # fmt: skip


@dataclass(frozen=True)
class Crops:
    """One row per crop of a main subject, sorted by identity and instant.

    ``about`` holds the text columns and ``time_s``. ``identity`` is the row in ``Identities``. ``typical`` is the cosine with the mean
    of all crops of the identity, ``others`` that with the mean of the others (NaN where it is the only one).
    """

    about: pa.Table
    identity: I64
    time_s: F64
    typical: F64
    others: F64


@dataclass(frozen=True)
class Identities:
    """One row per subject of a clip or photograph. Codes are integers; -1 is none.

    ``vector`` (N, D) rows are unit. ``background`` (N, B) rows are unit, or zero where it was not measured. ``clip`` is the row of
    the clip in the subset, -1 for a photograph; ``source`` tells clips and photographs apart; ``group`` is the group of copies;
    ``name`` the head noun; ``start`` and ``end`` are the clip's span in its source in seconds (NaN for a photograph).
    ``best`` is the crop (row of ``Crops``) that stands for it: the most typical one.
    """

    vector: F32
    background: F32
    clip: I64
    video: I64
    source: I64
    group: I64
    name: I64
    subject: I64
    start: F64
    end: F64
    best: I64

    def __len__(self) -> int:
        return len(self.vector)


@dataclass(frozen=True)
class Clips:
    """The target clips as columns, sorted by clip_id, the code of each one's video, and the names of the codes."""

    table: pa.Table
    video: I64
    videos: pa.Array


def clip_columns(subset: pads.Dataset, dedupe: pads.Dataset | None, captions: pads.Dataset | None) -> pa.Table:
    """clip_id, video_id, media_sha256, caption, start_s, end_s, fps and group_id of every clip, sorted by clip_id."""
    columns = ["clip_id", "video_id", "media_sha256", "caption", "start_s", "end_s", "fps"]
    table = subset.to_table(columns=columns).sort_by("clip_id").combine_chunks()
    ids = table["clip_id"]
    if captions is not None:
        told = captions.to_table(columns=["clip_id", "caption"], filter=pc.is_valid(pc.field("caption")))
        found = told["caption"].take(pc.index_in(ids, value_set=told["clip_id"]))
        table = table.set_column(3, "caption", pc.coalesce(found, table["caption"]))
    if dedupe is not None:
        grouped = dedupe.to_table(columns=["clip_id", "group_id"], filter=pc.is_valid(pc.field("group_id")))
        group = grouped["group_id"].take(pc.index_in(ids, value_set=grouped["clip_id"]))
    else:
        group = pa.chunked_array([pa.nulls(len(table), pa.string())])
    return table.append_column("group_id", group)


def load(
    subjects: pads.Dataset, clips: pa.Table, *, names_must_agree: bool, refused: pa.Array
) -> tuple[Clips, Crops, Identities, list[pa.Table]]:
    """Clips, crops, identities, and ledger rows of the crops that are none of a main subject.

    Of one subject at one instant the largest crop counts. A crop of a clip outside the subset is ``clip_not_in_subset``, one
    that nothing names beside one that is named (or beside a larger one) ``secondary_subject``, a face ``face``, and one of
    ``refused`` (subject_ids) ``refused_by_reviewers``.
    """
    names = [*_TEXT, "time_s", "area", "subject", "sharpness", "part"]
    stored = set(subjects.schema.names)
    about = subjects.to_table(columns=[n for n in names if n in stored]).append_column(
        "row", pa.array(np.arange(subjects.count_rows()))
    )
    for name, kind in _OPTIONAL.items():
        if name not in stored:
            about = about.append_column(name, pa.nulls(len(about), kind))
    face, out = pc.is_valid(about["part"]), pc.is_in(about["subject_id"], value_set=refused)
    ledger = [
        _rejected(about.filter(face), "face"),
        _rejected(about.filter(pc.and_(out, pc.invert(face))), "refused_by_reviewers"),
    ]
    if any(len(rows) for rows in ledger):
        about = about.filter(pc.invert(pc.or_(face, out)))
    owner = pc.coalesce(about["clip_id"], about["video_id"])
    about = about.append_column("owner", owner).append_column(
        "number", pc.fill_null(about["subject"], 0).cast(pa.int64())
    )
    about = about.append_column("unnamed", pc.is_null(about["phrase"]).cast(pa.int8()))
    order = [("owner", "ascending"), ("number", "ascending"), ("time_s", "ascending"), ("unnamed", "ascending")]
    about = about.sort_by([*order, ("area", "descending"), ("subject_id", "ascending")]).combine_chunks()
    outside = np.asarray(
        pc.and_(pc.is_valid(about["clip_id"]), pc.is_null(pc.index_in(about["clip_id"], clips["clip_id"])))
    )
    code = _codes(about["owner"])
    number, time = _numbers(about["number"]), _numbers(pc.fill_null(about["time_s"], -1.0))
    again = np.zeros(len(about), bool)
    again[1:] = (code[1:] == code[:-1]) & (number[1:] == number[:-1]) & (time[1:] == time[:-1])
    second = again | ((number > 0) & (_numbers(about["unnamed"]) > 0))
    ledger += [
        _rejected(about.filter(pa.array(outside)), "clip_not_in_subset"),
        _rejected(about.filter(pa.array(second & ~outside)), "secondary_subject"),
    ]
    kept = np.flatnonzero(~outside & ~second)
    about = about.take(pa.array(kept))
    code, number = code[kept], number[kept]
    new = np.ones(len(kept), bool)
    new[1:] = (code[1:] != code[:-1]) | (number[1:] != number[:-1])
    identity = np.cumsum(new) - 1
    vector, background, typical, others = _vectors(subjects, _numbers(about["row"]).astype(np.int64), identity)
    sharp = _numbers(pc.fill_null(about["sharpness"], 0.0))
    # Of equally typical crops the sharper, then the earlier one.
    ranked = np.lexsort((np.arange(len(identity)), -sharp, -np.round(typical, 4), identity))
    best = ranked[np.searchsorted(identity[ranked], np.arange(len(vector)))]
    first = np.flatnonzero(new)
    frame = about.take(pa.array(first))
    clip = _numbers(pc.fill_null(pc.index_in(frame["clip_id"], clips["clip_id"]), -1)).astype(np.int64)
    clip[np.asarray(pc.is_null(frame["clip_id"]))] = -1
    every = pa.concat_arrays([_one(clips["video_id"]), _one(frame["video_id"])]).dictionary_encode()
    video_codes = np.asarray(every.indices, np.int64)
    grouped = pc.coalesce(clips["group_id"], pc.binary_join_element_wise("bytes", clips["media_sha256"], ":"))
    groups = _codes(grouped)
    heads = [_head(p) if names_must_agree else None for p in frame["phrase"].to_pylist()]
    head = _codes(pa.chunked_array([pa.array(heads, pa.string())]))
    here = clip >= 0
    span = {k: np.where(here, _numbers(clips[k])[clip] if len(clips) else np.nan, np.nan) for k in ("start_s", "end_s")}
    columns = Clips(clips, video_codes[: len(clips)], every.dictionary)
    identities = Identities(
        vector=vector,
        background=background,
        clip=clip,
        video=video_codes[len(clips) :],
        source=np.where(here, clip, len(clips) + video_codes[len(clips) :]),
        group=np.where(here, groups[clip] if len(clips) else -1, -1),
        name=head,
        subject=number[first].astype(np.int64),
        start=span["start_s"],
        end=span["end_s"],
        best=best,
    )
    instants = _numbers(pc.fill_null(about["time_s"], np.nan))
    return columns, Crops(about.select([*_TEXT, "time_s"]), identity, instants, typical, others), identities, ledger


def _vectors(subjects: pads.Dataset, rows: I64, identity: I64) -> tuple[F32, F32, F64, F64]:
    """Mean vector and mean background of each identity (unit), and of each crop its cosines with the mean and the others' mean.

    The vectors are read twice, a batch at a time, instead of being held: ``rows`` are places in the table.
    """
    count = int(identity[-1]) + 1 if len(identity) else 0
    place = np.full(subjects.count_rows(), -1, np.int64)
    place[rows] = np.arange(len(rows))
    total, background = np.zeros((count, 0), np.float32), np.zeros((count, 0), np.float32)
    with_background = "background" in subjects.schema.names
    for at, part in _batches(subjects, place, "embedding"):
        if not total.shape[1]:
            total = np.zeros((count, part.shape[1]), np.float32)
        _add(total, identity[at], part)
    if with_background:
        for at, part in _batches(subjects, place, "background"):
            if not background.shape[1]:
                background = np.zeros((count, part.shape[1]), np.float32)
            _add(background, identity[at], part)
    size = np.bincount(identity, minlength=count)
    typical, others = np.ones(len(rows)), np.full(len(rows), np.nan)
    for at, part in _batches(subjects, place, "embedding"):
        mine = total[identity[at]].astype(np.float64)
        part64 = part.astype(np.float64)
        typical[at] = np.round(_cosine(part64, mine), 6)
        several = size[identity[at]] > 1
        others[at[several]] = np.round(_cosine(part64[several], mine[several] - part64[several]), 5)
    return _unit(total), _unit(background), typical, others


def _batches(subjects: pads.Dataset, place: I64, column: str) -> Iterator[tuple[I64, F32]]:
    """Crops and their vectors, in the table's order; rows that are not crops of a main subject or have no vector are skipped."""
    start = 0
    for batch in subjects.scanner(columns=[column], batch_size=_BATCH).to_batches():
        at = place[start : start + batch.num_rows]
        start += batch.num_rows
        there = (at >= 0) & np.asarray(pc.fill_null(pc.greater(pc.list_value_length(batch[column]), 0), False))
        if not there.any():
            continue
        lists = batch[column].filter(pa.array(there))
        flat = np.asarray(lists.flatten(), np.float32)
        yield at[there], flat.reshape(int(there.sum()), -1)


def _add(total: F32, row: I64, part: F32) -> None:
    order = np.argsort(row, kind="stable")
    starts = np.flatnonzero(np.diff(row[order], prepend=-1))
    total[row[order][starts]] += np.add.reduceat(part[order], starts, axis=0)


def _cosine(a: F64, b: F64) -> F64:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.einsum("nd,nd->n", a, b) / np.maximum(lengths, 1e-12))


def _unit(values: F32) -> F32:
    for start in range(0, len(values), _BATCH):
        part = values[start : start + _BATCH]
        part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
    return values


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _codes(column: pa.ChunkedArray) -> I64:
    """A code per value, -1 for null."""
    encoded = _one(column).dictionary_encode()
    return np.asarray(pc.fill_null(encoded.indices, -1), np.int64)


def _numbers(column: pa.ChunkedArray) -> F64:
    return np.array(_one(column).to_numpy(zero_copy_only=False), np.float64)


def _rejected(rows: pa.Table, reason: str) -> pa.Table:
    count = len(rows)
    return pa.table(
        {
            "record_id": rows["subject_id"],
            "video_id": rows["video_id"],
            "status": pa.array(["rejected"] * count, pa.string()),
            "reason": pa.array([reason] * count, pa.string()),
        }
    )


def _head(phrase: str | None) -> str | None:
    """The head noun of a phrase: its last word, "dog" of "a brown dog"."""
    words = (phrase or "").lower().split()
    return words[-1] if words else None

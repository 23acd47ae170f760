"""Where a video left traces in a store: rows that name it, files named after it, and what was made from data that held it.

Every table of every commit is searched in all its text columns, nested ones too, so that a table that is added tomorrow is
searched as well. Identities are followed as data flows: from the video to its clips, their subjects, the training samples
these are in, and the preference pairs made from those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from data_schemas.tables import TABLES
from pipelines.commits import Commits, kind_of
from pipelines.dag.artifacts import Committed, Manifest
from pipelines.dag.records import RecordStore
from pipelines.dag.store import Store
from stages.contract import StageError

# A row that has one of a video's identities in one of these columns is a row of that video; elsewhere it only mentions it.
OWNER = frozenset({"video_id", "clip_id", "subject_id", "sample_id", "pair_id"})
_NAMED_AFTER_CLIPS = {("export", "media")}  # folders in which every file is named after its clip
# Folders in which every file is named in columns of another output, which has a row per clip.
_NAMED_IN_ROWS = {("review_media", "proxies"): ("shown", ("media", "pictures"))}
_IDENTITY = re.compile(rb"(?<![0-9a-f])[0-9a-f]{16,}(?![0-9a-f])")
_MEDIA_NAME = re.compile(r"[0-9a-f]{32}\.(?:webm|jpg|png)")
_LONGEST, _PIECE = 128, 1 << 22  # bytes
# Encoded media and weights name nobody; the files of all other kinds are read.
_NO_TEXT = (".mp4", ".webm", ".mkv", ".png", ".jpg", ".jpeg", ".safetensors", ".npy", ".npz", ".pt")
_ROWS = 65_536


@dataclass(frozen=True)
class Video:
    """A source file as a store knows it."""

    video_id: str
    uri: str
    path: str


@dataclass(frozen=True)
class Trace:
    """One artifact that a video touched. ``how``: it has rows of it, files named after it, or was made from such data.

    ``current``: whether the latest run of its pipeline uses it.
    """

    node: str
    output: str
    fingerprint: str
    how: Literal["rows", "files", "made from it"]
    count: int
    uri: str
    current: bool
    files: tuple[str, ...] = ()


@dataclass
class Traces:
    """All that is known of a video on a store."""

    video: Video
    artifacts: list[Trace]
    identities: set[str]
    content: list[str]
    same_content: list[Video]
    records: dict[str, list[str]] = field(default_factory=dict)  # by stage, the groups in which its content is recorded
    derived: list[str] = field(default_factory=list)  # stages whose records of it have keys that only they can make
    ledgers: dict[str, int] = field(default_factory=dict)  # rows of it by URI
    redo: dict[str, list[str]] = field(default_factory=dict)  # by pipeline, the nodes of its latest run that hold it


def find_video(commits: Commits, what: str, known: Iterable[Video] = (), *, artifacts: bool = False) -> Video:
    """The one video that ``what`` names: its id, its URI, or the end of its path below the source; of all that were ever
    committed, and of those ``known`` besides. ``artifacts``: the message says that no artifact is called so either.

    Raises ``StageError`` where there is none, or where several paths end so: whom to take down is nothing to guess.
    """
    exact: dict[str, Video] = {}
    ending: dict[str, Video] = {}
    end = f"/{what.lstrip('/')}"

    def meet(video: Video) -> None:
        if what in (video.video_id, video.uri):
            exact.setdefault(video.video_id, video)
        elif f"/{video.path}".endswith(end):
            ending.setdefault(video.video_id, video)

    for _, _, dataset in commits.tables("sources", "videos"):
        names = (pc.field("video_id") == what) | (pc.field("uri") == what) | (pc.field("path") == what)
        chosen = names | pc.ends_with(pc.field("path"), end)
        for row in dataset.to_table(columns=["video_id", "uri", "path"], filter=chosen).to_pylist():
            meet(Video(**row))
    for video in known:
        meet(video)
    candidates = list((exact or ending).values())
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        neither = "no artifact and no video" if artifacts else "no video"
        also = (
            " For an artifact give its output's name (adapter_final), node.output, digest or path." if artifacts else ""
        )
        raise StageError(
            f"{neither} in {commits.store.display} is called {what}. Give its video_id, its URI, or the end of its path.{also}"
        )
    shown = "\n".join(f"  {v.video_id}  {v.path}" for v in sorted(candidates, key=lambda v: v.path)[:20])
    more = f"\n  and {len(candidates) - 20} more" if len(candidates) > 20 else ""
    raise StageError(f"{what} may be any of {len(candidates)} videos. Name one by its video_id:\n{shown}{more}")


def trace(commits: Commits, video: Video) -> Traces:
    """Everything that the video touched."""
    identities = {video.video_id}
    while True:  # a pass follows identities downstream; another is needed where an older commit saw more than a newer
        before = len(identities)
        held = {(m.node, m.fingerprint, o): _rows(commits, m.outputs[o], identities) for m, o, _ in commits.tables()}
        if len(identities) == before:
            break
    artifacts = _artifacts(commits, identities, held)
    content = _content(commits, video)
    found = Traces(video, artifacts, identities, content, _same_content(commits, video, content))
    named = {
        Path(uri).name for artifact in artifacts for uri in artifact.files
    }  # a proxy's record bears its file's name
    found.records = _records(commits.store, [*content, video.video_id, *named, *_clip_keys(commits, identities)])
    touched = {(t.node, t.fingerprint) for t in artifacts}
    stages = {commits.at[t.node, t.fingerprint].stage for t in artifacts}
    found.derived = sorted(stages & set(commits.store.names("records")) - set(found.records))
    found.ledgers = _ledgers(commits, identities)
    for pipeline, run in commits.latest.items():
        nodes = [n.name for n in run.nodes if (n.name, n.fingerprint) in touched]
        if nodes:
            found.redo[pipeline] = nodes
    return found


def _rows(commits: Commits, committed: Committed, identities: set[str]) -> int:
    """Rows of a committed table that name one of the identities; identities of rows that belong to the video are added."""
    dataset = commits.open(committed)
    return 0 if dataset is None else _count(dataset, identities)


@dataclass(frozen=True)
class Shown:
    """A review campaign that asks about a video's clips or pairs, and the files that its page plays."""

    campaign: str
    state: str
    items: int
    files: tuple[str, ...]


def shown_to_people(database_url: str, identities: set[str]) -> list[Shown]:
    """Campaigns of a review database, which lies outside the store, with items of these identities."""
    import sqlalchemy as sa

    from stages.review import schema
    from stages.review.database import open_database
    from stages.review.media import MediaStore, media_root_for

    if database_url.startswith("sqlite:///") and not Path(database_url.removeprefix("sqlite:///")).exists():
        return []
    db = open_database(database_url)
    try:
        media = MediaStore(media_root_for(database_url))
        found = []
        with db.read() as connection:
            for campaign in connection.execute(sa.select(schema.campaign.c.id, schema.campaign.c.state)).all():
                rows = connection.execute(
                    sa.select(schema.item.c.external_id, schema.item.c.payload).where(
                        schema.item.c.campaign_id == campaign.id
                    )
                )
                # a generated video's id is made of its prompt, seed and systems
                mine = [payload for external_id, payload in rows if not identities.isdisjoint(external_id.split("/"))]
                names = sorted({name for payload in mine for name in _MEDIA_NAME.findall(payload)})
                files = tuple(str(path) for path in map(media.find, names) if path is not None)
                if mine:
                    found.append(Shown(campaign.id, campaign.state, len(mine), files))
        return found
    finally:
        db.close()


def _count(dataset: pads.Dataset, identities: set[str]) -> int:
    kind = kind_of(dataset)
    key = TABLES[kind].key if kind in TABLES else ()
    columns = [f.name for f in dataset.schema if _texts(f.type)]
    count = 0
    for batch in dataset.scanner(columns=columns, batch_size=_ROWS).to_batches():
        wanted = pa.array(sorted(identities), pa.string())
        owned = np.zeros(batch.num_rows, bool)
        named = np.zeros(batch.num_rows, bool)
        for name in columns:
            for leaf, mask in _matches(name, batch.column(name), wanted):
                named |= mask
                if leaf in OWNER:
                    owned |= mask
        count += int(named.sum())
        for name in set(key) & OWNER & set(columns):
            identities.update(batch.column(name).filter(pa.array(owned)).to_pylist())
    return count


def _texts(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold text."""
    if pa.types.is_struct(kind):
        return any(_texts(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _texts(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def leaves(field: pa.Field) -> Iterator[str]:
    """The names under which texts stand in a column, its own and those nested in it."""
    kind = field.type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        for child in kind:
            yield from leaves(child)
    elif _texts(kind):
        yield field.name


def _matches(name: str, array: pa.Array, wanted: pa.StringArray) -> Iterator[tuple[str, np.ndarray]]:
    """For each text in a column, by its own name, in which rows it is one of the wanted. bool (N,)."""
    if pa.types.is_struct(array.type):
        for child, values in zip(array.type, array.flatten(), strict=True):
            if _texts(child.type):
                yield from _matches(child.name, values, wanted)
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        parents = pc.list_parent_indices(array).to_numpy()
        for leaf, mask in _matches(name, pc.list_flatten(array), wanted):
            rows = np.zeros(len(array), bool)
            rows[parents[mask]] = True
            yield leaf, rows
    else:
        yield name, np.asarray(pc.is_in(array, value_set=wanted.cast(array.type)))


def _artifacts(commits: Commits, identities: set[str], held: dict[tuple[str, str, str], int]) -> list[Trace]:
    found: list[Trace] = []
    rows_of: set[str] = set()  # digests of tables with rows of it
    made_of: set[str] = set()  # digests of folders and tables that were made from such
    for manifest in commits.manifests:
        inputs = set(dict(manifest.preimage.get("inputs", {})).values())
        current = (manifest.node, manifest.fingerprint) in commits.current
        for output, committed in manifest.outputs.items():
            place = (manifest.node, output, manifest.fingerprint)
            uri = commits.store.uri_of(committed.path)
            rows = held.get((manifest.node, manifest.fingerprint, output), 0)
            if rows:
                rows_of.add(committed.digest)
                found.append(Trace(*place, "rows", rows, uri, current))
                continue
            if committed.kind == "files":
                named = _named_in_rows(commits, manifest, output, identities)
                files = tuple(_files(commits.store, committed.path, identities | named))
                if files:
                    made_of.add(committed.digest)
                    found.append(Trace(*place, "files", len(files), uri, current, files))
                    continue
                every_file_is_named = {*_NAMED_AFTER_CLIPS, *_NAMED_IN_ROWS}
                if (manifest.stage, output) in every_file_is_named or not inputs & (rows_of | made_of):
                    continue
            elif not inputs & made_of:
                continue
            made_of.add(committed.digest)
            found.append(Trace(*place, "made from it", 1, uri, current))
    return found


def _named_in_rows(commits: Commits, manifest: Manifest, output: str, identities: set[str]) -> set[str]:
    """Names, without their suffix, of the files that the rows of these clips name; none where files are named otherwise."""
    table, columns = _NAMED_IN_ROWS.get((manifest.stage, output), (None, ()))
    dataset = commits.open(manifest.outputs[table]) if table else None
    if dataset is None:
        return set()
    rows = dataset.to_table(columns=list(columns), filter=pc.field("clip_id").isin(sorted(identities)))
    texts = [pc.list_flatten(column) if pa.types.is_list(column.type) else column for column in rows.columns]
    return {Path(name).stem for column in texts for name in column.drop_null().to_pylist()}


def _files(store: Store, folder: str, identities: set[str]) -> Iterator[str]:
    """URIs of the files below a folder that are named after one of the identities or name one inside."""
    wanted = {identity.encode() for identity in identities}
    for name, _ in store.files(folder):
        path = f"{folder}/{name}"
        if set(_IDENTITY.findall(name.encode())) & wanted:
            yield store.uri_of(path)
        elif name.endswith(".parquet"):
            if _count(pads.dataset(store.full(path), filesystem=store.fs, format="parquet"), set(identities)):
                yield store.uri_of(path)
        elif not name.lower().endswith(_NO_TEXT) and any(found & wanted for found in _mentioned(store, path)):
            yield store.uri_of(path)


def _mentioned(store: Store, path: str) -> Iterator[set[bytes]]:
    """What looks like an identity in a file, piece by piece."""
    with store.fs.open_input_stream(store.full(path), compression=None) as stream:
        tail = b""
        while piece := stream.read(_PIECE):
            yield set(_IDENTITY.findall(tail + piece))
            tail = piece[-_LONGEST:]  # one that is cut by the end of a piece


def _content(commits: Commits, video: Video) -> list[str]:
    """Every content key under which the video was ever read."""
    keys: set[str] = set()
    for _, _, dataset in commits.tables("videos"):
        table = dataset.to_table(columns=["sha256"], filter=pc.field("video_id") == video.video_id)
        keys.update(table.column("sha256").drop_null().to_pylist())
    return sorted(keys)


def _same_content(commits: Commits, video: Video, content: Sequence[str]) -> list[Video]:
    """Other videos of the current tables with the same content."""
    found: dict[str, Video] = {}
    for manifest, _, dataset in commits.tables("videos"):
        if (manifest.node, manifest.fingerprint) in commits.current:
            same = pc.field("sha256").isin(list(content)) & (pc.field("video_id") != video.video_id)
            for row in dataset.to_table(columns=["video_id", "uri", "path"], filter=same).to_pylist():
                found.setdefault(row["video_id"], Video(**row))
    return sorted(found.values(), key=lambda v: v.path)


def _clip_keys(commits: Commits, identities: set[str]) -> list[str]:
    """Keys under which encoded clips and embeddings of these clips were ever recorded."""
    from stages.curation.export import clip_keys
    from stages.curation.keyframes import index_frames

    wanted = pa.array(sorted(identities), pa.string())
    keys: set[str] = set()
    shas = {
        row["video_id"]: row["sha256"]
        for _, _, dataset in commits.tables("videos")
        for row in dataset.to_table(
            columns=["video_id", "sha256"], filter=pc.field("video_id").isin(wanted)
        ).to_pylist()
    }
    for _, _, dataset in commits.tables("clips"):
        columns = ["clip_id", "video_id", "start_frame", "end_frame"]
        clips = dataset.to_table(columns=columns, filter=pc.field("clip_id").isin(wanted))
        sha = pa.array([shas.get(video) for video in clips.column("video_id").to_pylist()], pa.string())
        keys.update(clip_keys(clips.append_column("sha256", sha)))
    for _, _, dataset in commits.tables("keyframes"):
        keys.update(index_frames(dataset, wanted).clips.column("record_key").to_pylist())
    return sorted(keys)


def _ledgers(commits: Commits, identities: set[str]) -> dict[str, int]:
    """Rows of these records in the ledger of every commit."""
    wanted = pa.array(sorted(identities), pa.string())
    found = {}
    for manifest in commits.manifests:
        if manifest.ledger:
            path = commits.store.full(manifest.ledger)
            ledger = pads.dataset(path, filesystem=commits.store.fs, format="parquet")
            rows = ledger.count_rows(filter=pc.field("record_id").isin(wanted) | pc.field("video_id").isin(wanted))
            if rows:
                found[commits.store.uri_of(manifest.ledger)] = rows
    return found


def _records(store: Store, keys: Sequence[str]) -> dict[str, list[str]]:
    """By stage, the groups that have records under these keys."""
    found: dict[str, list[str]] = {}
    for stage in store.names("records"):
        groups = RecordStore(store, stage, tidy=False).groups_with(keys)
        if groups:
            found[stage] = groups
    return found

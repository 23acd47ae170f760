"""Turns training pairs into items of a filter campaign: the target clip to play, and its references beside it with their phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import Context, StageError
from stages.location import in_threads
from stages.review.media import MediaStore
from stages.review.proxies import place_file, poster, poster_name, proxy_encoding, proxy_name
from stages.review.spec import NewItem
from stages.review.subject_items import jpeg, picture_name
from stages.subjects.locate import in_folder
from stages.training.media import PICTURES

if TYPE_CHECKING:
    from models.subjects.protocols import U8

PROXY_SIDE = 960
REFERENCE_SIDE = 480
THREADS = 2  # encoders; each is busy with one clip
FADED = 0.25  # what is left of a reference's background: enough to see where it stood


def training_pair_items(ctx: Context, kinds: Sequence[str], media: MediaStore, *, make: bool) -> list[NewItem]:
    """One item per pair of these kinds. Without ``make`` nothing is encoded: a script does not look.

    Raises ``StageError`` when a clip or crop cannot be shown: a stage before wrote it.
    """
    columns = ["sample_id", "clip_id", "prompt", "references", "similarity"]
    rows = ctx.dataset("pairs").to_table(columns=columns, filter=pc.field("kind").isin(list(kinds))).to_pylist()
    pictures = _references(ctx, {x["subject_id"] for row in rows for x in row["references"]}, media, make=make)
    clips = _clips(ctx, {row["clip_id"] for row in rows}, media, make=make)
    return [_item(row, clips[row["clip_id"]], pictures) for row in rows]


def _item(row: Mapping[str, Any], clip: Mapping[str, Any], pictures: Mapping[str, str]) -> NewItem:
    from models.subjects.prompts import plain

    references = row["references"]
    names = [pictures[x["subject_id"]] for x in references]
    labels = [f"{n}: {x['phrase'] or 'the subject'}" for n, x in enumerate(references, 1)]
    payload: dict[str, Any] = {"caption": plain(row["prompt"]), "fps": clip["fps"], "duration_s": clip["duration_s"]}
    if clip["still"]:
        names, labels = [clip["media"], *names], ["the target", *labels]
    else:
        payload["media"] = clip["media"]
    # The least alike are the most doubtful.
    doubt = 0.5 if row["similarity"] is None else min(1.0, max(0.0, 1.0 - row["similarity"]))
    return NewItem(row["sample_id"], payload | {"pictures": names, "labels": labels}, uncertainty=doubt)


def _references(ctx: Context, wanted: set[str], media: MediaStore, *, make: bool) -> dict[str, str]:
    """By subject_id the name of its picture: the crop with its background faded."""
    from models.subjects.frames import faded, picture

    def reference(crop: bytes, mask: bytes, one: str) -> bytes:
        shown: U8 = faded(picture(crop, one), picture(mask, one)[..., 0], FADED)
        return jpeg(shown, REFERENCE_SIDE)

    names: dict[str, str] = {}
    only = pc.field("subject_id").isin(pa.array(sorted(wanted), pa.string()))
    columns = ["subject_id", "crop", "mask"]
    for batch in ctx.dataset("subjects").scanner(columns=columns, filter=only, batch_size=64).to_batches():
        for row in batch.to_pylist():
            told = (row["crop"], row["mask"], row["subject_id"])
            names[row["subject_id"]] = name = picture_name("reference", *told[:2])
            if make:
                media.add(name, lambda path, told=told: path.write_bytes(reference(*told)))  # type: ignore[misc]
    lost = sorted(wanted - set(names))
    if lost:
        raise StageError(f"Subject {lost[0]} of a pair is not in the table subjects. Run again from subjects.")
    return names


def _clips(ctx: Context, wanted: set[str], media: MediaStore, *, make: bool) -> dict[str, Mapping[str, Any]]:
    """By clip_id what the page plays of it; clips that lack their proxy are encoded, each once."""
    folder = ctx.path("media")
    columns = ["clip_id", "media_uri", "media_sha256", "frames", "fps"]
    only = pc.field("clip_id").isin(pa.array(sorted(wanted), pa.string()))
    rows = ctx.dataset("subset").to_table(columns=columns, filter=only).to_pylist()

    def place(row: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        still = Path(row["media_uri"]).suffix.lower() in PICTURES
        fps = row["fps"] or 24.0
        shown = {"still": still, "fps": round(fps, 3), "duration_s": round(row["frames"] / fps, 3)}
        try:
            file = in_folder(folder, row["media_uri"]) if make or still else folder
            name = place_file(media, file, make) if still else _proxy(media, file, row, make=make)
        except (OSError, ValueError) as error:
            raise StageError(f"Clip {row['clip_id']} cannot be shown: {error}. Run again from export.") from error
        return row["clip_id"], {**shown, "media": name}

    with ctx.progress(len(rows), "target clips") as bar:
        found = {}
        for clip_id, shown in in_threads(place, rows, THREADS):
            found[clip_id] = shown
            bar.advance()
    lost = sorted(wanted - set(found))
    if lost:
        raise StageError(f"Clip {lost[0]} of a pair is not in the table subset. Run again from export.")
    return found


def _proxy(media: MediaStore, file: Path, row: Mapping[str, Any], *, make: bool) -> str:
    from models.video.cut import Cut, cut_clips
    from models.video.encode import EncodeError
    from models.video.reader import UndecodableError

    name = proxy_name(row["media_sha256"], 0, row["frames"], PROXY_SIDE, sound=False)

    def encode(path: Path) -> None:
        try:
            [(_, result)] = cut_clips(file, [Cut(0, row["frames"], path)], proxy_encoding(PROXY_SIDE, sound=False))
        except UndecodableError as error:
            raise ValueError(str(error)) from error
        if isinstance(result, EncodeError):
            raise ValueError(str(result))
        media.add(poster_name(name), lambda out: out.write_bytes(poster(path)))  # where the video lies its poster lies

    if make:
        media.add(name, encode)
    return name

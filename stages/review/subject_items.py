"""Turns crops of subjects into items of a filter campaign: the crop, what its mask keeps of it, and the frame it was cut from."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from stages.contract import Context, StageError
from stages.location import in_threads
from stages.review.media import MediaStore
from stages.review.spec import NewItem
from stages.subjects.locate import in_folder, read_uri

if TYPE_CHECKING:
    from models.subjects.protocols import U8

SIDE = 720  # long side of the pictures, px: more no reviewer's window shows
LABELS = ("the crop", "what its mask keeps", "the frame it was cut from")
THREADS = 4
STILL_S = 1.0  # a picture asks for less time than a clip: half of this is the least that counts as looking
_LIGHT = ("subject_id", "origin", "clip_id", "video_id", "phrase", "time_s", "box", "completeness")
_FRAME = "subject frame 1"  # part of every frame's name: drawn otherwise is another file


@dataclass(frozen=True)
class Origin:
    """Where a crop comes from: an exported clip or a photograph, by its URI and the digest of its bytes."""

    uri: str
    sha256: str
    photo: bool


def subject_items(ctx: Context, media: MediaStore, *, make: bool) -> list[NewItem]:
    """One item per row of the table ``subjects`` that is a whole subject. Without ``make`` only their names are told, for a script.

    Raises ``StageError`` when a picture can no longer be made of what the stages before wrote.
    """
    origins = _origins(ctx)
    items: list[NewItem] = []
    frames: dict[Origin, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    for row, crop, mask in _crops(ctx):
        origin = origins[row["clip_id"] or row["video_id"]]
        names = [picture_name("crop", crop), picture_name("cut", crop, mask)]
        where = f"{_FRAME} {origin.sha256} {row['time_s']} {list(row['box'])}"
        names.append(MediaStore.name(where, ".jpg"))
        if make:
            _place_crop(media, names, crop, mask, row["subject_id"])
            if media.find(names[2]) is None:
                frames[origin].append((names[2], row))
        payload = {
            "pictures": names,
            "labels": list(LABELS),
            "caption": row["phrase"],
            "duration_s": STILL_S,
        }
        # What the frame cuts off is doubtful first of all.
        whole = row["completeness"]
        items.append(NewItem(row["subject_id"], payload, uncertainty=0.0 if whole is None else 1.0 - whole))
    if frames:
        _place_frames(ctx, media, frames)
    return items


def _origins(ctx: Context) -> dict[str, Origin]:
    """By clip_id and by the video_id of a photograph."""
    found = {}
    for row in ctx.dataset("subset").to_table(columns=["clip_id", "media_uri", "media_sha256"]).to_pylist():
        found[row["clip_id"]] = Origin(row["media_uri"], row["media_sha256"], False)
    photographs = (pc.field("media_type") == "image") & pc.field("sha256").is_valid()
    for row in ctx.dataset("videos").to_table(columns=["video_id", "uri", "sha256"], filter=photographs).to_pylist():
        found[row["video_id"]] = Origin(row["uri"], row["sha256"], True)
    return found


def _crops(ctx: Context) -> Any:
    from stages.subjects.faces import whole_subjects

    dataset = ctx.dataset("subjects")
    stored = [name for name in _LIGHT if name in dataset.schema.names]
    scanner = dataset.scanner(columns=[*stored, "crop", "mask"], filter=whole_subjects(dataset), batch_size=64)
    for batch in scanner.to_batches():
        for row in batch.to_pylist():
            crop, mask = row.pop("crop"), row.pop("mask")
            yield {"completeness": None, **row}, crop, mask


def picture_name(kind: str, *parts: bytes) -> str:
    """The media name of a picture made in this way of these bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return MediaStore.name(f"subject {kind} 1 {digest.hexdigest()}", ".jpg")


def _place_crop(media: MediaStore, names: Sequence[str], crop: bytes, mask: bytes, name: str) -> None:
    if all(media.find(one) for one in names[:2]):
        return
    from models.subjects.frames import faded, picture

    try:
        shown, inside = picture(crop, name), picture(mask, name)[..., 0]
    except ValueError as error:
        raise StageError(f"Subject {name} cannot be shown: {error}. Make the subjects again.") from error
    media.add(names[0], lambda path: path.write_bytes(jpeg(shown)))
    media.add(names[1], lambda path: path.write_bytes(jpeg(faded(shown, inside, 0.0))))


def _place_frames(
    ctx: Context, media: MediaStore, wanted: Mapping[Origin, Sequence[tuple[str, Mapping[str, Any]]]]
) -> None:
    """The frames with the crop's box drawn in, those of one clip read together."""
    folder = ctx.path("media")

    def place(origin: Origin) -> None:
        for (name, row), frame in zip(wanted[origin], _frames(folder, origin, wanted[origin]), strict=True):
            shown = jpeg(boxed(frame, row["box"]))
            media.add(name, lambda path, shown=shown: path.write_bytes(shown))  # type: ignore[misc]

    with ctx.progress(len(wanted), "clips and photographs") as bar:
        for _ in in_threads(place, list(wanted), THREADS):
            bar.advance()


def _frames(folder: Any, origin: Origin, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Sequence[U8]:
    from models.subjects.frames import picture
    from models.video.reader import UndecodableError
    from models.video.sparse import frames_at

    try:
        if origin.photo:
            return [picture(read_uri(origin.uri), origin.uri)] * len(rows)
        return frames_at(in_folder(folder, origin.uri), [row["time_s"] for _, row in rows])
    except (OSError, ValueError, UndecodableError) as error:
        raise StageError(f"{origin.uri} cannot be shown: {error}. Run again from export.") from error


def boxed(frame: U8, box: Sequence[float]) -> U8:
    """The frame with a box (shares of width and height) drawn around the subject, in white on black so that it shows on any ground."""
    import cv2

    from models.subjects.propose import fit

    shown = fit(frame, SIDE).copy()
    height, width = shown.shape[:2]
    corners = [round(float(v) * side) for v, side in zip(box, (width, height, width, height), strict=True)]
    for colour, thickness in (((0, 0, 0), 5), ((255, 255, 255), 2)):
        cv2.rectangle(shown, corners[:2], corners[2:], colour, thickness)
    return shown


def jpeg(picture: U8, side: int = SIDE) -> bytes:
    """An RGB picture as a JPEG of at most ``side`` px; small crops are enlarged to a third of that, so that they can be judged."""
    import cv2

    from models.subjects.propose import fit

    shown = fit(picture, side)
    scale = side / 3 / max(shown.shape[:2])
    if scale > 1:
        shown = np.asarray(cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
    written, data = cv2.imencode(".jpg", shown[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert written
    return bytes(data)

"""Finds the subjects of one clip or photograph: grounder, segmenter, tracker and identity encoder under the box rules."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from stages.subjects.faces import FACE

if TYPE_CHECKING:
    from models.subjects.load import Models
    from models.subjects.protocols import U8, Box, Proposal, Region
    from models.subjects.rules import Rules

FOUND = pa.schema(
    [
        ("time_s", pa.float64()),
        ("subject", pa.int32()),
        ("phrase", pa.string()),
        ("box", pa.list_(pa.float32(), 4)),
        ("area", pa.float64()),
        ("mask_area", pa.float64()),
        ("crop", pa.large_binary()),
        ("mask", pa.large_binary()),
        ("embedding", pa.list_(pa.float32())),
        ("appearance", pa.string()),
        ("completeness", pa.float64()),
        ("sharpness", pa.float64()),
        ("background", pa.list_(pa.float32())),
        ("part", pa.string()),
    ]
)


@dataclass(frozen=True)
class Payload:
    """One clip (a path) or photograph (a URI), what to look for and at which shares of a clip."""

    origin: str
    where: str
    phrases: tuple[str, ...]
    positions: tuple[float, ...] = ()
    duration_s: float = 0.0


NEIGHBOUR_S = 0.12  # far enough for motion to show, near enough for flow to follow
SPREAD = 7  # evenly spread frames from which the temporal median is taken
FACE_PX = 24  # least side of a face that is worth a row: smaller ones show nobody
ON_TRACK = 0.3  # IoU of boxes below which what was found is not what was followed there


class Finder:
    """``finder(payload)`` gives a row for the store's records: found subjects as Arrow IPC bytes, and why there are none."""

    def __init__(self, rules: Rules, models: Models) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.rules = rules
        self.grounder, self.segmenter = models.load_grounder(), models.load_segmenter()
        self.tracker, self.encoder = models.load_tracker(), models.load_encoder()
        self.faces = models.load_faces()

    def __call__(self, payload: Payload) -> Mapping[str, Any]:
        from models.subjects.rules import judge, unambiguous

        frames, times, at, reader = read(payload)
        reasons: list[str] = []
        seen: dict[int, list[Region]] = {}
        for index, proposals in zip(at, self.grounder.ground(frames, at, payload.phrases), strict=True):
            asked, dropped = unambiguous(proposals, self.rules)
            reasons += dropped
            seen[index] = self._segmented(frames[index], asked)
        if self.tracker is not None and len(frames) > 1:
            reasons += self._follow(frames, seen)
        rows: list[dict[str, object]] = []
        for index, regions in seen.items():
            kept, why = judge(regions, frames[index].shape[:2], self.rules)
            reasons += why or ([] if kept else ["no_subject"])
            for rank, region in enumerate(kept):
                # A grounder without language finds the main subject, which is what the caption names first.
                named = region.phrase or (payload.phrases[0] if rank == 0 and payload.phrases else None)
                number = payload.phrases.index(region.phrase) if region.phrase in payload.phrases else rank
                rows.append(self._row(frames[index], region, times[index], number, named))
                face = self._face(frames[index], region)
                if face is not None:
                    whose = {"part": FACE, "appearance": f"the face of {named or 'the subject'}"}
                    rows.append({**self._row(frames[index], face, times[index], number, named), **whose})
        table = pa.Table.from_pylist(rows, schema=FOUND)
        return {
            "found": packed(table),
            "reason": "" if rows else most_common(reasons or ["no_subject"]),
            "dropped": ", ".join(f"{n} {name}" for name, n in sorted(Counter(reasons).items())),
            "reader": reader,
        }

    def _segmented(self, frame: U8, proposals: Sequence[Proposal]) -> list[Region]:
        found = (self.segmenter.segment(frame, p) for p in proposals)
        return [region for region in found if region is not None]

    def _follow(self, frames: U8, seen: dict[int, list[Region]]) -> list[str]:
        """Follow each phrase from where it was found most surely; what lies off its track is dropped, what was missed added."""
        from models.subjects.protocols import Region, iou
        from models.subjects.sam2 import box_of

        assert self.tracker is not None
        dropped: list[str] = []
        phrases = {r.phrase for regions in seen.values() for r in regions}
        for phrase in sorted(phrases, key=lambda p: p or ""):
            best, start = max(
                ((r, index) for index, regions in seen.items() for r in regions if r.phrase == phrase),
                key=lambda pair: (pair[0].confidence, -pair[1]),
            )
            masks = self.tracker.track(frames, start, best.mask)
            for index, regions in seen.items():
                mine = [r for r in regions if r.phrase == phrase]
                box = box_of(masks[index])
                off = [r for r in mine if box is None or iou(r.box, box) < ON_TRACK]
                dropped += ["off_track"] * len(off)
                regions[:] = [r for r in regions if r not in off]
                if len(off) == len(mine) and box is not None:
                    regions.append(Region(box, masks[index], best.confidence, phrase))
        return dropped

    def _face(self, frame: U8, region: Region) -> Region | None:
        """The surest face of a subject whose middle lies on the subject itself, with as much of the mask as its box holds."""
        import numpy as np

        from models.subjects.protocols import Region

        if self.faces is None:
            return None
        height, width = frame.shape[:2]
        crop = frame[_cut(region.box, height, width)]
        rows, columns = crop.shape[:2]
        x0, y0 = round(region.box[0] * width), round(region.box[1] * height)
        for face in self.faces.faces(crop):
            left, top, right, bottom = (v * side for v, side in zip(face.box, (columns, rows) * 2, strict=True))
            box = ((x0 + left) / width, (y0 + top) / height, (x0 + right) / width, (y0 + bottom) / height)
            down, along = min(height - 1, int(y0 + (top + bottom) / 2)), min(width - 1, int(x0 + (left + right) / 2))
            middle = region.mask[down, along]
            if middle <= 127 or min(right - left, bottom - top) < FACE_PX:
                continue
            mask = np.zeros_like(region.mask)
            inside = _cut(box, height, width)
            mask[inside] = region.mask[inside]
            return Region(box, mask, face.confidence, region.phrase)
        return None

    def _row(self, frame: U8, region: Region, time_s: float, number: int, phrase: str | None) -> dict[str, object]:
        import numpy as np

        from models.subjects.descriptor import surroundings
        from models.subjects.frames import png
        from models.subjects.prompts import appearance
        from models.subjects.protocols import area
        from models.subjects.quality import completeness, sharpness

        height, width = frame.shape[:2]
        cut = _cut(region.box, height, width)
        crop, mask = np.ascontiguousarray(frame[cut]), np.ascontiguousarray(region.mask[cut])
        return {
            "time_s": time_s,
            "subject": number,
            "phrase": phrase,
            "box": list(region.box),
            "area": area(region.box),
            "mask_area": float((region.mask > 127).mean()),
            "crop": png(crop),
            "mask": png(mask),
            "embedding": self.encoder.encode([crop], [mask])[0].tolist(),
            "appearance": appearance(phrase, crop, mask),
            "completeness": completeness(region.mask),
            "sharpness": sharpness(crop, mask),
            "background": surroundings(frame, region.mask).tolist(),
            "part": None,
        }


def _cut(box: Box, height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of a box, at least one of each."""
    x0, y0, x1, y1 = box
    return (
        slice(round(y0 * height), max(round(y0 * height) + 1, round(y1 * height))),
        slice(round(x0 * width), max(round(x0 * width) + 1, round(x1 * width))),
    )


def read(payload: Payload) -> tuple[U8, list[float], list[int], str]:
    """Frames, their instants, the indices of those in which subjects are looked for, and what read them, for the ledger."""
    import numpy as np

    from models.subjects.frames import picture
    from models.video.reader import UndecodableError
    from models.video.sparse import Reading, frames_at
    from stages.subjects.locate import read_uri

    if payload.origin == "photo":
        name = payload.where.rsplit("/", 1)[-1]
        return picture(read_uri(payload.where), name)[None], [0.0], [0], ""
    targets = [p * payload.duration_s for p in payload.positions]
    wanted = {float(t) for t in np.linspace(0.0, payload.duration_s, SPREAD)}
    for target in targets:
        wanted |= {max(0.0, target - NEIGHBOUR_S), target, target + NEIGHBOUR_S}
    times = sorted(wanted)
    readings: list[Reading] = []
    try:
        frames = np.stack(frames_at(payload.where, times, on_reading=readings.append))
    except UndecodableError as error:
        raise ValueError(f"{Path(payload.where).name} cannot be decoded: {error}") from error
    return frames, times, sorted({times.index(t) for t in targets}), str(readings[0])


def packed(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def unpacked(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_all()


def most_common(names: Sequence[str]) -> str:
    """The most frequent name, the first in the alphabet among equals."""
    return min(set(names), key=lambda n: (-names.count(n), n))

"""Finds the subjects of one clip or photograph: grounder, segmenter and identity encoder under the box rules."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from models.subjects.protocols import U8, Region

FOUND = pa.schema(
    [
        ("time_s", pa.float64()),
        ("rank", pa.int32()),
        ("box", pa.list_(pa.float32(), 4)),
        ("area", pa.float64()),
        ("mask_area", pa.float64()),
        ("crop", pa.large_binary()),
        ("mask", pa.large_binary()),
        ("embedding", pa.list_(pa.float32())),
        ("completeness", pa.float64()),
        ("sharpness", pa.float64()),
        ("background", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Rules:
    """What a subject's box must satisfy; shares of the frame, pixels of the frame it is cropped from."""

    min_area: float
    max_area: float
    min_side: int
    max_iou: float
    most: int
    min_confidence: float


@dataclass(frozen=True)
class Payload:
    """One clip (a path) or photograph (a URI), what to look for and at which shares of a clip."""

    origin: str
    where: str
    phrase: str | None
    positions: tuple[float, ...] = ()
    duration_s: float = 0.0


NEIGHBOUR_S = 0.12  # far enough for motion to show, near enough for flow to follow
SPREAD = 7  # evenly spread frames from which the temporal median is taken


class Finder:
    """``finder(payload)`` gives a row for the store's records: found subjects as Arrow IPC bytes, and why there are none."""

    def __init__(self, rules: Rules) -> None:
        import cv2

        from models.subjects.descriptor import ClosedFormEncoder
        from models.subjects.propose import EmbeddedGrounder, GrabCutSegmenter

        cv2.setNumThreads(1)
        self.rules = rules
        self.grounder, self.segmenter, self.encoder = EmbeddedGrounder(), GrabCutSegmenter(), ClosedFormEncoder()

    def __call__(self, payload: Payload) -> Mapping[str, Any]:
        frames, times, at, reader = read(payload)
        phrases = [payload.phrase] if payload.phrase else []
        rows: list[dict[str, object]] = []
        reasons: list[str] = []
        for index, proposals in zip(at, self.grounder.ground(frames, at, phrases), strict=True):
            regions = [
                region
                for p in proposals
                if p.confidence >= self.rules.min_confidence
                and (region := self.segmenter.segment(frames[index], p)) is not None
            ]
            kept, why = judge(regions, frames[index].shape[:2], self.rules)
            reasons += why or ["no_subject"]
            for rank, region in enumerate(kept):
                rows.append(self._row(frames[index], region, times[index], rank))
        table = pa.Table.from_pylist(rows, schema=FOUND)
        return {"found": packed(table), "reason": "" if rows else most_common(reasons), "reader": reader}

    def _row(self, frame: U8, region: Region, time_s: float, rank: int) -> dict[str, object]:
        import numpy as np

        from models.subjects.descriptor import surroundings
        from models.subjects.frames import png
        from models.subjects.protocols import area
        from models.subjects.quality import completeness, sharpness

        height, width = frame.shape[:2]
        x0, y0, x1, y1 = region.box
        cut = (
            slice(round(y0 * height), max(round(y0 * height) + 1, round(y1 * height))),
            slice(round(x0 * width), max(round(x0 * width) + 1, round(x1 * width))),
        )
        crop, mask = np.ascontiguousarray(frame[cut]), np.ascontiguousarray(region.mask[cut])
        return {
            "time_s": time_s,
            "rank": rank,
            "box": list(region.box),
            "area": area(region.box),
            "mask_area": float((region.mask > 127).mean()),
            "crop": png(crop),
            "mask": png(mask),
            "embedding": self.encoder.encode([crop], [mask])[0].tolist(),
            "completeness": completeness(region.mask),
            "sharpness": sharpness(crop, mask),
            "background": surroundings(frame, region.mask).tolist(),
        }


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


def judge(regions: Sequence[Region], size: tuple[int, int], rules: Rules) -> tuple[list[Region], list[str]]:
    """The regions that satisfy the rules, best first, and the names of the rules that stopped the others."""
    from models.subjects.protocols import area, iou

    kept: list[Region] = []
    stopped: list[str] = []
    for region in sorted(regions, key=lambda r: -r.confidence):
        x0, y0, x1, y1 = region.box
        share = area(region.box)
        if share < rules.min_area:
            stopped.append("box_too_small")
        elif share > rules.max_area:
            stopped.append("box_too_large")
        elif min((x1 - x0) * size[1], (y1 - y0) * size[0]) < rules.min_side:
            stopped.append("side_too_short")
        elif any(iou(region.box, other.box) > rules.max_iou for other in kept):
            stopped.append("same_box")
        elif len(kept) >= rules.most:
            stopped.append("not_the_main_subject")
        else:
            kept.append(region)
    return kept, stopped


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

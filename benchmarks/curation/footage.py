"""Makes films of known length from a folder of real footage: other crops, mirrors and exposures of real shots, cut together.

No shot occurs twice with the same pixels, so that nothing can be answered from a cache. The result depends on the folder,
the seed and the encoder alone, and is kept between runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080)}
RATE = 30
SECONDS = 20  # a film; short, because one of the peers holds every optical flow field of a file in memory
SHOT_FRAMES = (75, 150)
_LEAST_SIDE = 200
_MOST_FRAMES = 180  # of a source: enough to cut from, and little enough to hold
_FLAT = 8.0  # standard deviation of grey levels under which a source shows nothing


@dataclass(frozen=True)
class Film:
    """One film of the set. ``shots`` is how many it was cut from."""

    path: str
    size: str
    seconds: float
    frames: int
    shots: int
    caption: str


def sources(data: Path) -> list[Path]:
    """Files of the folder's manifest that are one real shot or more, moving, large and long enough."""
    rows = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    found = []
    for row in rows:
        if row["kind"] != "video" or row.get("err") or row["file"].startswith("made/") or not row.get("res"):
            continue
        width, height = map(int, row["res"].split("x"))
        if min(width, height) >= _LEAST_SIDE and SHOT_FRAMES[1] <= (row.get("frames") or 0) <= 2000:
            found.append(data / row["file"])
    return sorted(found)


def make(data: Path, out: Path, minutes: float, seed: int = 0, sizes: Sequence[str] = tuple(SIZES)) -> list[Film]:
    """``minutes`` of films, the same share at each size; those that are there already are kept."""
    out.mkdir(parents=True, exist_ok=True)
    each = max(1, round(minutes * 60 / SECONDS / len(sizes)))
    films = []
    pool: list[np.ndarray] | None = None
    for number in range(each):
        for size in sizes:
            path = out / f"{size}-{number:03d}.mp4"
            note = path.with_suffix(".json")
            if not note.exists():
                pool = pool or [f for f in map(_frames, sources(data)) if f[:: _MOST_FRAMES // 6].std() > _FLAT]
                if not pool:
                    raise SystemExit(f"{data} holds no footage of at least {SHOT_FRAMES[1]} frames to cut from")
                rng = np.random.default_rng([seed, number, sorted(SIZES).index(size)])
                note.write_text(json.dumps(asdict(_film(path, size, pool, rng))), encoding="utf-8")
            films.append(Film(**json.loads(note.read_text(encoding="utf-8"))))
    return films


def _frames(path: Path) -> np.ndarray:
    """The first frames of a file with the short side at 360 px: uint8 BGR [F, H, W, 3]."""
    pictures = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            scale = 360 / min(frame.width, frame.height)
            size = (round(frame.width * scale / 2) * 2, round(frame.height * scale / 2) * 2)
            pictures.append(frame.to_ndarray(format="bgr24", width=size[0], height=size[1]))
            if len(pictures) >= _MOST_FRAMES:
                break
    return np.stack([p for p in pictures if p.shape == pictures[0].shape])


def _film(path: Path, size: str, pool: list[np.ndarray], rng: np.random.Generator) -> Film:
    width, height = SIZES[size]
    total, written, shots, before = SECONDS * RATE, 0, 0, -1
    partial = path.with_suffix(".partial")
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "21"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        while written < total:
            which = int(rng.integers(len(pool) - 1))
            which += which >= before >= 0
            which %= len(pool)
            count = min(int(rng.integers(*SHOT_FRAMES)), total - written)
            if total - written - count < SHOT_FRAMES[0] // 3:
                count = total - written
            for picture in _shot(pool[which], count, width, height, rng):
                frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
                frame.pts, frame.time_base = written, Fraction(1, RATE)
                container.mux(stream.encode(frame))
                written += 1
            shots, before = shots + 1, which
        container.mux(stream.encode(None))
    partial.replace(path)
    return Film(str(path), size, total / RATE, total, shots, f"{shots} shots of things and people that move")


def _shot(frames: np.ndarray, count: int, width: int, height: int, rng: np.random.Generator) -> list[np.ndarray]:
    """``count`` frames of one crop, mirrored or not, brighter or darker, from a random start; played back and forth."""
    found, rows, columns = frames.shape[:3]
    crop = min(columns / width, rows / height) * float(rng.uniform(0.7, 1.0))
    w, h = int(width * crop), int(height * crop)
    x, y = int(rng.integers(columns - w + 1)), int(rng.integers(rows - h + 1))
    mirrored, gain = bool(rng.integers(2)), float(rng.uniform(0.85, 1.15))
    start = int(rng.integers(max(1, found - count)))
    pictures = []
    for n in range(count):
        at = (start + n) % (2 * found - 2)
        picture = frames[at if at < found else 2 * found - 2 - at, y : y + h, x : x + w]
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
        picture = cv2.convertScaleAbs(picture, alpha=gain)
        pictures.append(np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture)
    return pictures

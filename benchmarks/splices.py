"""Splices single-shot footage into videos whose shot boundaries are known: cuts, dissolves, fades and wipes, with flashes
and whip pans between them that are none.

Every video is encoded with x264 and decoded again by whoever measures, so detectors see what they see in life. A seed
settles everything that is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np

from models.video.reader import VideoReader

Half = Literal["tuning", "held-out"]

# Subject -> its files. Files of one subject look alike, so they never meet at a boundary and lie in the same half. Left out:
# test patterns, black screens, photographs a second apart, files under a second, and re-encodings of files that are in.
SUBJECTS: dict[Half, dict[str, tuple[str, ...]]] = {
    "tuning": {
        "wooden floor": ("androidx-media/sample_sef_slow_motion.mp4",),
        "city square": ("androidx-media/sample_with_increasing_timestamps_320w_240h_5s.mp4",),
        "mural painter": ("cogvideo/3.mp4",),
        "meadow": ("ffmpegwasm-testdata/Big_Buck_Bunny_180_10s.webm", "moviepy/doc_example2.mp4"),
        "bottles": ("intel-sample-videos/bottle-detection.mp4",),
        "rose": ("mdn-shared-assets/flower.mp4",),
        "park, 1914": ("moviepy/chaplin.mp4",),
        "dark room": ("moviepy/fire2.mp4",),
        "dog": ("sam2/01_dog.mp4",),
        "coffee": ("sam2/04_coffee.mp4",),
        "boxing cats": ("vace/test.mp4",),
        "bedroom": ("videoalign/example_1_A.mp4", "videoalign/example_1_B.mp4"),
    },
    "held-out": {
        "toy ship": ("cogvideo/1.mp4",),
        "horse": ("cogvideo/horse.mp4",),
        "kitten": ("cogvideo/kitten.mp4",),
        "signer": ("intel-sample-videos/bird.mkv", "intel-sample-videos/milk.mkv"),
        "figures on a table": (
            "mdn-learning-area/crystal.webm",
            "mdn-learning-area/elf.webm",
            "mdn-learning-area/frog.mp4",
            "mdn-learning-area/rabbit.webm",
        ),
        "beetle": ("mdn-shared-assets/bug_video_640.mp4",),
        "pedestrians": ("opencv/vtest.avi",),
        "letter blocks": ("sam2/03_blocks.mp4",),
        "juggler": ("sam2/05_default_juggle.mp4",),
        "ruins": ("videoalign/example_2_A.mp4", "videoalign/example_2_B.mp4"),
        "office face": ("androidx-media/bt601.mov",),
    },
}

CANVASES: tuple[tuple[int, int, float], ...] = (
    # width, height, frames per second
    (640, 360, 25.0),
    (320, 240, 30.0),
    (854, 480, 24.0),
    (1280, 720, 30.0),
    (360, 640, 30000 / 1001),
    (480, 270, 50.0),
    (640, 480, 15.0),
    (642, 642, 24000 / 1001),
    (426, 240, 60.0),
    (960, 540, 25.0),
)

WIPES = ("left", "right", "up", "down", "diagonal", "iris", "doors")
_KINDS = {"cut": 0.45, "dissolve": 0.22, "fade to black": 0.09, "fade to white": 0.05, "wipe": 0.19}
_READ_FROM_S = 25.0  # how deep into a long file a piece may begin: what lies before it has to be decoded, too


@dataclass(frozen=True)
class Truth:
    """A boundary. Frames ``[start, end)`` belong to both shots, or to the colour between them; of a cut there are none.

    ``start`` is the first frame that is not wholly the old shot's, ``end`` the first that is wholly the new one's.
    """

    kind: str
    start: int
    end: int
    detail: str = ""


@dataclass(frozen=True)
class Trap:
    """Frames ``[start, end)`` inside a shot that look like a boundary and are none: a ``flash`` or a ``whip`` pan."""

    kind: str
    start: int
    end: int


@dataclass
class Piece:
    """A stretch of one source: ``body`` frames of its own, besides those it shares with its neighbours' transitions."""

    source: str
    offset_s: float
    body: int
    mirrored: bool
    trap: str = ""


@dataclass
class Plan:
    """One video to be made: pieces and, between each two of them, a transition as (kind, frames, detail)."""

    name: str
    half: Half
    width: int
    height: int
    fps: float
    crf: int
    pieces: list[Piece] = field(default_factory=list)
    transitions: list[tuple[str, int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Spliced:
    """A video that was made, with what is true about it."""

    path: Path
    half: str
    fps: float
    frames: int
    truths: tuple[Truth, ...]
    traps: tuple[Trap, ...]


class FootageError(Exception):
    """The footage is not what the splices are made of; the message says which file."""


# -- plans ---------------------------------------------------------------------------------------------------------------


def plan(footage: Path, half: Half, boundaries: int, seed: int, per_video: int = 16) -> list[Plan]:
    """Videos with this many boundaries together. Raises ``FootageError`` where the manifest calls a source no single shot."""
    lengths = _lengths(footage, half)
    rng = np.random.default_rng([seed, half == "tuning"])
    plans: list[Plan] = []
    while boundaries > 0:
        n = min(per_video, boundaries)
        width, height, fps = CANVASES[len(plans) % len(CANVASES)]
        made = Plan(f"{half}-{len(plans):03d}", half, width, height, fps, crf=int(rng.choice([18, 23, 28])))
        _fill(made, n, half, lengths, rng)
        plans.append(made)
        boundaries -= n
    return plans


def _lengths(footage: Path, half: Half) -> dict[str, float]:
    """Seconds of every source of this half, from the manifest."""
    rows = {row["file"]: row for row in json.loads((footage / "manifest.json").read_text(encoding="utf-8"))}
    found = {}
    for files in SUBJECTS[half].values():
        for name in files:
            if name not in rows or not (footage / name).exists():
                raise FootageError(f"{footage / name} is not there; the splices need it")
            if rows[name].get("shots") != 1:
                raise FootageError(f"{name} is not a single shot by {footage / 'manifest.json'}")
            found[name] = float(rows[name]["dur"])
    return found


def _fill(made: Plan, boundaries: int, half: Half, lengths: dict[str, float], rng: np.random.Generator) -> None:
    kinds = [str(k) for k in rng.choice(list(_KINDS), boundaries, p=list(_KINDS.values()))]
    seconds = [_seconds(kind, rng) for kind in kinds]
    before = ""
    for n in range(boundaries + 1):
        subject = str(rng.choice([s for s in SUBJECTS[half] if s != before]))
        before = subject
        source = str(rng.choice(SUBJECTS[half][subject]))
        length = lengths[source] - 0.2
        shared = [seconds[k] for k in (n - 1, n) if 0 <= k < boundaries]
        # a short source keeps at least 0.4 s to itself, its transitions give way
        room = length - 0.4
        for k in (n - 1, n):
            if 0 <= k < boundaries and sum(shared) > room:
                seconds[k] = min(seconds[k], room / len(shared))
        taken = sum(seconds[k] for k in (n - 1, n) if 0 <= k < boundaries)
        body = float(np.clip(rng.lognormal(0.45, 0.55), 0.4, 5.0))
        body = min(body, length - taken)
        offset = float(rng.uniform(0.0, min(max(0.0, length - taken - body), _READ_FROM_S)))
        trap = str(rng.choice(["", "flash", "whip"], p=[0.7, 0.2, 0.1])) if body >= 1.6 else ""
        made.pieces.append(Piece(source, offset, max(2, int(body * made.fps)), bool(rng.integers(2)), trap))
    for kind, length in zip(kinds, seconds, strict=True):
        detail = ""
        if kind == "wipe":
            detail = f"{rng.choice(WIPES)} {rng.choice([0.0, 0.1])}"
        elif kind == "dissolve":
            detail = str(rng.choice(["linear", "eased"], p=[0.7, 0.3]))
        frames = 0 if kind == "cut" else max(4, round(length * made.fps))
        made.transitions.append((kind, frames, detail))


def _seconds(kind: str, rng: np.random.Generator) -> float:
    low, high = {"cut": (0.0, 0.0), "dissolve": (0.25, 2.0), "wipe": (0.25, 1.5)}.get(kind, (0.4, 2.0))
    return float(np.exp(rng.uniform(np.log(low), np.log(high)))) if high else 0.0


# -- pictures ------------------------------------------------------------------------------------------------------------


def _frames_of(footage: Path, piece: Piece, made: Plan) -> Iterator[np.ndarray]:
    """BGR pictures of a piece at the video's rate (the newest frame at each instant), cropped to its shape."""
    step = 1.0 / made.fps
    due = piece.offset_s
    held: np.ndarray | None = None
    waiting = None
    with VideoReader(footage / piece.source) as reader:
        for frame in reader:
            if waiting is not None and frame.time_s > due + 1e-6:
                held = _covering(waiting.picture(), made.width, made.height, piece.mirrored)
                while due < frame.time_s - 1e-6:
                    yield held
                    due += step
            waiting = frame
        if waiting is not None:
            held = _covering(waiting.picture(), made.width, made.height, piece.mirrored)
    while held is not None:  # a source whose manifest length is a little too long holds its last frame
        yield held


def _covering(picture: np.ndarray, width: int, height: int, mirrored: bool) -> np.ndarray:
    """The picture's middle at the canvas's shape, scaled to its size."""
    h, w = picture.shape[:2]
    scale = max(width / w, height / h)
    cut_w, cut_h = min(w, round(width / scale)), min(h, round(height / scale))
    left, top = (w - cut_w) // 2, (h - cut_h) // 2
    part = picture[top : top + cut_h, left : left + cut_w]
    if mirrored:
        part = part[:, ::-1]
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=mode)


def _mask(width: int, height: int, detail: str) -> np.ndarray:
    """When each pixel is wiped, 0 to 1, float32."""
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :].repeat(height, 0)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None].repeat(width, 1)
    way = detail.split()[0]
    masks = {
        "left": 1 - x,
        "right": x,
        "up": 1 - y,
        "down": y,
        "diagonal": (x + y) / 2,
        "iris": np.sqrt((x - 0.5) ** 2 + (y - 0.5) ** 2) / np.sqrt(0.5),
        "doors": np.abs(x - 0.5) * 2,
    }
    return masks[way].astype(np.float32)


def _mixed(
    old: np.ndarray, new: np.ndarray, share: float, kind: str, mask: np.ndarray | None, soft: float
) -> np.ndarray:
    """One frame of a transition, ``share`` of the way through it."""
    if kind == "dissolve":
        return cv2.addWeighted(old, 1 - share, new, share, 0)
    if kind.startswith("fade"):
        colour = 255 if kind.endswith("white") else 0
        level = np.full_like(old, colour)
        if share < 0.45:
            return cv2.addWeighted(old, 1 - share / 0.45, level, share / 0.45, 0)
        if share > 0.55:
            back = (share - 0.55) / 0.45
            return cv2.addWeighted(level, 1 - back, new, back, 0)
        return level
    assert mask is not None
    edge = max(soft, 1e-3)
    weight = np.clip((share * (1 + edge) - mask) / edge, 0, 1)[..., None]
    return (old * (1 - weight) + new * weight).astype(np.uint8)


def _trapped(frames: list[np.ndarray], fps: float, kind: str, rng: np.random.Generator) -> tuple[int, int]:
    """Put a flash or a whip pan into the middle of a shot's frames, in place; returns its frames ``[start, end)``."""
    if kind == "flash":
        start = int(rng.integers(len(frames) // 3, 2 * len(frames) // 3))
        length = max(1, round(float(rng.uniform(0.03, 0.16)) * fps))
        bright, decays = float(rng.uniform(0.55, 1.0)), bool(rng.integers(2))
        for n in range(length):
            share = bright * (1 - n / length) if decays else bright
            frames[start + n] = cv2.addWeighted(
                frames[start + n], 1 - share, np.full_like(frames[start + n], 255), share, 0
            )
        return start, start + length
    # the camera looks at one side of the scene, swings, and then looks at the other
    height, width = frames[0].shape[:2]
    length = max(3, round(float(rng.uniform(0.15, 0.4)) * fps))
    start = len(frames) // 2 - length // 2
    window = width // 2
    for n, frame in enumerate(frames):
        now = float(np.clip((n - start) / length, 0, 1))
        then = float(np.clip((n + 0.5 - start) / length, 0, 1))
        steps = np.linspace(now, then, 6 if then > 0 and now < 1 else 1)
        views = [_view(frame, round(s * (width - window)), window, height) for s in steps]
        frames[n] = np.mean(views, axis=0).astype(np.uint8) if len(views) > 1 else views[0]
    return start, start + length


def _view(frame: np.ndarray, left: int, window: int, height: int) -> np.ndarray:
    part = frame[height // 4 : height // 4 + height // 2, left : left + window]
    return cv2.resize(part, (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_LINEAR)


def _pictures(
    footage: Path, made: Plan, rng: np.random.Generator, out: tuple[list[Truth], list[Trap]]
) -> Iterator[np.ndarray]:
    """Every frame of the video in order; notes truths and traps in ``out``."""
    truths, traps = out
    count = 0
    current = _frames_of(footage, made.pieces[0], made)
    for n, piece in enumerate(made.pieces):
        body = [next(current) for _ in range(piece.body)]
        if piece.trap:
            start, end = _trapped(body, made.fps, piece.trap, rng)
            traps.append(Trap(piece.trap, count + start, count + end))
        yield from body
        count += len(body)
        if n == len(made.transitions):
            return
        kind, frames, detail = made.transitions[n]
        following = _frames_of(footage, made.pieces[n + 1], made)
        truths.append(Truth(kind, count, count + frames, detail))
        mask = _mask(made.width, made.height, detail) if kind == "wipe" else None
        soft = float(detail.split()[1]) if kind == "wipe" else 0.0
        last_whip = piece.trap == "whip"
        for k in range(frames):
            old, new = next(current), next(following)
            if last_whip:
                old = _view(old, old.shape[1] - old.shape[1] // 2, old.shape[1] // 2, old.shape[0])
            if made.pieces[n + 1].trap == "whip":
                new = _view(new, 0, new.shape[1] // 2, new.shape[0])
            share = (k + 1) / (frames + 1)
            if detail == "eased":
                share = share * share * (3 - 2 * share)
            yield _mixed(old, new, share, kind, mask, soft)
        count += frames
        current = following


# -- files ---------------------------------------------------------------------------------------------------------------


def render(footage: Path, made: Plan, folder: Path, seed: int) -> Spliced:
    """Make the video and put its truth beside it; one that is there already is taken as it is."""
    path, note = folder / f"{made.name}.mp4", folder / f"{made.name}.json"
    if note.exists():
        value = json.loads(note.read_text(encoding="utf-8"))
        return Spliced(
            path,
            made.half,
            made.fps,
            value["frames"],
            tuple(Truth(*t) for t in value["truths"]),
            tuple(Trap(*t) for t in value["traps"]),
        )
    truths: list[Truth] = []
    traps: list[Trap] = []
    rng = np.random.default_rng([seed, sum(made.name.encode())])
    frames = _encode(_pictures(footage, made, rng, (truths, traps)), made, path)
    value = {
        "frames": frames,
        "truths": [[t.kind, t.start, t.end, t.detail] for t in truths],
        "traps": [[t.kind, t.start, t.end] for t in traps],
    }
    note.write_text(json.dumps(value), encoding="utf-8")
    return Spliced(path, made.half, made.fps, frames, tuple(truths), tuple(traps))


def _encode(pictures: Iterator[np.ndarray], made: Plan, path: Path) -> int:
    rate = Fraction(made.fps).limit_denominator(1001)
    options = {"crf": str(made.crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
    count = 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = made.width, made.height, "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    return count


def seconds_of(spliced: Sequence[Spliced]) -> float:
    return sum(s.frames / s.fps for s in spliced)

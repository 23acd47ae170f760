"""Makes small video files whose copies are known: transformed variants of real shots and of rendered scenes, and hard negatives.

Every source gives one original and several variants, all true copies of each other. Beside them stand clips that only look
alike: other moments of the same shot, other subjects over the same background, the same subject over another background.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

SIDE = 256  # px, longest side of an original
SECONDS = 3.0
_GAP_S = 1.5  # between two moments of one shot
_MOMENTS = 4
_LEAST_CONTRAST = 8.0  # grey levels
_CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("mp4", "libx264", {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0:cpu-independent=1"}),
    "vp9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "0", "threads": "1"}),
    "mpeg4": ("mp4", "mpeg4", {"threads": "1"}),
}


@dataclass(frozen=True)
class Film:
    """Pictures (uint8, THWC, RGB) with the instant of each in seconds, and how they are to be encoded."""

    frames: np.ndarray
    times: np.ndarray
    codec: str = "h264"
    quality: int = 26

    @property
    def seconds(self) -> float:
        return float(self.times[-1] - self.times[0])


@dataclass(frozen=True)
class Source:
    """One scene. ``family`` names what must stay on one side of a split: a file's moments, a rendered scene's alternatives."""

    family: str
    name: str
    film: Film
    vary: bool


# -- transformations: (film, rng) -> film ------------------------------------------------------------------------------


def _each(film: Film, change: Callable[[np.ndarray], np.ndarray]) -> Film:
    return replace(film, frames=np.stack([change(frame) for frame in film.frames]))


def _resize(film: Film, width: float, height: float) -> Film:
    size = (2 * max(16, round(width / 2)), 2 * max(16, round(height / 2)))
    return _each(film, lambda f: cv2.resize(f, size, interpolation=cv2.INTER_AREA))


def recode(film: Film, rng: np.random.Generator) -> Film:
    codec, low, high = (("h264", 34, 44), ("vp9", 44, 58), ("mpeg4", 8, 20))[int(rng.integers(3))]
    return replace(film, codec=codec, quality=int(rng.integers(low, high + 1)))


def rescale(film: Film, rng: np.random.Generator) -> Film:
    height, width = film.frames.shape[1:3]
    scale = rng.uniform(0.4, 0.8)
    stretch = rng.uniform(0.75, 1.3) if rng.random() < 0.3 else 1.0
    return _resize(film, width * scale * stretch, height * scale)


def crop(film: Film, rng: np.random.Generator) -> Film:
    """Up to 15 % off each side, each on its own."""
    height, width = film.frames.shape[1:3]
    left, right, top, bottom = rng.uniform(0, 0.15, 4)
    rows = slice(round(height * top), round(height * (1 - bottom)))
    columns = slice(round(width * left), round(width * (1 - right)))
    return _resize(replace(film, frames=film.frames[:, rows, columns]), width * 0.9, height * 0.9)


def crop_even(film: Film, rng: np.random.Generator) -> Film:
    """The same share off all sides, 5 to 12 %: a zoom."""
    height, width = film.frames.shape[1:3]
    share = rng.uniform(0.05, 0.12)
    y, x = round(height * share), round(width * share)
    return _resize(replace(film, frames=film.frames[:, y : height - y, x : width - x]), width, height)


def retime(film: Film, rng: np.random.Generator) -> Film:
    speed = rng.uniform(0.9, 1.1)
    return replace(film, times=film.times / speed)


def lower_rate(film: Film, rng: np.random.Generator) -> Film:
    step = rng.choice([1.5, 2.0, 2.5])
    keep = np.unique(np.arange(0, len(film.frames) - 0.5, step).round().astype(int))
    return replace(film, frames=film.frames[keep], times=film.times[keep])


def drop(film: Film, rng: np.random.Generator) -> Film:
    """A quarter of the frames lost, the others at their own instants."""
    keep = np.flatnonzero((rng.random(len(film.frames)) > 0.25) | (np.arange(len(film.frames)) % 12 == 0))
    return replace(film, frames=film.frames[keep], times=film.times[keep])


def bars(film: Film, rng: np.random.Generator) -> Film:
    """Black bars of 8 to 16 % above and below, or at the sides."""
    height, width = film.frames.shape[1:3]
    share = rng.uniform(0.08, 0.16)
    y, x = (2 * round(height * share / 2), 0) if rng.random() < 0.7 else (0, 2 * round(width * share / 2))
    return replace(film, frames=np.pad(film.frames, ((0, 0), (y, y), (x, x), (0, 0))))


def overlay(film: Film, rng: np.random.Generator) -> Film:
    """A channel's name in a corner or along an edge, up to 4 % of the picture."""
    height, width = film.frames.shape[1:3]
    text = ("NEWS 24", "@clips", "HD", "example.org")[int(rng.integers(4))]
    scale = height / 260
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 2)
    x = int(rng.choice([0.04 * width, 0.96 * width - wide]))
    y = int(rng.choice([0.05 * height + tall, 0.95 * height]))
    colour = (255, 255, 255) if rng.random() < 0.6 else (230, 40, 40)

    def stamp(frame: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.putText(frame.copy(), text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 2))

    return _each(film, stamp)


def colour(film: Film, rng: np.random.Generator) -> Film:
    """Gamma, gain and lift, and a cast."""
    gamma, gain, lift = rng.uniform(0.7, 1.4), rng.uniform(0.8, 1.15), rng.uniform(-12, 12)
    cast = rng.uniform(0.9, 1.1, 3)
    level = np.arange(256) / 255
    tables = [np.clip((level**gamma) * 255 * gain * c + lift, 0, 255).astype(np.uint8) for c in cast]
    return _each(film, lambda f: np.stack([tables[c][f[..., c]] for c in range(3)], axis=2))


def trim(film: Film, rng: np.random.Generator) -> Film:
    """Up to 7 % off the beginning and the end."""
    count = len(film.frames)
    start, end = int(count * rng.uniform(0, 0.07)), count - int(count * rng.uniform(0, 0.07))
    return replace(film, frames=film.frames[start:end], times=film.times[start:end])


def mirror(film: Film, rng: np.random.Generator) -> Film:
    return replace(film, frames=film.frames[:, :, ::-1])


def _chain(*steps: Callable[[Film, np.random.Generator], Film]) -> Callable[[Film, np.random.Generator], Film]:
    def run(film: Film, rng: np.random.Generator) -> Film:
        for step in steps:
            film = step(film, rng)
        return film

    return run


KINDS: dict[str, Callable[[Film, np.random.Generator], Film]] = {
    "recode": recode,
    "crop": crop,
    "retime": retime,
    "colour": colour,
    "overlay": overlay,
    "rescale": rescale,
    "bars": bars,
    "lower_rate": lower_rate,
    "crop_even": crop_even,
    "drop": drop,
    "trim": trim,
    "mirror": mirror,
    "crop+recode": _chain(crop, recode),
    "rescale+overlay+recode": _chain(rescale, overlay, recode),
    "retime+colour": _chain(retime, colour),
    "bars+lower_rate": _chain(bars, lower_rate),
    "mirror+crop_even": _chain(mirror, crop_even),
    "crop+retime+recode": _chain(crop, retime, recode),
}


# -- sources -----------------------------------------------------------------------------------------------------------


def real_sources(shots: Sequence[dict[str, object]], skip: set[str], root: Path) -> Iterator[Source]:
    """Moments of single shots, at most ``_MOMENTS`` a file; the first two are varied, all are hard negatives of each other.

    ``shots``: rows of clips. ``skip``: files, relative to ``root``, that are known to repeat others.
    """
    from models.video.reader import VideoReader, fitted

    by_file: dict[str, list[dict[str, object]]] = {}
    for shot in shots:
        by_file.setdefault(str(shot["video_uri"]), []).append(shot)
    for uri, found in sorted(by_file.items()):
        name = Path(uri.removeprefix("file://")).relative_to(root).as_posix()
        if name in skip:
            continue
        moments: list[tuple[float, float]] = []
        for shot in found:
            start, end = float(str(shot["start_s"])), float(str(shot["end_s"]))
            while end - start >= 1.5 and len(moments) < _MOMENTS:
                moments.append((start, min(end, start + SECONDS)))
                start += SECONDS + _GAP_S
        if not moments:
            continue
        held: list[list[tuple[float, np.ndarray]]] = [[] for _ in moments]
        with VideoReader(uri) as reader:
            for frame in reader:
                if frame.time_s >= moments[-1][1]:
                    break
                for number, (start, end) in enumerate(moments):
                    if start <= frame.time_s < end - 1e-3:
                        if held[number] and frame.time_s - held[number][-1][0] < 1 / 31:
                            continue  # 60 frames a second would only make everything slower
                        width, height = fitted(frame.size, SIDE)
                        size = (max(32, width // 2 * 2), max(32, height // 2 * 2))
                        held[number].append((frame.time_s, frame.picture(size, order="rgb24")))
        for number, pictures in enumerate(held):
            # a film that was made to run in a loop shows one moment twice; the second is a copy, not a look-alike
            if any(_again(pictures, earlier) for earlier in held[:number]):
                continue
            # next to nothing to see is next to nothing to recognise: such clips are never compared
            if len(pictures) >= 12 and np.std([p.mean(axis=2) for _, p in pictures]) >= _LEAST_CONTRAST:
                film = Film(np.stack([p for _, p in pictures]), np.asarray([t for t, _ in pictures]) - pictures[0][0])
                yield Source(f"real/{name}", f"{name}#{number}", film, vary=number < 2)


def _again(pictures: Sequence[tuple[float, np.ndarray]], earlier: Sequence[tuple[float, np.ndarray]]) -> bool:
    """Whether a quarter of the pictures are ones that were shown earlier: next to no difference, where the film itself moves."""
    if len(pictures) < 12 or len(earlier) < 12:
        return False

    def small(frames: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
        return np.stack([cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA).ravel() for _, f in frames]).astype(
            float
        )

    mine, theirs = small(pictures), small(earlier)
    lag = len(mine) // 4
    moves = float(np.median(np.sqrt(((mine[lag:] - mine[:-lag]) ** 2).mean(axis=1))))
    apart = np.sqrt(((mine[:, None] - theirs[None]) ** 2).mean(axis=2)).min(axis=1)
    return float((apart < 0.1 * moves).mean()) >= 0.25


def rendered_sources(seed: int, films: int) -> Iterator[Source]:
    """Shots of rendered films; each with the same scene played by another subject, and the subject before another ground."""
    from tinyworld import difficulty
    from tinyworld.draw import draw
    from tinyworld.films import plan_world
    from tinyworld.world import draw_identity, generator

    for film in itertools.islice(plan_world(seed, 2 * films + 24).films, films):
        rng = generator("variants", seed, film.number)
        family = f"rendered/{seed}/{film.number}"
        shots = [shot for shot in film.shots if shot.defect is None][:3]
        for number, shot in enumerate(shots):
            scene = shot.scene
            other = replace(scene.actors[0], identity=draw_identity(rng))
            ground = str(rng.choice([b for b in difficulty.BACKGROUNDS if b != scene.backdrop.kind]))
            plays = {"": scene}
            if number == 0:
                plays["other_subject"] = replace(scene, actors=(other, *scene.actors[1:]))
                plays["other_ground"] = replace(scene, backdrop=replace(scene.backdrop, kind=ground))
            for what, played in plays.items():
                count = round(SECONDS * 15)
                frames, _ = draw(played, 256, 160, count)
                sequence = Film(np.asarray(frames), np.arange(count) / 15)
                yield Source(family, f"{family}#{number}{what}", sequence, vary=number < 2 and not what)


# -- files -------------------------------------------------------------------------------------------------------------


def write_film(film: Film, path: Path) -> None:
    """Encode with the instants as they are (milliseconds); sizes are cut to even ones."""
    _, encoder, options = _CODECS[film.codec]
    height, width = (n // 2 * 2 for n in film.frames.shape[1:3])
    with av.open(str(path), "w") as container:
        rate = Fraction((len(film.frames) - 1) / max(film.seconds, 1e-3)).limit_denominator(1000)
        stream = container.add_stream(encoder, rate=rate, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"  # type: ignore[union-attr]
        stream.codec_context.time_base = Fraction(1, 1000)
        if film.codec == "mpeg4":
            stream.codec_context.qmin = stream.codec_context.qmax = film.quality  # type: ignore[union-attr]
        else:
            stream.codec_context.options = {**options, "crf": str(film.quality)}
        for time_s, picture in zip(film.times, film.frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            frame.pts, frame.time_base = round((time_s - film.times[0]) * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))  # type: ignore[union-attr]
        container.mux(stream.encode(None))  # type: ignore[union-attr]


def make(sources: Sequence[Source], variants: int, folder: Path, seed: int) -> list[dict[str, str]]:
    """Write every source and ``variants`` transformed copies, dealt in turn to those that are to be varied.

    Returns one row a file: ``file`` (relative), ``source`` (files of one source are copies of each other), ``kind``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    rng = np.random.default_rng(seed)
    varied = [source for source in sources if source.vary]
    if not varied:
        raise ValueError("there is no source to make variants of")
    deal: dict[str, list[str]] = {source.name: [] for source in sources}
    decks = {source.name: itertools.cycle(rng.permutation(sorted(KINDS)).tolist()) for source in varied}
    for source, _ in zip(itertools.cycle(varied), range(variants), strict=False):
        deal[source.name].append(next(decks[source.name]))
    for number, source in enumerate(sources):
        for copy, kind in enumerate(["original", *deal[source.name]]):
            film = source.film if kind == "original" else KINDS[kind](source.film, rng)
            name = f"{number:04d}-{copy:02d}-{kind}.{_CODECS[film.codec][0]}"
            write_film(film, folder / name)
            rows.append({"file": name, "source": source.name, "family": source.family, "kind": kind})
    return rows

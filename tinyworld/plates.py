"""The painted backdrops: eight textures as tall plates, drawn once per process and scaled to the size that is asked for.

A plate covers ``PLATE_EXTENT`` frame heights and is painted at ``MASTER`` pixels a frame height; smaller ones are
area-averaged from it, so a clip of 24 pixels and a film of 160 show the same world.
"""

from __future__ import annotations

from functools import cache, lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from tinyworld.world import generator, uniform

Plane = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

PLATE_EXTENT = (3.2, 2.4)
MASTER = 288
WIDTH, HEIGHT = round(PLATE_EXTENT[0] * MASTER), round(PLATE_EXTENT[1] * MASTER)


def _noise(rng: np.random.Generator, cell: float, aspect: float = 1.0, octaves: int = 3) -> Plane:
    """Smooth noise of about unit variance: ``cell`` is the largest feature in frame heights, ``aspect`` its width ratio."""
    total = np.zeros((HEIGHT, WIDTH), np.float32)
    for octave in range(octaves):
        step = cell / 2**octave
        rows, columns = max(2, round(PLATE_EXTENT[1] / step) + 1), max(2, round(PLATE_EXTENT[0] / (step * aspect)) + 1)
        lattice = rng.random((rows, columns)).astype(np.float32) - 0.5
        total += cv2.resize(lattice, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) * 0.55**octave
    return np.asarray(total / max(1e-6, float(total.std())), np.float32)


def _grid() -> tuple[Plane, Plane]:
    """x and y of every pixel, in frame heights."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return x / MASTER, y / MASTER


def _ramp(value: Plane, *stops: tuple[float, tuple[int, int, int]]) -> Plane:
    """Colours interpolated along ``value``: float32 HWC in 0..255."""
    at = np.array([stop for stop, _ in stops], np.float32)
    table = np.array([colour for _, colour in stops], np.float32)
    return np.stack([np.interp(value, at, table[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def _grass(rng: np.random.Generator) -> Plane:
    patches = _noise(rng, 0.7)
    picture = _ramp(patches, (-2, (44, 104, 40)), (0, (72, 142, 52)), (2, (116, 172, 62)))
    blades = 5200
    xs, ys = rng.random(blades) * WIDTH, rng.random(blades) * HEIGHT
    lean, length, tone = rng.random(blades) - 0.5, 0.06 + 0.06 * rng.random(blades), rng.random(blades)
    for x, y, slope, size, shade in zip(xs, ys, lean, length, tone, strict=True):
        tip = (int(x + slope * size * MASTER), int(y - size * MASTER))
        colour = (38 + 76 * shade, 92 + 96 * shade, 30 + 40 * shade)
        cv2.line(picture, (int(x), int(y)), tip, colour, 2, cv2.LINE_AA)
    for _ in range(46):
        centre = (int(rng.random() * WIDTH), int(rng.random() * HEIGHT))
        petal = (250, 246, 226) if rng.random() < 0.6 else (244, 220, 120)
        cv2.circle(picture, centre, 5, petal, -1, cv2.LINE_AA)
        cv2.circle(picture, centre, 2, (232, 170, 40), -1, cv2.LINE_AA)
    return picture


def _water(rng: np.random.Generator) -> Plane:
    x, y = _grid()
    warp = _noise(rng, 0.55)
    swell = np.sin((y * 26) + 2.2 * np.sin(x * 4.5 + rng.random() * 6) + 0.7 * warp)
    picture = _ramp(
        0.65 * swell + 0.35 * _noise(rng, 1.1), (-1.6, (16, 62, 132)), (0, (28, 104, 182)), (1.5, (70, 158, 218))
    )
    crest = np.clip((swell - 0.72) / 0.28, 0, 1) * np.clip(0.55 + 0.5 * _noise(rng, 0.3, 2.0), 0, 1)
    return picture + crest[..., None] * (np.array((226, 244, 252), np.float32) - picture) * 0.8


def _sand(rng: np.random.Generator) -> Plane:
    x, y = _grid()
    tilt = uniform(rng, (-0.5, 0.5))
    ripple = np.sin((y + tilt * x) * 34 + 1.5 * _noise(rng, 0.6) + 1.2 * np.sin(x * 3))
    value = 0.55 * ripple + 0.3 * _noise(rng, 1.2) + 0.22 * _noise(rng, 0.025, octaves=2)
    picture = _ramp(value, (-1.6, (176, 132, 78)), (0, (218, 182, 118)), (1.5, (244, 222, 166)))
    for _ in range(60):
        centre = (int(rng.random() * WIDTH), int(rng.random() * HEIGHT))
        radius = 2 + int(4 * rng.random())
        cv2.circle(picture, (centre[0] + 1, centre[1] + 2), radius, (148, 108, 66), -1, cv2.LINE_AA)
        cv2.circle(picture, centre, radius, (198, 168, 126) if rng.random() < 0.5 else (160, 138, 116), -1, cv2.LINE_AA)
    return picture


def _snow(rng: np.random.Generator) -> Plane:
    drift = _noise(rng, 0.8, 1.8)
    slope = cv2.Sobel(drift, cv2.CV_32F, 0, 1, ksize=5)
    slope /= max(1e-6, float(slope.std()))
    value = 0.55 * slope + 0.25 * drift + 0.16 * _noise(rng, 0.03, octaves=1)
    picture = _ramp(
        value, (-1.8, (164, 186, 220)), (-0.4, (208, 222, 240)), (0.6, (240, 245, 251)), (1.6, (255, 255, 255))
    )
    for _ in range(26):  # tracks of small animals, for something to hold on to
        x, y, step = rng.random() * WIDTH, rng.random() * HEIGHT, uniform(rng, (-0.5, 0.5))
        for k in range(5):
            at = (int(x + 24 * k), int(y + 24 * k * step + 7 * (k % 2)))
            cv2.ellipse(picture, at, (7, 4), 20.0, 0, 360, (166, 186, 216), -1, cv2.LINE_AA)
            cv2.ellipse(picture, (at[0], at[1] + 2), (6, 2), 20.0, 0, 360, (196, 212, 234), -1, cv2.LINE_AA)
    glitter = rng.random((HEIGHT, WIDTH)) > 0.9985
    picture[glitter] = 255.0
    return picture


def _bricks(rng: np.random.Generator) -> Plane:
    x, y = _grid()
    wide, high, joint = 0.34, 0.15, 0.018
    row = np.floor(y / high).astype(np.int64)
    along = x / wide + 0.5 * (row % 2) + uniform(rng, (0.0, 1.0))
    column = np.floor(along).astype(np.int64)
    fx, fy = (along - column) * wide, y - row * high
    edge = np.minimum(np.minimum(fx, wide - fx), np.minimum(fy, high - fy)) + 0.0022 * _noise(rng, 0.05, octaves=2)
    tones = rng.random((int(row.max()) + 2, int(column.max()) + 2)).astype(np.float32)
    value = tones[row, column] * 2 - 1 + 0.28 * _noise(rng, 0.08) + 0.2 * _noise(rng, 0.02, octaves=1)
    brick = _ramp(value, (-1.4, (118, 50, 38)), (0, (160, 78, 56)), (1.3, (194, 112, 82)))
    lit = np.clip((fy - joint) / 0.02, 0, 1) * np.clip((fx - joint) / 0.02, 0, 1)
    brick *= (0.86 + 0.14 * lit + 0.10 * (1 - np.clip((fy - joint) / 0.03, 0, 1)))[..., None]
    mortar = _ramp(0.6 * _noise(rng, 0.03, octaves=2), (-2, (150, 142, 132)), (2, (196, 188, 176)))
    mask = np.clip((edge - joint / 2) * MASTER / 2 + 0.5, 0, 1)[..., None]
    return mortar + (brick - mortar) * mask


def _stars(rng: np.random.Generator) -> Plane:
    x, y = _grid()
    band = np.exp(
        -(((y - 1.2) + 0.55 * (x - 1.6) * (1 if rng.random() < 0.5 else -1) + 0.12 * _noise(rng, 0.8)) ** 2) / 0.16
    )
    cloud = np.clip(0.55 + 0.35 * _noise(rng, 0.5), 0, 1.4) * band
    picture = _ramp(y / PLATE_EXTENT[1], (0, (34, 32, 84)), (0.55, (50, 44, 112)), (1, (72, 56, 128)))
    picture += cloud[..., None] * np.array((84, 62, 104), np.float32)
    picture += (np.clip(_noise(rng, 0.35), 0, 2) * band * 10)[..., None]
    for index in range(430):
        centre = (int(rng.random() * WIDTH), int(rng.random() * HEIGHT))
        bright = float(rng.random())
        colour = (226 + 29 * bright, 226 + 20 * rng.random(), 255 - 60 * rng.random())
        if index % 9:
            cv2.circle(picture, centre, 1 + int(2.2 * bright * bright), colour, -1, cv2.LINE_AA)
            continue
        for arm, width in ((13 + int(9 * bright), 1), (6, 2)):
            cv2.line(picture, (centre[0] - arm, centre[1]), (centre[0] + arm, centre[1]), colour, width, cv2.LINE_AA)
            cv2.line(picture, (centre[0], centre[1] - arm), (centre[0], centre[1] + arm), colour, width, cv2.LINE_AA)
        cv2.circle(picture, centre, 5, (255, 255, 250), -1, cv2.LINE_AA)
    glow = cv2.GaussianBlur(picture, (0, 0), 7)
    return picture + np.clip(glow - 90, 0, 255) * 0.5


def _clouds(rng: np.random.Generator) -> Plane:
    _, y = _grid()
    sky = _ramp(y / PLATE_EXTENT[1], (0, (74, 146, 226)), (1, (156, 206, 246)))
    body = _noise(rng, 0.45, 1.8, octaves=5)
    cover = np.clip((body - 0.45) / 0.4, 0, 1)
    lit = body - np.roll(body, -16, axis=0)  # tops are bright, undersides grey
    tone = _ramp(lit + 0.25 * body, (-0.9, (184, 200, 222)), (0.0, (228, 236, 246)), (0.6, (255, 255, 255)))
    return sky + (tone - sky) * cover[..., None]


def _planks(rng: np.random.Generator) -> Plane:
    x, y = _grid()
    high, joint = 0.24, 0.012
    row = np.floor(y / high).astype(np.int64)
    count = int(row.max()) + 1
    tone, shift, ends = rng.random(count).astype(np.float32), rng.random(count) * 40, rng.random(count) * 1.6
    grain = np.sin((y * 46) + shift[row] + 2.4 * _noise(rng, 0.5, 5.0) + 0.4 * np.sin(x * 2))
    value = 0.45 * grain + (tone[row] * 1.7 - 0.85) + 0.25 * _noise(rng, 0.05, 8.0, octaves=2)
    wood = _ramp(value, (-1.6, (128, 84, 48)), (0, (176, 126, 78)), (1.5, (212, 166, 112)))
    across = np.minimum(y - row * high, (row + 1) * high - y)
    along = np.abs((x + ends[row]) % 1.6 - 0.8)
    gap = np.minimum(across, along)
    shade = np.clip(gap / joint, 0.0, 1.0)
    wood *= (0.42 + 0.58 * shade)[..., None]
    for _ in range(16):
        centre = (int(rng.random() * WIDTH), int((int(rng.integers(count)) + 0.5) * high * MASTER))
        cv2.ellipse(wood, centre, (11, 6), 0.0, 0, 360, (108, 68, 38), -1, cv2.LINE_AA)
        cv2.ellipse(wood, centre, (18, 10), 0.0, 0, 360, (134, 90, 54), 2, cv2.LINE_AA)
    return wood


_PAINTERS = {
    "grass": _grass,
    "water": _water,
    "sand": _sand,
    "snow": _snow,
    "bricks": _bricks,
    "stars": _stars,
    "clouds": _clouds,
    "planks": _planks,
}


@cache
def _master(kind: str, variant: int) -> Picture:
    if kind not in _PAINTERS:
        raise ValueError(f"there is no background {kind!r}; choose one of {', '.join(_PAINTERS)}")
    picture = _PAINTERS[kind](generator("plate", kind, variant))
    return np.asarray(np.clip(np.round(picture), 0, 255), np.uint8)


@lru_cache(maxsize=256)
def plate(kind: str, variant: int, scale: int) -> Picture:
    """The plate at ``scale`` pixels a frame height (at most ``MASTER``): uint8 HWC, RGB. Treat it as read-only."""
    master = _master(kind, variant)
    if scale >= MASTER:
        return master
    size = (round(PLATE_EXTENT[0] * scale), round(PLATE_EXTENT[1] * scale))
    return np.asarray(cv2.resize(master, size, interpolation=cv2.INTER_AREA), np.uint8)

"""Finds where one clip's picture lies in another's: which rectangle of it, to a fraction of a pixel, by small grey frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from models.video.signature import SIDE

PARTS = 3  # frames of the part that are searched for in the whole
_SMALL = 16  # px; the grid on which a crop is searched for
_SIDES = (16, 14, 12, 11)  # of that grid: width and height of a crop, each on its own
_WHOLES = 16  # frames of the whole in which they are searched
_CLEAR = 0.97  # correlation of the whole picture from which no crop is searched for
_STEPS = 6  # of the refinement
TAILS = (4, 96)  # percentiles of a frame beyond which a pixel does not count for its brightness and contrast
FLAT = 4.0  # grey levels; a frame with less contrast is not amplified into pure noise


@dataclass(frozen=True)
class Place:
    """Where the part fits best: an affine map (2, 3) from its pixels to the whole's, and (whole, part) frames that match.

    ``whole``: it so clearly fits all of the whole that no smaller rectangle was tried.
    """

    correlation: float
    into_whole: np.ndarray
    pairs: list[tuple[int, int]]
    whole: bool = False


@cache
def _rectangles() -> tuple[tuple[int, int], ...]:
    return tuple((height, width) for height in _SIDES for width in _SIDES if 0.7 <= height / width <= 1.43)


def register(whole_THW: np.ndarray, part_THW: np.ndarray, good_whole: np.ndarray, good_part: np.ndarray) -> Place:
    """Search for the part inside the whole: one rectangle for all frames, at every scale and whole pixel of a small grid.

    The score of a rectangle is the mean over the part's frames of the correlation with the frame of the whole that fits best.
    """
    import cv2

    wholes = pick(good_whole, _WHOLES).tolist()
    # not the very first and last, where transitions linger
    parts = (pick(good_part, PARTS + 2)[1:-1] if len(good_part) > 2 else good_part).tolist()
    small = np.stack([cv2.resize(whole_THW[i], (_SMALL, _SMALL), interpolation=cv2.INTER_AREA) for i in wholes]).astype(
        np.float32
    )
    best, place = -2.0, Place(-2.0, np.eye(2, 3), [])
    for height, width in _rectangles():
        windows = np.lib.stride_tricks.sliding_window_view(small, (height, width), axis=(1, 2))
        rows, columns = windows.shape[1:3]
        stack = _unit(windows.reshape(len(wholes) * rows * columns, height * width))
        patches = [cv2.resize(part_THW[i], (width, height), interpolation=cv2.INTER_AREA) for i in parts]
        templates = _unit(np.stack(patches).reshape(len(parts), -1).astype(np.float32))
        found = (stack @ templates.T).reshape(len(wholes), rows * columns, len(parts))
        score = found.max(axis=0).mean(axis=1)
        spot = int(np.argmax(score))
        # a smaller rectangle always fits a little better, since it has fewer pixels to explain
        if score[spot] > best + 1e-3 * (height * width < _SMALL * _SMALL):
            best = float(score[spot])
            top, left = divmod(spot, columns)
            down, across, grid = height / _SMALL, width / _SMALL, SIDE / _SMALL
            # pixel centres: the part's pixel 0 covers the rectangle's first ``across`` pixels
            into_whole = np.array(
                [[across, 0, left * grid + (across - 1) / 2], [0, down, top * grid + (down - 1) / 2]], np.float64
            )
            pairs = [(wholes[int(w)], p) for w, p in zip(found[:, spot].argmax(axis=0), parts, strict=True)]
            place = Place(best, into_whole, pairs, height == width == _SMALL and best >= _CLEAR)
            if place.whole:
                return place
    return place


def calm(frames_THW: np.ndarray) -> np.ndarray:
    """Frames without their extremes, so that a white logo does not decide where a pale picture fits."""
    flat = frames_THW.reshape(len(frames_THW), -1)
    low, high = np.percentile(flat, TAILS, axis=1, keepdims=True).astype(np.uint8)
    return np.clip(flat, low, high).reshape(frames_THW.shape)


def spread(count: int, most: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most)).round()})


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)


def pick(values: np.ndarray, most: int) -> np.ndarray:
    return values[spread(len(values), most)]


def refine(
    whole_THW: np.ndarray, part_THW: np.ndarray, into_whole: np.ndarray, pairs: list[tuple[int, int]]
) -> np.ndarray:
    """The map (2, 3) to a fraction of a pixel: scale and place of both axes, fitted to several frames at once.

    Gauss-Newton on the compositional image alignment of Lucas and Kanade (Baker and Matthews, IJCV 2004), with a common gain
    and bias, and Cauchy weights so that a logo or a moving subject does not pull. Where it leaves the neighbourhood of the
    start, the start is the answer.
    """
    ws, ps = (list(index) for index in zip(*pairs, strict=True))
    target = _soft(part_THW[ps])
    wholes = _soft(whole_THW[ws])
    x = (np.arange(SIDE) - (SIDE - 1) / 2) / SIDE
    x_HW, y_HW = np.broadcast_to(x, (SIDE, SIDE)), np.broadcast_to(x[:, None], (SIDE, SIDE))
    map_33 = np.vstack([into_whole, [0, 0, 1]])
    for _ in range(_STEPS):
        warped = warp(wholes, map_33[:2])
        down, across = np.gradient(warped, axis=(1, 2))
        slopes = np.stack([across * x_HW, across, down * y_HW, down, warped, np.ones_like(warped)], axis=-1)
        rest = target - warped
        scale = float(np.median(np.abs(rest))) * 2 + 1e-3
        weight = 1 / (1 + (rest / scale) ** 2)
        flat = slopes[:, 2:-2, 2:-2].reshape(-1, 6)
        weighted = flat * weight[:, 2:-2, 2:-2].reshape(-1, 1)
        try:
            step = np.linalg.solve(weighted.T @ flat + 1e-3 * np.eye(6), weighted.T @ rest[:, 2:-2, 2:-2].reshape(-1))
        except np.linalg.LinAlgError:
            break
        sx, tx, sy, ty = step[:4]
        centre = (SIDE - 1) / 2
        local = np.array(
            [[1 + sx / SIDE, 0, tx - sx / SIDE * centre], [0, 1 + sy / SIDE, ty - sy / SIDE * centre], [0, 0, 1]]
        )
        map_33 = map_33 @ local
        if max(abs(sx), abs(tx), abs(sy), abs(ty)) < 0.02:
            break
    corners = np.array([[0, 0, 1], [SIDE, 0, 1], [0, SIDE, 1], [SIDE, SIDE, 1]], np.float64).T
    astray = float(np.abs((map_33[:2] - into_whole) @ corners).max())
    return map_33[:2] if astray <= SIDE / 6 else into_whole


def _soft(frames_THW: np.ndarray) -> np.ndarray:
    """Blurred frames with mean 0 and standard deviation 1; float32 (T, SIDE, SIDE)."""
    import cv2

    soft = np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 1.5) for frame in frames_THW])
    mean, scale = soft.mean(axis=(1, 2), keepdims=True), soft.std(axis=(1, 2), keepdims=True)
    return np.asarray((soft - mean) / np.maximum(scale, FLAT))


def warp(frames_THW: np.ndarray, into_whole: np.ndarray, side: int = SIDE) -> np.ndarray:
    import cv2

    if np.array_equal(into_whole, np.eye(2, 3)):
        return frames_THW
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.stack(
        [cv2.warpAffine(f, into_whole, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE) for f in frames_THW]
    )

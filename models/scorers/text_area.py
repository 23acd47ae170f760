"""Overlay text of a clip: the share of the frame under captions, titles, subtitles and tickers."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Every, Picture, Series, VideoInfo

_RATE = 1.0  # frames a second
_EDGE = 70  # grey levels of 255 across a stroke's edge: overlaid text is made to be read
_LETTER = (5, 68)  # px, height of a line of text at a long side of 480: 1 to 14 % of the width
_JOIN = 2.2  # gaps between letters and words that are closed, in units of the scale
_SCALES = (4, 8, 16)  # px: small, middle and large letters each get their own closing
_FILL = 0.45  # share of a line's box that its closed letters cover
_CLEAR = 0.35  # strokes just above and below a line, relative to those in it: lines stand apart, texture goes on
_DENSE = 0.25  # share of a line's box that strokes cover: letters stand close, twigs and window frames do not
_RHYTHM = (1.5, 7.0)  # stroke edges along a row, for each line height of width: letters alternate at this rate
_SAME = 0.6  # overlap (intersection over union) of strokes a second apart that counts as standing still
_SMALLEST = 32
_LOWEST = 2 / 3  # subtitles stand below this share of the height


class TextArea:
    """A cheap estimate without a model: rows of dense, high-contrast strokes with the rhythm of letters, standing apart.

    Only what stands still for a second counts, which leaves out most of a moving scene. Meant to sort clips, not to read:
    it finds overlaid lines from 4 % of the frame's height on, misses pale, slanted and ornamental ones, and takes some fences
    and window rows for text (docs/scores.md has counts). Real OCR comes as a scorer of key frames.
    """

    name: ClassVar[str] = "text_area"
    version: ClassVar[str] = "2"
    columns: ClassVar[tuple[Field, ...]] = (
        Field("text_area", pa.float64(), "share of the frame inside boxes that look like lines of text", "0..1"),
        Field("subtitle_area", pa.float64(), "the part of text_area whose lines lie in the lowest third", "0..1"),
    )

    def start(self, info: VideoInfo) -> None:
        self._due = Every(_RATE)
        self._lasting = Series(2)
        self._single = Series(2)
        self._before: tuple[np.ndarray, int] | None = None

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if not self._due(time_s):
            return
        gray = picture.detail
        if min(gray.shape) < _SMALLEST:
            return
        strokes = stroke_mask(gray)
        lines = text_lines(gray, strokes)
        self._single.add(index, index, *_areas(lines, gray.shape))
        if self._before is not None and self._before[0].shape == strokes.shape:
            lasting = [box for box in lines if _stays(self._before[0], strokes, box)]
            self._lasting.add(self._before[1], index, *_areas(lasting, gray.shape))
        self._before = (strokes, index)

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        lasting = self._lasting.take(start_frame, end_frame)
        single = self._single.take(start_frame, end_frame)
        text, subtitle = single if lasting[0] is None else lasting
        return {"text_area": text, "subtitle_area": subtitle}


def _areas(lines: list[tuple[int, int, int, int]], shape: tuple[int, ...]) -> tuple[float, float]:
    low = [box for box in lines if box[1] + box[3] / 2 > _LOWEST * shape[0]]
    return covered(lines, shape), covered(low, shape)


def covered(lines: list[tuple[int, int, int, int]], shape: tuple[int, ...]) -> float:
    """Share of a picture of this shape that the boxes cover together."""
    if not lines:
        return 0.0
    mask = np.zeros(shape, np.uint8)
    for x, y, width, height in lines:
        mask[y : y + height, x : x + width] = 1
    return float(mask.mean())


def stroke_mask(gray: np.ndarray) -> np.ndarray:
    """Where brightness changes as abruptly as at the edge of a letter: 1, else 0; uint8 HW."""
    contrast = cv2.morphologyEx(gray, cv2.MORPH_GRADIENT, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
    return (contrast >= _EDGE).astype(np.uint8)


def _stays(before: np.ndarray, after: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    """Whether the strokes in the box are where they were: an overlay stands still while the scene behind it moves."""
    x, y, width, height = box
    a, b = before[y : y + height, x : x + width], after[y : y + height, x : x + width]
    return int((a & b).sum()) >= _SAME * int((a | b).sum())


def text_lines(gray: np.ndarray, strokes: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes (x, y, width, height in px) of what looks like lines of text."""
    if not strokes.any():
        return []
    lines = []
    integral = cv2.integral(strokes)
    for scale in _SCALES:
        kernel = np.ones((1, round(scale * _JOIN)), np.uint8)
        joined = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, kernel)
        joined = cv2.morphologyEx(joined, cv2.MORPH_OPEN, np.ones((3, scale), np.uint8))
        boxes = _outlines(joined)
        for x, y, width, height in boxes[_line_shaped(boxes, scale) & _set_apart(boxes, integral)].tolist():
            box = (slice(y, y + height), slice(x, x + width))
            if (
                strokes[box].mean() >= _DENSE
                and joined[box].mean() >= _FILL
                and _RHYTHM[0] <= _rhythm(strokes[box]) <= _RHYTHM[1]
                and _two_tones(gray[box])
            ):
                lines.append((x, y, width, height))
    return lines


def _outlines(mask: np.ndarray) -> np.ndarray:
    """Boxes [N, (x, y, width, height)] around the connected parts of a mask."""
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    found = [
        cv2.boundingRect(c)
        for c, node in zip(contours, tree[0] if tree is not None else (), strict=True)
        if node[3] < 0
    ]
    return np.array(found, np.int64).reshape(-1, 4)


def _line_shaped(boxes: np.ndarray, scale: int) -> np.ndarray:
    """Which boxes are as wide and as high as a line of letters of this scale."""
    width, height = boxes[:, 2], boxes[:, 3]
    # a line of this scale is 0.8 to 5 gaps high; other heights are found at another scale
    return np.asarray((height >= _LETTER[0]) & (height <= min(_LETTER[1], 5 * scale)) & (width >= 2 * height))


def _set_apart(boxes: np.ndarray, integral: np.ndarray) -> np.ndarray:
    """Which boxes have far fewer strokes in the strips just above and below them than inside."""
    x, y, width, height = boxes.T
    rows, strip = integral.shape[0] - 1, np.maximum(2, height // 4)

    def density(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        top, bottom = np.clip(top, 0, rows), np.clip(bottom, 0, rows)
        total = integral[bottom, x + width] - integral[top, x + width] - integral[bottom, x] + integral[top, x]
        return np.asarray(total / np.maximum(1, (bottom - top) * width))

    inside = density(y, y + height)
    around = np.maximum(density(y - 1 - strip, y - 1), density(y + height + 1, y + height + 1 + strip))
    return np.asarray(around <= _CLEAR * inside)


def _rhythm(strokes: np.ndarray) -> float:
    """Changes between edge and no edge along the middle rows, for each line height of width."""
    height, width = strokes.shape
    middle = strokes[height // 4 : max(height // 4 + 1, height - height // 4)].astype(np.int8)
    changes = np.sort(np.abs(np.diff(middle, axis=1)).sum(axis=1))
    return float(changes[len(changes) // 2]) / (width / height) / 2.0


def _two_tones(box: np.ndarray) -> bool:
    """Whether the letters have one brightness: text is drawn in one colour, texture is not."""
    low, high = np.percentile(box, (5, 95))
    if high - low < _EDGE:
        return False
    bright = float((box > high - 0.2 * (high - low)).mean())
    dark = float((box < low + 0.2 * (high - low)).mean())
    return max(bright, dark) > 0.12 and bright + dark > 0.3

"""Drawing a planned film frame by frame: its shots with their defects, and the cuts, dissolves and fades between them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tinyworld.draw import draw
from tinyworld.films import Defect, Film, Shot, bar_px

Picture = npt.NDArray[np.uint8]
Frames = npt.NDArray[np.uint8]


@lru_cache(maxsize=1)
def _font() -> Any:
    return cv2.FontFace("sans")


def _slide(picture: Picture) -> Picture:
    """A still picture on a mat, as slide shows have them."""
    height, width = picture.shape[:2]
    inner = cv2.resize(picture, (round(width * 0.76), round(height * 0.76)), interpolation=cv2.INTER_AREA)
    tall, wide = inner.shape[:2]
    y, x = (height - tall) // 2, (width - wide) // 2
    mat = np.empty_like(picture)
    mat[:] = np.linspace(64, 40, height)[:, None, None] + np.array((2, 0, 8))
    shadow = np.zeros((height, width), np.float32)
    shadow[y + 3 : y + tall + 7, x + 3 : x + wide + 7] = 0.6
    mat = (mat * (1 - cv2.GaussianBlur(shadow, (0, 0), 3))[..., None]).astype(np.uint8)
    mat[y - 4 : y + tall + 4, x - 4 : x + wide + 4] = (244, 240, 230)
    mat[y : y + tall, x : x + wide] = inner
    return mat


def _banner(width: int, height: int, text: str) -> tuple[Picture, npt.NDArray[np.float32]]:
    """A caption bar burnt over the lower part: (colours HWC, coverage HW in 0..1)."""
    colours = np.zeros((height, width, 3), np.uint8)
    cover = np.zeros((height, width), np.float32)
    # The largest letters that fit: about a sixth of the height.
    for size in range(round(height / 6), 8, -1):
        _, _, wide, tall = cv2.getTextSize((width, height), text, (0, 0), _font(), size, 800)
        if wide <= width * 0.86:
            break
    base = round(height * 0.80)
    colours[base - tall - 9 : base + 10] = (206, 34, 46)
    cover[base - tall - 9 : base + 10] = 0.86
    ink = np.zeros((height, width, 3), np.uint8)
    cv2.putText(ink, text, ((width - wide) // 2, base), (255, 255, 255), _font(), size, 800)
    letters = ink[..., :1].astype(np.float32) / 255
    colours = (colours * (1 - letters) + 255 * letters).astype(np.uint8)
    return colours, np.maximum(cover, letters[..., 0])


def _spoil(video: Frames, defect: Defect, width: int, height: int) -> Frames:
    """The shot as its defect leaves it."""
    match defect.kind:
        case "dark":
            table = np.round(np.arange(256) * defect.strength).astype(np.uint8)
            return np.asarray(table[video], np.uint8)
        case "blur":
            sigma = defect.strength * height
            return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in video]).astype(np.uint8)
        case "text":
            colours, cover = _banner(width, height, defect.text)
            alpha = cover[..., None]
            over = colours * alpha
            return np.stack([(frame * (1 - alpha) + over).astype(np.uint8) for frame in video])
        case "static":
            slide = _slide(video[0])
            return np.broadcast_to(slide, (len(video), *slide.shape))
        case "letterbox":
            whole = np.zeros((len(video), height, width, 3), np.uint8)
            bar = bar_px(height, defect)
            whole[:, bar : height - bar] = video
            return whole
        case _:
            raise ValueError(f"there is no defect {defect.kind!r}")


def draw_shot(shot: Shot, width: int, height: int) -> Frames:
    """A shot with its defect: uint8 FHWC, RGB."""
    bar = bar_px(height, shot.defect)
    if shot.defect is not None and shot.defect.kind == "static":
        still, _ = draw(shot.scene, width, height, 1)
        return _spoil(np.broadcast_to(still, (shot.frames, *still.shape[1:])), shot.defect, width, height)
    video, _ = draw(shot.scene, width, height - 2 * bar, shot.frames)
    return video if shot.defect is None else _spoil(video, shot.defect, width, height)


def compose(film: Film) -> Iterator[Picture]:
    """The film's frames in order: uint8 HWC, RGB."""
    shots = [draw_shot(shot, film.width, film.height) for shot in film.shots]
    starts, transitions = film.starts(), film.transitions()
    joins = list(zip(film.joins, transitions, strict=True))
    for index in range(film.frames):
        current = max(i for i, start in enumerate(starts) if start <= index)
        picture = shots[current][index - starts[current]]
        for number, (join, span) in enumerate(joins):
            if not span.start <= index < span.end:
                continue
            if join.kind == "dissolve":
                weight = (index - span.start + 1) / (join.frames + 1)
                before = shots[number][index - starts[number]]
                picture = cv2.addWeighted(before, 1 - weight, shots[number + 1][index - starts[number + 1]], weight, 0)
            else:
                # Light falls to nothing at the middle of the span and comes back: the two middle frames are black.
                half = join.frames / 2
                light = abs(index - span.start + 0.5 - half) / half
                light = max(0.0, (light - 0.5 / half) / (1 - 0.5 / half)) if half > 0.5 else 0.0
                picture = (picture * light).astype(np.uint8)
        yield np.ascontiguousarray(picture, np.uint8)

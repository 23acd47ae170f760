"""Outlines of the toys as polygons in [-1, 1]^2, and the masks and distances that drawing needs from them."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Plane = npt.NDArray[np.float32]


def _arc(radius: float, start: float, end: float, n: int = 48, centre: tuple[float, float] = (0.0, 0.0)) -> Points:
    angle = np.radians(np.linspace(start, end, n))
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], axis=1)


def _polar(radius: npt.NDArray[np.float64], start: float = -90.0) -> Points:
    angle = np.radians(start + np.arange(len(radius)) * 360.0 / len(radius))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _cross() -> Points:
    a, b = 0.4, 0.95
    return np.array(
        [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    )


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 17.0, -(y + 2.5) / 16.0], axis=1)


def _drop() -> Points:
    return np.concatenate([_arc(0.66, -28, 208, centre=(0.0, 0.3)), [(0.0, -0.98)]])


def _crescent() -> Points:
    # Circles of radius R about 0 and r about (c, 0) meet at x = (R^2 - r^2 + c^2) / 2c.
    big, small, c = 0.95, 0.62, 0.55
    x = (big**2 - small**2 + c**2) / (2 * c)
    y = (big**2 - x**2) ** 0.5
    outer, inner = float(np.degrees(np.arctan2(y, x))), float(np.degrees(np.arctan2(y, x - c)))
    bow = _arc(big, outer, 360 - outer, 64)
    hollow = _arc(small, 360 - inner, inner, 48, (c, 0.0))
    return np.concatenate([bow, hollow]) + np.array((0.1, 0.0))


CENTRE = {"crescent": (-0.34, 0.0), "triangle": (0.0, 0.2), "drop": (0.0, 0.26), "heart": (0.0, -0.08)}
"""Where a pattern is centred when that is not the middle: in the body of the shape."""


@cache
def outline(shape: str) -> tuple[Points, ...]:
    """The shape's contours, the first its border and any further ones holes; y points down."""
    match shape:
        case "disc":
            return (_arc(0.86, 0, 360, 72),)
        case "square":
            return (np.array([(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)]),)
        case "triangle":
            return (np.array([(0.0, -0.95), (0.95, 0.76), (-0.95, 0.76)]),)
        case "star":
            return (_polar(np.tile([1.0, 0.54], 5)) + np.array((0.0, 0.06)),)
        case "crescent":
            return (_crescent(),)
        case "ring":
            return (_arc(0.92, 0, 360, 72), _arc(0.28, 0, 360, 48))
        case "cross":
            return (_cross(),)
        case "heart":
            return (_heart(),)
        case "drop":
            return (_drop(),)
        case "flower":
            turn = np.radians(np.arange(0, 360, 3))
            return (_polar(0.62 + 0.33 * np.abs(np.cos(3 * turn)) ** 0.7),)
        case _:
            raise ValueError(f"there is no shape {shape!r}")


def extent(shape: str, angle: float) -> tuple[float, float, float, float]:
    """Bounding box (x0, y0, x1, y1) of the shape turned clockwise by ``angle`` degrees, in half sides about its centre."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    points = outline(shape)[0] @ np.array([[c, s], [-s, c]])
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def signed_distance(shape: str, side: int, reach: float) -> Plane:
    """Distance to the border on a ``side`` x ``side`` grid over [-reach, reach]^2; positive inside, in half sides."""
    fine = side * 3
    canvas = np.zeros((fine, fine), np.uint8)
    scale = fine / (2 * reach)
    contours = [np.round(((points + reach) * scale - 0.5) * 256).astype(np.int32) for points in outline(shape)]
    cv2.fillPoly(canvas, contours, 255, lineType=cv2.LINE_8, shift=8)
    inside = cv2.distanceTransform(canvas, cv2.DIST_L2, cv2.DIST_MASK_5)
    outside = cv2.distanceTransform(255 - canvas, cv2.DIST_L2, cv2.DIST_MASK_5)
    distance = cv2.resize(inside - outside, (side, side), interpolation=cv2.INTER_AREA)
    # A little smoothing rounds the corners, as toys have them.
    soft = cv2.GaussianBlur(distance, (0, 0), 0.018 * side)
    return np.asarray(soft / scale, np.float32)

"""The toys themselves: sprites with a pattern, an outline and a soft bevel, drawn from an identity alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tinyworld import difficulty as d
from tinyworld.shapes import CENTRE, signed_distance
from tinyworld.world import Identity

Plane = npt.NDArray[np.floating]

REACH = 1.1
"""A sprite shows [-REACH, REACH]^2 in half sides of the toy."""
SHADOW_REACH = 1.4
OUTLINE = 0.11
"""Width of the dark outline, in half sides."""
SIZES = (32, 64, 128, 256)
"""Sprites are drawn at these sizes; warping then never shrinks one by more than two."""


def _edge(distance: Plane, pixel: float) -> Plane:
    """0..1, antialiased over one pixel: 1 where ``distance`` is positive."""
    return np.clip(distance / pixel + 0.5, 0.0, 1.0)


def _accent(pattern: str, x: Plane, y: Plane, inside: Plane, pixel: float) -> Plane:
    """Where the accent colour shows, 0..1. It covers about half of the toy at most."""
    radius = np.hypot(x, y)
    match pattern:
        case "striped":
            period = 0.52
            return _edge(np.abs((x / period) % 1 - 0.5) * period - 0.155, pixel)
        case "spotted":
            spots = [(-0.42, -0.4, 0.2), (0.4, -0.46, 0.17), (0.03, -0.02, 0.2), (-0.46, 0.4, 0.17), (0.44, 0.38, 0.21)]
            spots += [(0.0, -0.76, 0.13), (0.0, 0.66, 0.15), (-0.76, 0.02, 0.14), (0.76, -0.02, 0.14)]
            return np.max([_edge(r - np.hypot(x - cx, y - cy), pixel) for cx, cy, r in spots], axis=0)
        case "checked":
            period, duty = 0.62, 0.15
            across = _edge(duty - np.abs((x / period) % 1 - 0.5) * period, pixel)
            along = _edge(duty - np.abs((y / period) % 1 - 0.5) * period, pixel)
            return across + along - 2 * across * along
        case "halved":
            return _edge(y - 0.1, pixel)
        case "rimmed":
            return _edge(OUTLINE + max(0.1, 0.29 * (float(inside.max()) - OUTLINE)) - inside, pixel)
        case "crossed":
            return np.maximum(_edge(0.13 - np.abs(x - y) / 2**0.5, pixel), _edge(0.13 - np.abs(x + y) / 2**0.5, pixel))
        case "ringed":
            return np.maximum(_edge(0.18 - radius, pixel), _edge(0.1 - np.abs(radius - 0.56), pixel))
        case "swirled":
            turn = (np.arctan2(y, x) / (2 * np.pi) + 0.22 * radius) * 4
            return _edge((0.23 - np.abs(turn % 1 - 0.5)) * (np.pi / 2) * np.maximum(radius, 0.05), pixel)
        case _:
            raise ValueError(f"there is no pattern {pattern!r}")


@lru_cache(maxsize=64)
def sprite(identity: Identity, size: int) -> Plane:
    """Premultiplied RGBA of the upright toy on ``size`` x ``size`` pixels: float32 HWC, colours in 0..255, alpha in 0..1."""
    pixel = 2 * REACH / size
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) * REACH
    x, y = np.meshgrid(axis, axis)
    distance = signed_distance(identity.shape, size, REACH)
    cx, cy = CENTRE.get(identity.shape, (0.0, 0.0))
    base, accent = (np.array(d.COLOURS[name], np.float32) for name in (identity.base, identity.accent))
    colour = base + (accent - base) * _accent(identity.pattern, x - cx, y - cy, distance, pixel)[..., None]
    # A bevel of a tenth of the toy, darker towards the border, and a pale middle.
    depth = np.clip((distance - OUTLINE) / 0.3, 0.0, 1.0)
    colour *= (0.84 + 0.20 * depth * (2 - depth))[..., None]
    # The outline is a shade of the base colour: one more sign of which colour is which.
    dark = base * 0.26
    colour = dark + (colour - dark) * _edge(distance - OUTLINE, pixel)[..., None]
    alpha = _edge(distance, pixel)
    return np.dstack([np.clip(colour, 0, 255) * alpha[..., None], alpha]).astype(np.float32)


@lru_cache(maxsize=64)
def shade(shape: str, size: int) -> Plane:
    """The toy's soft shadow as coverage in 0..1 on ``size`` x ``size`` pixels over [-SHADOW_REACH, SHADOW_REACH]^2."""
    distance = signed_distance(shape, size, SHADOW_REACH)
    return np.clip(distance / 0.34 + 0.62, 0.0, 1.0).astype(np.float32)

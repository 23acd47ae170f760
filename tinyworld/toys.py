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
    """Where the accent colour shows, 0..1: about half of the toy at most, in few large parts, which 24 pixels can show."""
    radius = np.hypot(x, y)
    match pattern:
        case "striped":
            period = 0.66
            return _edge(0.165 - np.abs((x / period) % 1 - 0.5) * period, pixel)
        case "spotted":
            spots = [(-0.4, -0.4), (0.4, -0.4), (-0.4, 0.4), (0.4, 0.4)]
            return np.max([_edge(0.25 - np.hypot(x - cx, y - cy), pixel) for cx, cy in spots], axis=0)
        case "checked":
            across, along = _edge(x, pixel), _edge(y, pixel)
            return across + along - 2 * across * along
        case "halved":
            return _edge(y - 0.1, pixel)
        case "rimmed":
            return _edge(OUTLINE + max(0.14, 0.42 * (float(inside.max()) - OUTLINE)) - inside, pixel)
        case "crossed":
            return np.maximum(_edge(0.18 - np.abs(x - y) / 2**0.5, pixel), _edge(0.18 - np.abs(x + y) / 2**0.5, pixel))
        case "ringed":
            return _edge(0.16 - np.abs(radius - 0.42), pixel)
        case "swirled":
            turn = (np.arctan2(y, x) / (2 * np.pi) + 0.2 * radius) * 3
            return _edge((0.25 - np.abs(turn % 1 - 0.5)) * (2 * np.pi / 3) * np.maximum(radius, 0.05), pixel)
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

"""Charts as inline SVG, drawn here so that the page needs no library: histograms, lines, points, intervals, the lever.

Colours are CSS variables of the page, so a chart follows its light and dark form. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup


def short(value: float) -> str:
    """A number as a person reads it: three significant digits, no exponent between 0.001 and a million."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.2g}"
    digits = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def words(key: str) -> str:
    return str(key).replace("_", " ")


def footage(hours: float) -> str:
    """A length of footage: seconds, minutes or hours, whichever reads best."""
    if hours >= 1:
        return f"{short(hours)} h"
    return f"{short(hours * 60)} min" if hours * 60 >= 1 else f"{short(hours * 3600)} s"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between low and high, about that many, for an axis."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9) * step
    return [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    bounds: Sequence[tuple[float, str]],
    before: Sequence[float] = (),
    *,
    width: int = 560,
    height: int = 190,
) -> Markup:
    """Bars between ``edges``; each bound is (value, side): ``lower`` keeps what lies above it, ``upper`` what lies below.
    ``before`` are values at which a bound stood before.

    What a bound rejects is drawn in the colour of rejection.
    """
    left, right, top, bottom = 8, 8, 26, 26
    low, high = edges[0], edges[-1]
    most = max([1, *counts])

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="histogram">']
    floor = height - bottom
    for start, end, count in zip(edges[:-1], edges[1:], counts, strict=True):
        middle = (start + end) / 2
        rejected = any(middle < v if side == "lower" else middle > v for v, side in bounds)
        # A square root keeps single clips visible beside thousands.
        tall = math.sqrt(count / most) * (floor - top) if count else 0.0
        parts.append(
            f'<rect class="{"bar-out" if rejected else "bar-in"}" x="{x(start) + 0.5:.1f}" y="{floor - tall:.1f}" '
            f'width="{max(0.5, x(end) - x(start) - 1):.1f}" height="{tall:.1f}" rx="1.5">'
            f"<title>{short(start)} to {short(end)}: {count:,}</title></rect>"
        )
    parts.append(f'<line class="axis" x1="{left}" x2="{width - right}" y1="{floor}" y2="{floor}"/>')
    for tick in ticks(low, high):
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 9}" text-anchor="middle">{short(tick)}</text>')
    for value in before:
        parts.append(
            f'<line class="bound was" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top}" y2="{floor}">'
            f"<title>before: {short(value)}</title></line>"
        )
    for value, side in bounds:
        at = x(value)
        anchor = "start" if at < width / 2 else "end"
        shift = 6 if anchor == "start" else -6
        word = "at least" if side == "lower" else "at most"
        parts.append(f'<line class="bound" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 12}" y2="{floor}"/>')
        parts.append(
            f'<text class="bound-label" x="{at + shift:.1f}" y="{top - 8}" text-anchor="{anchor}">{word} {short(value)}</text>'
        )
    return Markup("".join([*parts, "</svg>"]))


def lines(series: Mapping[str, Sequence[tuple[float, float]]], *, width: int = 560, height: int = 210) -> Markup:
    """Named curves of (step, value). The y axis spans the middle 98% of the values, so a spike does not flatten the rest."""
    left, right, top, bottom = 46, 12, 12, 28
    points = [p for curve in series.values() for p in curve]
    if not points:
        return Markup("")
    xs = [p[0] for p in points]
    ys = sorted(p[1] for p in points)
    low_x, high_x = min(xs), max(max(xs), min(xs) + 1e-9)
    low_y, high_y = ys[int(0.01 * (len(ys) - 1))], ys[math.ceil(0.99 * (len(ys) - 1))]
    if high_y <= low_y:
        low_y, high_y = low_y - 0.5, high_y + 0.5

    def at(point: tuple[float, float]) -> str:
        x = left + (point[0] - low_x) / (high_x - low_x) * (width - left - right)
        y = height - bottom - (min(max(point[1], low_y), high_y) - low_y) / (high_y - low_y) * (height - bottom - top)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="training curves">']
    for tick in ticks(low_y, high_y, 4):
        y = float(at((low_x, tick)).split(",")[1])
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 4}" text-anchor="end">{short(tick)}</text>')
    for tick in ticks(low_x, high_x):
        x = float(at((tick, low_y)).split(",")[0])
        parts.append(f'<text class="tick" x="{x}" y="{height - 9}" text-anchor="middle">{short(tick)}</text>')
    for i, (name, curve) in enumerate(series.items()):
        path = " ".join(at(p) for p in curve)
        parts.append(f'<polyline class="line s{i % 6}" points="{path}"><title>{escape(name)}</title></polyline>')
        if len(curve) == 1:
            across, down = at(curve[0]).split(",")
            parts.append(f'<circle class="dot s{i % 6}" cx="{across}" cy="{down}" r="3"/>')
    return Markup("".join([*parts, "</svg>"]))


@dataclass(frozen=True)
class Dot:
    """A point of a scatter: on the front or not, chosen or not, and its intervals across and up."""

    x: float
    y: float
    label: str
    front: bool = False
    chosen: bool = False
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None


def scatter(
    dots: Sequence[Dot], across: str, up: str, *, width: int = 640, height: int = 380, name_all: bool = False
) -> Markup:
    """Points over two metrics, the front joined from left to right, the chosen one with its intervals. Empty without points.

    Names stand beside those on the front and the chosen one, or beside all where there is room.
    """
    if not dots:
        return Markup("")
    left, right, top, bottom = 62, 30, 20, 52
    chosen = [d for d in dots if d.chosen]
    xs = _room([d.x for d in dots] + [e for d in chosen for e in d.x_ends or ()])
    ys = _room([d.y for d in dots] + [e for d in chosen for e in d.y_ends or ()])

    def x(value: float) -> float:
        return left + (value - xs[0]) / (xs[1] - xs[0]) * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - (value - ys[0]) / (ys[1] - ys[0]) * (height - bottom - top)

    parts = [f'<svg class="chart scatter" viewBox="0 0 {width} {height}" role="img" aria-label="Pareto front">']
    for tick in ticks(*ys):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for tick in ticks(*xs):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{height - bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{height - bottom + 18}" text-anchor="middle">{short(tick)}</text>'
        )
    front = sorted((d for d in dots if d.front), key=lambda d: (d.x, d.y))
    parts.append(f'<polyline class="front" points="{" ".join(f"{x(d.x):.1f},{y(d.y):.1f}" for d in front)}"/>')
    for dot in chosen:
        for ends, line in ((dot.x_ends, "x"), (dot.y_ends, "y")):
            if ends is None:
                continue
            a, b = ((x(e), y(dot.y)) if line == "x" else (x(dot.x), y(e)) for e in ends)
            parts.append(f'<line class="cross" x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"/>')
    for dot in sorted(dots, key=lambda d: (d.chosen, d.front)):
        kind = "chosen" if dot.chosen else "on-front" if dot.front else "behind"
        parts.append(
            f'<circle class="dot {kind}" cx="{x(dot.x):.1f}" cy="{y(dot.y):.1f}" r="{8 if dot.chosen else 5}">'
            f"<title>{escape(dot.label)}: {short(dot.x)}, {short(dot.y)}</title></circle>"
        )
    taken = [(x(d.x) - 6, x(d.x) + 6, y(d.y) - 6, y(d.y) + 6) for d in dots]
    named = [d for d in dots if d.chosen or d.front or name_all]
    for dot in sorted(named, key=lambda d: (not d.chosen, not d.front, d.x, d.y)):
        spot = _beside(x(dot.x), y(dot.y), 6.5 * len(dot.label), taken, (left, width - right))
        if spot is None:  # the label would lie upon another or on a dot, and is left to the dot's title
            continue
        taken.append(spot)
        parts.append(
            f'<text class="dot-label{" chosen" if dot.chosen else ""}" x="{spot[0]:.1f}" y="{spot[3] - 2:.1f}">'
            f"{escape(dot.label)}</text>"
        )
    middle = (top + height - bottom) / 2
    parts.append(
        f'<text class="axis-name" x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle">{escape(across)}</text>'
        f'<text class="axis-name" x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{escape(up)}</text>'
    )
    return Markup("".join([*parts, "</svg>"]))


_Box = tuple[float, float, float, float]
"""From and to, across and down, in the picture's units."""


def _beside(x: float, y: float, length: float, taken: Sequence[_Box], ends: tuple[float, float]) -> _Box | None:
    """Where a label of this length finds room around a dot: right above it if possible, inside ``ends`` in any case."""
    for down in (-9.0, 4.0, 17.0):
        for start in (x + 10, x - 10 - length):
            box = (start, start + length, y + down - 10, y + down + 2)
            free = all(box[1] < a or b < box[0] or box[3] < c or d < box[2] for a, b, c, d in taken)
            if free and ends[0] <= box[0] and box[1] <= ends[1]:
                return box
    return None


def _room(values: Sequence[float]) -> tuple[float, float]:
    """The span of the values with a little air."""
    low, high = min(values), max(values)
    air = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    return low - air, high + air


def interval(
    value: float,
    low: float | None,
    high: float | None,
    axis: tuple[float, float],
    *,
    width: int = 120,
    height: int = 18,
) -> Markup:
    """A dot with its interval on an axis that the row's systems share."""
    start, end = axis
    span = end - start if end > start else 1.0

    def x(v: float) -> float:
        return 6 + (v - start) / span * (width - 12)

    middle = height / 2
    parts = [
        f'<svg class="interval" viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">'
    ]
    parts.append(f'<line class="grid" x1="6" x2="{width - 6}" y1="{middle}" y2="{middle}"/>')
    if low is not None and high is not None:
        parts.append(f'<line class="whisker" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle}" y2="{middle}"/>')
    parts.append(f'<circle class="point" cx="{x(value):.1f}" cy="{middle}" r="4"/>')
    return Markup("".join([*parts, "</svg>"]))


def lever(name: str, left: float, right: float, *, width: int = 340, height: int = 210) -> Markup:
    """A beam on a fulcrum: ``left`` (motion, prompt, aesthetics) against ``right`` (subject consistency), each 0..1.

    The beam tips towards the heavier side; the fulcrum stands as high as the two together, so that a better system is
    both level and raised.
    """
    lift = (left + right) / 2
    angle = max(-1.0, min(1.0, right - left)) * 16.0
    ground = height - 26
    top = ground - 26 - lift * 74
    centre, half = width / 2, width / 2 - 34
    base = 22 + lift * 14
    parts = [
        f'<svg class="lever" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}: motion, prompt and '
        f'aesthetics {left:.2f}, subject consistency {right:.2f}">',
        f'<line class="ground" x1="16" x2="{width - 16}" y1="{ground}" y2="{ground}"/>',
        f'<path class="fulcrum" d="M{centre} {top:.1f} L{centre + base:.1f} {ground} L{centre - base:.1f} {ground} Z"/>',
        f'<g transform="rotate({angle:.2f} {centre} {top:.1f})">',
        f'<rect class="beam" x="{centre - half:.1f}" y="{top - 5:.1f}" width="{2 * half:.1f}" height="7" rx="3.5"/>',
    ]
    for share, x, kind in ((left, centre - half + 22, "motion"), (right, centre + half - 22, "identity")):
        radius = 7 + 15 * math.sqrt(max(0.0, share))
        inside = radius >= 15
        label_y = top - 1 - radius if inside else top - 12 - 2 * radius
        parts.append(
            f'<circle class="weight {kind}" cx="{x:.1f}" cy="{top - 5 - radius:.1f}" r="{radius:.1f}">'
            f"<title>{share:.2f}</title></circle>"
            f'<text class="weight-label{"" if inside else " off"}" x="{x:.1f}" y="{label_y:.1f}" '
            f'text-anchor="middle">{share:.2f}</text>'
        )
    parts.append("</g>")
    parts.append(f'<text class="lever-name" x="{centre}" y="{height - 7}" text-anchor="middle">{escape(name)}</text>')
    return Markup("".join([*parts, "</svg>"]))

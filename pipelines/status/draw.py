"""A DAG as SVG: layers from top to bottom, edges that another path already implies left out.

Layers are longest paths from the sources; long edges pass through a point of their own in every layer between, and the order
within layers comes from a few sweeps of medians (Sugiyama, Tagawa and Toda 1981).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 184, 42, 22, 26, 12
_POINT = 14  # width of a point that a long edge passes through
_SWEEPS = 8


@dataclass(frozen=True)
class Box:
    """A node of the drawing. ``style`` are CSS classes; ``share`` of the work is done, 0 to 1, or None."""

    name: str
    after: Sequence[str]
    style: str
    note: str
    title: str
    share: float | None = None


@dataclass(frozen=True)
class Layout:
    """Where the centre of each node is, in pixels, and through which points each edge passes."""

    centres: Mapping[str, tuple[float, float]]
    edges: Mapping[tuple[str, str], Sequence[tuple[float, float]]]
    width: float
    height: float


def layout(after: Mapping[str, Sequence[str]]) -> Layout:
    """Place nodes that are given in an order in which each comes after those it reads from."""
    after = reduced(after)
    layer: dict[str, int] = {}
    for name, sources in after.items():
        layer[name] = 1 + max((layer[s] for s in sources), default=-1)
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    above: dict[str, list[str]] = {name: [] for name in after}
    chains: dict[tuple[str, str], list[str]] = {}
    for name in after:
        rows[layer[name]].append(name)
    for name, sources in after.items():
        for source in sources:
            points = [f"{source}>{name}@{depth}" for depth in range(layer[source] + 1, layer[name])]
            chains[source, name] = points
            for point, depth in zip(points, range(layer[source] + 1, layer[name]), strict=True):
                rows[depth].append(point)
            for upper, lower in zip([source, *points], [*points, name], strict=True):
                above.setdefault(lower, []).append(upper)
    _order(rows, above)
    places = _places(rows)
    width = max((x + _wide(n) / 2 for n, (x, _) in places.items()), default=0) + MARGIN
    edges = {edge: [places[edge[0]], *(places[p] for p in points), places[edge[1]]] for edge, points in chains.items()}
    height = len(rows) * (HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    return Layout({name: places[name] for name in after}, edges, width, height)


def reduced(after: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The same order with the fewest edges: one that a longer path implies is left out."""
    reach: dict[str, set[str]] = {}
    kept = {}
    for name, sources in after.items():
        beyond = {far for source in sources for far in reach.get(source, set())}
        kept[name] = [source for source in dict.fromkeys(sources) if source in reach and source not in beyond]
        reach[name] = beyond | set(sources)
    return kept


def _order(rows: list[list[str]], above: Mapping[str, Sequence[str]]) -> None:
    below: dict[str, list[str]] = {}
    for lower, uppers in above.items():
        for upper in uppers:
            below.setdefault(upper, []).append(lower)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for depth in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            beside = {name: at for at, name in enumerate(rows[depth - 1 if down else depth + 1])}
            toward = above if down else below
            places = {
                name: median([beside[n] for n in toward.get(name, ()) if n in beside] or [at])
                for at, name in enumerate(rows[depth])
            }
            rows[depth].sort(key=places.__getitem__)


def _wide(name: str) -> float:
    return _POINT if "@" in name else WIDTH


def _places(rows: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    """The boxes of each row centred about one line, so that a chain is straight; long edges pass outside them."""
    places = {}
    for depth, row in enumerate(rows):
        boxes = [at for at, name in enumerate(row) if "@" not in name] or [0, len(row) - 1]
        inside = row[boxes[0] : boxes[-1] + 1]
        x = -(sum(_wide(n) for n in inside) + GAP_X * (len(inside) - 1)) / 2
        x -= sum(_wide(n) + GAP_X for n in row[: boxes[0]])
        for name in row:
            places[name] = (x + _wide(name) / 2, MARGIN + HEIGHT / 2 + depth * (HEIGHT + GAP_Y))
            x += _wide(name) + GAP_X
    left = min((x - _wide(name) / 2 for name, (x, _) in places.items()), default=0) - MARGIN
    return {name: (x - left, y) for name, (x, y) in places.items()}


def svg(boxes: Sequence[Box]) -> str:
    """The drawing; every node links to ``#stage-<name>``. Colours come from the page's style sheet, by class."""
    by_name = {box.name: box for box in boxes}
    plan = layout({box.name: box.after for box in boxes})
    parts = [
        f'<svg class="dag" viewBox="0 0 {plan.width:.0f} {plan.height:.0f}" width="{plan.width:.0f}" '
        f'height="{plan.height:.0f}" role="img" aria-label="stages and what feeds what">'
    ]
    for (source, _), points in plan.edges.items():
        parts.append(f'<path class="edge {by_name[source].style}" d="{_curve(points)}"/>')
    parts += [_box(by_name[name], x, y) for name, (x, y) in plan.centres.items()]
    return "\n".join([*parts, "</svg>"])


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """From the lower side of the first box to the upper side of the last, upright at every point."""
    (x, y), *rest = points
    y += HEIGHT / 2
    path = f"M{x:.1f} {y:.1f}"
    for at, (to_x, centre) in enumerate(rest):
        last = at == len(rest) - 1
        to_y = centre - HEIGHT / 2
        middle = (y + to_y) / 2
        path += f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"
        x, y = to_x, to_y
        if not last:
            y = centre + HEIGHT / 2
            path += f"V{y:.1f}"
    return path


def _box(box: Box, x: float, y: float) -> str:
    left, top = x - WIDTH / 2, y - HEIGHT / 2
    bar = ""
    if box.share is not None:
        bar = (
            f'<rect class="track" x="{left + 10:.1f}" y="{top + HEIGHT - 7:.1f}" width="{WIDTH - 20}" height="3" rx="1.5"/>'
            f'<rect class="done" x="{left + 10:.1f}" y="{top + HEIGHT - 7:.1f}" width="{(WIDTH - 20) * box.share:.1f}" '
            'height="3" rx="1.5"/>'
        )
    return (
        f'<a href="#stage-{escape(box.name)}" class="node {box.style}"><title>{escape(box.title)}</title>'
        f'<rect class="box" x="{left:.1f}" y="{top:.1f}" width="{WIDTH}" height="{HEIGHT}" rx="9"/>'
        f'<circle cx="{left + 16:.1f}" cy="{y - 6:.1f}" r="4.5"/>'
        f'<text class="name" x="{left + 28:.1f}" y="{y - 2:.1f}">{escape(box.name)}</text>'
        f'<text class="note" x="{left + 28:.1f}" y="{y + 12:.1f}">{escape(box.note)}</text>{bar}</a>'
    )

"""A sweep as one page: its Pareto front drawn over the two weightiest objectives, and every point in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stages.evaluation.charts import short, ticks

STYLE = """
:root{color-scheme:light dark;--ink:#1d2126;--dim:#6b737d;--line:#d8dce1;--front:#0a7d55;--win:#c2410c;--paper:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e7eaee;--dim:#9aa3ad;--line:#3a4149;--front:#4cc79a;--win:#fb923c;--paper:#15181c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}
tr.front td:first-child{color:var(--front)} tr.winner td{font-weight:600} tr.winner td:first-child{color:var(--win)}
small{color:var(--dim)} svg{width:100%;height:auto} svg text{fill:var(--ink);font:12px system-ui,sans-serif} svg .dim{fill:var(--dim)}
"""
ARROWS = {"higher": "↑", "lower": "↓"}
WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 60, 90, 16, 44


def render(found: Mapping[str, Any]) -> str:
    """The page of ``points.json``'s content; needs no network and no other file."""
    metrics = sorted(found["objective"], key=lambda m: -found["objective"][m])
    points = found["points"]
    winner = next(p for p in points if p["winner"])
    others = [m for m in points[0]["metrics"] if m not in metrics]
    shown = [*metrics, *others]
    head = "".join(f"<th>{escape(m)} {ARROWS.get(found['better'][m], '')}</th>" for m in shown)
    body = "".join(_row(point, shown) for point in sorted(points, key=lambda p: -(p["score"] or 0.0)))
    chart = _chart(points, metrics[0], metrics[1]) if len(metrics) > 1 else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Merge sweep</title><style>{STYLE}</style>'
        f"<h1>Merge weights: {escape(_title(winner))}</h1><p>{escape(_rules(found))}</p>{chart}"
        f"<table><thead><tr><th>weights</th>{head}<th>score</th></tr></thead><tbody>{body}</tbody></table></html>\n"
    )


def _rules(found: Mapping[str, Any]) -> str:
    """How the winner was chosen, and how to read the picture."""
    objective = ", ".join(f"{m} × {w:g}" for m, w in found["objective"].items())
    sides = {"higher": "at least", "lower": "at most"}
    limits = "; ".join(f"{m} {sides[found['better'][m]]} {v:g}" for m, v in found["limits"].items())
    return (
        f"{len(found['points'])} points; the winner has the best weighted mean of {objective}, each scaled from the worst point to "
        f"the best{f', among those with {limits}' if limits else ''}. Green points are on the Pareto front: no other is as good in "
        f"every objective and better in one. Their labels are {'/'.join(found['points'][0]['weights'])}. Small numbers are 95% "
        "intervals, bootstrapped by prompt."
    )


def _title(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in point["weights"].items())


def _row(point: Mapping[str, Any], metrics: Sequence[str]) -> str:
    kind = "winner front" if point["winner"] else "front" if point["front"] else ""
    cells = "".join(f"<td>{_cell(point['metrics'][m])}</td>" for m in metrics)
    score = "out" if point["score"] is None else f"{point['score']:.2f}"
    return f'<tr class="{kind}"><td>{escape(_title(point))}</td>{cells}<td>{score}</td></tr>'


def _cell(value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return "not measured"
    interval = f" <small>{short(value['low'])} to {short(value['high'])}</small>" if value["low"] is not None else ""
    return short(value["value"]) + interval


def _chart(points: Sequence[Mapping[str, Any]], across: str, up: str) -> str:
    """Points over two metrics, the front's joined from left to right; empty when nothing has both."""
    placed = [(p["metrics"][across]["value"], p["metrics"][up]["value"], p) for p in points]
    placed = [(x, y, p) for x, y, p in placed if x is not None and y is not None]
    if not placed:
        return ""
    xs, ys = _range([x for x, _, _ in placed]), _range([y for _, y, _ in placed])

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - xs[0]) / (xs[1] - xs[0]) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - ys[0]) / (ys[1] - ys[0]) * (HEIGHT - TOP - BOTTOM),
        )

    parts = []
    for value in ticks(*xs):
        x, base = at(value, ys[0])
        parts.append(f'<text class="dim" x="{x:.1f}" y="{base + 16:.1f}" text-anchor="middle">{short(value)}</text>')
    for value in ticks(*ys):
        left, y = at(xs[0], value)
        parts.append(f'<line x1="{left:.1f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text class="dim" x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
    front = [at(x, y) for x, y, p in sorted(placed, key=lambda item: item[:2]) if p["front"]]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in front)
    parts.append(f'<polyline points="{line}" fill="none" stroke="var(--front)" stroke-opacity=".5"/>')
    for x_value, y_value, point in placed:
        x, y = at(x_value, y_value)
        colour = "var(--win)" if point["winner"] else "var(--front)" if point["front"] else "var(--dim)"
        label = "/".join(f"{weight:g}" for weight in point["weights"].values())
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if point["winner"] else 4}" fill="{colour}"/>')
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 4:.1f}">{escape(label)}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>'
    )
    parts.append(
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})">{escape(up)}</text>'
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Pareto front">{"".join(parts)}</svg>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - room, high + room

"""The sweeps of merge weights: each point where its two weightiest objectives put it, the front, and the one chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.contract import StageError
from stages.evaluation import charts
from stages.evaluation.standing import ARROWS, described

Point = Mapping[str, Any]


def sweep(folder: Path, title: str) -> dict[str, Any]:
    """What the page shows of a sweep's ``points.json``. ``StageError`` when it is not one."""
    try:
        found = json.loads((folder / "points.json").read_text(encoding="utf-8"))
        points, objective, better = found["points"], found["objective"], found["better"]
        ranked = sorted(objective, key=lambda m: -objective[m])
        winner = next(p for p in points if p["winner"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise StageError(f"{title}: points.json of the sweep cannot be read ({error}). Run the sweep again.") from error
    names = list(winner["weights"])
    return {
        "title": title,
        "chosen": ", ".join(f"{charts.words(n)} {w:g}" for n, w in winner["weights"].items()),
        "names": names,
        "objective": ", ".join(f"{described(m)[0]} × {w:g}" for m, w in objective.items()),
        "limits": "; ".join(
            f"{described(m)[0]} {'at least' if better[m] == 'higher' else 'at most'} {bound:g}"
            for m, bound in found.get("limits", {}).items()
        ),
        "chart": _front(points, ranked, better) if len(ranked) > 1 else None,
        "metrics": [f"{described(m)[0]} {ARROWS.get(better[m], '')}" for m in ranked],
        "points": [_row(p, ranked) for p in sorted(points, key=lambda p: -(p["score"] or -1.0))],
    }


def _front(points: Sequence[Point], ranked: Sequence[str], better: Mapping[str, str]) -> Any:
    across, up = ranked[:2]
    dots = []
    for point in points:
        x, y = point["metrics"][across], point["metrics"][up]
        if x["value"] is None or y["value"] is None:
            continue
        label = " / ".join(f"{w:g}" for w in point["weights"].values())
        dots.append(charts.Dot(x["value"], y["value"], label, point["front"], point["winner"], _ends(x), _ends(y)))
    names = [f"{described(m)[0]} {ARROWS.get(better[m], '')}" for m in (across, up)]
    return charts.scatter(dots, names[0], names[1])


def _ends(cell: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if cell["low"] is None else (cell["low"], cell["high"])


def _row(point: Point, ranked: Sequence[str]) -> dict[str, Any]:
    cells = [point["metrics"][m] for m in ranked]
    return {
        "weights": " / ".join(f"{w:g}" for w in point["weights"].values()),
        "cells": ["–" if c["value"] is None else f"{c['value']:.3f}" for c in cells],
        "spans": ["" if c["low"] is None else f"{c['low']:.3f} – {c['high']:.3f}" for c in cells],
        "score": "out" if point["score"] is None else f"{point['score']:.2f}",
        "front": point["front"],
        "winner": point["winner"],
    }

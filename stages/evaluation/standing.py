"""How systems stand: the metric table with intervals and tests, and the lever that balances motion against identity."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from stages.evaluation import charts
from stages.evaluation.charts import words
from stages.evaluation.systems import CLEAR, MEANINGLESS, in_road_order, title_of

ARROWS = {"higher": "↑", "lower": "↓"}
Row = Mapping[str, Any]


def metric_table(rows: Sequence[Row], tests: Sequence[Row] = ()) -> tuple[list[str], list[dict[str, Any]]]:
    """Systems, and per metric a row of cells with numbers, intervals drawn on one axis, tests, and which is clearly best.

    A cell is best when its interval lies wholly beyond every other's; without that, none is. Metrics without any value come
    with ``empty`` true.
    """
    systems = in_road_order(r["system"] for r in rows)
    tested = {(r["system"], r["metric"]): r for r in tests}
    table = []
    for key in dict.fromkeys(r["metric"] for r in rows):
        mine = {r["system"]: r for r in rows if r["metric"] == key}
        numbers = [v for r in mine.values() for v in (r["value"], r["low"], r["high"]) if v is not None]
        axis = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        better = next(iter(mine.values()))["better"]
        note = next((r["note"] for r in mine.values() if r["note"]), None)
        void = bool(note and MEANINGLESS in note)
        best = None if void else clearly_best(mine, better)
        cells = [_cell(mine.get(s), axis, s == best, None if void else tested.get((s, key)), better) for s in systems]
        title, group, about = described(key)
        table.append(
            {
                "key": key,
                "title": title,
                "group": group,
                "about": [" ".join(paragraph.split()) for paragraph in about.split("\n\n")],
                "arrow": ARROWS.get(better, ""),
                "better": better,
                "note": note,
                "void": void,
                "empty": all(c["empty"] for c in cells),
                "cells": cells,
                "source": _source(next(iter(mine.values())).get("source")),
            }
        )
    return systems, table


def described(key: str) -> tuple[str, str, str]:
    """A metric's title, its group, and what its file says of source, range and known failure."""
    from models.metrics.catalogue import METRICS

    if key == "fvd":
        from models.metrics import frechet

        return "FVD", "looks", inspect.cleandoc(frechet.__doc__ or "")
    if key not in METRICS:
        return key, "own", "Not one of the catalogue's metrics. What measured it is told by its note and its source."
    module = sys.modules[METRICS[key].run.__module__]
    return METRICS[key].title, METRICS[key].group, inspect.cleandoc(module.__doc__ or "")


def _source(text: str | None) -> list[tuple[str, str]]:
    if not text:
        return []
    found = json.loads(text)
    facts = [("metric", found.get("metric", "")), *sorted(found.get("models", {}).items())]
    facts += [("samples", found.get("samples", "")), ("recipe", found.get("recipe", ""))]
    return [(words(name), str(value)) for name, value in facts if value]


def _cell(row: Row | None, axis: tuple[float, float], best: bool, test: Row | None, better: str) -> dict[str, Any]:
    if row is None or row["value"] is None:
        return {"empty": True, "coverage": row["coverage"] if row else 0.0, "n": row["n"] if row else 0}
    span = f"{row['low']:.3f} – {row['high']:.3f}" if row["low"] is not None else "one prompt, no interval"
    return {
        "empty": False,
        "value": f"{row['value']:.3f}",
        "span": span,
        "chart": charts.interval(row["value"], row["low"], row["high"], axis),
        "n": row["n"],
        "coverage": row["coverage"],
        "best": best,
        "test": _test(test, better),
    }


def _test(row: Row | None, better: str) -> dict[str, str] | None:
    """The difference from the baseline in words, and whether it is clearly good, clearly bad, or not clear."""
    if row is None or row["difference"] is None:
        return None
    sign = {"higher": 1.0, "lower": -1.0}.get(better, 0.0) * row["difference"]
    verdict = "unclear" if row["p_holm"] >= CLEAR or not sign else "good" if sign > 0 else "bad"
    ends = f", 95% {row['low']:+.3f} to {row['high']:+.3f}" if row["low"] is not None else ""
    told = (
        f"{row['difference']:+.3f} against {title_of(row['baseline'])} on the same {row['prompts']} prompts{ends}; "
        f"sign-flip test p {_p(row['p'])}, adjusted {_p(row['p_holm'])}"
    )
    shown = f"{row['difference']:+.3f}"
    return {"verdict": verdict, "short": "±0.000" if shown in ("+0.000", "-0.000") else shown, "told": told}


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def clearly_best(rows: Mapping[str, Row], better: str) -> str | None:
    """The system whose interval lies beyond every other's; None where there is none, or one without an interval."""
    sign = {"higher": 1.0, "lower": -1.0}.get(better)
    ends = {}
    for system, row in rows.items():
        if row["low"] is None or sign is None:
            return None
        a, b = sign * row["low"], sign * row["high"]
        ends[system] = (min(a, b), max(a, b))
    for system, (low, _) in ends.items():
        if len(ends) > 1 and all(low > high for other, (_, high) in ends.items() if other != system):
            return system
    return None


def levers(
    rows: Sequence[Row], left: Sequence[str], right: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """One drawing per system with its two weights, and the metrics that went into each side.

    A side's weight is the mean over its metrics of where the system lies between the worst (0) and the best (1) of all
    systems, so it compares these systems and nothing else. ``a|b`` takes the first of them that serves. Metrics that mean
    nothing, that some system lacks, or on which all agree serve not; without one on both sides there is no lever.
    """
    systems = in_road_order(r["system"] for r in rows)
    value = {(r["system"], r["metric"]): r["value"] for r in rows if not (r["note"] and MEANINGLESS in r["note"])}
    lower = {r["metric"] for r in rows if r["better"] == "lower"}

    def serves(metric: str) -> bool:
        known = [n for s in systems if (n := value.get((s, metric))) is not None]
        return len(known) == len(systems) and max(known) - min(known) > 1e-9

    def usable(metrics: Sequence[str]) -> list[str]:
        found = (next((m for m in one.split("|") if serves(m)), None) for one in metrics)
        return [m for m in found if m is not None]

    def weight(system: str, metrics: Sequence[str]) -> float:
        shares = []
        for m in metrics:
            numbers = [float(value[(s, m)] or 0.0) for s in systems]
            share = (float(value[(system, m)] or 0.0) - min(numbers)) / (max(numbers) - min(numbers))
            shares.append(1 - share if m in lower else share)
        return sum(shares) / len(shares)

    on_left, on_right = usable(left), usable(right)
    if len(systems) < 2 or not on_left or not on_right:
        return [], on_left, on_right
    drawn = []
    for s in systems:
        one, other = weight(s, on_left), weight(s, on_right)
        drawn.append({"chart": charts.lever(title_of(s), one, other), "told": _balance(one, other)})
    return drawn, on_left, on_right


def _balance(left: float, right: float) -> str:
    if abs(left - right) <= 0.15:
        return "balanced and high" if left + right >= 1.2 else "balanced, but low" if left + right < 0.8 else "balanced"
    return "tips to identity" if right > left else "tips to motion, prompt and looks"

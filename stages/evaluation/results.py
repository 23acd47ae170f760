"""What the report says of the making: training curves, and a judgement of any shape as headings and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.contract import Context
from stages.evaluation import charts
from stages.evaluation.charts import words
from stages.evaluation.systems import DPO, title_of


def curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Named curves out of an adapter's folder: every number of its JSON-lines files against ``step``.

    Two forms of line are read: ``{"step": 3, "loss": 0.5, ...}`` and ``{"step": 3, "key": "loss", "value": 0.5}``.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # a line cut short by a kill; the rest of the curve stands
            if not isinstance(row, dict) or not isinstance(row.get("step"), int | float):
                continue
            if isinstance(row.get("key"), str):
                row = {"step": row["step"], row["key"]: row.get("value")}
            for key, value in row.items():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if key != "step" and number and math.isfinite(value):
                    found.setdefault(key, []).append((float(row["step"]), float(value)))
    return {key: sorted(points) for key, points in found.items()}


def training(ctx: Context, inputs: Sequence[str], keys: Sequence[str]) -> list[dict[str, Any]]:
    """For each of the wanted keys a chart of the SFT adapters' curves and one of the DPO adapters', whose scales differ."""
    logged = {name.removeprefix("adapter_"): curves(ctx.path(name)) for name in inputs if ctx.has(name)}
    result = []
    for key in keys:
        for family, is_dpo in (("SFT", False), ("DPO", True)):
            series = {
                title_of(name): found[key] for name, found in logged.items() if key in found and (name in DPO) == is_dpo
            }
            if series:
                chart = charts.lines(series)
                result.append({"key": f"{words(key)}, {family}", "chart": chart, "names": list(series)})
    return sorted(result, key=lambda r: not str(r["key"]).endswith("SFT"))


def gradients(ctx: Context, inputs: Sequence[str]) -> list[dict[str, Any]]:
    """Of a switching adapter whose gradients were analysed: how image and video gradients agree, and how large they are."""
    logged = [curves(ctx.path(name)) for name in inputs if ctx.has(name)]
    found = next((curve for curve in logged if "gradient/cosine" in curve), {})
    pictures = (
        ("cosine of image and video gradients", {"cosine": "gradient/cosine"}),
        ("norm of image and video gradients", {"image": "gradient/image_norm", "video": "gradient/video_norm"}),
    )
    result = []
    for title, series in pictures:
        drawn = {name: found[key] for name, key in series.items() if key in found}
        if drawn:
            result.append({"key": title, "chart": charts.lines(drawn), "names": list(drawn)})
    return result


def blocks(value: Any, name: str = "", depth: int = 0) -> list[dict[str, Any]]:
    """A JSON value as headings and tables: what has one shape in all its members becomes a matrix, the rest a list."""
    if not isinstance(value, Mapping):
        return [{"kind": "pairs", "name": name, "depth": depth, "rows": [("", cell(value))]}]
    plain = {k: v for k, v in value.items() if not isinstance(v, Mapping)}
    nested = {k: v for k, v in value.items() if isinstance(v, Mapping)}
    result: list[dict[str, Any]] = []
    if plain or not nested:
        rows = [(words(k), cell(v)) for k, v in plain.items()]
        result.append({"kind": "pairs", "name": words(name), "depth": depth, "rows": rows})
    elif name:
        result.append({"kind": "heading", "name": words(name), "depth": depth})
    flat = {k: v for k, v in nested.items() if v and not any(isinstance(x, Mapping) for x in v.values())}
    shapes = {tuple(v) for v in flat.values()}
    if len(flat) > 1 and len(shapes) == 1:
        columns = list(next(iter(flat.values())))
        rows_of = [(words(k), [cell(v[c]) for c in columns]) for k, v in flat.items()]
        result.append({"kind": "matrix", "columns": [words(c) for c in columns], "rows": rows_of, "depth": depth})
        nested = {k: v for k, v in nested.items() if k not in flat}
    for key, inner in nested.items():
        result += blocks(inner, key, depth + 1)
    return result


def cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else charts.short(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{words(k)} {cell(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(cell(v) for v in value) or "none"
    return str(value)

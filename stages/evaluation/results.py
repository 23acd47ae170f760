"""What the report says of the models: training curves, samples side by side, the metric table, the lever, a judgement."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.contract import Context, StageError
from stages.evaluation import charts, media
from stages.evaluation.curated import prompt_parts, spread
from stages.subjects.locate import in_folder, read_uri

SYSTEMS = {
    "base": "base",
    "cross": "SFT cross-pair",
    "in": "SFT in-pair",
    "sft": "merged SFT",
    "consis": "+ Consis-DPO",
    "real_fake": "+ Real-Fake DPO",
    "final": "final",
}
DPO = frozenset({"consis", "real_fake"})
MEANINGLESS = "means nothing"  # what evaluate notes beside numbers of random encoders


def in_road_order(systems: Iterable[str]) -> list[str]:
    """The road's systems first, in its order, others after them as they come."""
    names = list(dict.fromkeys(systems))
    road = [s for s in SYSTEMS if s in names]
    return road + [s for s in names if s not in SYSTEMS]


def title_of(system: str) -> str:
    return SYSTEMS.get(system, system)


def sample_rows(ctx: Context, count: int) -> tuple[list[str], list[dict[str, Any]], int]:
    """Systems in order, and for a spread of prompts the reference and each system's first video; and how many failed."""
    columns = ["system", "prompt_id", "seed", "prompt", "uri", "reference_uri", "status", "error_message"]
    rows = ctx.dataset("samples").to_table(columns=columns).to_pylist()
    systems = in_road_order(r["system"] for r in rows)
    folder = ctx.path("sample_videos") if ctx.has("sample_videos") else None
    shown = []
    for prompt_id in spread(sorted({r["prompt_id"] for r in rows}), count):
        mine = [r for r in rows if r["prompt_id"] == prompt_id]
        first = min(r["seed"] for r in mine)
        cells = []
        for system in systems:
            row = next((r for r in mine if r["system"] == system and r["seed"] == first), None)
            cells.append(_cell(row, folder))
        reference = next((r["reference_uri"] for r in mine if r["reference_uri"]), None)
        shown.append(
            {
                "prompt_id": prompt_id,
                "parts": prompt_parts(mine[0]["prompt"]),
                "reference": _reference(reference, folder),
                "cells": cells,
            }
        )
    return systems, shown, sum(r["status"] != "ok" for r in rows)


def _cell(row: Mapping[str, Any] | None, folder: Path | None) -> dict[str, Any]:
    if row is None:
        return {"missing": "not asked for"}
    if row["status"] != "ok" or not row["uri"]:
        return {"missing": f"failed: {row['error_message'] or 'no reason given'}"}
    if folder is None:
        return {"missing": "videos not wired"}
    try:
        video = media.webm(in_folder(folder, row["uri"]))
    except StageError as error:
        return {"missing": str(error)}
    return {"video": video} if video else {"missing": "cannot be read"}


def _reference(uri: str | None, folder: Path | None) -> str | None:
    if uri is None:
        return None
    try:
        data = in_folder(folder, uri).read_bytes() if folder else read_uri(uri)
    except (StageError, OSError):
        try:
            data = read_uri(uri)
        except OSError:
            return None
    return media.thumbnail(data, "reference", 256)


def metric_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Systems, and per metric a row of cells with numbers, intervals drawn on one axis, and which is clearly best.

    A cell is best when its interval lies wholly beyond every other's; without that, none is.
    """
    from models.metrics.catalogue import METRICS

    systems = in_road_order(r["system"] for r in rows)
    table = []
    for key in dict.fromkeys(r["metric"] for r in rows):
        mine = {r["system"]: r for r in rows if r["metric"] == key}
        numbers = [v for r in mine.values() for v in (r["value"], r["low"], r["high"]) if v is not None]
        axis = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        better = next(iter(mine.values()))["better"]
        note = next((r["note"] for r in mine.values() if r["note"]), None)
        best = _clearly_best(mine, better) if not (note and MEANINGLESS in note) else None
        cells = [_metric_cell(mine.get(s), axis, s == best) for s in systems]
        table.append(
            {
                "key": key,
                "title": METRICS[key].title if key in METRICS else key,
                "arrow": {"higher": "↑", "lower": "↓"}.get(better, ""),
                "better": better,
                "note": note,
                "cells": cells,
            }
        )
    return systems, table


def _metric_cell(row: Mapping[str, Any] | None, axis: tuple[float, float], best: bool) -> dict[str, Any]:
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
    }


def _clearly_best(rows: Mapping[str, Mapping[str, Any]], better: str) -> str | None:
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
    rows: Sequence[Mapping[str, Any]], left: Sequence[str], right: Sequence[str]
) -> tuple[list[Any], list[str], list[str]]:
    """One drawing per system, and the metrics that went into each side.

    A side's weight is the mean over its metrics of where the system lies between the worst (0) and the best (1) of all
    systems, so it compares these systems and nothing else. Metrics that mean nothing, that some system lacks, or on which
    all agree are left out; without one on both sides there is no lever.
    """
    systems = in_road_order(r["system"] for r in rows)
    value = {(r["system"], r["metric"]): r["value"] for r in rows if not (r["note"] and MEANINGLESS in r["note"])}
    lower = {r["metric"] for r in rows if r["better"] == "lower"}

    def usable(metrics: Sequence[str]) -> list[str]:
        good = []
        for m in metrics:
            numbers = [value.get((s, m)) for s in systems]
            known = [n for n in numbers if n is not None]
            if len(known) == len(systems) and max(known) - min(known) > 1e-9:
                good.append(m)
        return good

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
    drawings = [charts.lever(title_of(s), weight(s, on_left), weight(s, on_right)) for s in systems]
    return drawings, on_left, on_right


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


def words(key: str) -> str:
    return str(key).replace("_", " ")


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

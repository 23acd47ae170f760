"""What ``benchmarks/shots.py`` counted, as the tables of ``docs/shots.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "shots.md"


def tables(found: Mapping[str, Any]) -> str:
    """Markdown."""
    parts = []
    for half in ("held-out", "tuning"):
        value = found["spliced"][half]
        made = ", ".join(f"{count} {kind}" for kind, count in sorted(value["made_of"].items()))
        parts += [
            f"### Spliced, {half} half: {value['boundaries']} boundaries in {value['minutes']} minutes",
            f"{made}.",
        ]
        parts += [_scores(value["detectors"]), "By kind, within 2 frames:", _kinds(value["detectors"])]
    real, alone = found["real"], found["single_shots"]
    parts += [f"### Real: {real['boundaries']} boundaries that a person found in {real['videos']} videos"]
    parts += [_scores(real["detectors"])]
    false = {name: value["hard"]["2 frames"]["false"] for name, value in alone["detectors"].items()}
    parts += [f"### Real: {alone['videos']} files of one shot each, {alone['frames']:,} frames"]
    parts += [f"False boundaries: {_list(false)}."]
    cost = found["cost"]
    parts += ["### Cost", f"CPU milliseconds a frame, over {cost['frames']} frames of 720p footage in memory, each already at "
              f"its detector's size: {_list(cost['cpu_ms_per_frame'])}."]  # fmt: skip
    return "\n\n".join(parts)


def _scores(detectors: Mapping[str, Any]) -> str:
    rows = []
    for name, value in detectors.items():
        for tolerance in value["hard"]:
            rows.append([name, tolerance, *(_figures(value[kind][tolerance]) for kind in ("hard", "gradual"))])
    heads = ["detector", "within", *(f"{k}: P / R / **F1** (hit, missed, false)" for k in ("hard cuts", "gradual"))]
    return _table(heads, rows)


def _kinds(detectors: Mapping[str, Any]) -> str:
    kinds = list(next(iter(detectors.values()))["found_by_kind"])
    places = ("flash", "whip", "elsewhere")
    rows = [
        [name, *(value["found_by_kind"][k] for k in kinds), *(str(value["false_in"].get(p, 0)) for p in places)]
        for name, value in detectors.items()
    ]
    return _table(["detector", *kinds, *(f"false, {p}" for p in places)], rows)


def _figures(row: Mapping[str, Any]) -> str:
    precision, recall, f1 = ("-" if row[k] is None else f"{row[k]:.3f}" for k in ("precision", "recall", "f1"))
    return f"{precision} / {recall} / **{f1}** ({row['hit']}, {row['missed']}, {row['false']})"


def _list(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

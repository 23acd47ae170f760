"""``docs/reproduction.md`` and its plots, from the finished cells alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reproduction import latency, results
from benchmarks.reproduction.cells import CELLS, FILMS, QUESTIONS, STEPS, ordered
from benchmarks.reproduction.hypotheses import AGREEMENTS, HYPOTHESES, Found, Marks, judge, judge_agreement, values
from benchmarks.reproduction.plan import FOLDER
from models.metrics.bootstrap import Interval, bootstrap
from models.training.pareto import choose
from stages.evaluation.charts import Dot, lines, scatter

SHOWN = ("identity", "background", "motion", "moves", "cleanness")
STYLE = """<style>
svg { background: #fff; font-family: sans-serif; }
.grid { stroke: #e7e2d8; } .tick, .dot-label { font-size: 11px; fill: #5f6b78; } .axis-name { font-size: 12px; fill: #1d2733; }
.dot { fill: #8a94a0; } .dot.on-front { fill: #0f766e; } .front { fill: none; stroke: #0f766e; stroke-dasharray: 4 4; }
.line { fill: none; stroke-width: 2; } .s0 { stroke: #0f766e; } .s1 { stroke: #b45309; } .s2 { stroke: #1d4ed8; } .s3 { stroke: #b91c1c; }
.s4 { stroke: #6d28d9; } .s5 { stroke: #15803d; }
</style>"""


def write(plan: str, folder: Path = FOLDER) -> Path:
    """The page beside ``folder``; its plots and cells lie within."""
    cells = results.load(plan, folder)
    table = results.table(cells)
    pooled = pool(table)
    plots = []
    if pooled:
        (folder / "balance.svg").write_text(_standalone(_balance(pooled)), encoding="utf-8")
        plots.append(
            "![Identity against prompt following](reproduction/balance.svg)\n\nEach system's identity against its prompt "
            "following; the line joins those that none beats in both."
        )
    curves = gradients(cells)
    if curves:
        (folder / "gradients.svg").write_text(_standalone(lines(curves)), encoding="utf-8")
        colours = ("green", "brown")
        names = ", ".join(f"{name} ({colour})" for name, colour in zip(curves, colours, strict=False))
        plots.append(
            "![Agreement of image and video gradients by step](reproduction/gradients.svg)\n\nCosine between the gradients of "
            f"image and of video steps on held-out rows, mean of the seeds: {names}."
        )
    found = [judge(hypothesis, table) for hypothesis in HYPOTHESES]
    found += [judge_agreement(agreement, _curves(cells, agreement.cell)) for agreement in AGREEMENTS]
    text = "\n".join(
        [
            _head(cells, plan),
            _verdicts(found),
            _looked_into(folder),
            _systems(pooled),
            "\n\n".join(filter(None, [latency.told(), *plots])),
            _notes(cells),
        ]
    )
    target = folder.with_suffix(".md")
    target.write_text(text.rstrip() + "\n", encoding="utf-8")
    return target


def pool(table: Mapping[int, Mapping[str, Marks]]) -> dict[str, dict[str, Interval]]:
    """By system and mark, the mean over questions and seeds."""
    found: dict[str, dict[str, Interval]] = {}
    for system in dict.fromkeys(name for systems in table.values() for name in systems):
        seeds = [systems[system] for _, systems in sorted(table.items()) if system in systems]
        found[system] = {}
        for mark in (*SHOWN, "prompt"):
            asked = [(value, str(i)) for marks in seeds for i, value in enumerate(values(marks, mark))]
            found[system][mark] = bootstrap([value for value, _ in asked], [name for _, name in asked])
    return found


def gradients(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """By cell, the mean over seeds of (step, cosine)."""
    found: dict[str, list[tuple[float, float]]] = {}
    for agreement in AGREEMENTS:
        runs = list(_curves(cells, agreement.cell).values())
        if runs:
            found[agreement.cell] = [
                (row[0], float(np.mean([run[i][1] for run in runs]))) for i, row in enumerate(runs[0])
            ]
    return found


def _curves(cells: Sequence[Mapping[str, Any]], name: str) -> dict[int, list[list[float]]]:
    return {cell["seed"]: cell["gradients"] for cell in cells if cell["cell"] == name and cell["gradients"]}


def _head(cells: Sequence[Mapping[str, Any]], plan: str) -> str:
    wanted = len(ordered())
    return f"""# The papers' claims in miniature

LibraGen (arXiv 2603.13506) and "Subject-driven Video Generation via Disentangled Identity and Motion" (2504.17816) trained models of
billions of weights on millions of videos. Here their recipes run, stage for stage through the same code, on the base of 1.5 million
weights that this repository ships ([tinyworld](tinyworld.md)) and on rendered footage, and every sample is judged by oracles that
learned the renderer's truth. What holds here need not hold there, and the reverse; what this can show is whether a recipe's
direction appears at all, and it can be run again by anyone:

    make reproduce MINUTES=60

runs the cells that are missing, in the order of the plan, and writes this page. {len(cells)} of {wanted} cells are finished. Settings,
hypotheses, base and oracles were frozen before the first one (plan `{plan[:16]}`, [plan.json](reproduction/plan.json)); a change
to any of them empties the table. A cell works on {FILMS} films of its seed, trains adapters for {STEPS} steps and asks about {QUESTIONS}
subjects that no training showed."""


def _verdicts(found: Sequence[Found]) -> str:
    rows = ["", "## Claims", ""]
    rows += [
        "| row | claim | paper | found | difference, 95% interval | n | by seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        h = one.hypothesis
        claim = h.claim + (f" (bound {h.above:g})" if h.above else "")
        seeds = ", ".join(f"{mean:+.3f}" for mean in one.seeds.values())
        told, n = (_told(one.interval, "+.3f"), one.interval.n) if one.interval else ("", "")
        mark = f"**{one.verdict}**" if one.verdict in ("holds", "does not hold") else one.verdict
        rows.append(f"| {h.row} | {claim} | {h.paper} | {mark}{_indicative(one)} | {told} | {n} | {seeds} |")
    return "\n".join(rows)


def _indicative(one: Found) -> str:
    return ", indicative (one seed)" if len(one.seeds) == 1 else ""


def _looked_into(folder: Path) -> str:
    """What was found out about rows that do not hold; written by hand."""
    file = folder / "looked_into.md"
    return "\n" + file.read_text(encoding="utf-8").rstrip() if file.exists() else ""


def _systems(pooled: Mapping[str, Mapping[str, Interval]]) -> str:
    if not pooled:
        return ""
    rows = ["", "## Systems", "", f"| system | n | {' | '.join(SHOWN)} |", f"|---|---|{'---|' * len(SHOWN)}"]
    for system, marks in pooled.items():
        rows.append(f"| {system} | {marks['identity'].n} | {' | '.join(_told(marks[mark]) for mark in SHOWN)} |")
    return "\n".join([
        *rows,
        "",
        "Identity is the share of pattern and two colours that is the reference's (by chance 0.108), background and motion the shares "
        "as told (0.125), moves the way in frame heights where one is asked for, cleanness 1 for an undisturbed render. base_text is the "
        "base by the prompt alone; every other system sees the reference. That image-only training is smooth is not told: no oracle "
        "measures it, and a frozen clip is smooth by definition.",
        "",
    ])  # fmt: skip


def _told(interval: Interval, form: str = ".3f") -> str:
    if interval.value is None or interval.low is None or interval.high is None:
        return "–"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _balance(pooled: Mapping[str, Mapping[str, Interval]]) -> str:
    points = {name: (marks["identity"].value or 0.0, marks["prompt"].value or 0.0) for name, marks in pooled.items()}
    both = [{"identity": x, "prompt": y} for x, y in points.values()]
    best = choose(both, {"identity": 1.0, "prompt": 1.0}, dict.fromkeys(("identity", "prompt"), "higher")).front
    dots = [Dot(x, y, name, front=i in best) for i, (name, (x, y)) in enumerate(points.items())]
    return str(scatter(dots, "identity", "background and motion as told", width=760, height=520, name_all=True))


def _standalone(svg: str) -> str:
    """An SVG that a browser shows by itself: with its namespace and the colours that the report's page would give."""
    return re.sub(r"^<svg ([^>]*)>", lambda m: f'<svg xmlns="http://www.w3.org/2000/svg" {m[1]}>{STYLE}', svg)


def _notes(cells: Sequence[Mapping[str, Any]]) -> str:
    if not cells:
        return ""
    rows = ["", "## Cells", "", "| cell | seed | clips | minutes | machine | code |", "|---|---|---|---|---|---|"]
    order = [cell.name for cell in CELLS]
    for cell in sorted(cells, key=lambda c: (c["seed"], order.index(c["cell"]))):
        where = f"{cell['machine']['cpu']}, {cell['machine']['cores']} cores"
        told = (cell["cell"], cell["seed"], cell["clips"], f"{cell['wall_s'] / 60:.1f}", where, cell["code"])
        rows.append(f"| {' | '.join(map(str, told))} |")
    return "\n".join(rows)

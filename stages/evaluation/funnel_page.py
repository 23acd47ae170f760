"""The funnel as one self-contained page: every rule's loss drawn, its line through the scores, and pictures either side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.curation.funnel import Change, Funnel
from stages.curation.road import EXPORTED, RULES, SHOTS, Failure, Level, Tables
from stages.curation.rules import Rule, told
from stages.evaluation.charts import footage
from stages.evaluation.thresholds import thresholds, undecided

PAGE = Path(__file__).parent / "page"
WIDE, TALL = 1000.0, 46.0  # of one step's drawing, in its own units
LEAST = 2.0  # what is not nothing is seen
POLICY = {"keep": "kept", "drop": "dropped", "review": "asked"}


@dataclass(frozen=True)
class FunnelPage:
    """What the page is made of. ``tried``, ``after`` and ``change`` belong together: other rules over the same clips."""

    tables: Tables
    rules: list[Rule]
    before: Funnel
    levels: list[Level]
    failures: list[Failure]
    facts: list[tuple[str, str]]
    tried: list[Rule] | None = None
    after: Funnel | None = None
    change: Change | None = None
    settings: list[str] = field(default_factory=list)
    scripted: list[str] = field(default_factory=list)
    thumbnails: int = 6


@dataclass(frozen=True)
class Step:
    """One row of the drawing: a rule, a later stage, or an end (what there is between them)."""

    kind: str  # rule, stage or ends
    name: str
    told: str
    before: int
    after: int
    unit: str
    hours: float | None  # lost by the step; of an end, what there is
    missing: str = ""
    caption: str = ""
    widest: int = 1

    @property
    def inner(self) -> str:
        """What goes on: a trapezoid from what came in to what is left."""
        top, bottom = self._half(self.before), self._half(self.after)
        return _points((-top, 0), (top, 0), (bottom, TALL), (-bottom, TALL))

    @property
    def outer(self) -> str:
        """What came in, behind it: at the sides the lost part shows."""
        top = self._half(self.before)
        return _points((-top, 0), (top, 0), (top, TALL), (-top, TALL))

    def _half(self, records: int) -> float:
        return max(LEAST, WIDE * records / max(1, self.widest)) / 2 if records else 0.0


def _points(*points: tuple[float, float]) -> str:
    return " ".join(f"{WIDE / 2 + x:.2f},{y:.2f}" for x, y in points)


def render(page: FunnelPage) -> str:
    """The page as HTML. Everything from the data is escaped by the template engine."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sheets = [(PAGE / name).read_text(encoding="utf-8") for name in ("report.css", "funnel.css")]
    environment.globals["style"] = "\n".join(sheets)
    environment.filters["footage"] = footage
    environment.filters["signs"] = lambda text: text.replace(">=", "≥").replace("<=", "≤")
    rules = page.rules if page.tried is None else page.tried
    funnel = page.before if page.after is None else page.after
    rest, empty = undecided(page.tables, rules)
    drawn, undrawn = thresholds(page.tables, rules, page.thumbnails, page.rules if page.tried is not None else ())
    return environment.get_template("funnel.html").render(
        steps=list(steps(funnel, rules, page.levels, tried=page.tried is not None)),
        thresholds=drawn,
        undrawn=undrawn,
        rest=rest,
        empty=empty,
        overlap=overlap(funnel, rules),
        failures=page.failures,
        facts=page.facts,
        settings=page.settings,
        change=_change(page),
        tiles=_tiles(page, funnel),
        notices=_notices(page),
    )


def steps(funnel: Funnel, rules: Sequence[Rule], levels: Sequence[Level], *, tried: bool) -> Iterator[Step]:
    """Files, shots, each rule, what the rules keep, and each later stage; without the later stages when rules are tried."""
    widest = funnel.records
    for level in levels:
        if level.unit != "clips":
            lost = sum(loss.records for loss in level.losses)
            reasons = ", ".join(f"{loss.records:,} {loss.reason}" for loss in level.losses)
            yield Step(
                "ends", "source files", level.name + (f"; {reasons}" if reasons else ""), level.records + lost, level.records,
                level.unit, level.hours, widest=level.records + lost,
            )  # fmt: skip
    yield Step("ends", "shots", "found in them, none filtered", widest, widest, "clips", funnel.hours, widest=widest)
    for number, (step, rule) in enumerate(zip(funnel.steps, rules, strict=True)):
        missing = f"{step.missing:,} without a value: {POLICY[rule.missing]}" if step.missing else ""
        yield Step(
            "rule", step.rule, told(rule), step.records_in, step.records_in - step.lost, "clips", step.hours_lost, missing,
            "" if number else "rules, in their order", widest,
        )  # fmt: skip
    asks = f"{funnel.review:,} of them for a person to decide" if funnel.review else ""
    yield Step("ends", "pass the rules", asks, funnel.kept, funnel.kept, "clips", funnel.hours_kept, widest=widest)
    if tried:
        return
    left = funnel.kept
    first = True
    for level in levels:
        if level.unit != "clips" or level.name in (SHOTS, RULES):
            continue
        if level.name == EXPORTED and level.records == left:
            yield Step("ends", level.name, "", left, left, "clips", level.hours, widest=widest)
            continue
        lost_hours = sum(loss.hours or 0.0 for loss in level.losses)
        reasons = ", ".join(f"{loss.records:,} {loss.reason}" for loss in level.losses[:4])
        more = f" and {len(level.losses) - 4} more reasons" if len(level.losses) > 4 else ""
        yield Step(
            "stage", level.name, reasons.replace("_", " ") + more, left, level.records, "clips", lost_hours, "",
            "after the rules" if first else "", widest,
        )  # fmt: skip
        left, first = level.records, False


def overlap(funnel: Funnel, rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """One row a rule: its own counts, and how many of the clips that fail it fail each other rule."""
    rows = []
    for index, (step, rule) in enumerate(zip(funnel.steps, rules, strict=True)):
        cells = [
            {"count": count, "same": index == other, "share": count / max(1, step.fails)}
            for other, count in enumerate(funnel.overlap[index])
        ]
        rows.append(
            {
                "name": step.rule, "fails": step.fails, "only": step.only, "missing": step.missing,
                "policy": POLICY[rule.missing], "cells": cells,
            }
        )  # fmt: skip
    return rows


def _change(page: FunnelPage) -> dict[str, Any] | None:
    if page.change is None or page.after is None or page.tried is None:
        return None
    before = dict(
        zip([s.rule for s in page.before.steps], zip(page.before.steps, page.rules, strict=True), strict=True)
    )
    after = dict(zip([s.rule for s in page.after.steps], zip(page.after.steps, page.tried, strict=True), strict=True))
    rows = []
    for name in [*before, *(name for name in after if name not in before)]:
        was, now = before.get(name), after.get(name)
        told_was = told(was[1]) if was else "new"
        told_now = told(now[1]) if now else "left out"
        same = was is not None and now is not None and was[1] == now[1]
        policy = (
            "" if was is None or now is None or was[1].missing == now[1].missing else f", no value: {now[1].missing}"
        )
        rows.append(
            {
                "name": name, "changed": not same, "told": told_now if same else f"{told_was} → {told_now}{policy}",
                "before": was[0].lost if was else 0, "after": now[0].lost if now else 0,
            }
        )  # fmt: skip
    return {
        "rows": rows, "kept_before": page.before.kept, "kept_after": page.after.kept, **page.change.as_dict(),
    }  # fmt: skip


def _tiles(page: FunnelPage, funnel: Funnel) -> list[tuple[str, str]]:
    found = [(footage(funnel.hours), "of footage in shots"), (f"{funnel.records:,}", "shots found")]
    share = 100 * funnel.kept / max(1, funnel.records)
    found.append((f"{funnel.kept:,}", f"pass the rules, {share:.0f}%"))
    last = page.levels[-1] if page.levels else None
    if page.tried is None and last is not None and last.unit == "clips" and last.name not in (SHOTS, RULES):
        found.append((f"{last.records:,}", f"{last.name}, {footage(last.hours or 0.0)}"))
    failed = sum(failure.records for failure in page.failures)
    if failed:
        found.append((f"{failed:,}", "records failed"))
    return found


def _notices(page: FunnelPage) -> list[str]:
    if not page.scripted or page.tried is not None:
        return []
    return [
        f"The review was answered by a scripted reviewer ({', '.join(page.scripted)}), not by people: its verdicts stand in "
        "for theirs."
    ]

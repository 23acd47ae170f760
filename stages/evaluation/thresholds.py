"""How each scored column is spread, where the rules cut it, and what lies either side of the line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from data_schemas.tables import CLIPS
from stages.curation.distributions import Sides, either_side, histogram
from stages.curation.middle_frames import middle_frames
from stages.curation.road import Tables
from stages.curation.rules import Bound, Rule, compile_rules, where_bounds
from stages.evaluation import charts, media


@dataclass(frozen=True)
class Threshold:
    """A column as one rule cuts it, with pictures from either side of each bound. ``rule`` is empty where none does."""

    rule: str
    column: str
    told: str
    missing: int
    chart: Any
    sides: list[tuple[str, list[dict[str, str]]]]


def thresholds(
    tables: Tables, rules: Sequence[Rule], count: int, before: Sequence[Rule] = ()
) -> tuple[list[Threshold], list[str]]:
    """One entry per rule and column that it bounds, and a line for each rule that cannot be drawn.

    Either side of each line are the ``count`` nearest clips, whatever other rules say of them. Lines that the rules
    ``before`` drew elsewhere are shown as well. One scan finds the clips for all lines, one their pictures.
    """
    clips = tables.dataset("clips")
    was = [bound for rule in before for bound in _bounds(rule, clips)]
    drawn: list[tuple[str, str, list[Bound]]] = []
    apart: list[str] = []
    for rule in rules:
        bounds = _bounds(rule, clips)
        by_column: dict[str, list[Bound]] = {}
        for bound in bounds:
            by_column.setdefault(bound.column, []).append(bound)
        drawn += [(rule.name, column, mine) for column, mine in by_column.items()]
        if not bounds:
            apart.append(f"{rule.name}: {_why_not(rule, clips)}")
    lines = [bound for _, _, bounds in drawn for bound in bounds] if count else []
    sides = either_side(clips, lines, count) if lines and tables.has("keyframes") else []
    thumbs = thumbnails(tables, [clip for side in sides for clip, _ in (*side.failing, *side.passing)])
    tiles = {side.bound: _tiles(side, thumbs) for side in sides}
    found = []
    for name, column, bounds in drawn:
        ghosts = [b for b in was if b.column == column and b not in bounds]
        entry = _draw(clips, name, column, bounds, ghosts, [t for b in bounds for t in tiles.get(b, [])])
        if entry is None:
            apart.append(f"{name}: no clip has a value of {column}")
        else:
            found.append(entry)
    return found, apart


def undecided(tables: Tables, rules: Sequence[Rule]) -> tuple[list[Threshold], list[str]]:
    """The scored columns that no rule looks at, and the names of those without any value."""
    clips = tables.dataset("clips")
    bounded = {bound.column for rule in rules for bound in _bounds(rule, clips)}
    own = {field.name for field in CLIPS.fields} - {"duration_s"}
    names = [f.name for f in clips.schema if pa.types.is_floating(f.type) and f.name not in bounded | own]
    drawn = {name: _draw(clips, "", name, [], [], [], width=320, height=140) for name in names}
    return [entry for entry in drawn.values() if entry], [name for name, entry in drawn.items() if entry is None]


def _bounds(rule: Rule, clips: pads.Dataset) -> list[Bound]:
    known = set(clips.schema.names)
    own = list(compile_rules([rule], clips)[0].bounds) if rule.column is not None and rule.column in known else []
    return own + [bound for bound in where_bounds(rule.where or "") if bound.column in known]


def _why_not(rule: Rule, clips: pads.Dataset) -> str:
    if rule.column is None:
        return str(rule.where)
    if rule.column not in clips.schema.names:
        return f"this table has no column {rule.column}"
    return f"no clip has a value of {rule.column}"


def _draw(
    clips: pads.Dataset,
    rule: str,
    column: str,
    bounds: list[Bound],
    ghosts: list[Bound],
    sides: list[tuple[str, list[dict[str, str]]]],
    *,
    width: int = 560,
    height: int = 190,
) -> Threshold | None:
    values = histogram(clips, column, [*bounds, *ghosts])
    if not values.counts:
        return None
    unit = (clips.schema.field(column).metadata or {}).get(b"unit", b"").decode()
    lines = [(b.value, b.side) for b in bounds]
    chart = charts.histogram(values.edges, values.counts, lines, [b.value for b in ghosts], width=width, height=height)
    return Threshold(rule, column, unit, values.missing, chart, sides)


def _tiles(side: Sides, thumbs: dict[str, str]) -> list[tuple[str, list[dict[str, str]]]]:
    return [
        (name, [{"src": thumbs[c], "value": charts.short(v), "clip": c} for c, v in clips if c in thumbs])
        for name, clips in (("just rejected", side.failing), ("just kept", side.passing))
    ]


def thumbnails(tables: Tables, clip_ids: Sequence[str], side: int = 200) -> dict[str, str]:
    """For each clip its key frame nearest to the middle, as a data URI."""
    if not tables.has("keyframes") or not clip_ids:
        return {}
    found = middle_frames(tables.dataset("keyframes"), clip_ids)
    thumbs = {clip: media.thumbnail(data, clip, side) for clip, data in found.items()}
    return {clip: src for clip, src in thumbs.items() if src is not None}

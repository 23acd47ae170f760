"""Selection rules as data, and their vectorised evaluation: which rule, in order, is the first that a clip fails.

A rule bounds one column (``min``, ``max``, quantiles over the table at hand) or states an expression that must hold. Missing
is not low: what happens to a clip whose value is missing is each rule's own ``missing`` policy. Evaluation is one streaming
Arrow scan over the columns that the rules name, so a million clips take seconds and no row becomes a Python object.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from pydantic import Field, model_validator

from stages.contract import Params, StageError
from stages.curation.expressions import ExpressionError, Typed, column, compile_expression

Missing = Literal["keep", "drop", "review"]


class RuleError(StageError):
    """A rule cannot be applied to this table; the message names the rule, the column and the nearest spelling."""


class Quantile(Params):
    """Bounds given as quantiles of the column over all clips that have a value, each in 0..1."""

    lower: float | None = Field(default=None, ge=0, le=1)
    upper: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Quantile:
        if self.lower is None and self.upper is None:
            raise ValueError("quantile needs lower, upper or both")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError(f"quantile.lower {self.lower} is above quantile.upper {self.upper}")
        return self


class Rule(Params):
    """What a clip must satisfy. Bounds are inclusive; several conditions of one rule must all hold.

    ``missing`` says what to do where the value (or the expression's answer) is null or NaN: ``keep`` lets the clip pass,
    ``drop`` rejects it by this rule, ``review`` lets it pass but asks a person.
    """

    name: str = Field(min_length=1, max_length=80)
    column: str | None = None
    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)
    quantile: Quantile | None = None
    where: str | None = None
    missing: Missing = "keep"

    @model_validator(mode="after")
    def _complete(self) -> Rule:
        bounded = self.min is not None or self.max is not None or self.quantile is not None
        if bounded and self.column is None:
            raise ValueError(f"rule {self.name}: min, max and quantile need a column")
        if self.column is not None and not bounded:
            raise ValueError(f"rule {self.name}: column {self.column} needs min, max or quantile")
        if not bounded and self.where is None:
            raise ValueError(f"rule {self.name} states nothing: give a column with min, max or quantile, or where")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"rule {self.name}: min {self.min} is above max {self.max}")
        return self


def check_names(rules: Sequence[Rule]) -> None:
    """Refuse two rules of one name: the ledger could not tell them apart."""
    names = [rule.name for rule in rules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RuleError(f"rule names must be unique; given twice: {', '.join(twice)}")


@dataclass(frozen=True)
class Bound:
    """One line that a rule draws through a column: values below (``lower``) or above (``upper``) it fail."""

    column: str
    value: float
    side: Literal["lower", "upper"]


@dataclass(frozen=True)
class CompiledRule:
    """A rule against one schema: ``passes`` is true, false, or null where missing."""

    rule: Rule
    bounds: tuple[Bound, ...]
    passes: pc.Expression


def compile_rules(rules: Sequence[Rule], data: pa.Table | pads.Dataset) -> list[CompiledRule]:
    """Check every rule against the table's columns and turn quantiles into values.

    All problems are reported in one ``RuleError``. Only columns with quantile rules are read.
    """
    check_names(rules)
    dataset = as_dataset(data)
    problems: list[str] = []
    compiled: list[CompiledRule] = []
    for rule in rules:
        try:
            compiled.append(_compile(rule, dataset))
        except ExpressionError as error:
            problems.append(f"rule {rule.name}: {error}")
    if problems:
        raise RuleError("; ".join(problems))
    return compiled


def _compile(rule: Rule, dataset: pads.Dataset) -> CompiledRule:
    conditions: list[pc.Expression] = []
    bounds: list[Bound] = []
    if rule.column is not None:
        value = column(rule.column, dataset.schema)
        if value.kind != "number":
            raise ExpressionError(f"column {rule.column} is {value.kind}; min, max and quantile need numbers")
        bounds = _bounds(rule, rule.column, value, dataset)
        for bound in bounds:
            limit = pc.scalar(bound.value)
            conditions.append(value.expr >= limit if bound.side == "lower" else value.expr <= limit)
        if not conditions:  # quantiles of a column without any value: all its clips are missing
            conditions.append(value.expr >= pc.scalar(float("-inf")))
    if rule.where is not None:
        conditions.append(compile_expression(rule.where, dataset.schema))
    return CompiledRule(rule, tuple(bounds), functools.reduce(operator.and_, conditions))


def _bounds(rule: Rule, name: str, value: Typed, dataset: pads.Dataset) -> list[Bound]:
    lower = [rule.min] if rule.min is not None else []
    upper = [rule.max] if rule.max is not None else []
    if rule.quantile is not None:
        values = dataset.to_table(columns={"value": value.expr}).column("value")
        if values.null_count < len(values):
            if rule.quantile.lower is not None:
                lower.append(pc.quantile(values, q=rule.quantile.lower)[0].as_py())
            if rule.quantile.upper is not None:
                upper.append(pc.quantile(values, q=rule.quantile.upper)[0].as_py())
    result = [Bound(name, max(lower), "lower")] if lower else []
    return result + ([Bound(name, min(upper), "upper")] if upper else [])


def where_bounds(text: str) -> list[Bound]:
    """The lines that an expression draws, for showing them: ``column < number`` and the like, joined by ``and``."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    sides: dict[type[ast.cmpop], Literal["lower", "upper"]] = {
        ast.Gt: "lower",
        ast.GtE: "lower",
        ast.Lt: "upper",
        ast.LtE: "upper",
    }
    found = []
    for part in parts:
        match part:
            case ast.Compare(
                left=ast.Name(id=name), ops=[op], comparators=[ast.Constant(value=int() | float() as value)]
            ):
                if type(op) in sides and not isinstance(value, bool):
                    found.append(Bound(name, float(value), sides[type(op)]))
    return found


def told(rule: Rule) -> str:
    """What the rule demands, in a line: ``motion_top >= 0.012``."""
    parts = []
    if rule.min is not None:
        parts.append(f"{rule.column} >= {rule.min:g}")
    if rule.max is not None:
        parts.append(f"{rule.column} <= {rule.max:g}")
    if rule.quantile is not None:
        if rule.quantile.lower is not None:
            parts.append(f"{rule.column} >= its {rule.quantile.lower:g} quantile")
        if rule.quantile.upper is not None:
            parts.append(f"{rule.column} <= its {rule.quantile.upper:g} quantile")
    if rule.where is not None:
        parts.append(rule.where)
    return " and ".join(parts)


def as_dataset(data: pa.Table | pads.Dataset) -> pads.Dataset:
    return data if isinstance(data, pads.Dataset) else pads.dataset(data)


def outcomes(
    compiled: Sequence[CompiledRule], data: pa.Table | pads.Dataset, carry: Sequence[str] = ("clip_id",)
) -> Iterator[pa.RecordBatch]:
    """Stream the carried columns and, per rule, a boolean column named by its index: true, false, or null for missing."""
    columns: dict[str, pc.Expression] = {name: pc.field(name) for name in carry}
    columns |= {str(index): rule.passes for index, rule in enumerate(compiled)}
    yield from as_dataset(data).scanner(columns=columns, batch_size=1 << 17).to_batches()


def judge(compiled: Sequence[CompiledRule], batch: pa.RecordBatch) -> pa.Table:
    """``kept``, ``first_failing_rule`` and ``review`` of a batch from :func:`outcomes`, carried columns kept.

    ``review`` is true where every rule passed but one with ``missing: review`` had no value.
    """
    rows = batch.num_rows
    names = {str(index) for index in range(len(compiled))}
    carried = {name: batch.column(name) for name in batch.schema.names if name not in names}
    fails = [failed(rule, batch.column(str(index))) for index, rule in enumerate(compiled)]
    asks = [
        pc.is_null(batch.column(str(index))) for index, rule in enumerate(compiled) if rule.rule.missing == "review"
    ]
    if fails:
        first = pc.case_when(
            pc.make_struct(*fails, field_names=[str(i) for i in range(len(fails))]),
            *[pa.scalar(rule.rule.name) for rule in compiled],
        )
    else:
        first = pa.nulls(rows, pa.string())
    kept = pc.is_null(first)
    ask = functools.reduce(pc.or_, asks) if asks else pa.repeat(False, rows)
    return pa.table({**carried, "kept": kept, "first_failing_rule": first, "review": pc.and_(kept, ask)})


def failed(rule: CompiledRule, passes: pa.Array) -> pa.Array:
    """Where the rule rejects, its ``missing`` policy applied."""
    return pc.invert(pc.fill_null(passes, rule.rule.missing != "drop"))


def evaluate(
    rules: Sequence[Rule], data: pa.Table | pads.Dataset, carry: Sequence[str] = ("clip_id",)
) -> Iterator[pa.Table]:
    """Apply the rules in order; yields tables of the carried columns, ``kept``, ``first_failing_rule``, ``review``.

    Raises ``RuleError`` for an unknown column, a mismatched type or an expression outside the language, before any row.
    """
    compiled = compile_rules(rules, data)
    return (judge(compiled, batch) for batch in outcomes(compiled, data, carry))

"""Rules mean the same to Arrow as to a plain reading of their text, row by row."""

from __future__ import annotations

import ast
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.curation.expressions import ExpressionError, compile_expression
from stages.curation.rules import Quantile, Rule, RuleError, compile_rules, evaluate

# -- the oracle: one row at a time, in plain Python -------------------------------------------------------------------


def missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def plain(node: ast.expr, row: dict[str, Any]) -> Any:
    """The value of an expression for one row; None is missing."""
    if isinstance(node, ast.Name):
        return None if missing(row[node.id]) else row[node.id]
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp):
        value = plain(node.operand, row)
        if value is None:
            return None
        return (not value) if isinstance(node.op, ast.Not) else -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BoolOp):
        values = [plain(v, row) for v in node.values]
        decisive = isinstance(node.op, ast.Or)
        if any(v is decisive for v in values):
            return decisive
        return None if any(v is None for v in values) else not decisive
    if isinstance(node, ast.BinOp):
        left, right = plain(node.left, row), plain(node.right, row)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Div):
            if right == 0:  # IEEE 754: x / 0 is infinite with the signs' product, 0 / 0 is NaN and so missing
                sign = math.copysign(1, left) * math.copysign(1, right)
                return None if left == 0 or math.isnan(left) else sign * math.inf
            ratio = left / right
            return None if missing(ratio) else ratio  # infinity by infinity is NaN too
        value = {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[type(node.op)]
        return None if missing(value) else value
    assert isinstance(node, ast.Compare)
    results, left = [], node.left
    for op, right in zip(node.ops, node.comparators, strict=True):
        results.append(compare(plain(left, row), op, right, row))
        left = right
    if any(r is False for r in results):
        return False
    return None if any(r is None for r in results) else True


def compare(left: Any, op: ast.cmpop, right: ast.expr, row: dict[str, Any]) -> bool | None:
    if isinstance(op, ast.Is | ast.IsNot):
        return (left is None) == isinstance(op, ast.Is)
    if isinstance(op, ast.In | ast.NotIn):
        assert isinstance(right, ast.List)
        inside = left in [plain(e, row) for e in right.elts]
        return None if left is None else inside == isinstance(op, ast.In)
    other = plain(right, row)
    if left is None or other is None:
        return None
    answers = (
        {ast.Lt: left < other, ast.LtE: left <= other, ast.Gt: left > other, ast.GtE: left >= other}
        if not isinstance(left, str)
        else {}
    )
    return {ast.Eq: left == other, ast.NotEq: left != other, **answers}[type(op)]


def judge_plainly(rules: list[Rule], rows: list[dict[str, Any]]) -> list[tuple[bool, str | None, bool]]:
    result = []
    for row in rows:
        first, asks = None, False
        for rule in rules:
            conditions: list[bool | None] = []
            if rule.column is not None:
                value = row[rule.column]
                for limit, below in ((rule.min, True), (rule.max, False)):
                    if limit is not None:
                        conditions.append(None if missing(value) else value >= limit if below else value <= limit)
            if rule.where is not None:
                conditions.append(plain(ast.parse(rule.where, mode="eval").body, row))
            if any(c is False for c in conditions):
                passes: bool | None = False
            else:
                passes = None if any(c is None for c in conditions) else True
            asks |= passes is None and rule.missing == "review"
            if (passes is False or (passes is None and rule.missing == "drop")) and first is None:
                first = rule.name
        result.append((first is None, first, first is None and asks))
    return result


# -- random tables, random rules --------------------------------------------------------------------------------------

VALUES = st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.0, -2.5, 0.5, 3.0, math.nan, math.inf, -math.inf]))
ROW = st.fixed_dictionaries(
    {
        "a": VALUES,
        "b": VALUES,
        "n": st.one_of(st.none(), st.integers(-3, 3)),
        "s": st.one_of(st.none(), st.sampled_from(["x", "y", ""])),
        "flag": st.one_of(st.none(), st.booleans()),
    }
)
SCHEMA = pa.schema(
    [("a", pa.float64()), ("b", pa.float64()), ("n", pa.int32()), ("s", pa.string()), ("flag", pa.bool_())]
)

NUMBER = st.recursive(
    st.sampled_from(["a", "b", "n", "0", "1", "0.5", "-2"]),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*/"), inner) | st.builds("-{}".format, inner)
    ),
    max_leaves=3,
)
ATOM = st.one_of(
    st.builds("{} {} {}".format, NUMBER, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), NUMBER),
    st.builds("{} <= {} < {}".format, NUMBER, NUMBER, NUMBER),
    st.builds("s {} '{}'".format, st.sampled_from(["==", "!="]), st.sampled_from(["x", "y", ""])),
    st.builds("s {} ['x', '']".format, st.sampled_from(["in", "not in"])),
    st.builds("n {} [1, -2]".format, st.sampled_from(["in", "not in"])),
    st.builds("{} {} None".format, st.sampled_from(["a", "n", "s", "flag"]), st.sampled_from(["is", "is not"])),
    st.just("flag"),
)
CONDITION = st.recursive(
    ATOM,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
        | st.builds("not ({})".format, inner)
    ),
    max_leaves=4,
)
LIMIT = st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0])


@st.composite
def rule(draw: st.DrawFn) -> Rule:
    policy = draw(st.sampled_from(["keep", "drop", "review"]))
    where = draw(st.none() | CONDITION)
    if where is not None and draw(st.booleans()):
        return Rule(name="r", where=where, missing=policy)
    low, high = sorted([draw(LIMIT), draw(LIMIT)])
    which = draw(st.sampled_from([(low, None), (None, high), (low, high)]))
    return Rule(
        name="r", column=draw(st.sampled_from(["a", "n"])), min=which[0], max=which[1], where=where, missing=policy
    )


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROW, max_size=12), rules=st.lists(rule(), max_size=4))
def test_arrow_agrees_with_a_row_by_row_reading(rows: list[dict[str, Any]], rules: list[Rule]) -> None:
    rules = [r.model_copy(update={"name": f"r{i}"}) for i, r in enumerate(rules)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    parts = list(evaluate(rules, table, carry=("n",)))
    got = [(row["kept"], row["first_failing_rule"], row["review"]) for part in parts for row in part.to_pylist()]
    assert got == judge_plainly(rules, rows)


# -- what the language refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "abs(a) > 1",
        "a.real > 1",
        "s[0] == 'x'",
        "(lambda: a)() > 1",
        "[x for x in [1]] == a",
        "a if flag else b",
        "(a := 1) > 0",
        "a ** 9 > 1",
        "a & b",
        "a | b",
        "f'{a}' == s",
        "~flag",
        "a is b",
        "a == None",
        "s > 'x'",
        "a == s",
        "a",
        "a + s > 1",
        "n in [a]",
        "n in []",
        "flag and a",
        "1 <",
        "",
        "a > 1; b > 1",
        "b'x' == s",
        "(" * 3000 + "a" + ")" * 3000,
        "not " * 400 + "flag and a > 10000000000000000000000" + "0" * 400,
    ],
)
def test_expressions_outside_the_language_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        compile_expression(text, SCHEMA)


def test_an_unknown_column_is_named_with_its_rule_and_the_nearest_spelling() -> None:
    table = pa.table({"clip_id": ["c"], "sharpness": [1.0], "width": [3]})
    rules = [Rule(name="soft", column="sharpnes", min=1), Rule(name="shape", where="widht > 2")]
    with pytest.raises(RuleError) as caught:
        compile_rules(rules, table)
    message = str(caught.value)
    assert "rule soft" in message
    assert "Did you mean sharpness?" in message
    assert "rule shape" in message  # every problem at once
    assert "Did you mean width?" in message


def test_a_bound_on_a_text_column_is_refused() -> None:
    with pytest.raises(RuleError, match="rule r: column s is text"):
        compile_rules([Rule(name="r", column="s", min=1)], SCHEMA.empty_table())


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "r"},
        {"name": "r", "column": "a"},
        {"name": "r", "min": 1},
        {"name": "r", "column": "a", "min": 2, "max": 1},
        {"name": "r", "column": "a", "quantile": {}},
        {"name": "r", "column": "a", "min": 1, "missing": "ignore"},
        {"name": "r", "column": "a", "minimum": 1},
    ],
)
def test_a_rule_that_states_nothing_or_nonsense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rule r|quantile|missing|minimum"):
        Rule.model_validate(fields)


def test_two_rules_of_one_name_are_refused() -> None:
    twice = [Rule(name="r", column="a", min=1), Rule(name="r", column="b", min=1)]
    with pytest.raises(RuleError, match="given twice: r"):
        compile_rules(twice, SCHEMA.empty_table())


def test_each_missing_policy_does_what_it_says() -> None:
    table = pa.table({"clip_id": ["low", "none", "nan", "high"], "a": [0.0, None, math.nan, 2.0]})
    kept = {}
    for policy in ("keep", "drop", "review"):
        [part] = evaluate([Rule(name="r", column="a", min=1, missing=policy)], table)  # type: ignore[arg-type]
        kept[policy] = list(zip(part.column("kept").to_pylist(), part.column("review").to_pylist(), strict=True))
    assert kept["keep"] == [(False, False), (True, False), (True, False), (True, False)]
    assert kept["drop"] == [(False, False), (False, False), (False, False), (True, False)]
    assert kept["review"] == [(False, False), (True, True), (True, True), (True, False)]


def test_quantiles_are_taken_over_the_values_there_are() -> None:
    table = pa.table({"clip_id": [str(i) for i in range(12)], "a": [*map(float, range(11)), None]})
    rules = [Rule(name="tails", column="a", quantile=Quantile(lower=0.1, upper=0.9))]
    [compiled] = compile_rules(rules, table)
    assert [bound.value for bound in compiled.bounds] == [1.0, 9.0]  # deciles of 0..10
    [part] = evaluate(rules, table)
    assert part.filter(part.column("kept")).column("clip_id").to_pylist() == [*map(str, range(1, 10)), "11"]


def test_a_quantile_of_a_column_without_values_treats_all_as_missing() -> None:
    table = pa.table({"clip_id": ["c"], "a": pa.nulls(1, pa.float64())})
    rules = [Rule(name="r", column="a", quantile=Quantile(lower=0.1), missing="drop")]
    [part] = evaluate(rules, table)
    assert part.column("first_failing_rule").to_pylist() == ["r"]


def test_no_rules_keep_everything() -> None:
    [part] = evaluate([], pa.table({"clip_id": ["c"]}))
    assert part.to_pylist() == [{"clip_id": "c", "kept": True, "first_failing_rule": None, "review": False}]

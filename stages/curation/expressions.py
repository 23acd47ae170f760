"""A small expression language for rules: text such as ``width >= 2 * height and codec in ['h264', 'av1']`` to Arrow.

The text is parsed with ``ast`` and every node is matched against an allow-list; nothing is evaluated by Python and no SQL
is made. Numbers are compared as float64, null and NaN are *missing*, and missing spreads as in SQL: a comparison with it is
missing, ``false and missing`` is false, ``true or missing`` is true. ``x is None`` asks for it.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

MAX_CHARS = 2000  # far beyond any readable rule; keeps the parser's recursion shallow

Kind = Literal["number", "text", "bool", "none"]


class ExpressionError(ValueError):
    """The expression uses something outside the language, an unknown column or mismatched kinds."""


@dataclass(frozen=True)
class Typed:
    """An Arrow expression and the kind of value it yields."""

    expr: pc.Expression
    kind: Kind


def nearest(name: str, known: Iterable[str]) -> str:
    """``' Did you mean x?'`` for the closest known spelling, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def column(name: str, schema: pa.Schema) -> Typed:
    """A column as number (float64, NaN made null), text or bool.

    Raises ``ExpressionError`` for a column that is not there (naming the nearest spelling) or has no comparable type.
    """
    index = schema.get_field_index(name)
    if index < 0:
        raise ExpressionError(
            f"there is no column {name}.{nearest(name, schema.names)} Columns: {', '.join(sorted(schema.names))}"
        )
    kind = schema.field(index).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    field = pc.field(name)
    if pa.types.is_boolean(kind):
        return Typed(field, "bool")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        return Typed(_number(field), "number")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Typed(field.cast(pa.string()), "text")
    raise ExpressionError(f"column {name} is {kind}; rules compare numbers, text and booleans")


def compile_expression(text: str, schema: pa.Schema) -> pc.Expression:
    """The boolean Arrow expression of ``text`` over a table with this schema; null where its answer is missing.

    The language: column names; numbers, strings, True, False, None; ``and or not``; ``< <= > >= == !=``, chained too;
    ``in [..]`` and ``not in [..]``; ``is None`` and ``is not None``; ``+ - * /`` in float64. Raises ``ExpressionError``.
    """
    if len(text) > MAX_CHARS:
        raise ExpressionError(f"the expression has {len(text)} characters, more than {MAX_CHARS}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        result = _Compiler(schema).visit(tree.body)
    except SyntaxError as error:
        raise ExpressionError(f"{text!r} is not an expression: {error.msg} at character {error.offset}") from error
    except (RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, ExpressionError):
            raise
        raise ExpressionError(f"{text!r} cannot be read as an expression ({error})") from error
    if result.kind != "bool":
        raise ExpressionError(f"{text!r} yields a {result.kind}; a rule needs a condition, e.g. a comparison")
    return result.expr


def _number(expr: pc.Expression) -> pc.Expression:
    """float64 with NaN made null, so that ``missing`` is one thing."""
    value = expr.cast(pa.float64(), safe=False)  # an integer beyond 2^53 is rounded
    return pc.if_else(pc.is_nan(value), pa.scalar(None, pa.float64()), value)


class _Compiler:
    """Walks the syntax tree; each handler is one production of the language, and what has no handler is refused."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def visit(self, node: ast.expr) -> Typed:
        match node:
            case ast.Name(id=name):
                return column(name, self.schema)
            case ast.Constant(value=value):
                return _constant(value)
            case ast.BoolOp(op=op, values=values):
                return self._bool_op(op, values)
            case ast.UnaryOp(op=op, operand=operand):
                return self._unary(op, operand)
            case ast.BinOp(left=left, op=op, right=right):
                return self._arithmetic(left, op, right)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self._compare(left, ops, comparators)
        raise ExpressionError(
            f"{ast.unparse(node)!r} is not allowed: an expression has columns, constants, comparisons, "
            "and / or / not, in [..], is None and + - * / only"
        )

    def _want(self, node: ast.expr, kind: Kind) -> pc.Expression:
        typed = self.visit(node)
        if typed.kind != kind:
            raise ExpressionError(f"{ast.unparse(node)!r} is a {typed.kind} where a {kind} is needed")
        return typed.expr

    def _bool_op(self, op: ast.boolop, values: Sequence[ast.expr]) -> Typed:
        result = self._want(values[0], "bool")
        for value in values[1:]:
            other = self._want(value, "bool")
            result = (result & other) if isinstance(op, ast.And) else (result | other)
        return Typed(result, "bool")

    def _unary(self, op: ast.unaryop, operand: ast.expr) -> Typed:
        if isinstance(op, ast.Not):
            return Typed(~self._want(operand, "bool"), "bool")
        if isinstance(op, ast.USub):
            return Typed(pc.negate(self._want(operand, "number")), "number")
        if isinstance(op, ast.UAdd):
            return Typed(self._want(operand, "number"), "number")
        raise ExpressionError("~ is not allowed; write not")

    def _arithmetic(self, left: ast.expr, op: ast.operator, right: ast.expr) -> Typed:
        functions: dict[type[ast.operator], Any] = {
            ast.Add: pc.add,
            ast.Sub: pc.subtract,
            ast.Mult: pc.multiply,
            ast.Div: pc.divide,
        }
        if type(op) not in functions:
            hint = {ast.BitAnd: "; write and", ast.BitOr: "; write or"}.get(type(op), "")
            raise ExpressionError(f"only + - * / are allowed between numbers{hint}")
        result = functions[type(op)](self._want(left, "number"), self._want(right, "number"))
        return Typed(_number(result), "number")

    def _compare(self, left: ast.expr, ops: Sequence[ast.cmpop], comparators: Sequence[ast.expr]) -> Typed:
        result: pc.Expression | None = None
        for op, right in zip(ops, comparators, strict=True):
            step = self._comparison(left, op, right)
            result = step if result is None else (result & step)
            left = right
        assert result is not None  # a Compare node has at least one operator
        return Typed(result, "bool")

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise ExpressionError("is compares with None only; write == for values")
            missing = self.visit(left).expr.is_null()
            return missing if isinstance(op, ast.Is) else ~missing
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(left, right, isinstance(op, ast.NotIn))
        one, two = self.visit(left), self.visit(right)
        if "none" in (one.kind, two.kind):
            raise ExpressionError("a comparison with None is always missing; write is None or is not None")
        if one.kind != two.kind:
            raise ExpressionError(
                f"{ast.unparse(left)!r} is a {one.kind} and {ast.unparse(right)!r} a {two.kind}; they cannot be compared"
            )
        match op:
            case ast.Eq():
                return one.expr == two.expr
            case ast.NotEq():
                return one.expr != two.expr
        if one.kind != "number":
            raise ExpressionError(f"{one.kind} values have no order here; use ==, != or in")
        match op:
            case ast.Lt():
                return one.expr < two.expr
            case ast.LtE():
                return one.expr <= two.expr
            case ast.Gt():
                return one.expr > two.expr
        return one.expr >= two.expr

    def _membership(self, left: ast.expr, right: ast.expr, negated: bool) -> pc.Expression:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
            raise ExpressionError("in needs a list of constants, e.g. codec in ['h264', 'av1']")
        value = self.visit(left)
        # each element compared on its own: Arrow's is_in answers false, not missing, for a null
        result: pc.Expression | None = None
        for element in right.elts:
            item = self.visit(element)
            if not _is_literal(element) or item.kind != value.kind:
                raise ExpressionError(
                    f"{ast.unparse(element)!r} cannot be an element of a list of {value.kind} constants"
                )
            same = value.expr == item.expr
            result = same if result is None else (result | same)
        assert result is not None
        return ~result if negated else result


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        node = node.operand
    return isinstance(node, ast.Constant)


def _constant(value: object) -> Typed:
    if value is None:
        return Typed(pc.scalar(pa.scalar(None)), "none")
    if isinstance(value, bool):
        return Typed(pc.scalar(value), "bool")
    if isinstance(value, int | float):
        try:
            return Typed(pc.scalar(float(value)), "number")
        except OverflowError as error:
            raise ExpressionError(f"the number {str(value)[:20]}... is too large") from error
    if isinstance(value, str):
        return Typed(pc.scalar(value), "text")
    raise ExpressionError(f"constants of type {type(value).__name__} are not allowed")

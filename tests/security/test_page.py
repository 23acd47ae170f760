"""docs/security.md holds what it says: each threat has tests that exist, or says openly that nothing stops it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|")]
THREATS = [row for row in ROWS if len(row) == 3 and row[0].strip() not in ("threat", "---")]


@cache
def _functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {item.name for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)}


def test_every_test_on_the_page_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 50
    assert not [f"{file}::{name}" for file, name in named if name not in _functions(file)]


def test_every_threat_has_a_test_or_is_called_open() -> None:
    assert len(THREATS) > 30
    assert not [row[0] for row in THREATS if "::" not in row[2] and "*Open*" not in row[1]]

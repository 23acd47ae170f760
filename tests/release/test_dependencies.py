"""What the packages import is declared, and what is declared is imported: an environment of declared packages is enough."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PACKAGES = ("fulcrum", "pipelines", "stages", "models", "data_schemas", "tinyworld")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Not imported by name: the driver that SQLAlchemy looks up for postgresql:// URLs.
BY_NAME_ONLY = {"psycopg"}


def _name(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _declared() -> set[str]:
    lines = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["postgres"]]
    return {_name(Requirement(line).name) for line in lines}


def _imported() -> dict[str, str]:
    """Top-level names of third-party imports, each with a file that has it."""
    found: dict[str, str] = {}
    for path in (p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))):
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(item, ast.Import):
                names = [alias.name for alias in item.names]
            elif isinstance(item, ast.ImportFrom) and not item.level and item.module:
                names = [item.module]
            else:
                continue
            for top in {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, *PACKAGES}:
                found.setdefault(top, str(path.relative_to(ROOT)))
    return found


def test_every_import_is_declared_and_every_declaration_imported() -> None:
    provided = metadata.packages_distributions()
    by_import = {top: {_name(d) for d in provided.get(top, [top])} for top in _imported()}
    undeclared = {top: place for top, place in _imported().items() if not by_import[top] & _declared()}
    assert not undeclared, "declare these in pyproject.toml"
    used = set().union(*by_import.values())
    assert not _declared() - used - BY_NAME_ONLY, "nothing imports these"


def test_every_declared_package_is_pinned() -> None:
    pins = {_name(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    extras = PROJECT["optional-dependencies"].values()
    declared = {_name(Requirement(line).name) for lines in (PROJECT["dependencies"], *extras) for line in lines}
    assert {name for name in declared - pins if not name.startswith("types-")} <= {"fulcrum"}  # stubs follow mypy

"""How a scorer is found: a built-in by the name of its file in this folder, a user's own by ``package.module:Class``."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from types import ModuleType

from models.scorers.base import Scorer
from models.scorers.errors import ScorerError

_PARTS = ("name", "version", "columns", "start", "frame", "clip")


def built_in() -> tuple[str, ...]:
    """The names of the scorers that lie in this folder, one a file, in alphabetical order."""
    package = __name__.rpartition(".")[0]
    files = [m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__) if not m.ispkg]
    return tuple(name for name in files if _scorer_in(importlib.import_module(f"{package}.{name}"), name))


def scorer_path(spec: str) -> str:
    """``package.module:Class`` of a built-in's name; a path is returned as it is. Raises ``ScorerError``."""
    if ":" in spec:
        return spec
    module = f"{__name__.rpartition('.')[0]}.{spec}"
    if spec.isidentifier() and importlib.util.find_spec(module):
        found = _scorer_in(importlib.import_module(module), spec)
        if found:
            return f"{module}:{found}"
    raise ScorerError(
        f"there is no scorer {spec}. Built in are {', '.join(built_in())}; your own is named package.module:Class"
    )


def _scorer_in(module: ModuleType, name: str) -> str | None:
    """The class of this module that is the scorer of this name."""
    own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    return next((c.__name__ for c in own if getattr(c, "name", None) == name and not _lacking(c)), None)


def _lacking(found: object) -> list[str]:
    return [part for part in _PARTS if not hasattr(found, part)]


def scorer_class(spec: str) -> type[Scorer]:
    """The class behind a built-in's name or a user's ``package.module:Class``. Raises ``ScorerError``."""
    module, _, name = scorer_path(spec).partition(":")
    try:
        found: type[Scorer] = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ScorerError(f"scorer {spec}: cannot import {module}: {error}") from error
    except AttributeError:
        raise ScorerError(f"scorer {spec}: module {module} has no class {name}") from None
    if _lacking(found):
        raise ScorerError(
            f"scorer {spec} lacks {', '.join(_lacking(found))}; see models/scorers/base.py for what a scorer has"
        )
    return found


def scorer_classes(specs: Sequence[str]) -> dict[str, type[Scorer]]:
    """Scorers by their names. Raises ``ScorerError`` when two share a name or a column."""
    found: dict[str, type[Scorer]] = {}
    owner: dict[str, str] = {}
    for spec in specs:
        scorer = scorer_class(spec)
        if scorer.name in found:
            raise ScorerError(f"two scorers are named {scorer.name}; list each once")
        found[scorer.name] = scorer
        for column in scorer.columns:
            if column.name in owner:
                raise ScorerError(f"scorers {owner[column.name]} and {scorer.name} both declare column {column.name}")
            owner[column.name] = scorer.name
    return found

"""The built-in frame scorers as plain data, and how a scorer is found by name or by ``package.module:Class``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from models.scorers.base import Scorer

BUILT_IN: dict[str, str] = {
    "motion": "models.scorers.motion:Motion",
    "sharpness": "models.scorers.sharpness:Sharpness",
    "exposure": "models.scorers.exposure:Exposure",
    "letterbox": "models.scorers.letterbox:Letterbox",
    "static": "models.scorers.static:Static",
    "text_area": "models.scorers.text_area:TextArea",
    "flicker": "models.scorers.flicker:Flicker",
}


class ScorerError(ValueError):
    """A scorer that was asked for cannot be used; the message says which, why, and what can."""


def scorer_class(spec: str) -> type[Scorer]:
    """The class behind a built-in's name or a user's ``package.module:Class``. Raises ``ScorerError``."""
    path = BUILT_IN.get(spec, spec)
    module, _, name = path.partition(":")
    if not name:
        raise ScorerError(
            f"there is no scorer {spec}. Built in are {', '.join(BUILT_IN)}; your own is named package.module:Class"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ScorerError(f"scorer {spec}: cannot import {module}: {error}") from error
    except AttributeError:
        raise ScorerError(f"scorer {spec}: module {module} has no class {name}") from None
    lacking = [part for part in ("name", "version", "columns", "start", "frame", "clip") if not hasattr(found, part)]
    if lacking:
        raise ScorerError(f"scorer {spec} lacks {', '.join(lacking)}; see models/scorers/base.py for what a scorer has")
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

"""Laying one tree of settings over another: key by key, and lists of named things by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeGuard


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one problem a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on it.

    Mappings merge key by key. A list of named things (rules) may be changed by name: ``{motionless: {min: 0.02}}``
    changes one, ``{motionless: null}`` removes it, a new name adds one. Anything else is replaced.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(below, value)
        elif isinstance(value, Mapping) and _named(below):
            merged[key] = _merge_named(below, value)
        else:
            merged[key] = value
    return merged


def _named(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) and "name" in v for v in value)


def _merge_named(base: list[Mapping[str, Any]], over: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = [item["name"] for item in base]
    for name in sorted(set(over) - set(names)):
        value = over[name]
        if not isinstance(value, Mapping) or not {"column", "where"} & set(value):
            raise ConfigError(
                [f"{name}: there is none of this name{near(name, names)} A new one needs a column or where."]
            )
    kept = [merge(item, over.get(item["name"]) or {}) for item in base if over.get(item["name"], {}) is not None]
    return kept + [
        {"name": name, **value} for name, value in over.items() if name not in names and isinstance(value, Mapping)
    ]


def near(name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""

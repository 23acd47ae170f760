"""Other thresholds without another run: reads ``RULE.FIELD=VALUE``, lays it over the rules, and says how to make it real."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from pipelines.overlay import ConfigError, merge, near
from stages.curation.rules import Quantile, Rule

FIELDS = [name for name in Rule.model_fields if name != "name"]
EXAMPLE = "write RULE.FIELD=VALUE, e.g. motionless.min=0.02, or RULE=null to leave the rule out"


@dataclass(frozen=True)
class Tried:
    """The rules with all changes, and the ``--set`` options that make a run use them."""

    rules: list[Rule]
    settings: list[str]


def try_rules(rules: Sequence[Rule], tries: Sequence[str], columns: Sequence[str], node: str) -> Tried:
    """Lay the changes over the rules. A rule is named by its name, or by its column where one rule only has it; a column
    that no rule has makes a new rule. Raises ``ConfigError`` with every problem and the nearest right spelling.
    """
    over: dict[str, Any] = {}
    settings: list[str] = []
    problems: list[str] = []
    for text in tries:
        try:
            path, value = _read(text)
            name, new = _rule_of(text, path, rules, columns, over)
            if new:
                over[name] = {"column": name}
                settings.append(_setting(node, name, ["column"], name))
            _lay(over, [name, *path[1:]], value)
            settings.append(_setting(node, name, path[1:], value))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    plain = [rule.model_dump(mode="json") for rule in rules]
    try:
        merged = (
            merge({"rules": plain}, {"rules": over})["rules"]
            if plain
            else [{"name": n, **v} for n, v in over.items() if v]
        )
    except ConfigError as error:
        raise ConfigError([f"--try {problem}" for problem in error.problems]) from None
    return Tried([_validated(rule) for rule in merged], settings)


def _read(text: str) -> tuple[list[str], Any]:
    key, equals, raw = text.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise ConfigError([f"--try {text}: {EXAMPLE}"])
    try:
        value = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError):  # a date that is none is a ValueError
        raise ConfigError([f"--try {text}: the value {raw} is not a number, a word or a YAML value"]) from None
    if len(path) == 1:
        if value is not None:
            raise ConfigError([f"--try {text}: {EXAMPLE}"])
    elif path[1] not in FIELDS:
        raise ConfigError([f"--try {text}: a rule has no {path[1]}{near(path[1], FIELDS)} Fields: {', '.join(FIELDS)}"])
    elif len(path) > 2 and (path[1] != "quantile" or path[2] not in Quantile.model_fields):
        raise ConfigError([f"--try {text}: there is no {'.'.join(path[1:])}; write quantile.lower or quantile.upper"])
    return path, value


def _rule_of(
    text: str, path: Sequence[str], rules: Sequence[Rule], columns: Sequence[str], over: dict[str, Any]
) -> tuple[str, bool]:
    """The name of the rule that is meant, and whether it is a new one on the column of this name."""
    name = path[0]
    names = [rule.name for rule in rules]
    if name in names or name in over:
        return name, False
    on_column = [rule.name for rule in rules if rule.column == name]
    if len(on_column) == 1:
        return on_column[0], False
    if on_column:
        raise ConfigError([f"--try {text}: several rules look at {name} ({', '.join(on_column)}); name one of them"])
    if len(path) > 1 and path[1] in ("column", "where"):
        return name, False
    if len(path) > 1 and name in columns:
        return name, True
    raise ConfigError(
        [
            f"--try {text}: there is no rule and no column {name}{near(name, [*names, *columns])} Rules: {', '.join(names)}"
        ]
    )


def _lay(over: dict[str, Any], path: Sequence[str], value: Any) -> None:
    branch = over
    for part in path[:-1]:
        below = branch.get(part)
        if not isinstance(below, dict):
            below = branch[part] = {}
        branch = below
    branch[path[-1]] = value


def _setting(node: str, name: str, path: Sequence[str], value: Any) -> str:
    told = (
        "null"
        if value is None
        else yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n")
    )
    return "--set " + shlex.quote(f"{'.'.join([node, 'rules', name, *path])}={told.strip()}")


def _validated(rule: dict[str, Any]) -> Rule:
    try:
        return Rule.model_validate(rule)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            where = ".".join(str(part) for part in [rule["name"], *item["loc"]])
            message = item["msg"].removeprefix("Value error, ")
            problems.append(f"--try {where}: {message[0].lower()}{message[1:]}")
        raise ConfigError(problems) from None

"""What ``fulcrum review stats`` prints for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

UNKNOWN = "[dim]unknown[/]"


def show(found: Mapping[str, Any], note: str | None) -> None:
    """Print a campaign's document, as ``make_document`` gives it, with its ``rules``."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    campaign, at, speed = found["campaign"], found["progress"], found["speed"]
    console.print(f"[bold]{escape(campaign['title'])}[/]  {campaign['id']}  {campaign['state']}")
    left = "" if not speed["remaining_s"] else f", about {_duration(speed['remaining_s'])} left at the last hour's rate"
    console.print(f"{at['done']:,} of {at['items']:,} items judged, {at['disputed']:,} in dispute{left}")
    console.print(", ".join(f"{one['items']:,} {one['verdict']}" for one in found["verdicts"]))
    _people(console, found["people"])
    _agreement(console, found["agreement"])
    _preference(console, found["preference"])
    _systems(console, found["systems"])
    _likert(console, found["likert"])
    _rules(console, found["rules"])
    if note:
        console.print(f"[dim]{escape(note)}[/]")


def _table(*columns: str, words: int = 1) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < words else "right", no_wrap=index >= words)
    return table


def _people(console: Console, people: Sequence[Mapping[str, Any]]) -> None:
    if not people:
        return
    console.print("\n[bold]people[/]")
    table = _table("name", "answers", "extra", "skipped", "median s", "known met", "left", "too fast")
    for one in people:
        gold, left, fast = one["gold"], one["left"], one["too_fast"]
        table.add_row(
            escape(one["name"]), f"{one['answers']:,}", f"{one['extra']:,}", f"{one['skip_rate']:.0%}", _number(one["median_s"], 1),
            f"{gold['right']} of {gold['n']}" if gold else "-", f"{left['share']:.0%} of {left['n']}" if left else "-",
            f"{fast['share']:.0%}" if fast else "-",
        )  # fmt: skip
    console.print(table)
    for one in people:
        for flag in one["flags"]:
            console.print(f"  [yellow]look at {escape(one['name'])}[/]: {escape(flag['text'])}")


def _agreement(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    known = [row for row in rows if row["value"] is not None]
    if not known:
        return
    console.print("\n[bold]agreement[/] [dim](95% intervals, items drawn again with all their answers)[/]")
    table = _table("of", "measure", "value", "interval", "items", words=2)
    for row in known:
        name = row["measure"].replace("_", " ") + (" (ordinal)" if row["scale"] == "ordinal" else "")
        table.add_row(row.get("dimension", ""), name, _number(row["value"]), _ends(row), f"{row['items']:,}")
    console.print(table)


def _preference(console: Console, found: Mapping[str, Any] | None) -> None:
    if found is None or found["gsb"] is None:
        return
    console.print(
        f"\n[bold]{found['first']} against {found['second']}[/]  {found['good']} better, {found['same']} same, {found['bad']} worse; "
        f"{found['both_bad']} both bad\nGSB (better - worse) / all three: {_number(found['gsb'])} {_ends(found)}, sign test p = "
        f"{found['sign_test_p']:.2g}"
    )
    left = found["left_share"]
    if left:
        console.print(f"left chosen in {left['share']:.0%} of {left['n']} choices {_ends(left)}")


def _systems(console: Console, rows: Sequence[Mapping[str, Any]] | None) -> None:
    if not rows:
        return
    console.print("\n[bold]systems[/] [dim](Bradley-Terry log strength, mean 0)[/]")
    table = _table("system", "strength", "interval", "wins", "losses", "ties")
    for row in rows:
        table.add_row(
            escape(row["system"]), _number(row["strength"]), _ends(row), str(row["wins"]), str(row["losses"]), str(row["ties"])
        )  # fmt: skip
    console.print(table)


def _likert(console: Console, rows: Sequence[Mapping[str, Any]] | None) -> None:
    if not rows:
        return
    console.print("\n[bold]ratings[/]")
    table = _table("system", "dimension", "mean", "interval", "n", "1", "2", "3", "4", "5", words=2)
    for row in rows:
        table.add_row(
            escape(row["system"] or ""), row["dimension"], _number(row["mean"], 2), _ends(row), str(row["n"]), *map(str, row["counts"])
        )  # fmt: skip
    console.print(table)


def _rules(console: Console, rules: Sequence[Mapping[str, Any]] | None) -> None:
    if not rules:
        return
    console.print(
        "\n[bold]rules against people[/] [dim](what people would keep of each rule's rejects; most contradicted first)[/]"
    )
    table = _table("rule", "keeps", "judged", "people keep", "interval", "of all it rejected", words=2)
    for rule in rules:
        said = rule["accepted"]
        of_all = f"{said['share'] * rule['stands_for']:,.0f} of {rule['stands_for']:,.0f}" if said else UNKNOWN
        share = f"{said['share']:.0%}" if said else UNKNOWN
        table.add_row(escape(rule["rule"]), escape(rule["told"]), str(rule["judged"]), share, _ends(said), of_all)
    console.print(table)
    console.print("\n[bold]thresholds[/]")
    table = _table("rule", "note", "now", "precision", "recall", "suggested", "precision", "recall", words=2)
    for rule in rules:
        for line in rule["lines"]:
            sign = ">=" if line["side"] == "lower" else "<="
            better = UNKNOWN if line["suggested"] is None else f"{sign} {line['suggested']:.4g}"
            table.add_row(
                escape(rule["rule"]), f"[dim]{escape(line['note'])}[/]", f"{sign} {line['present']:.4g}", _estimate(line["precision"]),
                _estimate(line["recall"]), better, _estimate(line["suggested_precision"]), _estimate(line["suggested_recall"]),
            )  # fmt: skip
    console.print(table)


def _estimate(found: Mapping[str, Any] | None) -> str:
    return UNKNOWN if found is None or found["value"] is None else f"{found['value']:.2f} {_ends(found)}".strip()


def _ends(found: Mapping[str, Any] | None) -> str:
    if found is None or found["low"] is None:
        return ""
    return f"[dim]{escape('[')}{found['low']:.2f}, {found['high']:.2f}][/]"


def _number(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"

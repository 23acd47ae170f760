"""``fulcrum funnel``: what each rule costs, and what other thresholds would change."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from pipelines.cli.options import ConfigFile, Json, StoreUri
from pipelines.config import ConfigError

if TYPE_CHECKING:
    from pipelines.stored_run import StoredRun
    from stages.curation.funnel import Change, Funnel
    from stages.curation.road import Failure, Level
    from stages.curation.rules import Rule

Tries = Annotated[
    list[str] | None,
    typer.Option(
        "--try",
        help="another threshold, by rule or column: motionless.min=0.02, sharpness.missing=drop, flicker=null; repeatable",
        metavar="RULE.FIELD=VALUE",
    ),
]
RunId = Annotated[str | None, typer.Option("--run", help="a run's id; by default the latest", metavar="ID")]
Html = Annotated[Path | None, typer.Option("--html", help="write a page that opens from disk", metavar="FILE")]
Side = Annotated[
    int, typer.Option("--thumbnails", help="clips shown either side of each line of the page", min=0, max=24)
]


def funnel(
    store: StoreUri = None,
    run_: RunId = None,
    try_: Tries = None,
    config: ConfigFile = None,
    html: Html = None,
    thumbnails: Side = 6,
    json_: Json = False,
) -> None:
    """Show what each rule costs in clips and hours, and what other thresholds would change. Writes nothing to the store."""
    from pipelines.config import Settings
    from pipelines.dag.runs import load_run
    from pipelines.dag.store import Store
    from pipelines.stored_run import StoredRun
    from stages.curation.funnel import compare_rules, rule_funnel
    from stages.curation.road import failures, road
    from stages.curation.select import in_order

    opened = Store(store or Settings().store, create=False)
    run = StoredRun(opened, load_run(opened, run_))
    clips = run.dataset("clips")
    rules = in_order(run.rules())
    tried, settings = _tried(run, rules, try_ or [], config, clips.schema.names)
    before, after, change = (
        (rule_funnel(rules, clips), None, None) if tried is None else compare_rules(rules, tried, clips)
    )
    levels, failed = [], []
    if tried is None or html is not None or json_:  # a comparison for people shows the rules alone
        levels = road(run, run.reviewers())
        ledger = run.ledger()
        failed = failures(ledger) if ledger is not None else []
    notes = _notes(rules, tried)
    if html is not None:
        _write_page(html, run, rules, tried, thumbnails, (before, after, change), (levels, failed), settings)
    if json_:
        print(
            json.dumps(
                {
                    "pipeline": run.record.pipeline,
                    "run_id": run.record.run_id,
                    **_as_dict(before, rules),
                    "road": [asdict(level) for level in levels],
                    "failures": [asdict(failure) for failure in failed],
                    "after": None if after is None or tried is None else _as_dict(after, tried),
                    "change": None if change is None else change.as_dict(),
                    "set": settings,
                    "notes": notes,
                },
                ensure_ascii=False,
            )
        )
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"[bold]{escape(run.record.pipeline)}[/]  run {run.record.run_id}")
    if after is None or tried is None or change is None:
        _print_funnel(console, before, rules)
        _print_road(console, levels, failed)
    else:
        _print_comparison(console, (before, rules), (after, tried), change, settings)
    for note in notes:
        console.print(f"[dim]{escape(note)}[/]")
    if html is not None:
        console.print(f"page: {html}")


def _tried(
    run: StoredRun, rules: Sequence[Rule], tries: Sequence[str], config: Path | None, columns: Sequence[str]
) -> tuple[list[Rule] | None, list[str]]:
    """The rules to compare with, and the options that make them real; None where nothing is tried."""
    from pipelines.what_if import try_rules
    from stages.curation.select import in_order

    if config is None and not tries:
        return None, []
    base = list(rules)
    settings: list[str] = []
    if config is not None:
        base = _configured(run, config)
        settings = [f"--config {config}"]
    tried = try_rules(base, tries, columns, run.select_node)
    return in_order(tried.rules), settings + tried.settings


def _configured(run: StoredRun, config: Path) -> list[Rule]:
    from pipelines.catalog import find
    from pipelines.config import load

    try:
        pipeline = find(run.record.pipeline)
    except ConfigError as error:
        raise ConfigError(
            [
                f"--config: the run's pipeline {run.record.pipeline} cannot be found by name. Change rules with --try instead."
            ]
        ) from error
    params: Any = load(pipeline, config, [], {}).params[run.select_node]
    return list(params.rules)


def _notes(rules: Sequence[Rule], tried: Sequence[Rule] | None) -> list[str]:
    """What the numbers cannot know."""
    from stages.curation.select import cheap_rules, dear_columns

    if tried is None or cheap_rules(tried) == cheap_rules(rules):
        return []
    dear = sorted({column for rule in tried for column in dear_columns(rule)})
    if not dear:
        return []
    return [
        f"Clips that the run's rules rejected were never embedded: where other rules let them pass, their {' and '.join(dear)} "
        "count as missing here, and are computed by the run."
    ]


def _as_dict(funnel: Funnel, rules: Sequence[Rule]) -> dict[str, Any]:
    from stages.curation.rules import told

    value = funnel.as_dict()
    for step, rule in zip(value["steps"], rules, strict=True):
        step["demands"], step["policy"] = told(rule), rule.missing
    return value


# -- for people --------------------------------------------------------------------------------------------------------


def _print_funnel(console: Console, funnel: Funnel, rules: Sequence[Rule]) -> None:
    from stages.curation.rules import told

    unit = _unit(funnel.hours)
    table = RichTable(box=None, pad_edge=False, header_style="bold")
    table.add_column("rule", no_wrap=True)
    table.add_column("keeps", overflow="fold", max_width=44)
    for name in ("clips in", "lost", "of these", f"{unit.name} lost", "fail it", "only it", "no value"):
        table.add_column(name, justify="right", no_wrap=True)
    for step, rule in zip(funnel.steps, rules, strict=True):
        missing = f"{step.missing:,} {_policy(rule)}" if step.missing else "[dim]-[/]"
        table.add_row(
            escape(step.rule), f"[dim]{escape(told(rule))}[/]", f"{step.records_in:,}",
            f"[red]{step.lost:,}[/]" if step.lost else "[dim]0[/]", _percent(step.lost, step.records_in), unit.show(step.hours_lost),
            f"{step.fails:,}", f"{step.only:,}", missing,
        )  # fmt: skip
    console.print(table)
    console.print(f"{_kept(funnel)}")


def _print_road(console: Console, levels: Sequence[Level], failed: Sequence[Failure]) -> None:
    unit = _unit(max((level.hours or 0.0 for level in levels), default=0.0))
    if len(levels) > 1:
        console.print("\n[bold]the whole way[/]")
        table = RichTable(box=None, pad_edge=False, show_header=False)
        table.add_column(overflow="fold", max_width=60)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        for level in levels:
            losses = ", ".join(f"-{loss.records:,} {loss.reason}" for loss in level.losses[:4])
            more = f", and {len(level.losses) - 4} more reasons" if len(level.losses) > 4 else ""
            hours = "" if level.hours is None else f"{unit.show(level.hours)} {unit.name}"
            table.add_row(
                escape(level.name), f"{level.records:,} {level.unit}", hours, f"[dim]{escape(losses + more)}[/]"
            )
        console.print(table)
    if failed:
        console.print("\n[bold]failed[/] (not rejected: nobody knows what is in them)")
        table = RichTable(box=None, pad_edge=False, show_header=False)
        for failure in failed:
            table.add_row(
                failure.stage, f"{failure.records:,}", failure.error_type, f"[dim]{escape(_short(failure.example))}[/]"
            )
        console.print(table)


def _print_comparison(
    console: Console,
    before: tuple[Funnel, Sequence[Rule]],
    after: tuple[Funnel, Sequence[Rule]],
    change: Change,
    settings: Sequence[str],
) -> None:
    from stages.curation.rules import told

    unit = _unit(before[0].hours)
    table = RichTable(box=None, pad_edge=False, header_style="bold")
    table.add_column("rule", no_wrap=True)
    table.add_column("keeps", overflow="fold", max_width=60)
    for name in ("lost", "would lose", "clips", f"{unit.name} lost", "would lose", unit.name):
        table.add_column(name, justify="right", no_wrap=True)
    old = {step.rule: (step, rule) for step, rule in zip(before[0].steps, before[1], strict=True)}
    new = {step.rule: (step, rule) for step, rule in zip(after[0].steps, after[1], strict=True)}
    for name in [*old, *(name for name in new if name not in old)]:
        was, now = old.get(name), new.get(name)
        rules = [entry[1] for entry in (was, now) if entry is not None]
        asks = len({rule.missing for rule in rules}) > 1
        demands = [told(rule) + (f" (no value: {rule.missing})" if asks else "") for rule in rules]
        same = len(demands) == 2 and demands[0] == demands[1]
        shown = f"[dim]{escape(demands[0])}[/]" if same else _changed(was, demands)
        lost = [entry[0].lost if entry else 0 for entry in (was, now)]
        hours = [entry[0].hours_lost if entry else 0.0 for entry in (was, now)]
        table.add_row(
            escape(name) if same else f"[bold]{escape(name)}[/]", shown, f"{lost[0]:,}", f"{lost[1]:,}", _signed(lost[1] - lost[0]),
            unit.show(hours[0]), unit.show(hours[1]), unit.signed(hours[1] - hours[0]),
        )  # fmt: skip
    console.print(table)
    console.print(f"now    {_kept(before[0])}")
    console.print(f"tried  {_kept(after[0])}")
    console.print(
        f"[green]+{change.gained:,}[/] clips ({unit.show(change.hours_gained)} {unit.name}) would come in, "
        f"[red]-{change.dropped:,}[/] ({unit.show(change.hours_dropped)} {unit.name}) would go. Nothing was written."
    )
    console.print("To make it real, add to the command of the run:", style="bold")
    for setting in settings:
        console.print(f"  {escape(setting)}", soft_wrap=True)


def _changed(was: object, demands: Sequence[str]) -> str:
    if len(demands) == 2:
        return f"{escape(demands[0])} [bold]->[/] {escape(demands[1])}"
    return f"{escape(demands[0])} [bold]-> left out[/]" if was else f"[bold]new:[/] {escape(demands[0])}"


def _policy(rule: Rule) -> str:
    return {"keep": "kept", "drop": "dropped", "review": "asked"}[rule.missing]


def _kept(funnel: Funnel) -> str:
    asks = f", {funnel.review:,} of them for a person to decide" if funnel.review else ""
    unit = _unit(funnel.hours)
    return (
        f"[bold]{funnel.kept:,}[/] of {funnel.records:,} clips pass ({_percent(funnel.kept, funnel.records)}), "
        f"[bold]{unit.show(funnel.hours_kept)}[/] of {unit.show(funnel.hours)} {unit.name}{asks}"
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


@dataclass(frozen=True)
class _Unit:
    """The unit in which footage is shown: small sets have minutes."""

    name: str
    per_hour: float

    def show(self, hours: float) -> str:
        value = hours * self.per_hour
        return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 10 else f"{value:.2f}"

    def signed(self, hours: float) -> str:
        if abs(hours * self.per_hour) < 0.005:
            return "[dim]0[/]"
        return f"[red]+{self.show(hours)}[/]" if hours > 0 else f"[green]-{self.show(-hours)}[/]"


def _unit(hours: float) -> _Unit:
    return _Unit("hours", 1.0) if hours >= 3 else _Unit("min", 60.0)


def _signed(value: int) -> str:
    return f"[red]+{value:,}[/]" if value > 0 else f"[green]{value:,}[/]" if value < 0 else "[dim]0[/]"


def _short(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= 100 else line[:97] + "..."


def _write_page(
    html: Path,
    run: StoredRun,
    rules: Sequence[Rule],
    tried: Sequence[Rule] | None,
    thumbnails: int,
    funnels: tuple[Funnel, Funnel | None, Change | None],
    road: tuple[Sequence[Level], Sequence[Failure]],
    settings: Sequence[str],
) -> None:
    from stages.evaluation.funnel_page import FunnelPage, render

    page = FunnelPage(
        tables=run,
        rules=list(rules),
        tried=None if tried is None else list(tried),
        before=funnels[0],
        after=funnels[1],
        change=funnels[2],
        levels=list(road[0]),
        failures=list(road[1]),
        settings=list(settings),
        facts=[
            ("pipeline", run.record.pipeline),
            ("run", run.record.run_id),
            ("code", run.record.code),
            *((name, f"{rows:,} rows, digest {digest[:12]}") for name, rows, digest in run.digests(_SHOWN)),
        ],
        thumbnails=thumbnails,
        scripted=[name for name in run.reviewers() if name.startswith("script:")],
    )
    try:
        html.write_text(render(page), encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"--html {html}: {error.strerror}"]) from None


_SHOWN = ("videos", "clips", "selection", "dedupe", "balance", "verdicts", "subset")

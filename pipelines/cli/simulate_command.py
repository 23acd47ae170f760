"""``fulcrum simulate``: what a whole job would take on machines and people that nobody has yet."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from pipelines.cli.options import Json

if TYPE_CHECKING:
    from pipelines.simulation.forecast import Forecast


def simulate(
    scenario: Annotated[
        Path | None, typer.Option("--scenario", help="YAML file; without one, the full job", metavar="FILE")
    ] = None,
    estimate: Annotated[
        Path | None,
        typer.Option("--estimate", help="what `fulcrum plan --estimate --json` wrote of your source", metavar="FILE"),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="print the scenario, to copy and change, and stop")] = False,
    seed: Annotated[int, typer.Option("--seed", help="which batches are lost", min=0)] = 0,
    json_: Json = False,
) -> None:
    """Simulate a job: hours, what limits each stage, bytes, cost, people's days, and what a wrong rate would change.

    Without --scenario it is a million videos on 64 GPUs with 50 reviewers, at this project's measured rates where there are any.
    With --estimate, counts and rates of curation are those of a sample of your own source.
    """
    from pipelines.config import ConfigError
    from pipelines.simulation.forecast import forecast
    from pipelines.simulation.scenario import FULL_JOB, load_scenario

    found = load_scenario(scenario)
    if show:
        print((scenario or FULL_JOB).read_text(encoding="utf-8"), end="")
        return
    if estimate is not None:
        try:
            found = found.with_estimate(json.loads(estimate.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                [f"--estimate {estimate} is not what `fulcrum plan --estimate --json` writes: {error}"]
            ) from None
    try:
        told = forecast(found, seed)
    except ValueError as error:
        raise ConfigError([f"the scenario cannot be worked through: {error}"]) from None
    if json_:
        print(json.dumps(told.as_dict(), ensure_ascii=False))
    else:
        _print(told)


def _print(told: Forecast) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    cluster, people, prices = told.scenario.cluster, told.scenario.people, told.scenario.prices
    console.print(
        f"[bold]{cluster.cpus:,.0f} cores, {cluster.gpus:,.0f} GPUs, {people.reviewers} reviewers[/] "
        f"({people.from_hour:g} to {people.to_hour:g} o'clock, {people.days_a_week} days a week)\n"
    )
    table = RichTable(box=None, pad_edge=False)
    for name in (
        "stage",
        "begins",
        "hours",
        "workers",
        "limited by",
        "core h",
        "GPU h",
        "person h",
        "bytes",
        "if twice",
        "rate",
    ):
        left = name in ("stage", "limited by", "rate")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in told.rows:
        name = escape(row.stage.name)
        table.add_row(
            f"[bold]{name}[/] *" if row.critical else name,
            _number(row.span.start / 3600),
            _number((row.span.end - row.span.start) / 3600),
            f"{row.span.workers:,}" if row.span.busy_s else "",
            row.limited_by,
            _number(row.core_hours),
            _number(row.gpu_hours),
            _number(row.person_hours),
            _bytes(row.stage.bytes * told.scenario.counts[row.stage.per]),
            f"+{row.later_if_twice_h:.3g} h" if row.later_if_twice_h > 0.005 else "",
            row.stage.known,
        )
    console.print(table)
    total = {name: f"{value:,.0f}" for name, value in told.totals().items()}
    hours, person_hours = told.hours, told.totals()["person_hours"]
    each = f" ({person_hours / people.reviewers:.1f} each)" if people.reviewers else ""
    console.print(
        f"\n[bold]{hours:,.1f} hours ({hours / 24:.1f} days)[/] from beginning to end\n"
        f"machines   {total['core_hours']} core hours and {total['gpu_hours']} GPU hours are worked: {total['cost_of_machines']} at "
        f"{prices.core_hour:g} and {prices.gpu_hour:g}; {total['cost_of_machines_if_held']} if all is held from beginning to end\n"
        f"people     {total['person_hours']} hours{each}: {total['cost_of_people']} at {prices.person_hour:g}\n"
        f"store      {_bytes(told.bytes())}: {total['cost_of_store_a_month']} a month at {prices.gb_month:g} a GB\n\n"
        "[dim]* the end waits for these. if twice: how much later the end is when each item of the stage takes twice as long.\n"
        "rate: measured by this project or on a sample, or assumed. fulcrum simulate --show prints where every number comes from.[/]"
    )


def _number(value: float) -> str:
    if value < 0.005:
        return "" if value == 0 else "0.00"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(count: float) -> str:
    if not count:
        return ""
    unit, size = next(((u, s) for u, s in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)) if count >= s), ("kB", 1e3))
    return f"{count / size:.3g} {unit}"

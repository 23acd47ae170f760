"""``fulcrum people``: ask people about systems' videos, and hold what they said against the metrics."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.cli.evaluate_commands import RunId, run_with
from pipelines.cli.options import Json, StoreUri
from pipelines.config import ConfigError, Settings
from stages.evaluation.systems import title_of

if TYPE_CHECKING:
    from models.statistics.resample import Estimate
    from stages.evaluation.people import PeopleForm, Said

app = typer.Typer(help="Ask people about systems' videos, and read what they said.", no_args_is_help=True)


@app.command()
def ask(
    form: Annotated[str, typer.Argument(help="compare, two videos at a time, or likert, ratings of 1 to 5", metavar="FORM")],
    systems: Annotated[list[str], typer.Option("--system", help="whose videos; repeatable", metavar="NAME")],
    out: Annotated[Path, typer.Option("--out", help="a new folder for the items and their media", metavar="DIR")],
    seeds: Annotated[int, typer.Option("--seeds", help="videos of each prompt and system", min=1)] = 1,
    store: StoreUri = None,
    run_: RunId = None,
) -> None:  # fmt: skip
    """Write a campaign's items from the samples of an evaluated run; fulcrum review create makes the campaign of them."""
    from stages.evaluation.people import campaign_items

    if form not in ("compare", "likert"):
        raise ConfigError([f"{form}: write compare or likert"])
    if out.exists() and any(out.iterdir()):
        raise ConfigError([f"--out {out}: holds other files; give an empty or a new folder"])
    samples, _, videos = _samples(store, run_)
    kind: PeopleForm = "compare" if form == "compare" else "likert"
    count, left_out = campaign_items(samples, videos, kind, systems, out, seeds)
    for line in left_out[:10]:
        print(f"left out: {line}")
    if len(left_out) > 10:
        print(f"left out: {len(left_out) - 10} more")
    print(f"{out}: {count} items. Make the campaign: fulcrum review create NAME {out / 'items.jsonl'} --form {form}")


@app.command()
def said(
    exports: Annotated[list[Path], typer.Argument(help="folders of fulcrum review export --format parquet", metavar="EXPORT...")],
    store: StoreUri = None,
    run_: RunId = None,
    json_: Json = False,
) -> None:  # fmt: skip
    """Print GSB, ratings, and each metric's rank correlation with people, from exports of campaigns on a run's samples."""
    from stages.evaluation.people import read_decisions
    from stages.evaluation.people import said as what_people_said

    decisions = [row for folder in exports for row in read_decisions(folder)]
    samples, measurements, _ = _samples(store, run_)
    found = what_people_said(decisions, samples, measurements)
    if not found.preferences and not found.ratings:
        raise ConfigError(
            ["none of these answers is about samples of this run; name the run that they were asked about with --run"]
        )
    if json_:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    _show(found)


def _samples(store: str | None, run: str | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Path]:
    """Samples and measurements of an evaluated run, and the folder of its videos."""
    from data_schemas.tables import MEASUREMENTS, SAMPLES
    from pipelines.dag.artifacts import open_table, read_manifest

    opened, record = run_with(store or Settings().store, run, "evaluate")
    made = {n.name: read_manifest(opened, n.name, n.fingerprint) for n in record.nodes if n.fingerprint}
    by_stage = {m.stage: m for m in made.values() if m is not None}
    source = by_stage.get("sample") or by_stage.get("collect")
    if source is None or "measurements" not in by_stage["evaluate"].outputs:
        raise ConfigError([f"run {record.run_id} has no samples with numbers; run its pipeline again"])
    if not opened.is_local:
        raise ConfigError(["people are asked about videos on this machine; copy the store's run here first"])
    samples = open_table(opened, source.outputs["samples"].path, SAMPLES).to_table().to_pylist()
    measured = (
        open_table(opened, by_stage["evaluate"].outputs["measurements"].path, MEASUREMENTS).to_table().to_pylist()
    )
    return samples, measured, Path(opened.full(source.outputs["videos"].path))


def _show(found: Said) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"[bold]{found.people}[/] people")
    if found.unknown:
        console.print(f"[yellow]{found.unknown} answers are about other videos and were left out[/]")
    if found.preferences:
        table = _table("first", "against", "good", "same", "bad", "both bad", "GSB", "95%", "sign-flip p", words=2)
        for one in found.preferences:
            table.add_row(
                escape(title_of(one.a)), escape(title_of(one.b)), str(one.good), str(one.same), str(one.bad), str(one.both_bad),
                *_estimate(one.gsb), f"{one.p:.3f}",
            )  # fmt: skip
        console.print("\n[bold]preferences[/] [dim]GSB = (good - bad) / (good + same + bad), intervals by prompt[/]")
        console.print(table)
    if found.ratings:
        table = _table("system", "dimension", "mean", "95%", "1", "2", "3", "4", "5", words=2)
        for rating in found.ratings:
            table.add_row(
                escape(title_of(rating.system)), rating.dimension, *_estimate(rating.mean, 2), *map(str, rating.counts)
            )
        console.print("\n[bold]ratings[/]")
        console.print(table)
    if found.agreement:
        from stages.evaluation.people_tables import pointed, ranked

        table = _table("metric", "with people's", "rho", "95%", "things", words=2)
        for one_ in ranked(found.agreement):
            table.add_row(pointed(one_.metric), one_.question, *_estimate(one_.rho, 2), str(one_.rho.answers))
        console.print("\n[bold]metrics and people[/] [dim]Spearman's rank correlation, intervals by prompt[/]")
        console.print(table)


def _table(*columns: str, words: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < words else "right", no_wrap=True)
    return table


def _estimate(found: Estimate, digits: int = 3) -> tuple[str, str]:
    value = "-" if found.value is None else f"{found.value:.{digits}f}"
    return value, "-" if found.low is None or found.high is None else f"{found.low:.{digits}f}..{found.high:.{digits}f}"

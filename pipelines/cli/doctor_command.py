"""``fulcrum doctor``: looks over this machine, the store and what is around, and says what to do about what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.cli.options import ConfigFile, Json, SourceUri, StoreUri
from pipelines.cli.review_commands import DatabaseUrl


def doctor(
    store: StoreUri = None,
    config: ConfigFile = None,
    source: SourceUri = None,
    database: DatabaseUrl = None,
    json_: Json = False,
) -> None:
    """Check encoders, decoders, memory, disk, GPU, versions, clock, store and services; each finding has its remedy.

    Exit code 1 where something is bad, 0 where there are at most warnings.
    """
    from pipelines.config import Config, load_settings
    from pipelines.doctor import examine

    settings = load_settings(config, {"store": store, "source": source})
    if database:
        settings = settings.model_copy(update={"review": settings.review.model_copy(update={"database": database})})
    console = Console(highlight=False, soft_wrap=True)
    mark = {"good": "[green]✓[/]", "warning": "[yellow]![/]", "bad": "[red]✗[/]"}
    found = []
    for finding in examine(Config(settings, {})):
        found.append(finding)
        if not json_:
            console.print(f"{mark[finding.level]} {finding.subject:<16} {escape(finding.what)}")
            if finding.remedy:
                console.print(f"  {'':<16} [bold]{escape(finding.remedy)}[/]")
    bad = sum(one.level == "bad" for one in found)
    warnings = sum(one.level == "warning" for one in found)
    if json_:
        print(json.dumps([asdict(one) for one in found], indent=1, ensure_ascii=False))
    else:
        console.print(f"\n{bad} bad, {warnings} to think about, {len(found) - bad - warnings} good")
    raise typer.Exit(1 if bad else 0)

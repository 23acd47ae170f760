"""``fulcrum config``: show, schema, validate."""

from __future__ import annotations

import json

import typer
import yaml

from pipelines.catalog import find
from pipelines.cli.options import (
    Assignments,
    ConfigFile,
    Json,
    Limit,
    PipelineName,
    SourceUri,
    StoreUri,
    resolve_config,
)
from pipelines.config import schema as make_schema

app = typer.Typer(help="Show, describe or check a configuration.", no_args_is_help=True)


@app.command()
def show(
    pipeline: PipelineName,
    config: ConfigFile = None,
    set_: Assignments = None,
    store: StoreUri = None,
    source: SourceUri = None,
    limit: Limit = None,
    json_: Json = False,
) -> None:
    """Print the whole resolved configuration; it can be saved and edited."""
    shown = resolve_config(find(pipeline), config, set_, store, source, limit).shown()
    print(
        json.dumps(shown, indent=1, ensure_ascii=False)
        if json_
        else yaml.safe_dump(shown, sort_keys=False, allow_unicode=True),
        end="",
    )


@app.command()
def schema(pipeline: PipelineName) -> None:
    """Print the JSON Schema of a pipeline's configuration file."""
    print(json.dumps(make_schema(find(pipeline)), indent=1, ensure_ascii=False))


@app.command()
def validate(
    pipeline: PipelineName,
    config: ConfigFile = None,
    set_: Assignments = None,
    store: StoreUri = None,
    source: SourceUri = None,
    limit: Limit = None,
) -> None:
    """Check a configuration and the pipeline's wiring; says every problem at once."""
    found = find(pipeline)
    found.order()
    resolve_config(found, config, set_, store, source, limit)
    print("The configuration is valid.")

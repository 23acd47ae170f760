"""Options that every command shares, and how they become a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.config import Config, load
from pipelines.dag.graph import Pipeline

PipelineName = Annotated[
    str,
    typer.Argument(
        help="curate, libragen, libragen_swept, libragen_judged, demo, or package.module:NAME", metavar="PIPELINE"
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file", metavar="FILE")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="one value over the file, e.g. --set select.rules.motionless.min=0.02", metavar="KEY=VALUE"
    ),
]
StoreUri = Annotated[
    str | None,
    typer.Option(
        "--store", help="where artifacts are kept: a folder, or a URI such as s3://bucket/prefix", metavar="URI"
    ),
]
SourceUri = Annotated[
    str | None, typer.Option("--source", help="folder, bucket URI, or CSV/Parquet list of videos", metavar="URI")
]
Limit = Annotated[
    int | None, typer.Option("--limit", help="take only the first N source files, by path", min=1, metavar="N")
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="try records again that failed before")]
Json = Annotated[bool, typer.Option("--json", help="JSON for machines instead of text")]


def resolve_config(
    pipeline: Pipeline,
    config: Path | None,
    assignments: list[str] | None,
    store: str | None,
    source: str | None,
    limit: int | None,
) -> Config:
    options: dict[str, Any] = {"store": store, "source": source, "limit": limit}
    return load(pipeline, config, assignments or [], options)

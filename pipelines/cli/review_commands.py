"""``fulcrum review``: the page on which people answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import StoreUri
from pipelines.config import Config, ConfigError, Settings

app = typer.Typer(help="Serve the page on which people answer.", no_args_is_help=True)


@app.command()
def serve(
    store: StoreUri = None,
    database: Annotated[
        str | None,
        typer.Option("--database", help="SQLAlchemy URL; by default the one beside the store", metavar="URL"),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="address to bind")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="port to bind", min=1, max=65535)] = 8765,
) -> None:
    """Serve the review page until Ctrl-C."""
    settings = Settings.model_validate({"store": store or Settings().store, "review": {"database": database}})
    resolved = Config(settings, {})
    url = resolved.review_database
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.exists():
        raise ConfigError(
            [f"there is no review database {path} yet. Run a pipeline with the same --store until it waits for people."]
        )
    from stages.review.app import serve as serve_page

    serve_page(url, host=host, port=port)

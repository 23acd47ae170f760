"""``fulcrum review``: the page on which people answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import StoreUri
from pipelines.config import Config, ConfigError, Settings

DatabaseUrl = Annotated[
    str | None, typer.Option("--database", help="SQLAlchemy URL; by default the one beside the store", metavar="URL")
]

app = typer.Typer(help="Serve the page on which people answer.", no_args_is_help=True)


@app.command()
def serve(
    store: StoreUri = None,
    database: DatabaseUrl = None,
    host: Annotated[str, typer.Option("--host", help="address to bind")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="port to bind", min=1, max=65535)] = 8765,
) -> None:
    """Serve the review page until Ctrl-C."""
    url = _database_url(store, database)
    from stages.review.app import serve as serve_page

    serve_page(url, host=host, port=port)


@app.command()
def close(
    campaign: Annotated[str, typer.Argument(help="the campaign's id, as its page shows it", metavar="CAMPAIGN")],
    store: StoreUri = None,
    database: DatabaseUrl = None,
) -> None:
    """Close a campaign now. Items without their answers stay in review; no answer changes any more."""
    from stages.review.campaigns import close_campaign, list_campaigns
    from stages.review.database import open_database

    opened = open_database(_database_url(store, database))
    known = [c.id for c in list_campaigns(opened)]
    if campaign not in known:
        raise ConfigError([f"there is no campaign {campaign}; there are: {', '.join(known) or 'none'}"])
    progress = close_campaign(opened, campaign, "command line")
    print(f"{campaign} is closed: {progress.done} of {progress.items} items judged. Run the pipeline again to go on.")


def _database_url(store: str | None, database: str | None) -> str:
    """The review database of a store, which must be there. May contain a password: never print it."""
    settings = Settings.model_validate({"store": store or Settings().store, "review": {"database": database}})
    url = Config(settings, {}).review_database
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.exists():
        raise ConfigError(
            [f"there is no review database {path} yet. Run a pipeline with the same --store until it waits for people."]
        )
    return url

"""``fulcrum serve``: the review page, the status page and the metrics, on one port."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.options import StoreUri
from pipelines.cli.review_commands import DatabaseUrl, serve_pages


def serve(
    store: StoreUri = None,
    database: DatabaseUrl = None,
    host: Annotated[str, typer.Option("--host", help="address to bind")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="port to bind", min=1, max=65535)] = 8765,
    public_url: Annotated[
        str | None,
        typer.Option("--public-url", help="how people reach it, if not on this machine, e.g. https://review.example.org"),
    ] = None,
) -> None:  # fmt: skip
    """Serve the review page, the status page (/status, for leads) and metrics for Prometheus (/metrics), until Ctrl-C."""
    from pipelines.config import Settings
    from pipelines.dag.store import Store

    serve_pages(store, database, host, port, public_url, status=Store(store or Settings().store))

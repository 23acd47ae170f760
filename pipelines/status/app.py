"""The status page's addresses, added to the review page's server, so that one login and one guard serve both."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from pipelines.dag.store import Store
from pipelines.status import page
from pipelines.status.metrics import exposition
from pipelines.status.snapshot import Snapshot, Watcher, as_json, campaigns_in
from stages.contract import StageError
from stages.review.access import LeadReader
from stages.review.app import HERE as REVIEW
from stages.review.app import LOOPBACK

HERE = Path(__file__).parent
TOKEN = "FULCRUM_METRICS_TOKEN"

router = APIRouter()
pages = Jinja2Templates(directory=[HERE / "templates", REVIEW / "templates"])


def add_status(app: FastAPI, store: Store) -> None:
    """Serve the store's runs at ``/status`` and its metrics at ``/metrics``."""
    app.state.watcher = Watcher(store, campaigns_in(app.state.db))
    app.mount("/status/static", StaticFiles(directory=HERE / "static"), name="status-static")
    app.include_router(router)


@router.get("/status", include_in_schema=False)
def status(request: Request, who: LeadReader, run: str | None = Query(None, max_length=64)) -> Response:
    """The page. Asked again by itself, it answers 304 while nothing has changed."""
    snapshot = _look(request, run)
    context = {"who": who.person, "asked": run, **(page.parts(snapshot) if snapshot else {"run": None})}
    answer = pages.TemplateResponse(request, "status.html", context)
    etag = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    answer.headers.update(headers)
    return answer


@router.get("/api/status")
def status_json(request: Request, who: LeadReader, run: str | None = Query(None, max_length=64)) -> Response:
    """The same for programs; null when nothing has run yet."""
    snapshot = _look(request, run)
    return JSONResponse(as_json(snapshot) if snapshot else None)


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request) -> Response:
    """For Prometheus on this machine, by its loopback name, or for whoever knows the token of the environment."""
    token = os.environ.get(TOKEN, "")
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    known = bool(token) and secrets.compare_digest(given.encode(), token.encode())
    here = request.url.hostname in LOOPBACK and request.client is not None and request.client.host in LOOPBACK
    if not known and not here:
        raise HTTPException(403, f"Ask from this machine, or set {TOKEN} and send it as a bearer token.")
    body, kind = exposition(request.app.state.watcher)
    return Response(body, media_type=kind)


def _look(request: Request, run: str | None) -> Snapshot | None:
    watcher: Watcher = request.app.state.watcher
    try:
        return watcher.look(run)
    except StageError as error:
        raise HTTPException(404, str(error)) from error

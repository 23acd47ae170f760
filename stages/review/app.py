"""The review page's server: pages, a small JSON interface and the media, behind one guard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import sqlalchemy as sa
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stages.review import lead_routes, login, people_routes, queue, routes
from stages.review.access import LoginLimit, NeedsLogin
from stages.review.dashboard import Dashboards
from stages.review.database import Database, open_database
from stages.review.errors import ReviewError
from stages.review.media import MediaStore, media_root_for
from stages.review.people import invite, members

HERE = Path(__file__).parent
LOOPBACK = ("127.0.0.1", "localhost")
MAX_BODY = 64 * 1024  # an answer is a few hundred bytes

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def create_app(
    database: str | Path,
    media_root: Path | None = None,
    public_url: str | None = None,
    rules: Callable[[Database, str], Any] | None = None,
) -> FastAPI:
    """The application for one review database; ``public_url`` is how people's browsers reach it, if not by loopback.

    ``rules`` is for the dashboard of whoever has the store at hand: see ``Dashboards``.
    """
    app = FastAPI(title="Fulcrum review", docs_url=None, redoc_url=None)
    app.state.db = open_database(database)
    app.state.media = MediaStore(media_root or media_root_for(database))
    app.state.limit = LoginLimit()
    app.state.dashboards = Dashboards(app.state.db, rules)
    app.state.secure = bool(public_url and public_url.startswith("https://"))
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    for part in (routes, login, lead_routes, people_routes):
        app.include_router(part.router)
    named = [urlsplit(public_url).hostname or ""] if public_url else []
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, *named])
    app.add_middleware(Guard)
    _errors(app)
    return app


class Guard:
    """Refuses bodies that are too large or of unknown length, and puts the security headers on every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith(("/media/", "/static/")):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        given = Headers(scope=scope)
        length = given.get("content-length", "0")
        if "transfer-encoding" in given:
            refusal = JSONResponse({"error": "Say how long the request is."}, 411)
        elif not length.isdigit() or int(length) > MAX_BODY:
            refusal = JSONResponse({"error": "This request is too large."}, 413)
        else:
            return await self.app(scope, receive, guarded)
        return await refusal(scope, receive, guarded)


def _errors(app: FastAPI) -> None:
    """One shape for everything that goes wrong: JSON for programs, a plain page for a person."""

    def answer(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
        if request.url.path.startswith(("/api/", "/media/")):
            return JSONResponse({"error": message}, status, headers)
        return login.pages.TemplateResponse(
            request, "error.html", {"message": message}, status_code=status, headers=headers
        )

    @app.exception_handler(NeedsLogin)
    def needs_login(request: Request, error: Exception) -> Response:
        if request.url.path.startswith(("/api/", "/media/", "/logout")):
            return JSONResponse({"error": "Log in first: reload the page."}, 401)
        return RedirectResponse(f"/login?next={quote(request.url.path)}", 303)

    @app.exception_handler(queue.Closed)
    def closed(request: Request, error: Exception) -> Response:
        return answer(request, 409, str(error))

    @app.exception_handler(queue.NotYours)
    def not_yours(request: Request, error: Exception) -> Response:
        return answer(request, 404, str(error))

    @app.exception_handler(ReviewError)
    def refused(request: Request, error: Exception) -> Response:
        return answer(request, 422, str(error))

    @app.exception_handler(sa.exc.DataError)
    def unstorable(request: Request, error: Exception) -> Response:
        return answer(request, 422, "The request holds characters that cannot be stored.")  # PostgreSQL takes no NUL

    @app.exception_handler(sa.exc.OperationalError)
    def no_database(request: Request, error: Exception) -> Response:
        return answer(request, 503, "The review database does not answer now; try again.", {"Retry-After": "5"})

    @app.exception_handler(StarletteHTTPException)
    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        return answer(request, error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return answer(request, 422, said)


def serve(
    database: str | Path,
    host: str = "127.0.0.1",
    port: int = 8765,
    media_root: Path | None = None,
    public_url: str | None = None,
    rules: Callable[[Database, str], Any] | None = None,
    extend: Callable[[FastAPI], None] | None = None,
) -> None:
    """Serve the review page until interrupted, and print how to get in where nobody has been invited yet.

    ``extend`` adds pages to the application before it is served.

    Raises ``ReviewError`` for an address other than this machine's own without ``public_url``: the server answers only
    to names it knows, so that no other site can pass for it.
    """
    import uvicorn

    if host not in LOOPBACK and not public_url:
        raise ReviewError(
            f"Served on {host}, the page needs --public-url: the address that people type, best one that begins with "
            f"https and ends at a proxy here. Without it, open a tunnel (ssh -L {port}:127.0.0.1:{port} <this machine>) and "
            f"leave --host alone."
        )
    app = create_app(database, media_root, public_url, rules)
    if extend is not None:
        extend(app)
    base = (public_url or f"http://{host}:{port}").rstrip("/")
    if public_url and not app.state.secure:
        print(f"review: {base} is not https: tokens and cookies can be read on the way", flush=True)
    greet(app.state.db, base)
    # longer than people think, and than clients keep a connection: neither side closes what the other is about to use
    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False, timeout_keep_alive=30)


def greet(db: Database, base: str) -> None:
    """Say where the page is; whoever starts the server on a new database becomes its admin."""
    if members(db):
        print(f"review: {base} (invite people with `fulcrum review invite NAME`)", flush=True)
        return
    import getpass

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "admin"
    link = invitation(base, invite(db, name, "admin"))
    print(f"review: nobody is invited yet. You are {name}, the admin; log in once with\n  {link}", flush=True)


def invitation(base: str, token: str) -> str:
    """The link that logs its holder in. What follows # stays in the browser."""
    return f"{base.rstrip('/')}/login#{token}"

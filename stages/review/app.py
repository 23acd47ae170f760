"""The review page's server: a campaign list, one page per campaign, a small JSON interface and the media."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from stages.review import queue
from stages.review.database import open_database
from stages.review.errors import ReviewError
from stages.review.media import MediaStore, media_root_for
from stages.review.routes import NeedsName, pages, router

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


def create_app(database: str | Path, media_root: Path | None = None) -> FastAPI:
    """The application for one review database.

    It trusts whoever reaches it to say their own name, so it belongs on this machine's loopback address only (``serve``
    sees to that); everyone there may also settle disagreements, as a lead.
    """
    app = FastAPI(title="Fulcrum review", docs_url=None, redoc_url=None)
    app.state.db = open_database(database)
    app.state.media = MediaStore(media_root or media_root_for(database))
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.include_router(router)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))
    app.middleware("http")(_guard)
    _errors(app)
    return app


async def _guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    length = request.headers.get("content-length", "0")
    if request.method == "POST" and (not length.isdigit() or int(length) > MAX_BODY):
        response: Response = JSONResponse({"error": "This request is too large."}, 413)
    else:
        response = await call_next(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if not request.url.path.startswith(("/media/", "/static/")):
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def _errors(app: FastAPI) -> None:
    """One shape for everything that goes wrong: JSON for the page's script, a plain page for a person."""

    def answer(request: Request, status: int, message: str) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": message}, status)
        return pages.TemplateResponse(request, "error.html", {"message": message}, status_code=status)

    @app.exception_handler(NeedsName)
    def needs_name(request: Request, error: Exception) -> Response:
        if request.url.path.startswith(("/api/", "/media/")):
            return JSONResponse({"error": "Say your name first: reload the page."}, 401)
        return RedirectResponse(f"/hello?next={quote(request.url.path)}", 303)

    @app.exception_handler(queue.Closed)
    def closed(request: Request, error: Exception) -> Response:
        return answer(request, 409, str(error))

    @app.exception_handler(queue.NotYours)
    def not_yours(request: Request, error: Exception) -> Response:
        return answer(request, 404, str(error))

    @app.exception_handler(ReviewError)
    def refused(request: Request, error: Exception) -> Response:
        return answer(request, 422, str(error))

    @app.exception_handler(StarletteHTTPException)
    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        return answer(request, error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return answer(request, 422, said)


def serve(database: str | Path, host: str = "127.0.0.1", port: int = 8765, media_root: Path | None = None) -> None:
    """Serve the review page until interrupted.

    Raises ``ReviewError`` for an address other than this machine's own: people are known by the name they give.
    """
    import uvicorn

    if host not in LOOPBACK:
        raise ReviewError(
            f"The review page has no accounts and is served to this machine only, not on {host}. From another machine, "
            f"open a tunnel (ssh -L {port}:127.0.0.1:{port} <this machine>) and use http://127.0.0.1:{port}."
        )
    uvicorn.run(create_app(database, media_root), host=host, port=port, log_level="warning")

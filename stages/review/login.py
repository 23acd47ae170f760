"""Logging in: a personal token becomes the cookie of a browser."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.templating import Jinja2Templates

from stages.review import people
from stages.review.access import COOKIE, Db, Writer, address, log_in
from stages.review.database import Database, record_event

FORM_COOKIE = "fulcrum_login"

router = APIRouter(include_in_schema=False)
pages = Jinja2Templates(directory=Path(__file__).parent / "templates")


@router.get("/login")
def form(request: Request, next: str = "/") -> Response:
    csrf = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(24)
    page = pages.TemplateResponse(request, "login.html", {"csrf": csrf, "next": inside(next)})
    set_cookie(request, page, FORM_COOKIE, csrf)
    return page


@router.post("/login")
async def enter(request: Request, db: Db) -> Response:
    sent = parse_qs((await request.body()).decode("utf-8", "replace"))
    csrf, token, target = (sent.get(field, [""])[0] for field in ("csrf", "token", "next"))
    known = request.cookies.get(FORM_COOKIE, "")
    if not known or not secrets.compare_digest(csrf.encode(), known.encode()):
        raise HTTPException(403, "This form is out of date; reload the page.")

    def again(status: int, error: str, wait: str | None = None) -> Response:
        context = {"csrf": known, "next": inside(target), "error": error}
        headers = {"Retry-After": wait} if wait else None
        return pages.TemplateResponse(request, "login.html", context, status_code=status, headers=headers)

    try:
        person = log_in(request, token.strip())
    except HTTPException as refused:
        return again(refused.status_code, str(refused.detail), (refused.headers or {}).get("Retry-After"))
    if person is None:
        _note_refused(db, address(request))
        return again(401, "This token is not known here. Ask for a new invitation.")
    cookie, _ = people.open_session(db, person)
    answer = RedirectResponse(inside(target), 303)
    set_cookie(request, answer, COOKIE, cookie, people.SESSION_SECONDS)
    return answer


@router.post("/logout")
def leave(request: Request, who: Writer, db: Db) -> Response:
    people.close_session(db, request.cookies.get(COOKIE, ""))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE)
    return answer


def _note_refused(db: Database, where: str) -> None:
    with db.write() as connection:
        record_event(connection, time.time(), "nobody", "login_refused", detail={"address": where})


def set_cookie(request: Request, answer: Response, name: str, value: str, seconds: int | None = None) -> None:
    """A cookie that scripts cannot read and other sites cannot send; over https only where the page is served so."""
    secure: bool = request.app.state.secure
    answer.set_cookie(name, value, max_age=seconds, httponly=True, samesite="strict", secure=secure)


def inside(target: str) -> str:
    """A path on this server, or the home page: a login must not send a person to another site."""
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if local else "/"

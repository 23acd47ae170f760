"""The review page's addresses: each handler asks who it is, does one thing and answers."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel, ConfigDict, Field

from stages.review import campaigns, people, queue
from stages.review.answers import Answer
from stages.review.database import Database
from stages.review.errors import ReviewError
from stages.review.keymap import keymap
from stages.review.media import TYPES, MediaStore
from stages.review.people import Session
from stages.review.views import item_view, page_data, progress_view

COOKIE = "fulcrum_review"
HELLO_COOKIE = "fulcrum_hello"
YEAR = 365 * 24 * 3600

router = APIRouter()
pages = Jinja2Templates(directory=Path(__file__).parent / "templates")


class NeedsName(Exception):
    """Nobody is logged in in this browser."""


def database(request: Request) -> Database:
    opened: Database = request.app.state.db
    return opened


def reader(request: Request) -> Session:
    """Whoever this browser speaks for. Raises ``NeedsName``."""
    found = people.find_session(database(request), request.cookies.get(COOKIE))
    if found is None:
        raise NeedsName
    return found


def writer(request: Request) -> Session:
    """The same for a change, which must carry the page's own token: another site cannot know it."""
    found = reader(request)
    if not secrets.compare_digest(request.headers.get("x-csrf-token", "").encode(), found.csrf.encode()):
        raise HTTPException(403, "This page is out of date; reload it.")
    return found


Db = Annotated[Database, Depends(database)]
Reader = Annotated[Session, Depends(reader)]
Writer = Annotated[Session, Depends(writer)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClaimBody(_Body):
    n: int = Field(default=4, ge=1, le=8)


class AnswerBody(_Body):
    key: str = Field(min_length=8, max_length=64)
    choice: str = Field(max_length=16)
    reasons: list[Annotated[str, Field(max_length=80)]] = Field(default=[], max_length=20)
    rest_same: bool | None = None
    watched_ms: int | None = Field(default=None, ge=0, le=2**53)


class HeartbeatBody(_Body):
    items: list[Annotated[str, Field(max_length=64)]] = Field(max_length=16)


@router.get("/hello")
def hello(request: Request, next: str = "/") -> Response:
    token = request.cookies.get(HELLO_COOKIE) or secrets.token_urlsafe(24)
    page = pages.TemplateResponse(request, "hello.html", {"csrf": token, "next": _inside(next)})
    page.set_cookie(HELLO_COOKIE, token, httponly=True, samesite="strict")
    return page


@router.post("/hello")
async def enter(request: Request, db: Db) -> Response:
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    sent, name, target = (form.get(field, [""])[0] for field in ("csrf", "name", "next"))
    known = request.cookies.get(HELLO_COOKIE, "")
    if not known or not secrets.compare_digest(sent.encode(), known.encode()):
        raise HTTPException(403, "This form is out of date; reload the page.")
    try:
        person = people.person_named(db, name, "lead")
    except ReviewError as error:
        context = {"csrf": known, "next": _inside(target), "error": str(error), "name": name}
        return pages.TemplateResponse(request, "hello.html", context, status_code=422)
    token, _ = people.open_session(db, person)
    answer = RedirectResponse(_inside(target), 303)
    answer.set_cookie(COOKIE, token, max_age=people.SESSION_SECONDS, httponly=True, samesite="strict")
    return answer


@router.get("/")
def home(request: Request, who: Reader, db: Db) -> Response:
    rows = [(one, campaigns.progress(db, one.id, who.person.id)) for one in campaigns.list_campaigns(db)]
    return pages.TemplateResponse(request, "campaigns.html", {"who": who.person, "campaigns": rows})


@router.get("/c/{campaign_id}")
def review(request: Request, campaign_id: str, who: Reader, db: Db) -> Response:
    found = campaigns.find_campaign(db, campaign_id)
    if found is None or found.state == "preparing":
        raise HTTPException(404, "There is no such campaign.")
    context = {"who": who.person, "campaign": found, "spec": found.spec, "keys": keymap(found.spec.form)}
    return pages.TemplateResponse(
        request, "review.html", context | {"data": page_data(found.spec, who.person, who.csrf)}
    )


@router.post("/api/campaigns/{campaign_id}/claim")
def claim(campaign_id: str, body: ClaimBody, who: Writer, db: Db) -> dict[str, Any]:
    spec = campaigns.get_campaign(db, campaign_id).spec
    held = queue.claim(db, campaign_id, who.person, body.n)
    done = progress_view(campaigns.progress(db, campaign_id, who.person.id))
    return {"items": [item_view(spec.form, one) for one in held], "progress": done}


@router.post("/api/items/{item_id}/response")
def respond(item_id: str, body: AnswerBody, who: Writer, db: Db) -> dict[str, bool]:
    answer = Answer(item_id, body.key, body.choice, tuple(body.reasons), body.rest_same, body.watched_ms)
    queue.submit(db, who.person, answer)
    return {"stored": True}


@router.post("/api/campaigns/{campaign_id}/undo")
def undo(campaign_id: str, who: Writer, db: Db) -> dict[str, Any]:
    spec = campaigns.get_campaign(db, campaign_id).spec
    undone = queue.undo(db, campaign_id, who.person)
    return {"item": None if undone is None else item_view(spec.form, undone.item)}


@router.post("/api/leases/heartbeat")
def heartbeat(body: HeartbeatBody, who: Writer, db: Db) -> dict[str, list[str]]:
    return {"held": queue.heartbeat(db, who.person, body.items)}


@router.get("/api/campaigns/{campaign_id}/progress")
def progress(campaign_id: str, who: Reader, db: Db) -> dict[str, int]:
    return progress_view(campaigns.progress(db, campaign_id, who.person.id))


@router.get("/media/{name}")
def show(name: str, request: Request, who: Reader) -> Response:
    media: MediaStore = request.app.state.media
    path = media.find(name)
    if path is None:
        raise HTTPException(404, "There is no such file.")
    headers = {"Cache-Control": f"private, max-age={YEAR}, immutable", "ETag": f'"{name}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)


def _inside(target: str) -> str:
    """A path on this server, or the home page: a login must not send a person to another site."""
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if local else "/"

"""The review page's addresses for whoever answers: each handler asks who it is, does one thing and answers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from stages.review import campaigns, queue
from stages.review.access import Db, Reader, Writer
from stages.review.answers import Answer
from stages.review.keymap import keymap
from stages.review.login import pages
from stages.review.media import TYPES, MediaStore
from stages.review.queue import Said, Undone
from stages.review.views import item_view, page_data, progress_view

YEAR = 365 * 24 * 3600


class Problem(BaseModel):
    """What went wrong, for a person to read."""

    error: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": what}
    for status, what in (
        (400, "not addressed to this server"), (401, "not logged in"), (403, "not allowed"), (404, "not there, or not yours"),
        (409, "the campaign is closed"), (411, "no length"), (413, "too large"), (422, "not understood"), (429, "too many tries"),
    )
}  # fmt: skip

router = APIRouter(responses=PROBLEMS)

CampaignId = Annotated[str, Path(max_length=128)]
ItemId = Annotated[str, Path(max_length=64)]
Reason = Annotated[str, Field(max_length=80)]
Scores = dict[Annotated[str, Field(max_length=32)], Annotated[int, Field(strict=True, ge=1, le=5)]]


class Body(BaseModel):
    """Base of every request: a field that is not known is a mistake and never ignored."""

    model_config = ConfigDict(extra="forbid")


class ClaimBody(Body):
    n: int = Field(default=4, ge=1, le=8)


class AnswerBody(Body):
    key: str = Field(min_length=8, max_length=64)
    choice: str = Field(max_length=16)
    reasons: list[Reason] = Field(default=[], max_length=20)
    rest_same: bool | None = None
    scores: Scores | None = Field(default=None, max_length=8)
    watched_ms: int | None = Field(default=None, ge=0, le=2**53)
    replays: int | None = Field(default=None, ge=0, le=2**31 - 1)


class UndoBody(Body):
    item: str | None = Field(default=None, max_length=64)


class DraftBody(Body):
    scores: Scores = Field(max_length=8)


class HeartbeatBody(Body):
    items: list[Annotated[str, Field(max_length=64)]] = Field(max_length=16)


@router.get("/", include_in_schema=False)
def home(request: Request, who: Reader, db: Db) -> Response:
    rows = [(one, campaigns.progress(db, one.id, who.person.id)) for one in campaigns.list_campaigns(db)]
    return pages.TemplateResponse(request, "campaigns.html", {"who": who.person, "campaigns": rows, "csrf": who.csrf})


@router.get("/c/{campaign_id}", include_in_schema=False)
def review(request: Request, campaign_id: str, who: Reader, db: Db) -> Response:
    found = campaigns.find_campaign(db, campaign_id)
    if found is None or found.state == "preparing":
        raise HTTPException(404, "There is no such campaign.")
    context = {"who": who.person, "campaign": found, "spec": found.spec, "keys": keymap(found.spec.form)}
    return pages.TemplateResponse(
        request, "review.html", context | {"data": page_data(found.spec, who.person, who.csrf)}
    )


@router.get("/api/me")
def me(who: Reader) -> dict[str, str]:
    return {"name": who.person.name, "role": who.person.role, "csrf": who.csrf}


@router.post("/api/campaigns/{campaign_id}/claim")
def claim(campaign_id: CampaignId, body: ClaimBody, who: Writer, db: Db) -> dict[str, Any]:
    spec = campaigns.get_campaign(db, campaign_id).spec
    held = queue.claim(db, campaign_id, who.person, body.n)
    done = progress_view(campaigns.progress(db, campaign_id, who.person.id))
    return {"items": [item_view(spec.form, one) for one in held], "progress": done}


@router.post("/api/items/{item_id}/response")
def respond(item_id: ItemId, body: AnswerBody, who: Writer, db: Db) -> dict[str, bool]:
    answer = Answer(
        item_id,
        body.key,
        body.choice,
        tuple(body.reasons),
        body.rest_same,
        body.watched_ms,
        body.scores or {},
        body.replays,
    )
    queue.submit(db, who.person, answer)
    return {"stored": True}


@router.post("/api/campaigns/{campaign_id}/undo")
def undo(campaign_id: CampaignId, who: Writer, db: Db, body: UndoBody | None = None) -> dict[str, Any]:
    spec = campaigns.get_campaign(db, campaign_id).spec
    undone = queue.undo(db, campaign_id, who.person, body.item if body else None)
    return {"item": None, "answer": None} if undone is None else _undone(spec.form, undone)


@router.get("/api/campaigns/{campaign_id}/mine")
def mine(
    campaign_id: CampaignId,
    who: Reader,
    db: Db,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
) -> dict[str, Any]:
    found = queue.own_answers(db, campaign_id, who.person, limit + 1, before)
    return {"answers": [_said(one) for one in found[:limit]], "more": len(found) > limit}


@router.get("/api/items/{item_id}/mine")
def reopen(item_id: ItemId, who: Reader, db: Db) -> dict[str, Any]:
    form, undone = queue.reopen(db, who.person, item_id)
    return _undone(form, undone)


@router.put("/api/items/{item_id}/draft")
def save_draft(item_id: ItemId, body: DraftBody, who: Writer, db: Db) -> dict[str, bool]:
    queue.save_draft(db, who.person, item_id, body.scores)
    return {"saved": True}


@router.post("/api/leases/heartbeat")
def heartbeat(body: HeartbeatBody, who: Writer, db: Db) -> dict[str, list[str]]:
    return {"held": queue.heartbeat(db, who.person, body.items)}


@router.get("/api/campaigns/{campaign_id}/progress")
def progress(campaign_id: CampaignId, who: Reader, db: Db) -> dict[str, int]:
    return progress_view(campaigns.progress(db, campaign_id, who.person.id))


@router.get("/media/{name}", response_class=FileResponse)
def show(name: Annotated[str, Path(max_length=64)], request: Request, who: Reader) -> Response:
    media: MediaStore = request.app.state.media
    path = media.find(name)
    if path is None:
        raise HTTPException(404, "There is no such file.")
    headers = {"Cache-Control": f"private, max-age={YEAR}, immutable", "ETag": f'"{name}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)


def _undone(form: Any, undone: Undone) -> dict[str, Any]:
    return {"item": item_view(form, undone.item), "answer": _said(undone.said)}


def _said(one: Said) -> dict[str, Any]:
    return {
        "item": one.item_id,
        "sequence": one.sequence,
        "choice": one.choice,
        "reasons": list(one.reasons),
        "rest_same": one.rest_same,
        "scores": one.scores,
        "submitted_at": one.submitted_at,
    }

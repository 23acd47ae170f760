"""The addresses for a lead: how a campaign stands, where people disagree, gold items, closing."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from stages.review import campaigns, gold_items
from stages.review.access import Db, LeadReader, LeadWriter
from stages.review.dashboard import Dashboards
from stages.review.disagreements import disagreements
from stages.review.login import pages
from stages.review.routes import PROBLEMS, Body, CampaignId, ItemId, Scores

router = APIRouter(responses=PROBLEMS)


class CloseBody(Body):
    partial: bool = False


class GoldBody(Body):
    choice: str | None = Field(default=None, max_length=16)
    rest_same: bool | None = None
    scores: Scores | None = Field(default=None, max_length=8)


@router.get("/c/{campaign_id}/lead", include_in_schema=False)
def page(request: Request, campaign_id: CampaignId, who: LeadReader, db: Db) -> Response:
    found = campaigns.find_campaign(db, campaign_id)
    if found is None or found.state == "preparing":
        raise HTTPException(404, "There is no such campaign.")
    data = {"campaign": campaign_id, "csrf": who.csrf}
    context = {"who": who.person, "campaign": found, "spec": found.spec, "data": data}
    return pages.TemplateResponse(request, "lead.html", context)


@router.get("/api/campaigns/{campaign_id}/dashboard")
def dashboard(request: Request, campaign_id: CampaignId, who: LeadReader, db: Db) -> Response:
    """Everything about a campaign; 304 while nothing has happened since the state that ``If-None-Match`` names."""
    made: Dashboards = request.app.state.dashboards
    etag = made.etag(campaign_id)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return JSONResponse(made.get(campaign_id), headers=headers)


@router.get("/api/campaigns/{campaign_id}/disagreements")
def disagree(
    campaign_id: CampaignId, who: LeadReader, db: Db, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> dict[str, Any]:
    return {"items": disagreements(db, campaign_id, limit)}


@router.post("/api/campaigns/{campaign_id}/close")
def close(campaign_id: CampaignId, body: CloseBody, who: LeadWriter, db: Db) -> Response:
    state = campaigns.close_if_done(db, campaign_id, actor=who.person.name)
    if state.remaining and body.partial:
        state = campaigns.close_campaign(db, campaign_id, who.person.name)
    elif state.remaining and campaigns.get_campaign(db, campaign_id).state != "closed":
        error = f"{state.remaining} of {state.items} items lack answers; close in part to leave them in review."
        return JSONResponse({"error": error, "remaining": state.remaining}, 409)
    return JSONResponse({"state": "closed", "in_review": state.remaining})


@router.post("/api/items/{item_id}/gold")
def mark(item_id: ItemId, body: GoldBody, who: LeadWriter, db: Db) -> dict[str, bool]:
    gold_items.mark_gold(db, item_id, body.model_dump(), who.person.name)
    return {"gold": True}


@router.post("/api/items/{item_id}/gold/withdraw")
def withdraw(item_id: ItemId, who: LeadWriter, db: Db) -> dict[str, bool]:
    gold_items.withdraw_gold(db, item_id, who.person.name)
    return {"gold": False}

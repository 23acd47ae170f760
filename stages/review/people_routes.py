"""The addresses for an admin: who may come in, and what everybody did."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query
from pydantic import Field

from stages.review import people, schema
from stages.review.access import AdminReader, AdminWriter, Db
from stages.review.people import MAX_NAME
from stages.review.routes import PROBLEMS, Body

router = APIRouter(responses=PROBLEMS)


class InviteBody(Body):
    name: str = Field(min_length=1, max_length=MAX_NAME)
    role: Literal["annotator", "lead", "admin"] = "annotator"


@router.get("/api/people")
def people_list(who: AdminReader, db: Db) -> dict[str, Any]:
    return {
        "people": [
            {"id": one.person.id, "name": one.person.name, "role": one.person.role, "active": one.active}
            for one in people.members(db)
        ]
    }


@router.post("/api/people")
def invite(body: InviteBody, who: AdminWriter, db: Db) -> dict[str, str]:
    """The token is in this answer and nowhere else. A person who had one has only the new one from now on."""
    token = people.invite(db, body.name, body.role, who.person.name)
    return {"name": " ".join(body.name.split()), "role": body.role, "token": token}


@router.post("/api/people/{person_id}/deactivate")
def deactivate(person_id: Annotated[str, Path(max_length=64)], who: AdminWriter, db: Db) -> dict[str, bool]:
    people.deactivate(db, person_id, who.person.name)
    return {"active": False}


@router.get("/api/audit")
def audit(
    who: AdminReader,
    db: Db,
    before: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> dict[str, Any]:
    """What happened, newest first."""
    query = sa.select(schema.event).order_by(schema.event.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(schema.event.c.id < before)
    with db.read() as connection:
        rows = connection.execute(query).mappings().all()
    return {"events": [dict(row) | {"detail": json.loads(row["detail"])} for row in rows]}

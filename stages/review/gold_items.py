"""Marking items of a running campaign as gold, and taking the mark back."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from stages.review.campaigns import locked_campaign
from stages.review.database import Database, record_event
from stages.review.errors import ReviewError
from stages.review.gold import check_gold
from stages.review.schema import item


def mark_gold(db: Database, item_id: str, gold: Mapping[str, Any], actor: str, *, now: float | None = None) -> None:
    """Make the item a gold item, or correct its known answer."""
    _change(db, item_id, actor, gold, now)


def withdraw_gold(db: Database, item_id: str, actor: str, *, now: float | None = None) -> None:
    """Make the item an ordinary one again; everybody's accuracy is counted without it from then on."""
    _change(db, item_id, actor, None, now)


def _change(db: Database, item_id: str, actor: str, gold: Mapping[str, Any] | None, now: float | None) -> None:
    now = time.time() if now is None else now
    with db.write() as connection:
        found = connection.execute(sa.select(item.c.campaign_id, item.c.gold).where(item.c.id == item_id)).first()
        if found is None or (gold is None and found.gold is None):
            raise ReviewError("There is no such item." if found is None else "This item is no gold item.")
        of = locked_campaign(connection, found.campaign_id)
        values: dict[str, Any] = {"gold_withdrawn": gold is None}
        if gold is not None:
            values["gold"] = json.dumps(check_gold(of.spec, gold), sort_keys=True)
        connection.execute(item.update().where(item.c.id == item_id).values(values))
        kind = "gold_withdrawn" if gold is None else "gold_marked"
        record_event(connection, now, actor, kind, of.id, item_id, {"before": found.gold, "now": values.get("gold")})

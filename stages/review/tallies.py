"""What an item's counted answers come to: kept beside the item, and always written from the answers themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stages.review.schema import response, tally
from stages.review.spec import CampaignSpec
from stages.review.verdict_rules import decided


def retally(connection: Connection, spec: CampaignSpec, item_ids: Collection[str]) -> None:
    """Count the live answers of these items again, in the transaction that has changed them."""
    if not item_ids:
        return
    live: dict[str, list[tuple[str, str]]] = defaultdict(list)
    query = sa.select(response.c.item_id, response.c.standing, response.c.conclusion)
    for row in connection.execute(query.where(response.c.item_id.in_(item_ids), response.c.state == "live")):
        live[row.item_id].append((row.standing, row.conclusion))
    connection.execute(tally.delete().where(tally.c.item_id.in_(item_ids)))
    rows = [{"item_id": name, "campaign_id": spec.campaign_id, **_count(spec, said)} for name, said in live.items()]
    if rows:
        connection.execute(tally.insert(), rows)


def _count(spec: CampaignSpec, live: Collection[tuple[str, str]]) -> dict[str, int | bool]:
    counted = [conclusion for standing, conclusion in live if standing == "counted"]
    by_lead = any(standing == "lead" for standing, _ in live)
    undecided = len(counted) >= spec.overlap and not by_lead and decided(spec, counted) is None
    return {"answers": len(counted), "said": len(set(counted)), "disputed": undecided}

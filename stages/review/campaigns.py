"""Campaigns: what is asked of whom, created once, carrying earlier answers, closed whole or in part."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, RowMapping

from stages.review.database import Database, record_event
from stages.review.database import lock as database_lock
from stages.review.errors import ReviewError
from stages.review.gold import check_gold
from stages.review.schema import campaign, draft, item, lease, person, response, tally
from stages.review.spec import CampaignSpec, NewItem, digest, item_id, payload_digest
from stages.review.tallies import retally

# A writer holds SQLite's only write lock; longer batches would make reviewers wait.
INSERT_BATCH = 500


@dataclass(frozen=True)
class Campaign:
    """A stored campaign."""

    id: str
    spec: CampaignSpec
    state: Literal["preparing", "open", "closed"]
    created_at: float = field(compare=False)


@dataclass(frozen=True)
class Progress:
    """As of the moment of asking. ``disputed`` waits for a lead; ``mine`` are one person's live answers."""

    items: int
    done: int
    disputed: int
    mine: int = 0

    @property
    def remaining(self) -> int:
        return self.items - self.done


def create_campaign(
    db: Database,
    spec: CampaignSpec,
    items: Sequence[NewItem],
    *,
    now: float | None = None,
) -> Campaign:
    """Store the campaign and its items, and open it; repeating the call, also after a crash half way, changes nothing.

    Raises ``ReviewError`` when the id is taken by a campaign with another spec, or an external_id comes twice.
    """
    now = time.time() if now is None else now
    ids = [new.external_id for new in items]
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ReviewError(f"Campaign {spec.campaign_id}: {twice} is there twice; each thing is judged as one item.")
    text = spec.model_dump_json()
    with db.write() as connection:
        database_lock(connection, f"campaign {spec.campaign_id}")
        found = _find(connection, spec.campaign_id)
        if found is not None and found.spec.model_copy(update={"next_command": spec.next_command}) != spec:
            raise ReviewError(
                f"Campaign {spec.campaign_id} exists with other settings; give the new one another campaign_id."
            )
        if found is not None and found.state != "preparing":
            return found
        if found is None:
            connection.execute(
                campaign.insert().values(
                    id=spec.campaign_id,
                    kind=spec.kind,
                    overlap=spec.overlap,
                    lease_seconds=spec.lease_seconds,
                    skip_policy=spec.skip_policy,
                    aggregation=spec.aggregation,
                    spec=text,
                    state="preparing",
                    created_at=now,
                )
            )
            record_event(connection, now, "system", "created", spec.campaign_id)
    rows = [_item_row(spec, new) for new in items]
    for start in range(0, len(rows), INSERT_BATCH):
        with db.write() as connection:
            _insert_new(connection, rows[start : start + INSERT_BATCH])
            if spec.carry:
                _carry(connection, spec, rows[start : start + INSERT_BATCH], now)
    with db.write() as connection:
        where = (campaign.c.id == spec.campaign_id) & (campaign.c.state == "preparing")
        if connection.execute(campaign.update().where(where).values(state="open")).rowcount:
            record_event(connection, now, "system", "opened", spec.campaign_id, detail={"items": len(rows)})
    return get_campaign(db, spec.campaign_id)


def _item_row(spec: CampaignSpec, new: NewItem) -> dict[str, Any]:
    identity = item_id(spec.campaign_id, new.external_id)
    return {
        "id": identity,
        "campaign_id": spec.campaign_id,
        "external_id": new.external_id,
        "payload": json.dumps(new.payload, sort_keys=True, ensure_ascii=False),
        "payload_digest": payload_digest(spec, new.payload),
        "stratum": new.stratum,
        "inclusion_probability": new.inclusion_probability,
        "hidden": json.dumps(new.hidden, sort_keys=True, ensure_ascii=False),
        "priority": new.priority,
        "uncertainty": new.uncertainty,
        "gold": None if new.gold is None else json.dumps(check_gold(spec, new.gold), sort_keys=True),
        "shuffle": int(digest("shuffle", spec.seed, new.external_id)[:8], 16) % (2**31 - 1),
        "state": "open",
    }


def _insert_new(connection: Connection, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(item).on_conflict_do_nothing(index_elements=["id"]), rows)


def _carry(connection: Connection, spec: CampaignSpec, rows: list[dict[str, Any]], now: float) -> None:
    """Copy people's counted answers on equal payloads, the newest per person, at most ``overlap`` per item."""
    by_digest = {row["payload_digest"]: row for row in rows}
    taken: dict[str, set[str]] = {}
    have = sa.select(response.c.item_id, response.c.person_id).where(
        response.c.item_id.in_([row["id"] for row in rows]), response.c.state == "live"
    )
    for known in connection.execute(have):
        taken.setdefault(known.item_id, set()).add(known.person_id)
    earlier = (
        sa.select(response, item.c.payload_digest)
        .join(item, item.c.id == response.c.item_id)
        .join(person, person.c.id == response.c.person_id)
        .where(
            item.c.payload_digest.in_(list(by_digest)),
            item.c.campaign_id != spec.campaign_id,
            response.c.state == "live",
            response.c.standing == "counted",
            response.c.verdict != "skip",
            person.c.role != "script",
        )
        .order_by(response.c.submitted_at.desc(), response.c.id)
    )
    carried: set[str] = set()
    for old in connection.execute(earlier).mappings():
        target = by_digest[old["payload_digest"]]["id"]
        people = taken.setdefault(target, set())
        if old["person_id"] in people or len(people) >= spec.overlap:
            continue
        people.add(old["person_id"])
        connection.execute(response.insert().values(_carried(spec, target, old)))
        record_event(connection, now, "system", "carried", spec.campaign_id, target, {"from": old["id"]})
        carried.add(target)
    retally(connection, spec, carried)


def _carried(spec: CampaignSpec, target: str, old: RowMapping) -> dict[str, Any]:
    kept = {c.name: old[c.name] for c in response.c}
    return kept | {
        "id": digest("carried", target, old["person_id"])[:32],
        "campaign_id": spec.campaign_id,
        "item_id": target,
        "idempotency_key": digest("carried", target)[:32],
        "carried": True,
        "sequence": 0,
    }


def _find(connection: Connection, campaign_id: str, lock: bool = False) -> Campaign | None:
    query = sa.select(campaign).where(campaign.c.id == campaign_id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    return None if row is None else _campaign(row)


def _campaign(row: RowMapping) -> Campaign:
    return Campaign(row["id"], _spec(row["spec"]), row["state"], row["created_at"])


@lru_cache(maxsize=64)  # a campaign's never changes, and every request asks for it
def _spec(text: str) -> CampaignSpec:
    return CampaignSpec.model_validate_json(text)


def locked_campaign(connection: Connection, campaign_id: str) -> Campaign:
    """The campaign, locked against other writers until the transaction ends.

    SQLite's transaction holds the only write lock anyway; on PostgreSQL counting places and taking one would race
    without this row lock.
    """
    found = _find(connection, campaign_id, lock=True)
    if found is None:
        raise ReviewError(f"There is no campaign {campaign_id}.")
    return found


def read_campaign(connection: Connection, campaign_id: str) -> Campaign:
    """The campaign as of the caller's transaction. Raises ``ReviewError`` when there is none."""
    found = _find(connection, campaign_id)
    if found is None:
        raise ReviewError(f"There is no campaign {campaign_id}.")
    return found


def find_campaign(db: Database, campaign_id: str) -> Campaign | None:
    with db.read() as connection:
        return _find(connection, campaign_id)


def get_campaign(db: Database, campaign_id: str) -> Campaign:
    found = find_campaign(db, campaign_id)
    if found is None:
        raise ReviewError(f"There is no campaign {campaign_id}.")
    return found


def list_campaigns(db: Database) -> list[Campaign]:
    """All campaigns that are ready, open ones first, newest first."""
    query = (
        sa.select(campaign).where(campaign.c.state != "preparing").order_by(campaign.c.created_at.desc(), campaign.c.id)
    )
    with db.read() as connection:
        found = [_campaign(row) for row in connection.execute(query).mappings()]
    return sorted(found, key=lambda one: one.state != "open")


def progress(db: Database, campaign_id: str, person_id: str | None = None) -> Progress:
    with db.read() as connection:
        return progress_of(connection, read_campaign(connection, campaign_id), person_id)


def progress_of(connection: Connection, of: Campaign, person_id: str | None = None) -> Progress:
    """How far the campaign is, inside the caller's transaction."""
    of_campaign = (item.c.campaign_id == of.id) & (item.c.state == "open")
    items = int(connection.execute(sa.select(sa.func.count()).select_from(item).where(of_campaign)).scalar_one())
    withdrawn = sa.select(item.c.id).where(item.c.campaign_id == of.id, item.c.state == "withdrawn")
    counts = sa.select(sa.func.count()).where(tally.c.campaign_id == of.id, tally.c.item_id.not_in(withdrawn))
    done = int(connection.execute(counts.where(tally.c.answers >= of.spec.overlap)).scalar_one())
    open_disputes = int(connection.execute(counts.where(tally.c.disputed)).scalar_one())
    mine = 0
    if person_id is not None:
        query = sa.select(sa.func.count()).where(
            response.c.campaign_id == of.id, response.c.person_id == person_id, response.c.state == "live"
        )
        mine = int(connection.execute(query).scalar_one())
    waits_for_lead = open_disputes if of.spec.aggregation == "lead" else 0
    return Progress(items, done - waits_for_lead, open_disputes, mine)


def close_campaign(db: Database, campaign_id: str, actor: str, *, now: float | None = None) -> Progress:
    """Close it now; items that lack answers end in_review. From here on its answers never change."""
    return _close(db, campaign_id, actor, only_if_done=False, now=now)


def close_if_done(db: Database, campaign_id: str, *, actor: str = "system", now: float | None = None) -> Progress:
    """Close it if every item has its answers, in one transaction, so that no undo slips in between."""
    return _close(db, campaign_id, actor, only_if_done=True, now=now)


def _close(db: Database, campaign_id: str, actor: str, *, only_if_done: bool, now: float | None) -> Progress:
    now = time.time() if now is None else now
    with db.write() as connection:
        found = locked_campaign(connection, campaign_id)
        state = progress_of(connection, found)
        if found.state == "preparing":
            raise ReviewError(f"Campaign {campaign_id} is still being made; run the pipeline that makes it again.")
        if found.state == "closed" or (only_if_done and state.remaining):
            return state
        connection.execute(campaign.update().where(campaign.c.id == campaign_id).values(state="closed", closed_at=now))
        connection.execute(
            lease.update()
            .where(lease.c.item_id.in_(sa.select(item.c.id).where(item.c.campaign_id == campaign_id)))
            .where(lease.c.expires_at > now)
            .values(expires_at=now)
        )
        connection.execute(
            draft.delete().where(draft.c.item_id.in_(sa.select(item.c.id).where(item.c.campaign_id == campaign_id)))
        )
        record_event(connection, now, actor, "closed", campaign_id, detail={"in_review": state.remaining})
        return state

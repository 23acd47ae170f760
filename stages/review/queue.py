"""The review queue: pull leases that expire, answers that are counted once, undo; each call one short transaction.

Nobody is ever assigned an item in advance: a reviewer claims what they are about to see, and a claim that is not
answered in time frees its place. A place of an item is taken by a counted answer or by somebody's running lease.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from stages.review.answers import Answer, Settled, Side, conclusion, settle
from stages.review.campaigns import Campaign, counted_per_item, digest, locked_campaign
from stages.review.database import Database, record_event
from stages.review.errors import ReviewError
from stages.review.people import Person
from stages.review.schema import campaign, item, lease, response


class Closed(ReviewError):
    """The campaign takes no answers any more."""


class NotYours(ReviewError):
    """The item is unknown, or was never given to this person."""


@dataclass(frozen=True)
class Claimed:
    """An item that a person holds until ``expires_at`` (Unix seconds)."""

    item_id: str
    external_id: str
    payload: dict[str, Any]
    side: Side
    expires_at: float


@dataclass(frozen=True)
class Receipt:
    """What became of an answer. ``repeated``: the very same submit had arrived before."""

    response_id: str
    standing: str
    repeated: bool = False


@dataclass(frozen=True)
class Undone:
    """An answer taken back: the item, leased again, and what had been said."""

    item: Claimed
    verdict: str
    reasons: tuple[str, ...]


def claim(db: Database, campaign_id: str, who: Person, n: int = 1, *, now: float | None = None) -> list[Claimed]:
    """Up to ``n`` items for this person: first those they still hold, then new ones; an empty list when none is left.

    New items come by priority, then those that lack the fewest answers (so that items get finished), then in an order
    of the person's own, so that people do not march in step. A lead also gets the disputed items of a campaign that
    waits for a lead. Raises ``Closed``.
    """
    now = time.time() if now is None else now
    with db.write() as connection:
        of = _open(connection, campaign_id)
        held = _held(connection, of, who, n, now)
        fresh = _free(connection, of, who, n - len(held), now) if len(held) < n else []
        if len(held) + len(fresh) < n and who.role == "lead" and of.spec.aggregation == "lead":
            known = {row["id"] for row in (*held, *fresh)}
            fresh += [row for row in _disputed(connection, of, who, n, now) if row["id"] not in known]
        rows = [*held, *fresh][:n]
        return [_take(connection, of, who, row, now + index * 1e-4) for index, row in enumerate(rows)]


def submit(db: Database, who: Person, answer: Answer, *, now: float | None = None) -> Receipt:
    """Store one answer to an item that this person was given.

    The same ``answer.key`` again is the same submit and changes nothing. A second answer of the same person replaces
    the first. An answer whose lease has run out still counts while the item has a place; else it is kept as ``extra``.
    Raises ``Closed``, ``NotYours``, or ``ReviewError`` for a choice the campaign does not have.
    """
    now = time.time() if now is None else now
    with db.write() as connection:
        again = connection.execute(
            sa.select(response.c.id, response.c.standing).where(
                response.c.person_id == who.id, response.c.idempotency_key == answer.key
            )
        ).first()
        if again is not None:
            return Receipt(again.id, again.standing, repeated=True)
        where = connection.execute(
            sa.select(item.c.campaign_id, lease.c.side)
            .join(lease, (lease.c.item_id == item.c.id) & (lease.c.person_id == who.id))
            .where(item.c.id == answer.item_id)
        ).first()
        if where is None:
            raise NotYours("This item was not given to you; reload the page.")
        of = locked_campaign(connection, where.campaign_id)
        settled = settle(of.spec.form, where.side, answer, of.spec.reasons, of.spec.skip_reasons)
        if of.state != "open":
            # Kept in the log, so that even an answer that came after the close is not lost.
            detail = {"verdict": settled.verdict, "reasons": settled.reasons, **settled.values}
            record_event(connection, now, who.name, "answer_after_close", of.id, answer.item_id, detail)
        else:
            return _store(connection, of, who, answer, where.side, settled, now)
    raise Closed("This campaign is closed; your answer came after the close and does not count.")


def undo(db: Database, campaign_id: str, who: Person, *, now: float | None = None) -> Undone | None:
    """Take back this person's latest answer and lease the item to them again; None when there is nothing to undo."""
    now = time.time() if now is None else now
    with db.write() as connection:
        of = _open(connection, campaign_id)
        last = (
            connection.execute(
                sa.select(response, item.c.external_id, item.c.payload)
                .join(item, item.c.id == response.c.item_id)
                .where(
                    response.c.campaign_id == campaign_id,
                    response.c.person_id == who.id,
                    response.c.state == "live",
                    ~response.c.carried,
                )
                .order_by(response.c.sequence.desc())
                .limit(1)
            )
            .mappings()
            .first()
        )
        if last is None:
            return None
        connection.execute(response.update().where(response.c.id == last["id"]).values(state="withdrawn"))
        if last["standing"] == "counted":
            _promote_extra(connection, last["item_id"])
        record_event(connection, now, who.name, "undo", campaign_id, last["item_id"], {"response": last["id"]})
        row = {"id": last["item_id"], "external_id": last["external_id"], "payload": last["payload"]}
        again = _take(connection, of, who, row, now)
        # Before everything else this person holds: the page shows it again, also after a reload.
        own = (lease.c.item_id == last["item_id"]) & (lease.c.person_id == who.id)
        connection.execute(lease.update().where(own).values(claimed_at=-now))
        return Undone(again, last["verdict"], tuple(json.loads(last["reasons"])))


def heartbeat(db: Database, who: Person, item_ids: Sequence[str], *, now: float | None = None) -> list[str]:
    """Extend this person's running leases on these items; returns those that are still theirs."""
    now = time.time() if now is None else now
    with db.write() as connection:
        query = (
            sa.select(lease.c.item_id, campaign.c.lease_seconds)
            .join(item, item.c.id == lease.c.item_id)
            .join(campaign, campaign.c.id == item.c.campaign_id)
            .where(lease.c.person_id == who.id, lease.c.expires_at > now, lease.c.item_id.in_(list(item_ids)))
            .where(campaign.c.state == "open")
        )
        held = connection.execute(query).all()
        for row in held:
            own = (lease.c.item_id == row.item_id) & (lease.c.person_id == who.id)
            connection.execute(lease.update().where(own).values(expires_at=now + row.lease_seconds))
    return [row.item_id for row in held]


def _open(connection: Connection, campaign_id: str) -> Campaign:
    of = locked_campaign(connection, campaign_id)
    if of.state != "open":
        raise Closed(f"Campaign {of.spec.title!r} is closed.")
    return of


def _answered_by(who: Person, of: Campaign) -> sa.Exists:
    """Whether this person has answered the item; a skip set aside under the policy ``me`` has not."""
    mine = sa.exists().where(
        response.c.item_id == item.c.id, response.c.person_id == who.id, response.c.state == "live"
    )
    return mine.where(response.c.standing != "set_aside") if of.spec.skip_policy == "me" else mine


def _held(connection: Connection, of: Campaign, who: Person, n: int, now: float) -> list[dict[str, Any]]:
    query = (
        sa.select(item.c.id, item.c.external_id, item.c.payload)
        .join(lease, (lease.c.item_id == item.c.id) & (lease.c.person_id == who.id))
        .where(item.c.campaign_id == of.id, item.c.state == "open", lease.c.expires_at > now)
        .order_by(lease.c.claimed_at, item.c.id)
        .limit(n)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def _own_order(who: Person) -> sa.ColumnElement[Any]:
    """A person's own order of the items: a linear hash of the item's shuffle key, which every engine can compute."""
    a, b = int(digest(who.id, "a")[:7], 16) | 1, int(digest(who.id, "b")[:7], 16)
    return (item.c.shuffle * a + b) % (2**31 - 1)


def _free(connection: Connection, of: Campaign, who: Person, n: int, now: float) -> list[dict[str, Any]]:
    answers = (
        sa.select(sa.func.count())
        .where(response.c.item_id == item.c.id, response.c.state == "live", response.c.standing == "counted")
        .correlate(item)
        .scalar_subquery()
    )
    leases = (
        sa.select(sa.func.count())
        .where(lease.c.item_id == item.c.id, lease.c.expires_at > now, lease.c.person_id != who.id)
        .correlate(item)
        .scalar_subquery()
    )
    set_aside = sa.exists().where(
        response.c.item_id == item.c.id,
        response.c.person_id == who.id,
        response.c.state == "live",
        response.c.standing == "set_aside",
    )
    taken = (answers + leases).label("taken")
    query = (
        sa.select(item.c.id, item.c.external_id, item.c.payload)
        .where(item.c.campaign_id == of.id, item.c.state == "open", ~_answered_by(who, of))
        .where(taken < of.spec.overlap)
        .where(~sa.exists().where(lease.c.item_id == item.c.id, lease.c.person_id == who.id, lease.c.expires_at > now))
        .order_by(sa.case((set_aside, 1), else_=0), item.c.priority.desc(), taken.desc(), _own_order(who), item.c.id)
        .limit(n)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def _disputed(connection: Connection, of: Campaign, who: Person, n: int, now: float) -> list[dict[str, Any]]:
    per = counted_per_item(of.id)
    elsewhere = sa.exists().where(lease.c.item_id == item.c.id, lease.c.expires_at > now, lease.c.person_id != who.id)
    query = (
        sa.select(item.c.id, item.c.external_id, item.c.payload)
        .join(per, per.c.id == item.c.id)
        .where(per.c.answers >= of.spec.overlap, per.c.conclusions > 1, per.c.lead_answers == 0, ~elsewhere)
        .order_by(item.c.priority.desc(), _own_order(who), item.c.id)
        .limit(n)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def _take(connection: Connection, of: Campaign, who: Person, row: dict[str, Any], now: float) -> Claimed:
    expires = now + of.spec.lease_seconds
    own = (lease.c.item_id == row["id"]) & (lease.c.person_id == who.id)
    found = connection.execute(sa.select(lease.c.side, lease.c.claimed_at, lease.c.expires_at).where(own)).first()
    if found is None:
        side = _side(connection, of, who, row["id"], now)
        connection.execute(
            lease.insert().values(item_id=row["id"], person_id=who.id, side=side, claimed_at=now, expires_at=expires)
        )
    else:
        side = found.side
        # A lease that still runs keeps its place in the person's order, so that a reload shows the same item.
        claimed = found.claimed_at if found.expires_at > now else now
        connection.execute(lease.update().where(own).values(claimed_at=claimed, expires_at=expires))
    return Claimed(row["id"], row["external_id"], json.loads(row["payload"]), side, expires)


def _side(connection: Connection, of: Campaign, who: Person, item: str, now: float) -> Side:
    """The side that fewer people see or have judged this item on; on a tie a coin that is fixed by seed and person."""
    judged = sa.exists().where(
        response.c.item_id == lease.c.item_id, response.c.person_id == lease.c.person_id, response.c.state == "live"
    )
    query = sa.select(lease.c.side).where(lease.c.item_id == item, (lease.c.expires_at > now) | judged)
    seen = list(connection.execute(query).scalars())
    lean = seen.count("AB") - seen.count("BA")
    if lean:
        return "BA" if lean > 0 else "AB"
    return "AB" if int(digest("side", of.spec.seed, item, who.id)[:8], 16) % 2 else "BA"


def _store(
    connection: Connection, of: Campaign, who: Person, answer: Answer, side: Side, settled: Settled, now: float
) -> Receipt:
    on_item = (response.c.item_id == answer.item_id) & (response.c.state == "live")
    live = connection.execute(sa.select(response).where(on_item)).mappings().all()
    standing = _standing(of, who, answer, live)
    replaced = [
        row for row in live if row["person_id"] == who.id and (row["standing"] == "lead") == (standing == "lead")
    ]
    if replaced:
        ids = [row["id"] for row in replaced]
        connection.execute(response.update().where(response.c.id.in_(ids)).values(state="superseded"))
    attempt = connection.execute(
        sa.select(sa.func.count()).where(response.c.item_id == answer.item_id, response.c.person_id == who.id)
    ).scalar_one()
    sequence = connection.execute(
        sa.select(sa.func.coalesce(sa.func.max(response.c.sequence), 0) + 1).where(
            response.c.campaign_id == of.id, response.c.person_id == who.id
        )
    ).scalar_one()
    identity = digest("response", answer.item_id, who.id, attempt)[:32]
    connection.execute(
        response.insert().values(
            id=identity,
            campaign_id=of.id,
            item_id=answer.item_id,
            person_id=who.id,
            idempotency_key=answer.key,
            verdict=settled.verdict,
            conclusion=conclusion(of.spec.form, settled.verdict, settled.values),
            reasons=json.dumps(settled.reasons, ensure_ascii=False),
            answer=json.dumps(settled.values, sort_keys=True),
            side=side,
            standing=standing,
            state="live",
            carried=False,
            sequence=sequence,
            watched_ms=answer.watched_ms,
            submitted_at=now,
        )
    )
    own = (lease.c.item_id == answer.item_id) & (lease.c.person_id == who.id)
    connection.execute(lease.update().where(own).values(expires_at=now))
    if standing != "counted" and any(row["standing"] == "counted" for row in replaced):
        _promote_extra(connection, answer.item_id)
    record_event(
        connection, now, who.name, "answer", of.id, answer.item_id, {"response": identity, "standing": standing}
    )
    return Receipt(identity, standing)


def _standing(of: Campaign, who: Person, answer: Answer, live: Sequence[RowMapping]) -> str:
    counted = [row for row in live if row["standing"] == "counted"]
    mine = next((row for row in live if row["person_id"] == who.id and row["standing"] != "lead"), None)
    full = len(counted) >= of.spec.overlap
    if who.role == "lead" and of.spec.aggregation == "lead" and full:
        settled_among = {row["conclusion"] for row in counted}
        by_lead = any(row["standing"] == "lead" for row in live)
        if len(settled_among) > 1 or by_lead:
            return "lead"
    if answer.choice == "skip" and of.spec.skip_policy != "count":
        return "set_aside"
    if mine is not None and mine["standing"] == "counted":
        return "counted"
    return "extra" if full else "counted"


def _promote_extra(connection: Connection, item: str) -> None:
    """An answer that came too late for a place takes the one that an undo has freed."""
    query = (
        sa.select(response.c.id)
        .where(response.c.item_id == item, response.c.state == "live", response.c.standing == "extra")
        .order_by(response.c.submitted_at, response.c.id)
        .limit(1)
    )
    waiting = connection.execute(query).scalar()
    if waiting is not None:
        connection.execute(response.update().where(response.c.id == waiting).values(standing="counted"))

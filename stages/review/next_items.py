"""Which items a person gets next, inside the transaction of their claim."""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from stages.review.campaigns import Campaign
from stages.review.people import Person
from stages.review.schema import item, lease, response, tally
from stages.review.spec import digest


def held_items(connection: Connection, of: Campaign, who: Person, n: int, now: float) -> list[dict[str, Any]]:
    """What this person holds already, as they claimed it, with the side that they see."""
    query = (
        sa.select(item.c.id, item.c.external_id, item.c.payload, lease.c.side)
        .join(lease, (lease.c.item_id == item.c.id) & (lease.c.person_id == who.id))
        .where(item.c.campaign_id == of.id, item.c.state == "open", lease.c.expires_at > now)
        .order_by(lease.c.claimed_at, item.c.id)
        .limit(n)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


MANY = 200  # started items that a claim looks at one by one
_ITEM = (
    item.c.id, item.c.campaign_id, item.c.external_id, item.c.payload, item.c.state, item.c.priority, item.c.uncertainty,
    item.c.shuffle,
)  # fmt: skip


def _beginning(connection: Connection, of: Campaign, who: Person) -> int:
    """Where in the shuffled order this claim begins: anywhere, so that people neither march in step nor in the same pairs."""
    claims = connection.execute(sa.select(sa.func.count()).where(lease.c.person_id == who.id)).scalar_one()
    return int(digest("begin", of.spec.seed, who.id, claims)[:8], 16) % 2**31


def free_items(connection: Connection, of: Campaign, who: Person, n: int, now: float) -> list[dict[str, Any]]:
    """The first ``n`` items that have a place left for this person, best first.

    Started items, untouched ones and, last, those that this person set aside are each found by an index of their own:
    no claim looks at every item of a campaign.
    """
    begin = _beginning(connection, of, who)
    mine = _answered(who, item.c.id)
    held = sa.exists().where(lease.c.item_id == item.c.id, lease.c.person_id == who.id, lease.c.expires_at > now)
    first = [item.c.uncertainty.desc()] if of.spec.order == "uncertainty" else []
    in_order = (
        sa.select(*_ITEM)
        .where(item.c.campaign_id == of.id, item.c.state == "open", ~mine, ~held)
        .order_by(item.c.priority.desc(), *first, item.c.shuffle)
        .limit(n)
    )
    answers, leases = _places(now)
    wanted = [(answers == 0) & (leases == 0)]
    taken = _started(connection, of, who, now) if of.spec.overlap > 1 else {}
    begun = [name for name, (places, _) in taken.items() if places < of.spec.overlap]
    # By id alone: told of the campaign as well, SQLite would walk all its items instead.
    named = connection.execute(sa.select(*_ITEM).where(item.c.id.in_(begun), ~mine, ~held)).mappings()
    rows = [row for row in named if row["campaign_id"] == of.id and row["state"] == "open"]
    if len(taken) >= MANY:  # there are more of them than were looked at; the first in order are soon found then
        wanted.append((answers > 0) & (answers + leases < of.spec.overlap))
    for condition in wanted:
        for part in (item.c.shuffle >= begin, item.c.shuffle < begin):
            rows += connection.execute(in_order.where(condition, part)).mappings()

    def place(row: RowMapping) -> tuple[Any, ...]:
        places, said = taken.get(row["id"], (0, 0))  # not known of one beyond MANY, which comes after those that are
        leads = {"finish_first": 0.0, "uncertainty": row["uncertainty"], "disagreement": said}[of.spec.order]
        return (-row["priority"], -leads, -places, (row["shuffle"] - begin) % 2**31, row["id"])

    each = {row["id"]: row for row in rows}
    best = [dict(row) for row in sorted(each.values(), key=place)[:n]]
    if len(best) < n and of.spec.skip_policy == "me":
        best += _set_aside(connection, of, who, n - len(best), now)
    return best


def _answered(who: Person, item_id: sa.ColumnElement[str]) -> sa.Exists:
    """Whether this person has a standing answer on the item, a skip set aside included."""
    return sa.exists().where(response.c.item_id == item_id, response.c.person_id == who.id, response.c.state == "live")


def _places(now: float) -> tuple[sa.ScalarSelect[int], sa.ScalarSelect[int]]:
    """An item's counted answers and running leases, as expressions beside ``item``."""
    answers = (
        sa.select(sa.func.count())
        .where(response.c.item_id == item.c.id, response.c.state == "live", response.c.standing == "counted")
        .correlate(item)
        .scalar_subquery()
    )
    leases = (
        sa.select(sa.func.count())
        .where(lease.c.item_id == item.c.id, lease.c.expires_at > now)
        .correlate(item)
        .scalar_subquery()
    )
    return answers, leases


def _started(connection: Connection, of: Campaign, who: Person, now: float) -> dict[str, tuple[int, int]]:
    """Per item with a place taken, but perhaps not all: places taken by others or by answers, and different conclusions.

    Items that this person has answered are left out; of the others the ``MANY`` nearest to their end.
    """
    nearest = tally.c.said.desc() if of.spec.order == "disagreement" else tally.c.answers.desc()
    answered = connection.execute(
        sa.select(tally.c.item_id, tally.c.answers, tally.c.said)
        .where(tally.c.campaign_id == of.id, tally.c.answers > 0, tally.c.answers < of.spec.overlap)
        .where(~_answered(who, tally.c.item_id))
        .order_by(nearest, tally.c.item_id)
        .limit(MANY)
    )
    found = {row.item_id: (int(row.answers), int(row.said)) for row in answered}
    # Leases of all campaigns: there are never many that run.
    running = sa.select(lease.c.item_id).where(lease.c.expires_at > now, lease.c.person_id != who.id)
    held = Counter(connection.execute(running).scalars())
    others = [name for name in held if name not in found]
    full = sa.select(tally.c.item_id).where(tally.c.item_id.in_(others), tally.c.answers >= of.spec.overlap)
    for name in held.keys() - set(connection.execute(full).scalars()):
        answers, said = found.get(name, (0, 0))
        found[name] = (answers + held[name], said)
    return {name: value for name, value in found.items() if value[0]}


def _set_aside(connection: Connection, of: Campaign, who: Person, n: int, now: float) -> list[dict[str, Any]]:
    """Items that this person skipped under the policy ``me`` and that still have a place."""
    answers, leases = _places(now)
    skipped = (
        sa.select(response.c.item_id)
        .where(response.c.person_id == who.id, response.c.campaign_id == of.id)
        .where(response.c.state == "live", response.c.standing == "set_aside")
    )
    query = (
        sa.select(*_ITEM)
        .where(item.c.id.in_(skipped), item.c.state == "open", answers + leases < of.spec.overlap)
        .order_by(item.c.priority.desc(), item.c.shuffle, item.c.id)
        .limit(n)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def mix_gold(
    connection: Connection, of: Campaign, who: Person, fresh: list[dict[str, Any]], now: float
) -> list[dict[str, Any]]:
    """The fresh items, some put off for gold items that this person has not answered, at the campaign's rate.

    A gold item is given to everybody, whatever places it has left: answers beyond its overlap are kept as extra.
    """
    known = [row["id"] for row in fresh]
    mine = sa.exists().where(lease.c.item_id == item.c.id, lease.c.person_id == who.id, lease.c.expires_at > now)
    query = (
        sa.select(item.c.id, item.c.external_id, item.c.payload)
        .where(item.c.campaign_id == of.id, item.c.state == "open", item.c.gold.is_not(None), ~item.c.gold_withdrawn)
        .where(~_answered(who, item.c.id), ~mine, item.c.id.not_in(known))
        .order_by(item.c.shuffle, item.c.id)
        .limit(len(fresh))
    )
    gold = [dict(row) for row in connection.execute(query).mappings()]

    def drawn(row: dict[str, Any]) -> bool:
        # Decided by the item that would have come, so that asking again draws the same.
        return int(digest("gold", of.spec.seed, who.id, row["id"])[:8], 16) < of.spec.gold_rate * 2**32

    return [gold.pop(0) if gold and drawn(row) else row for row in fresh]


def disputed_items(connection: Connection, of: Campaign, who: Person, n: int, now: float) -> list[dict[str, Any]]:
    """What waits for a lead and is open with no other."""
    elsewhere = sa.exists().where(lease.c.item_id == item.c.id, lease.c.expires_at > now, lease.c.person_id != who.id)
    query = (
        sa.select(item.c.id, item.c.external_id, item.c.payload)
        .join(tally, tally.c.item_id == item.c.id)
        .where(tally.c.campaign_id == of.id, tally.c.disputed, item.c.state == "open", ~elsewhere)
        .order_by(item.c.priority.desc(), item.c.shuffle, item.c.id)
        .limit(n)
    )
    return [dict(row) for row in connection.execute(query).mappings()]

"""The review queue: pull leases that expire, answers that are counted once, undo; each call one short transaction.

Nobody is ever assigned an item in advance: a reviewer claims what they are about to see, and a claim that is not
answered in time frees its place. A place of an item is taken by a counted answer or by somebody's running lease.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from stages.review.answers import Answer, Form, Settled, Side, as_seen, check_scores, conclusion, settle
from stages.review.campaigns import Campaign, locked_campaign, read_campaign
from stages.review.database import Database, record_event
from stages.review.errors import ReviewError
from stages.review.next_items import disputed_items, free_items, held_items, mix_gold
from stages.review.people import Person
from stages.review.schema import draft, item, lease, response
from stages.review.spec import digest
from stages.review.tallies import retally
from stages.review.verdict_rules import decided


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
    draft: dict[str, int] | None = None


@dataclass(frozen=True)
class Receipt:
    """What became of an answer. ``repeated``: the very same submit had arrived before."""

    response_id: str
    standing: str
    repeated: bool = False


@dataclass(frozen=True)
class Said:
    """An answer of one's own as it was given, with left and right as this person saw them."""

    item_id: str
    sequence: int
    choice: str
    reasons: tuple[str, ...]
    rest_same: bool | None
    scores: dict[str, int] | None
    submitted_at: float


@dataclass(frozen=True)
class Undone:
    """An answer taken back or reopened: the item, leased to the person again, and what had been said."""

    item: Claimed
    said: Said


def claim(db: Database, campaign_id: str, who: Person, n: int = 1, *, now: float | None = None) -> list[Claimed]:
    """Up to ``n`` items for this person: first those they still hold, then new ones; an empty list when none is left.

    New items come by priority, then by the campaign's order, then those that lack the fewest answers (so that items get
    finished), then from a place in the shuffled order that is new at every claim. A lead also gets the disputed items
    of a campaign that waits for a lead. Raises ``Closed``.
    """
    now = time.time() if now is None else now
    with db.write() as connection:
        of = _open(connection, campaign_id)
        held = held_items(connection, of, who, n, now)
        fresh = free_items(connection, of, who, n - len(held), now) if len(held) < n else []
        if of.spec.gold_rate and fresh:
            fresh = mix_gold(connection, of, who, fresh, now)
        if len(held) + len(fresh) < n and who.leads and of.spec.aggregation == "lead":
            known = {row["id"] for row in (*held, *fresh)}
            fresh += [row for row in disputed_items(connection, of, who, n, now) if row["id"] not in known]
        given = _renew(connection, of, who, held, now)
        given += [
            _take(connection, of, who, row, now + index * 1e-4) for index, row in enumerate(fresh[: n - len(held)])
        ]
        return given


def submit(db: Database, who: Person, answer: Answer, *, now: float | None = None) -> Receipt:
    """Store one answer to an item that this person was given.

    The same ``answer.key`` again is the same submit and changes nothing. A second answer of the same person replaces
    the first. An answer whose lease has run out still counts while the item has a place; else it is kept as ``extra``.
    Raises ``Closed``, ``NotYours``, or ``ReviewError`` for a choice the campaign does not have.
    """
    now = time.time() if now is None else now
    with db.write() as connection:
        where = connection.execute(
            sa.select(item.c.campaign_id, lease.c.side)
            .join(lease, (lease.c.item_id == item.c.id) & (lease.c.person_id == who.id))
            .where(item.c.id == answer.item_id)
        ).first()
        if where is None:
            raise NotYours("This item was not given to you; reload the page.")
        of = locked_campaign(connection, where.campaign_id)
        again = _repeated(connection, who, answer)
        if again is not None:
            return again
        settled = settle(of.spec.question, where.side, answer)
        if of.state != "open":
            # Kept in the log, so that even an answer that came after the close is not lost.
            detail = {"verdict": settled.verdict, "reasons": settled.reasons, **settled.values}
            record_event(connection, now, who.name, "answer_after_close", of.id, answer.item_id, detail)
        else:
            return _store(connection, of, who, answer, where.side, settled, now)
    raise Closed("This campaign is closed; your answer came after the close and does not count.")


def bring_in(db: Database, who: Person, answer: Answer, side: Side, *, now: float) -> Receipt:
    """Store an answer that was given elsewhere, at ``now``, with the pair's sides as they were there; no lease is asked for.

    The same ``answer.key`` again changes nothing. Raises ``Closed``, ``NotYours`` for an unknown item, ``ReviewError``.
    """
    with db.write() as connection:
        campaign_id = connection.execute(sa.select(item.c.campaign_id).where(item.c.id == answer.item_id)).scalar()
        if campaign_id is None:
            raise NotYours(f"There is no item {answer.item_id}.")
        of = _open(connection, campaign_id)
        again = _repeated(connection, who, answer)
        if again is not None:
            return again
        return _store(connection, of, who, answer, side, settle(of.spec.question, side, answer), now)


def undo(
    db: Database, campaign_id: str, who: Person, item_id: str | None = None, *, now: float | None = None
) -> Undone | None:
    """Take back this person's latest answer and lease the item to them again; None when there is nothing to undo.

    With ``item_id`` the answer to that item is taken back, and asking again changes nothing: a page that did not hear
    the first reply can ask a second time.
    """
    now = time.time() if now is None else now
    with db.write() as connection:
        of = _open(connection, campaign_id)
        states = ("live",) if item_id is None else ("live", "withdrawn")
        last = _own_answer(connection, of, who, item_id, states)
        if last is None:
            return None
        if last["state"] == "live":
            connection.execute(response.update().where(response.c.id == last["id"]).values(state="withdrawn"))
            if last["standing"] == "counted":
                _promote_extra(connection, last["item_id"])
            retally(connection, of.spec, [last["item_id"]])
            record_event(connection, now, who.name, "undo", campaign_id, last["item_id"], {"response": last["id"]})
        row = {"id": last["item_id"], "external_id": last["external_id"], "payload": last["payload"]}
        again = _take(connection, of, who, row, now)
        # Before everything else this person holds: the page shows it again, also after a reload.
        own = (lease.c.item_id == last["item_id"]) & (lease.c.person_id == who.id)
        connection.execute(lease.update().where(own).values(claimed_at=-now))
        return Undone(again, _said(of, last))


def reopen(db: Database, who: Person, item_id: str) -> tuple[Form, Undone]:
    """The form and an item that this person has answered, and their answer, which stands until another replaces it.

    Raises ``NotYours`` for one they have not answered, ``Closed`` when it can be changed no more.
    """
    with db.read() as connection:
        campaign_id = connection.execute(sa.select(item.c.campaign_id).where(item.c.id == item_id)).scalar()
        if campaign_id is None:
            raise NotYours("You have not answered this item.")
        of = _open(connection, campaign_id, lock=False)
        row = _own_answer(connection, of, who, item_id, ("live",))
        if row is None:
            raise NotYours("You have not answered this item.")
        claimed = Claimed(item_id, row["external_id"], json.loads(row["payload"]), row["side"], 0.0)
        return of.spec.form, Undone(claimed, _said(of, row))


def own_answers(db: Database, campaign_id: str, who: Person, limit: int, before: int | None = None) -> list[Said]:
    """This person's standing answers, newest first, from the one before number ``before``."""
    with db.read() as connection:
        of = read_campaign(connection, campaign_id)
        query = _own(of, who, ("live",)).order_by(response.c.sequence.desc(), response.c.id).limit(limit)
        if before is not None:
            query = query.where(response.c.sequence < before)
        return [_said(of, row) for row in connection.execute(query).mappings()]


def save_draft(db: Database, who: Person, item_id: str, scores: Mapping[str, int], *, now: float | None = None) -> None:
    """Keep what this person has entered so far. Raises ``NotYours``, ``Closed``, or ``ReviewError`` for strange scores."""
    now = time.time() if now is None else now
    with db.write() as connection:
        found = connection.execute(
            sa.select(item.c.campaign_id)
            .join(lease, (lease.c.item_id == item.c.id) & (lease.c.person_id == who.id))
            .where(item.c.id == item_id)
        ).first()
        if found is None:
            raise NotYours("This item was not given to you; reload the page.")
        of = _open(connection, found.campaign_id)
        text = json.dumps(check_scores(of.spec.question, scores, whole=False))
        own = (draft.c.item_id == item_id) & (draft.c.person_id == who.id)
        if not connection.execute(draft.update().where(own).values(scores=text, saved_at=now)).rowcount:
            connection.execute(draft.insert().values(item_id=item_id, person_id=who.id, scores=text, saved_at=now))


def heartbeat(db: Database, who: Person, item_ids: Sequence[str], *, now: float | None = None) -> list[str]:
    """Extend this person's running leases on these items; returns those that are still theirs."""
    now = time.time() if now is None else now
    with db.write() as connection:
        mine = (lease.c.person_id == who.id) & lease.c.item_id.in_(list(item_ids)) & (lease.c.expires_at > now)
        query = sa.select(lease.c.item_id, item.c.campaign_id).join(item, item.c.id == lease.c.item_id).where(mine)
        asked = connection.execute(query).all()
        # Locked in one order, and looked at again under the lock: a place that ran out meanwhile may be somebody's.
        open_ones = {
            of.id: of.spec.lease_seconds
            for of in (locked_campaign(connection, name) for name in sorted({row.campaign_id for row in asked}))
            if of.state == "open"
        }
        held = [row for row in connection.execute(query).all() if row.campaign_id in open_ones]
        for row in held:
            own = (lease.c.item_id == row.item_id) & (lease.c.person_id == who.id)
            connection.execute(lease.update().where(own).values(expires_at=now + open_ones[row.campaign_id]))
    return [row.item_id for row in held]


def _open(connection: Connection, campaign_id: str, lock: bool = True) -> Campaign:
    of = locked_campaign(connection, campaign_id) if lock else read_campaign(connection, campaign_id)
    if of.state != "open":
        raise Closed(f"Campaign {of.spec.title!r} is closed.")
    return of


def _own(of: Campaign, who: Person, states: Sequence[str]) -> sa.Select[Any]:
    """A person's own answers, carried ones left out: those were given on another page."""
    return (
        sa.select(response, item.c.external_id, item.c.payload)
        .join(item, item.c.id == response.c.item_id)
        .where(response.c.campaign_id == of.id, response.c.person_id == who.id, ~response.c.carried)
        .where(response.c.state.in_(states))
    )


def _own_answer(
    connection: Connection, of: Campaign, who: Person, item_id: str | None, states: Sequence[str]
) -> RowMapping | None:
    """The newest of them, on ``item_id`` if that is given."""
    query = _own(of, who, states).order_by(response.c.sequence.desc(), response.c.id).limit(1)
    if item_id is not None:
        query = query.where(response.c.item_id == item_id)
    return connection.execute(query).mappings().first()


def _said(of: Campaign, row: RowMapping) -> Said:
    values = json.loads(row["answer"])
    reasons = tuple(
        reason for reason in json.loads(row["reasons"]) if not (values.get("broken") and reason == "broken")
    )
    choice = as_seen(of.spec.form, row["side"], row["verdict"], values)
    rest_same, scores = values.get("rest_same"), values.get("scores")
    return Said(row["item_id"], row["sequence"], choice, reasons, rest_same, scores, row["submitted_at"])


def _renew(
    connection: Connection, of: Campaign, who: Person, held: Sequence[dict[str, Any]], now: float
) -> list[Claimed]:
    """Extend leases that run; they keep their place in the person's order, so that a reload shows the same item."""
    expires = now + of.spec.lease_seconds
    if held:
        own = (lease.c.person_id == who.id) & lease.c.item_id.in_([row["id"] for row in held])
        connection.execute(lease.update().where(own).values(expires_at=expires))
    return [_claimed(connection, of, who, row, row["side"], expires) for row in held]


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
    return _claimed(connection, of, who, row, side, expires)


def _claimed(
    connection: Connection, of: Campaign, who: Person, row: dict[str, Any], side: Side, expires: float
) -> Claimed:
    entered = None
    if of.spec.kind == "likert":
        mine = (draft.c.item_id == row["id"]) & (draft.c.person_id == who.id)
        kept = connection.execute(sa.select(draft.c.scores).where(mine)).scalar()
        entered = None if kept is None else json.loads(kept)
    return Claimed(row["id"], row["external_id"], json.loads(row["payload"]), side, expires, entered)


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


def _repeated(connection: Connection, who: Person, answer: Answer) -> Receipt | None:
    """What became of the same submit when it came before, if it did."""
    own = (response.c.person_id == who.id) & (response.c.idempotency_key == answer.key)
    columns = (response.c.id, response.c.standing, response.c.item_id)
    row = connection.execute(sa.select(*columns).where(own)).first()
    if row is not None and row.item_id != answer.item_id:
        raise ReviewError("The key of this answer belongs to another answer; each needs its own.")
    return None if row is None else Receipt(row.id, row.standing, repeated=True)


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
            replays=answer.replays,
            submitted_at=now,
        )
    )
    own = (lease.c.item_id == answer.item_id) & (lease.c.person_id == who.id)
    connection.execute(lease.update().where(own).values(expires_at=now))
    if of.spec.kind == "likert":
        mine = (draft.c.item_id == answer.item_id) & (draft.c.person_id == who.id)
        connection.execute(draft.delete().where(mine))
    if standing != "counted" and any(row["standing"] == "counted" for row in replaced):
        _promote_extra(connection, answer.item_id)
    retally(connection, of.spec, [answer.item_id])
    record_event(
        connection, now, who.name, "answer", of.id, answer.item_id, {"response": identity, "standing": standing}
    )
    return Receipt(identity, standing)


def _standing(of: Campaign, who: Person, answer: Answer, live: Sequence[RowMapping]) -> str:
    counted = [row for row in live if row["standing"] == "counted"]
    mine = next((row for row in live if row["person_id"] == who.id and row["standing"] != "lead"), None)
    full = len(counted) >= of.spec.overlap
    if who.leads and of.spec.aggregation == "lead" and full:
        by_lead = any(row["standing"] == "lead" for row in live)
        if by_lead or decided(of.spec, [row["conclusion"] for row in counted]) is None:
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

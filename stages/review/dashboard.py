"""A lead's view of a campaign, as one JSON document that is made again only when something has happened."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stages.review.campaigns import Campaign, progress_of, read_campaign
from stages.review.database import Database
from stages.review.disagreements import vote
from stages.review.findings import agreement_table, likert_table, preference_table, systems_table
from stages.review.gold import meets
from stages.review.labels import Labels, load_labels
from stages.review.quality import Report, Share, reports
from stages.review.schema import event, item, lease
from stages.review.verdicts import aggregate

HOUR = 3600.0
REST = 10.0  # a document that took t seconds is made again after REST x t at the earliest: reviewers come first


@dataclass
class Dashboards:
    """The documents of all campaigns, kept until they are out of date.

    ``rules`` tells by campaign what its answers say of the rules that chose its clips (``learned.learn``), or None.
    """

    db: Database
    rules: Callable[[Database, str], Any] | None = None
    _kept: dict[str, tuple[str, float, dict[str, Any]]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def etag(self, campaign_id: str) -> str:
        """Changes with every event of the campaign, but no more often than the document may be made."""
        with self._lock:
            kept = self._kept.get(campaign_id)
            if kept is not None and time.monotonic() < kept[1]:
                return kept[0]
        with self.db.read() as connection:
            return _etag(connection, campaign_id)

    def get(self, campaign_id: str) -> dict[str, Any]:
        """The document. Raises ``ReviewError`` when there is no such campaign."""
        with self._lock:  # two leads who ask at once wait for one making
            kept = self._kept.get(campaign_id)
            if kept is not None and time.monotonic() < kept[1]:
                return kept[2]
            started = time.monotonic()
            with self.db.read() as connection:
                etag = _etag(connection, campaign_id)
                if kept is not None and kept[0] == etag:
                    return kept[2]
            found = make_document(self.db, campaign_id)
            found["rules"] = self.rules(self.db, campaign_id) if self.rules else None
            done = time.monotonic()
            self._kept[campaign_id] = (etag, done + REST * (done - started), found)
            return found


def make_document(db: Database, campaign_id: str, *, now: float | None = None) -> dict[str, Any]:
    """The document as of now."""
    now = time.time() if now is None else now
    with db.read() as connection:
        of = read_campaign(connection, campaign_id)
        labels, counts = load_labels(connection, of), _counts(connection, of, now)
    return document(labels, counts, now)


@dataclass(frozen=True)
class _Counts:
    done: int
    disputed: int
    holding: dict[str, int]
    gold: Sequence[Any]  # items with a known answer: id, external_id, gold (JSON), gold_withdrawn


def _counts(connection: Connection, of: Campaign, now: float) -> _Counts:
    held = (
        sa.select(lease.c.person_id, sa.func.count())
        .join(item, item.c.id == lease.c.item_id)
        .where(item.c.campaign_id == of.id, lease.c.expires_at > now)
        .group_by(lease.c.person_id)
    )
    known = (item.c.campaign_id == of.id) & (item.c.state == "open") & item.c.gold.is_not(None)
    gold = sa.select(item.c.id, item.c.external_id, item.c.gold, item.c.gold_withdrawn).where(known)
    at = progress_of(connection, of)
    holding = {row[0]: row[1] for row in connection.execute(held)}
    return _Counts(at.done, at.disputed, holding, connection.execute(gold).all())


def document(labels: Labels, counts: _Counts, now: float) -> dict[str, Any]:
    """Everything that the lead's page shows; shares, intervals and times are numbers, None where unknown."""
    of = labels.campaign
    spec = of.spec
    verdicts = Counter(aggregate(map(vote, answers), spec).verdict for answers in labels.by_item.values())
    asked = ("title", "form", "kind", "overlap", "aggregation", "skip_policy", "order", "gold_rate", "rubric_digest")
    return {
        "campaign": {"id": of.id, "state": of.state} | {name: getattr(spec, name) for name in asked},
        "progress": {
            "items": len(labels.things),
            "done": counts.done,
            "remaining": len(labels.things) - counts.done,
            "disputed": counts.disputed,
            "held": sum(counts.holding.values()),
        },
        "speed": _speed(labels, now),
        "verdicts": [{"verdict": name, "items": times} for name, times in sorted(verdicts.items())],
        "people": [_person(one, counts.holding.get(one.person.id, 0)) for one in reports(labels)],
        "agreement": agreement_table(labels),
        "preference": preference_table(labels),
        "systems": systems_table(labels),
        "likert": likert_table(labels),
        "gold": _gold(labels, counts.gold),
        "at": now,
    }


def _gold(labels: Labels, items: Sequence[Any]) -> dict[str, Any]:
    """Every gold item with its known answer and how many met it, those in use first, then the one that most people miss:
    where all are wrong, the known answer may be."""
    rows = []
    for one in items:
        known = json.loads(one.gold)
        met = [meets(known, said.verdict, said.values) for said in labels.by_item[one.id]]
        rows.append(
            {
                "id": one.id,
                "external_id": one.external_id,
                "known": known,
                "right": sum(right is True for right in met),
                "n": sum(right is not None for right in met),
                "withdrawn": bool(one.gold_withdrawn),
            }
        )
    rows.sort(key=lambda row: (row["withdrawn"], row["right"] - row["n"], row["external_id"]))
    withdrawn = sum(row["withdrawn"] for row in rows)
    return {"items": len(rows) - withdrawn, "withdrawn": withdrawn, "list": rows}


def _speed(labels: Labels, now: float) -> dict[str, Any]:
    """Answers per hour over the last hour (or since the first answer, if that is later), and the time left at that rate."""
    times = [one.submitted_at for one in labels.answers if not one.carried]
    recent = [at for at in times if at > now - HOUR]
    span = now - max(min(times), now - HOUR) if times else 0.0
    per_hour = len(recent) * HOUR / span if recent and span > 0 else None
    overlap = labels.campaign.spec.overlap
    missing = sum(
        max(0, overlap - sum(one.standing == "counted" for one in answers)) for answers in labels.by_item.values()
    )
    left = missing / per_hour * HOUR if per_hour else None
    return {"answers_last_hour": len(recent), "per_hour": per_hour, "remaining_s": left}


def _person(one: Report, holding: int) -> dict[str, Any]:
    def share(of: Share | None, name: str = "share") -> dict[str, Any] | None:
        return None if of is None else {"n": of.n, name: of.share, "low": of.low, "high": of.high}

    gold = share(one.gold, "accuracy")
    if gold is not None and one.gold is not None:
        gold["right"] = round(one.gold.share * one.gold.n)
    return {
        "id": one.person.id,
        "name": one.person.name,
        "role": one.person.role,
        "answers": one.answers,
        "extra": one.extra,
        "skips": one.skips,
        "skip_rate": one.skips / one.answers,
        "median_s": one.median_s,
        "holding": holding,
        "last_at": one.last_at,
        "gold": gold,
        "left": share(one.left),
        "too_fast": share(one.fast),
        "top_answer": None if one.top_answer is None else {"choice": one.top_answer[0], "share": one.top_answer[1]},
        "flags": [asdict(flag) for flag in one.flags],
    }


def _etag(connection: Connection, campaign_id: str) -> str:
    last = connection.execute(sa.select(sa.func.max(event.c.id)).where(event.c.campaign_id == campaign_id)).scalar()
    return f'"{last or 0}"'

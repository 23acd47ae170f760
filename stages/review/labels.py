"""All standing answers of a campaign, as the statistics read them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stages.review.answers import as_seen
from stages.review.campaigns import Campaign
from stages.review.gold import meets
from stages.review.people import Person
from stages.review.schema import item, person, response


@dataclass(frozen=True)
class Thing:
    """What was judged. ``cluster`` is the prompt where it is known, else the item: what intervals draw again."""

    id: str
    external_id: str
    stratum: str
    inclusion_probability: float
    duration_s: float | None
    hidden: Mapping[str, Any]
    gold: Mapping[str, Any] | None

    @property
    def cluster(self) -> str:
        return str(self.hidden.get("prompt_id", self.id))


@dataclass(frozen=True)
class Label:
    """One standing answer."""

    thing: Thing
    person: Person
    verdict: str
    conclusion: str
    seen: str  # as the person saw it: left or right, not winner or loser
    values: Mapping[str, Any]
    reasons: tuple[str, ...]
    standing: str
    carried: bool
    sequence: int
    watched_ms: int | None
    submitted_at: float

    @property
    def right(self) -> bool | None:
        """Whether it is the known answer; None without one, and for a skip."""
        return None if self.thing.gold is None else meets(self.thing.gold, self.verdict, self.values)


@dataclass(frozen=True)
class Labels:
    """A campaign's items and standing answers, in the order in which they came."""

    campaign: Campaign
    things: Mapping[str, Thing]
    answers: tuple[Label, ...]

    @cached_property
    def by_person(self) -> dict[Person, list[Label]]:
        """What each person answered on this campaign's own page, in their own order; carried answers are left out."""
        found: dict[Person, list[Label]] = defaultdict(list)
        for one in self.answers:
            if not one.carried:
                found[one.person].append(one)
        return {who: sorted(found[who], key=lambda one: one.sequence) for who in sorted(found, key=lambda p: p.name)}

    @cached_property
    def by_item(self) -> dict[str, list[Label]]:
        found: dict[str, list[Label]] = {name: [] for name in self.things}
        for one in self.answers:
            found[one.thing.id].append(one)
        return found

    @cached_property
    def independent(self) -> list[Label]:
        """Answers given without knowledge of others: all but skips and a lead's settlements."""
        return [one for one in self.answers if one.standing != "lead" and one.verdict != "skip"]


def load_labels(connection: Connection, of: Campaign) -> Labels:
    """Read them inside the caller's transaction."""
    open_items = (item.c.campaign_id == of.id) & (item.c.state == "open")
    things = {row["id"]: _thing(row) for row in connection.execute(sa.select(item).where(open_items)).mappings()}
    query = (
        sa.select(response, person.c.name, person.c.role)
        .join(person, person.c.id == response.c.person_id)
        .where(response.c.campaign_id == of.id, response.c.state == "live")
        .order_by(response.c.submitted_at, response.c.id)
    )
    answers = []
    for row in connection.execute(query).mappings():
        if row["item_id"] not in things:
            continue
        values = json.loads(row["answer"])
        answers.append(
            Label(
                things[row["item_id"]],
                Person(row["person_id"], row["name"], row["role"]),
                row["verdict"],
                row["conclusion"],
                as_seen(of.spec.form, row["side"], row["verdict"], values),
                values,
                tuple(json.loads(row["reasons"])),
                row["standing"],
                row["carried"],
                row["sequence"],
                row["watched_ms"],
                row["submitted_at"],
            )
        )
    return Labels(of, things, tuple(answers))


def _thing(row: Mapping[Any, Any]) -> Thing:
    known = row["gold"] if not row["gold_withdrawn"] else None
    return Thing(
        row["id"],
        row["external_id"],
        row["stratum"],
        row["inclusion_probability"],
        json.loads(row["payload"]).get("duration_s"),
        json.loads(row["hidden"]),
        None if known is None else json.loads(known),
    )

"""Where people disagree: for a lead to see after the fact; in the queue a lead judges as blind as everybody."""

from __future__ import annotations

from typing import Any

from stages.review.campaigns import read_campaign
from stages.review.database import Database
from stages.review.labels import Label, load_labels
from stages.review.verdicts import IN_REVIEW, Vote, aggregate


def disagreements(db: Database, campaign_id: str, limit: int = 100) -> list[dict[str, Any]]:
    """Items with all their answers, on which these do not decide and no lead has: who said what."""
    with db.read() as connection:
        labels = load_labels(connection, read_campaign(connection, campaign_id))
    spec = labels.campaign.spec
    found = []
    for name, answers in labels.by_item.items():
        counted = [one for one in answers if one.standing == "counted"]
        if len(counted) < spec.overlap or any(one.standing == "lead" for one in answers):
            continue
        said = {one.conclusion for one in counted}
        if len(said) > 1 and aggregate([vote(one) for one in answers], spec).verdict == IN_REVIEW:
            found.append(
                {
                    "id": name,
                    "external_id": labels.things[name].external_id,
                    "answers": [
                        {"person": one.person.name, "conclusion": one.conclusion, "reasons": list(one.reasons)}
                        for one in answers
                    ],
                }
            )
    return found[:limit]


def vote(one: Label) -> Vote:
    return Vote(one.conclusion, one.standing, one.reasons)

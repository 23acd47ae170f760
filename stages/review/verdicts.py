"""What a closed campaign concluded: its frozen items, decisions and verdicts as tables."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from data_schemas.tables import DECISIONS, ITEMS, VERDICTS
from stages.review.campaigns import get_campaign
from stages.review.database import Database
from stages.review.errors import ReviewError
from stages.review.schema import item, person, response
from stages.review.spec import CampaignSpec
from stages.review.verdict_rules import decided

IN_REVIEW = "in_review"


@dataclass(frozen=True)
class Vote:
    """One live answer on an item, as aggregation sees it."""

    conclusion: str
    standing: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What an item's answers come to, and the reasons of those that decided."""

    verdict: str
    reasons: tuple[str, ...]
    answers: int


@dataclass(frozen=True)
class Export:
    """The three tables of a closed campaign; they never change again."""

    items: pa.Table
    decisions: pa.Table
    verdicts: pa.Table


def aggregate(votes: Iterable[Vote], spec: CampaignSpec) -> Verdict:
    """The verdict of one item.

    A lead's answer decides. Otherwise an item with fewer counted answers than the overlap is ``in_review``;
    ``majority`` needs more than half of the counted answers, ``unanimous`` and ``lead`` need all of them. Ratings agree
    when they lie at most one point apart, and their verdict is the median of all ratings. A skip is a counted answer
    that concludes nothing, so an item that only skips agree on stays ``in_review`` too.
    """
    votes = list(votes)
    counted = [vote for vote in votes if vote.standing == "counted"]
    by_lead = [vote for vote in votes if vote.standing == "lead"]
    if by_lead:
        return _verdict(by_lead[-1:], len(counted))
    if len(counted) < spec.overlap:
        return Verdict(IN_REVIEW, (), len(counted))
    deciding = decided(spec, [vote.conclusion for vote in counted])
    if deciding is None:
        return Verdict(IN_REVIEW, (), len(counted))
    if spec.form == "likert" and "skip" not in deciding:
        deciding = tuple(vote.conclusion for vote in counted if vote.conclusion != "skip")
    return _verdict([vote for vote in counted if vote.conclusion in deciding], len(counted))


def _verdict(deciding: Sequence[Vote], answers: int) -> Verdict:
    reasons = tuple(sorted({reason for vote in deciding for reason in vote.reasons}))
    said = [vote.conclusion for vote in deciding]
    verdict = f"{median(map(int, said)):g}" if said[0].isdigit() else said[0]
    return Verdict(IN_REVIEW if verdict == "skip" else verdict, reasons, answers)


def export(db: Database, campaign_id: str) -> Export:
    """The tables of a closed campaign. Raises ``ReviewError`` while it still takes answers."""
    found = get_campaign(db, campaign_id)
    if found.state != "closed":
        raise ReviewError(f"Campaign {campaign_id} is {found.state}; only a closed campaign is exported.")
    with db.read() as connection:
        of_campaign = item.c.campaign_id == campaign_id
        items = connection.execute(sa.select(item).where(of_campaign, item.c.state == "open").order_by(item.c.id))
        item_rows = [dict(row) for row in items.mappings()]
        answers = connection.execute(
            sa.select(response, person.c.name, item.c.external_id)
            .join(person, person.c.id == response.c.person_id)
            .join(item, item.c.id == response.c.item_id)
            .where(of_campaign, item.c.state == "open", response.c.state == "live")
            .order_by(response.c.item_id, response.c.id)
        )
        response_rows = [dict(row) for row in answers.mappings()]
    return Export(
        ITEMS.table(_item(row, found.spec) for row in item_rows),
        DECISIONS.table(_decision(row) for row in response_rows),
        VERDICTS.table(_verdicts(item_rows, response_rows, found.spec)),
    )


def _item(row: Mapping[str, Any], spec: CampaignSpec) -> dict[str, object]:
    return {
        "item_id": row["id"],
        "campaign_id": row["campaign_id"],
        "kind": spec.kind,
        "external_id": row["external_id"],
        "payload": row["payload"],
        "payload_digest": row["payload_digest"],
        "stratum": row["stratum"],
        "inclusion_probability": row["inclusion_probability"],
    }


def _decision(row: Mapping[str, Any]) -> dict[str, object]:
    values = json.loads(row["answer"]) | {"standing": row["standing"], "side": row["side"]}
    return {
        "decision_id": row["id"],
        "item_id": row["item_id"],
        "campaign_id": row["campaign_id"],
        "external_id": row["external_id"],
        "reviewer": row["name"],
        "verdict": row["verdict"],
        "reasons": json.loads(row["reasons"]),
        "values": json.dumps(values, sort_keys=True),
        "carried": row["carried"],
        "submitted_at": datetime.fromtimestamp(row["submitted_at"], UTC).isoformat(timespec="milliseconds"),
        "watched_ms": row["watched_ms"],
    }


def _verdicts(
    items: Sequence[Mapping[str, Any]], responses: Sequence[Mapping[str, Any]], spec: CampaignSpec
) -> Iterable[dict[str, object]]:
    votes: dict[str, list[Vote]] = defaultdict(list)
    for row in sorted(responses, key=lambda row: (row["submitted_at"], row["id"])):
        votes[row["item_id"]].append(Vote(row["conclusion"], row["standing"], tuple(json.loads(row["reasons"]))))
    for row in items:
        verdict = aggregate(votes[row["id"]], spec)
        yield {
            "external_id": row["external_id"],
            "item_id": row["id"],
            "verdict": verdict.verdict,
            "reasons": list(verdict.reasons),
            "answers": verdict.answers,
        }


def write_export(db: Database, campaign_id: str, folder: Path) -> str:
    """Write the tables of a closed campaign as Parquet files into ``folder``, with their SHA256SUMS; returns its digest.

    The same campaign always gives the same digest. Raises ``ReviewError`` while the campaign takes answers, or when
    something else lies in the folder already.
    """
    found = export(db, campaign_id)
    sums = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in (("decisions", found.decisions), ("items", found.items), ("verdicts", found.verdicts)):
            path = folder / f"{name}.parquet"
            if path.exists():
                raise ReviewError(f"{path} exists; name a folder without an export.")
            pq.write_table(table, path)
            sums.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
        (folder / "SHA256SUMS").write_text("".join(sums), encoding="ascii")
    except OSError as error:
        raise ReviewError(f"The export cannot be written to {folder}: {error.strerror}.") from error
    return hashlib.sha256("".join(sums).encode()).hexdigest()

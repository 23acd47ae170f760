"""Writes a review database of whatever release is on the path as SQL text: run it with an older revision's code.

    git archive REVISION stages data_schemas | tar -x -C OLD
    PYTHONPATH=OLD python tests/golden/write_review.py tests/golden/review/layoutN.sql

Two people judge six clips, one of them disagrees twice; a pairwise campaign is closed, another has one answer.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from pathlib import Path

from stages.review.answers import Answer
from stages.review.campaigns import CampaignSpec, NewItem, close_campaign, create_campaign
from stages.review.database import open_database
from stages.review.people import person_named
from stages.review.queue import claim, submit


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "review.db"
        db = open_database(path)
        ada, ben = (
            person_named(db, name, "lead" if name == "ada" else "annotator", now=1000.0) for name in ("ada", "ben")
        )
        clips = [NewItem(f"clip-{n}", {"media": f"{n:032x}.webm", "caption": f"caption {n}"}) for n in range(6)]
        pairs = [
            NewItem(
                f"pair-{n}", {"winner": f"{n:031x}a.webm", "loser": f"{n:031x}b.webm", "reference": None, "prompt": "p"}
            )
            for n in range(3)
        ]
        create_campaign(db, spec("clips", "filter", overlap=2, reasons=("blur", "text")), clips, now=1000.0)
        for name in ("closed", "open"):
            create_campaign(db, spec(name, "consis"), pairs, now=1000.0)
        for who, now in ((ada, 2000.0), (ben, 2500.0)):
            for one in claim(db, "clips", who, 6, now=now):
                no = who is ben and one.external_id in ("clip-1", "clip-4")
                reasons = ("blur",) if no else ()
                choice = "reject" if no else "accept"
                submit(db, who, Answer(one.item_id, f"{who.name}-{one.external_id}", choice, reasons), now=now + 1)
        for name, count in (("closed", 3), ("open", 1)):
            for one in claim(db, name, ada, count, now=2000.0):
                left = "left" if one.side == "AB" else "right"
                submit(db, ada, Answer(one.item_id, f"{name}-{one.external_id}", left, rest_same=True), now=2002.0)
        close_campaign(db, "closed", "ada", now=3000.0)
        db.close()
        with sqlite3.connect(path) as found:
            target.write_text("\n".join(found.iterdump()) + "\n")


def spec(name: str, form: str, **settings: object) -> CampaignSpec:
    values = {"campaign_id": name, "form": form, "title": name, "guidelines": "Look at the subject.", **settings}
    return CampaignSpec(**values)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))

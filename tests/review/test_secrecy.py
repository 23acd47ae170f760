"""All that an annotator's browser is ever sent, in campaigns of every form, tells nothing that could lean an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.review.answers import choices
from stages.review.app import create_app
from stages.review.campaigns import create_campaign
from stages.review.database import Database
from stages.review.spec import NewItem
from tests.review.conftest import spec
from tests.review.test_app import Browser

FORMS = ("filter", "consis", "real_fake", "compare", "likert")
SCORES = {"identity": 4, "prompt": 4, "motion": 4, "overall": 4}
# Words of the server that no annotator may read, and what the items below hide.
NEVER = (
    "secret", "winner", "loser", "stratum", "inclusion", "probability", "uncertainty", "gold", '"AB"', '"BA"', "external",
    "standing", "extra", "counted", "Ben", "disputed", "0.4321", "priority",
)  # fmt: skip


@pytest.fixture
def app(db: Database, tmp_path: Path) -> Iterator[Any]:
    made = create_app(tmp_path / "review.db")
    yield made
    made.state.db.close()


def items(form: str) -> list[NewItem]:
    shown = {
        "filter": {"media": "f" * 32 + ".webm", "caption": "a dog"},
        "likert": {"media": "f" * 32 + ".webm", "references": ["e" * 32 + ".png"], "prompt": "a dog"},
        "compare": {"a": "a" * 32 + ".webm", "b": "b" * 32 + ".webm", "reference": None, "prompt": "a dog"},
    }
    pair = {
        "winner": "a" * 32 + ".webm",
        "loser": "b" * 32 + ".webm",
        "reference": "c" * 32 + ".png",
        "prompt": "a dog",
    }
    known = {"filter": {"choice": "reject"}, "compare": {"choice": "a"}, "likert": {"scores": {"overall": 1}}}
    return [
        NewItem(
            f"secret-model-{n}",
            shown.get(form, pair) | {"secret": "aesthetic 0.4321"},
            "secret-rule",
            0.4321,
            uncertainty=0.4321,
            hidden={"systems": ["secret-a", "secret-b"], "system": "secret-c", "prompt_id": "secret-p"},
            gold=known.get(form, {"choice": "winner"}) if n % 2 else None,
        )
        for n in range(8)
    ]


def said(form: str, choice: str) -> dict[str, Any]:
    more: dict[str, Any] = {"choice": choice}
    if choice == "skip":
        more["reasons"] = ["other"]
    if choice == "rate":
        more["scores"] = SCORES
    if form == "consis":
        more["rest_same"] = True
    return more


@pytest.mark.parametrize("form", FORMS)
def test_no_answer_to_an_annotator_tells_a_model_a_gold_mark_or_what_others_said(
    app: Any, db: Database, form: str
) -> None:
    create_campaign(db, spec("work", form, overlap=2, aggregation="lead", gold_rate=0.5), items(form))
    ben, ada = Browser(app, "Ben"), Browser(app, "Ada")
    for who in (ben, ada):
        who.open("work")
        held = who.claim("work", 8)
        for n, one in enumerate(held):
            choice = choices(form)[n % len(choices(form))]
            who.answer(one["id"], choice, **{k: v for k, v in said(form, choice).items() if k != "choice"})
    item = held[0]["id"]
    ada.answer(item, "nonsense")
    ada.get("/")
    ada.get("/api/me")
    for path in ("progress", "mine", "dashboard", "disagreements"):
        ada.get(f"/api/campaigns/work/{path}")
    ada.get(f"/api/items/{item}/mine")
    ada.client.put(f"/api/items/{item}/draft", json={"scores": {"overall": 2}})
    ada.post("/api/leases/heartbeat", {"items": [item]})
    ada.post("/api/campaigns/work/undo", {"item": item})
    ada.claim("work", 8)
    ada.post(f"/api/items/{item}/gold", {"choice": "accept"})
    ada.get("/c/work/lead")
    ada.get("/c/nothing")
    assert len(ada.seen) > 20
    traffic = "\n".join(ada.seen)
    assert [word for word in NEVER if word in traffic] == []


def test_a_gold_item_is_sent_as_every_other(app: Any, db: Database) -> None:
    create_campaign(db, spec("work", gold_rate=0.5), items("filter"))
    ada = Browser(app, "Ada")
    ada.open("work")
    shapes = {tuple((key, type(value).__name__) for key, value in one.items()) for one in ada.claim("work", 8)}
    assert len(shapes) == 1

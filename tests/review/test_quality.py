"""Gold items, flags and the lead's document: what a lead is told of people, and what nobody else is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from stages.review.answers import Answer
from stages.review.campaigns import Campaign, close_campaign, create_campaign
from stages.review.dashboard import make_document
from stages.review.database import Database
from stages.review.disagreements import disagreements
from stages.review.errors import ReviewError
from stages.review.gold import check_gold
from stages.review.gold_items import mark_gold, withdraw_gold
from stages.review.people import Person, person_named
from stages.review.queue import claim, submit
from stages.review.spec import NewItem
from tests.review.conftest import compare_items, filter_items, likert_items, spec

Make = Callable[..., Campaign]


def answer_all(db: Database, name: str, choose: Callable[[Any], dict[str, Any]], campaign: str = "clips") -> Person:
    who = person_named(db, name)
    number = 0
    while held := claim(db, campaign, who, 8):
        for one in held:
            number += 1
            submit(db, who, Answer(one.item_id, f"{name}-{campaign}-{number}", **choose(one)))
    return who


def person_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in document["people"] if one["name"] == name)


def kinds(document: dict[str, Any], name: str) -> set[str]:
    return {flag["kind"] for flag in person_of(document, name)["flags"]}


def test_everybody_meets_the_gold_items_and_a_wrong_one_can_be_withdrawn(db: Database) -> None:
    items = filter_items(60)
    for n in range(6):
        items[n] = NewItem(items[n].external_id, items[n].payload, gold={"choice": "reject"})
    create_campaign(db, spec(overlap=1, gold_rate=0.5), items)
    gold = {one.external_id for one in items[:6]}
    met: dict[str, set[str]] = {"Ada": set(), "Ben": set()}
    for turn in range(200):  # both at once, so that neither has all the places
        for name, seen in met.items():
            for one in claim(db, "clips", person_named(db, name), 1):
                seen.add(one.external_id)
                right = name == "Ada" and one.external_id in gold
                choice = {"choice": "reject", "reasons": ("blur",)} if right else {"choice": "accept"}
                submit(db, person_named(db, name), Answer(one.item_id, f"{name}-{turn}-{one.item_id}"[:60], **choice))  # type: ignore[arg-type]
    assert met["Ada"] & met["Ben"] <= gold  # nothing but gold is given to both, whose overlap is one
    assert gold <= met["Ada"] & met["Ben"]
    document = make_document(db, "clips")
    assert person_of(document, "Ada")["gold"]["right"] == 6
    assert person_of(document, "Ben")["gold"]["right"] == 0
    assert "gold" in kinds(document, "Ben")
    assert "gold" not in kinds(document, "Ada")
    assert (document["gold"]["items"], document["gold"]["withdrawn"]) == (6, 0)
    assert {(one["right"], one["n"]) for one in document["gold"]["list"]} == {(1, 2)}  # Ada met each, Ben none
    close_campaign(db, "clips", "Lea")
    wrong = next(one.id for one in labels_things(db) if one.external_id in gold)
    withdraw_gold(db, wrong, "Lea")
    again = make_document(db, "clips")
    assert (again["gold"]["items"], again["gold"]["withdrawn"]) == (5, 1)
    assert again["gold"]["list"][-1] == {
        "id": wrong, "external_id": again["gold"]["list"][-1]["external_id"], "known": {"choice": "reject"},
        "right": 1, "n": 2, "withdrawn": True,
    }  # fmt: skip
    assert person_of(again, "Ben")["gold"]["n"] == 5


def labels_things(db: Database) -> list[Any]:
    from stages.review.campaigns import read_campaign
    from stages.review.labels import load_labels

    with db.read() as connection:
        return list(load_labels(connection, read_campaign(connection, "clips")).things.values())


@pytest.mark.parametrize(
    ("form", "gold"),
    [("filter", {"choice": "skip"}), ("consis", {"choice": "left"}), ("real_fake", {"choice": "same", "rest_same": True}),
     ("likert", {"choice": "rate"}), ("likert", {"scores": {"beauty": 3}}), ("likert", {"scores": {"overall": 7}})],
)  # fmt: skip
def test_a_known_answer_that_nobody_could_give_is_refused(form: str, gold: dict[str, Any]) -> None:
    with pytest.raises(ReviewError, match="known"):
        check_gold(spec(form=form), gold)


def test_a_lead_marks_an_item_later_and_its_answers_count_at_once(db: Database, make: Make) -> None:
    make(3)
    answer_all(db, "Ada", lambda one: {"choice": "accept"})
    item = labels_things(db)[0].id
    mark_gold(db, item, {"choice": "reject"}, "Lea")
    assert person_of(make_document(db, "clips"), "Ada")["gold"]["right"] == 0
    with pytest.raises(ReviewError, match="no gold item"):
        withdraw_gold(db, labels_things(db)[1].id, "Lea")


def test_careful_people_raise_no_flag_and_careless_ones_do(db: Database) -> None:
    """Ada looks; Ben takes the left whatever it shows; Cid answers at once; Dan skips half; Eve stays with one answer."""
    create_campaign(db, spec("pairs", "compare", overlap=5), compare_items(60))
    create_campaign(
        db, spec(overlap=5), [NewItem(o.external_id, dict(o.payload) | {"duration_s": 6.0}) for o in filter_items(60)]
    )
    draw = random.Random(5)

    def careful(one: Any) -> dict[str, Any]:
        better = "a" if int(one.external_id[-4:]) % 2 else "b"
        return {"choice": "left" if (better == "a") == (one.side == "AB") else "right", "watched_ms": 4000}

    def filtered(one: Any, watched: int = 4000) -> dict[str, Any]:
        good = draw.random() < 0.6
        return {"choice": "accept" if good else "reject", "reasons": () if good else ("blur",), "watched_ms": watched}

    answer_all(db, "Ada", careful, "pairs")
    answer_all(db, "Ben", lambda one: {"choice": "left", "watched_ms": 4000}, "pairs")
    for name, choose in {
        "Ada": filtered,
        "Cid": lambda one: filtered(one, watched=300),
        "Dan": lambda one: (
            {"choice": "skip", "reasons": ("other",), "watched_ms": 4000} if draw.random() < 0.5 else filtered(one)
        ),
        "Eve": lambda one: {"choice": "accept", "watched_ms": 4000},
    }.items():
        answer_all(db, name, choose)
    pairs, clips = make_document(db, "pairs"), make_document(db, "clips")
    assert kinds(pairs, "Ada") == set()
    assert "side" in kinds(pairs, "Ben")
    assert kinds(clips, "Ada") == set()
    assert kinds(clips, "Cid") == {"fast"}
    assert kinds(clips, "Dan") == {"skips"}
    assert kinds(clips, "Eve") == {"straight"}


@pytest.mark.parametrize(
    ("fast", "answers", "told"),
    # Wilson's lower end is above 0.5: of 3 of 3 it is 3 / (3 + 1.96**2) = 0.44, of 4 of 4 0.51; of 11 of 16 0.44, of 12 0.505
    [(3, 3, False), (4, 4, True), (11, 16, False), (12, 16, True), (15, 16, True), (59, 100, False), (60, 100, True)],
)
def test_who_is_plainly_too_fast_is_told_as_soon_as_chance_is_out_of_the_question(
    db: Database, fast: int, answers: int, told: bool
) -> None:
    create_campaign(
        db, spec(), [NewItem(o.external_id, dict(o.payload) | {"duration_s": 3.0}) for o in filter_items(answers)]
    )
    watched = iter([900] * fast + [3000] * (answers - fast))  # a third of the clip, or all of it
    verdicts = itertools.cycle(("accept", "reject", "accept", "accept", "reject"))  # neither a run nor a skip
    answer_all(db, "Ada", lambda one: {"choice": next(verdicts), "watched_ms": next(watched)})
    assert kinds(make_document(db, "clips"), "Ada") == ({"fast"} if told else set())


def test_the_document_of_ratings_and_of_comparisons(db: Database) -> None:
    create_campaign(db, spec("ratings", "likert", overlap=2), likert_items(20))
    create_campaign(db, spec("pairs", "compare", overlap=2), compare_items(30))

    def rated(one: Any) -> dict[str, Any]:
        score = 4 if int(one.external_id[-4:]) % 2 else 2  # sft is better
        return {"choice": "rate", "scores": dict.fromkeys(("identity", "prompt", "motion", "overall"), score)}

    strength = {"base": 0, "sft": 1, "dpo": 2}
    systems = {one.external_id: one.hidden["systems"] for one in compare_items(30)}

    def compared(one: Any) -> dict[str, Any]:
        a, b = (strength[name] for name in systems[one.external_id])
        return {"choice": "left" if (a > b) == (one.side == "AB") else "right"}

    for name in ("Ada", "Ben"):
        answer_all(db, name, rated, "ratings")
        answer_all(db, name, compared, "pairs")
    ratings = make_document(db, "ratings")
    means = {(row["dimension"], row["system"]): row["mean"] for row in ratings["likert"]}
    assert means["motion", "base"] == 2
    assert means["motion", "sft"] == 4
    alpha = [row for row in ratings["agreement"] if row["measure"] == "krippendorff"]
    assert {row["dimension"] for row in alpha} == {"identity", "prompt", "motion", "overall"}
    assert {row["value"] for row in alpha} == {1.0}
    pairs = make_document(db, "pairs")
    assert [row["system"] for row in pairs["systems"]] == ["dpo", "sft", "base"]
    preference = pairs["preference"]
    assert (preference["good"], preference["bad"], preference["gsb"]) == (0, 60, -1.0)
    assert preference["left_share"]["low"] < 0.5 < preference["left_share"]["high"]  # sides were counterbalanced


def test_the_measures_in_the_document_are_those_of_the_answers(db: Database, make: Make) -> None:
    """Ten items, two people who differ on two: raw agreement 0.8."""
    make(10, overlap=2)
    wrong = {f"clip-{n:04d}" for n in (3, 7)}
    answer_all(db, "Ada", lambda one: {"choice": "accept"})
    answer_all(db, "Ben", lambda one: {"choice": "reject"} if one.external_id in wrong else {"choice": "accept"})
    document = make_document(db, "clips")
    found = {row["measure"]: row for row in document["agreement"]}
    assert found["raw"]["value"] == pytest.approx(0.8)
    # p(accept) = 18/20, so Fleiss: (0.8 - 0.82) / 0.18; Gwet: (0.8 - 0.18) / 0.82; Cohen: (0.8 - 0.8) / 0.2
    assert found["fleiss"]["value"] == pytest.approx(-0.02 / 0.18)
    assert found["gwet_ac1"]["value"] == pytest.approx(0.62 / 0.82)
    assert found["cohen"]["value"] == pytest.approx(0.0)
    assert {row["verdict"]: row["items"] for row in document["verdicts"]} == {"accept": 8, "in_review": 2}
    assert {one["external_id"] for one in disagreements(db, "clips")} == wrong
    assert document["progress"]["disputed"] == 2


def test_an_empty_campaign_has_a_document_too(db: Database, make: Make) -> None:
    for form in ("filter", "consis", "real_fake", "compare", "likert"):
        make(2, form, form=form)
        document = make_document(db, form)
        assert document["people"] == []
        assert all(row["value"] is None for row in document["agreement"])

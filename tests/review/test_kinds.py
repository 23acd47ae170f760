"""What each kind of campaign takes for an answer, and what its answers come to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from stages.review.answers import Answer
from stages.review.campaigns import Campaign, close_campaign, create_campaign, progress
from stages.review.database import Database
from stages.review.errors import ReviewError
from stages.review.people import Person, person_named
from stages.review.queue import NotYours, claim, own_answers, reopen, save_draft, submit, undo
from stages.review.spec import LIKERT_RUBRIC, Dimension, NewItem
from stages.review.verdicts import export
from tests.review.conftest import filter_items, spec

Make = Callable[..., Campaign]
GOOD = {"identity": 5, "prompt": 4, "motion": 4, "overall": 4}


@pytest.fixture
def ada(db: Database) -> Person:
    return person_named(db, "Ada")


@pytest.fixture
def ben(db: Database) -> Person:
    return person_named(db, "Ben")


def rate(db: Database, who: Person, item: str, key: str = "", **scores: int) -> None:
    submit(db, who, Answer(item, key or f"{who.name}-{item}", "rate", scores=GOOD | scores))


def test_ratings_come_to_their_median_while_they_lie_within_a_point(
    db: Database, make: Make, ada: Person, ben: Person
) -> None:
    make(3, form="likert", overlap=2)
    items = sorted(one.item_id for one in claim(db, "clips", ada, 3))
    claim(db, "clips", ben, 3)
    for item, (hers, his) in zip(items, [(4, 4), (3, 4), (2, 4)], strict=True):
        rate(db, ada, item, overall=hers)
        rate(db, ben, item, overall=his)
    close_campaign(db, "clips", "Lea")
    found = {row["item_id"]: row["verdict"] for row in export(db, "clips").verdicts.to_pylist()}
    assert [found[item] for item in items] == ["4", "3.5", "in_review"]


def test_a_lead_settles_ratings_that_lie_apart(db: Database, make: Make, ada: Person, ben: Person) -> None:
    make(2, form="likert", overlap=2, aggregation="lead")
    items = [one.item_id for one in claim(db, "clips", ada, 2)]
    claim(db, "clips", ben, 2)
    for item, his in zip(items, (3, 1), strict=True):
        rate(db, ada, item, overall=4)
        rate(db, ben, item, overall=his)
    now = progress(db, "clips")
    assert (now.done, now.disputed) == (1, 1)
    lea = person_named(db, "Lea", "lead")
    (one,) = claim(db, "clips", lea, 4)
    assert one.item_id == items[1]
    rate(db, lea, one.item_id, overall=2)
    assert progress(db, "clips").remaining == 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"choice": "rate", "scores": {"overall": 3}}, "missing: identity, prompt, motion"),
        ({"choice": "rate", "scores": GOOD | {"motion": 6}}, "not 1 to 5: motion"),
        ({"choice": "rate", "scores": GOOD | {"beauty": 3}}, "unknown: beauty"),
        ({"choice": "skip", "reasons": ("other",), "scores": GOOD}, "takes no scores"),
        ({"choice": "accept"}, "takes rate, skip"),
        ({"choice": "skip"}, "needs a reason"),
    ],
)
def test_a_rating_is_whole_or_refused(db: Database, make: Make, ada: Person, answer: dict, said: str) -> None:
    make(1, form="likert")
    (one,) = claim(db, "clips", ada)
    with pytest.raises(ReviewError, match=said):
        submit(db, ada, Answer(one.item_id, "key", **answer))


def test_a_draft_waits_for_its_person_and_goes_with_the_answer(
    db: Database, make: Make, ada: Person, ben: Person
) -> None:
    make(2, form="likert", overlap=2)
    (one,) = claim(db, "clips", ada)
    save_draft(db, ada, one.item_id, {"motion": 2})
    save_draft(db, ada, one.item_id, {"motion": 3, "identity": 5})
    assert claim(db, "clips", ada)[0].draft == {"identity": 5, "motion": 3}
    assert {other.draft for other in claim(db, "clips", ben, 2)} == {None}
    with pytest.raises(ReviewError, match="unknown: beauty"):
        save_draft(db, ada, one.item_id, {"beauty": 2})
    with pytest.raises(NotYours):
        save_draft(db, person_named(db, "Cid"), one.item_id, {"motion": 3})
    rate(db, ada, one.item_id)
    again = undo(db, "clips", ada)
    assert again is not None
    assert again.item.draft is None
    assert again.said.scores == GOOD


def test_two_systems_are_compared_blind_and_come_back_right(db: Database, make: Make, ada: Person) -> None:
    make(12, form="compare")
    for one in claim(db, "clips", ada, 12):
        submit(db, ada, Answer(one.item_id, one.item_id, "left" if one.side == "AB" else "right"))
    close_campaign(db, "clips", "Lea")
    assert {row["verdict"] for row in export(db, "clips").verdicts.to_pylist()} == {"a"}


@pytest.mark.parametrize("side_of", ["left", "right"])
def test_an_answer_is_shown_again_as_it_was_seen(db: Database, make: Make, ada: Person, side_of: str) -> None:
    make(6, form="consis")
    for one in claim(db, "clips", ada, 6):
        submit(db, ada, Answer(one.item_id, one.item_id, side_of, rest_same=False))
    said = own_answers(db, "clips", ada, 10)
    assert [one.sequence for one in said] == [6, 5, 4, 3, 2, 1]
    assert {(one.choice, one.rest_same) for one in said} == {(side_of, False)}
    assert [one.sequence for one in own_answers(db, "clips", ada, 2, before=4)] == [3, 2]


def test_a_broken_pair_is_shown_again_as_broken(db: Database, make: Make, ada: Person) -> None:
    make(1, form="consis")
    (one,) = claim(db, "clips", ada)
    submit(db, ada, Answer(one.item_id, "key", "broken"))
    (said,) = own_answers(db, "clips", ada, 1)
    assert (said.choice, said.reasons) == ("broken", ())


def test_a_past_answer_can_be_reopened_and_changed_and_the_first_stays_in_the_log(
    db: Database, make: Make, ada: Person, ben: Person
) -> None:
    make(3)
    held = claim(db, "clips", ada, 3)
    for one in held:
        submit(db, ada, Answer(one.item_id, f"first-{one.item_id}", "accept"))
    form, opened = reopen(db, ada, held[0].item_id)
    assert (form, opened.said.choice) == ("filter", "accept")
    assert progress(db, "clips").done == 3  # it stands until another replaces it
    submit(db, ada, Answer(held[0].item_id, "second", "reject", ("blur",)))
    assert [one.choice for one in own_answers(db, "clips", ada, 9)] == ["reject", "accept", "accept"]
    with pytest.raises(NotYours):
        reopen(db, ben, held[0].item_id)


def test_undoing_one_item_twice_takes_back_one_answer(db: Database, make: Make, ada: Person) -> None:
    make(2)
    first, second = claim(db, "clips", ada, 2)
    for one in (first, second):
        submit(db, ada, Answer(one.item_id, one.item_id, "accept"))
    for _ in range(2):  # the page did not hear the first reply and asks again
        undone = undo(db, "clips", ada, second.item_id)
        assert undone is not None
        assert undone.item.item_id == second.item_id
    assert [one.item_id for one in own_answers(db, "clips", ada, 9)] == [first.item_id]


def test_answers_are_carried_only_under_the_very_same_rubric(db: Database, make: Make, ada: Person) -> None:
    make(2, "first", form="likert")
    for one in claim(db, "first", ada, 2):
        rate(db, ada, one.item_id)
    close_campaign(db, "first", "Lea")
    changed = (*LIKERT_RUBRIC[:3], LIKERT_RUBRIC[3].model_copy(update={"question": "How useful is it?"}))
    make(2, "second", form="likert")
    make(2, "third", form="likert", rubric=changed)
    assert progress(db, "second").done == 2
    assert progress(db, "third").done == 0
    assert spec(form="likert").rubric_digest != spec(form="likert", rubric=changed).rubric_digest


def test_a_rubric_without_an_overall_score_or_on_another_form_is_refused() -> None:
    with pytest.raises(ValidationError, match="overall"):
        spec(form="likert", rubric=LIKERT_RUBRIC[:3])
    with pytest.raises(ValidationError, match="only a likert campaign"):
        spec(form="filter", rubric=LIKERT_RUBRIC)
    with pytest.raises(ValidationError):
        Dimension(name="Bad Name", question="", anchors=("", "", "", "", ""))


def test_uncertain_items_and_disputed_ones_come_first_where_the_campaign_says_so(
    db: Database, ada: Person, ben: Person
) -> None:
    items = [NewItem(one.external_id, one.payload, uncertainty=n / 10) for n, one in enumerate(filter_items(8))]
    create_campaign(db, spec("unsure", order="uncertainty"), items)
    shown = [one.external_id for one in claim(db, "unsure", ada, 8)]
    assert shown == sorted(shown, reverse=True)
    create_campaign(db, spec("torn", order="disagreement", overlap=3), filter_items(8))
    agreed, torn = claim(db, "torn", ada, 2)
    claim(db, "torn", ben, 8)
    for who, choices in ((ada, ("accept", "accept")), (ben, ("accept", "reject"))):
        for one, choice in zip((agreed, torn), choices, strict=True):
            submit(db, who, Answer(one.item_id, f"{who.name}-{one.item_id}", choice, ("blur",) * (choice == "reject")))
    assert claim(db, "torn", person_named(db, "Cid"))[0].item_id == torn.item_id


def test_one_key_means_one_answer(db: Database, make: Make, ada: Person) -> None:
    make(2)
    first, second = claim(db, "clips", ada, 2)
    submit(db, ada, Answer(first.item_id, "the key", "accept"))
    with pytest.raises(ReviewError, match="belongs to another answer"):
        submit(db, ada, Answer(second.item_id, "the key", "accept"))

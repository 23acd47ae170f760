"""How answers become verdicts, and which pairs may train."""

from __future__ import annotations

from typing import Any

import pytest

from stages.review.answers import Answer, Question, conclusion, settle, trains
from stages.review.errors import ReviewError
from stages.review.spec import CampaignSpec
from stages.review.verdicts import Vote, aggregate
from tests.review.conftest import spec


def votes(*said: str, standing: str = "counted") -> list[Vote]:
    return [Vote(one, standing, (f"why {one}",)) for one in said]


def rules(said: str, overlap: int, rule: str) -> CampaignSpec:
    form = "likert" if said.isdigit() else "consis" if said in ("winner", "loser", "same") else "filter"
    return spec(form=form, overlap=overlap, aggregation=rule)


@pytest.mark.parametrize(
    ("said", "rule", "verdict"),
    [
        (["accept", "accept", "reject"], "majority", "accept"),
        (["accept", "accept", "reject"], "unanimous", "in_review"),
        (["accept", "accept", "reject"], "lead", "in_review"),
        (["accept", "accept", "accept"], "unanimous", "accept"),
        (["winner", "same", "loser"], "majority", "in_review"),  # a plurality of one is no majority
        (["skip", "skip", "accept"], "majority", "in_review"),  # a skip concludes nothing
        (["accept", "accept"], "majority", "in_review"),  # one of three answers is missing
        (["4", "5", "4"], "unanimous", "4"),  # ratings at most a point apart agree, and the median stands for them
        (["3", "4", "5"], "lead", "in_review"),
        (["1", "2", "3"], "majority", "2"),
        (["1", "3", "5"], "majority", "in_review"),
    ],
)
def test_aggregation(said: list[str], rule: Any, verdict: str) -> None:
    assert aggregate(votes(*said), rules(said[0], 3, rule)).verdict == verdict


def test_a_lead_decides_whatever_the_others_said() -> None:
    said = [*votes("accept", "reject"), *votes("reject", standing="lead")]
    found = aggregate(said, spec(overlap=2, aggregation="lead"))
    assert (found.verdict, found.reasons, found.answers) == ("reject", ("why reject",), 2)


def test_extra_answers_change_no_verdict() -> None:
    said = [*votes("accept"), *votes("reject", "reject", standing="extra")]
    assert aggregate(said, spec()).verdict == "accept"


def test_only_the_reasons_of_those_who_decided_are_given() -> None:
    assert aggregate(votes("accept", "reject", "reject"), spec(overlap=3)).reasons == ("why reject",)


@pytest.mark.parametrize(
    ("choice", "side", "rest", "verdict", "concluded"),
    [
        ("left", "AB", True, "winner", "winner"),
        ("right", "BA", True, "winner", "winner"),
        ("left", "AB", False, "winner", "rest_differs"),
        ("left", "BA", False, "loser", "loser"),
        ("same", "AB", None, "same", "same"),
        ("both_bad", "BA", None, "both_bad", "both_bad"),
        ("broken", "AB", None, "both_bad", "both_bad"),
    ],
)
def test_a_consis_answer_concludes_winner_only_when_the_rest_is_the_same(
    choice: str, side: Any, rest: bool | None, verdict: str, concluded: str
) -> None:
    settled = settle(Question("consis"), side, Answer("i", "k", choice, (), rest))
    assert settled.verdict == verdict
    assert conclusion("consis", settled.verdict, settled.values) == concluded
    assert ("broken" in settled.reasons) == (choice == "broken")


def test_a_preferred_side_without_the_second_answer_is_refused() -> None:
    with pytest.raises(ReviewError, match="second question"):
        settle(Question("consis"), "AB", Answer("i", "k", "left"))


def test_which_pairs_train() -> None:
    said = ("winner", "same", "loser", "both_bad", "rest_differs", "in_review", "skip")
    assert [one for one in said if trains("consis", one)] == ["winner"]
    assert [one for one in said if trains("real_fake", one)] == ["winner", "same"]

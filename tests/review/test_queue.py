"""The queue's promises, one by one, on a clock that the test turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from stages.review.answers import Answer
from stages.review.campaigns import Campaign, close_campaign, progress
from stages.review.database import Database
from stages.review.errors import ReviewError
from stages.review.people import Person, person_named
from stages.review.queue import Claimed, Closed, NotYours, claim, heartbeat, submit, undo
from stages.review.schema import event, response
from stages.review.verdicts import export

Make = Callable[..., Campaign]


def answer(one: Claimed, choice: str = "accept", key: str | None = None, **more: object) -> Answer:
    return Answer(one.item_id, key or f"key-{one.item_id}-{choice}", choice, **more)  # type: ignore[arg-type]


def live(db: Database) -> list[tuple[str, str]]:
    with db.read() as connection:
        rows = connection.execute(
            sa.select(response.c.verdict, response.c.standing)
            .where(response.c.state == "live")
            .order_by(response.c.submitted_at)
        )
        return [(row.verdict, row.standing) for row in rows]


@pytest.fixture
def ada(db: Database) -> Person:
    return person_named(db, "Ada")


@pytest.fixture
def ben(db: Database) -> Person:
    return person_named(db, "Ben")


def test_two_people_never_hold_one_item_when_one_answer_is_wanted(
    db: Database, make: Make, ada: Person, ben: Person
) -> None:
    make(6)
    hers, his = claim(db, "clips", ada, 4), claim(db, "clips", ben, 4)
    assert len(hers) == 4
    assert len(his) == 2
    assert not {one.item_id for one in hers} & {one.item_id for one in his}


def test_claiming_again_gives_the_same_items_in_the_same_order(db: Database, make: Make, ada: Person) -> None:
    make(6)
    first = [one.item_id for one in claim(db, "clips", ada, 3, now=0)]
    assert [one.item_id for one in claim(db, "clips", ada, 3, now=5)] == first
    assert [one.item_id for one in claim(db, "clips", ada, 4, now=6)][:3] == first


def test_people_go_through_the_items_in_different_orders(db: Database, make: Make, ada: Person, ben: Person) -> None:
    make(30, overlap=2)
    hers = [one.item_id for one in claim(db, "clips", ada, 30, now=0)]
    # her leases have run out, so nothing but his own order decides
    his = [one.item_id for one in claim(db, "clips", ben, 30, now=1000)]
    assert set(hers) == set(his)
    assert hers != his


def test_started_items_are_finished_before_new_ones_are_begun(
    db: Database, make: Make, ada: Person, ben: Person
) -> None:
    make(20, overlap=2)
    done = claim(db, "clips", ada, 3)
    for one in done:
        submit(db, ada, answer(one))
    assert {one.item_id for one in claim(db, "clips", ben, 3)} == {one.item_id for one in done}


def test_the_same_submit_twice_is_one_answer(db: Database, make: Make, ada: Person) -> None:
    make(1)
    (one,) = claim(db, "clips", ada)
    first, again = submit(db, ada, answer(one)), submit(db, ada, answer(one))
    assert (first.response_id, again.response_id) == (again.response_id, first.response_id)
    assert again.repeated
    assert live(db) == [("accept", "counted")]


def test_a_second_answer_of_a_person_replaces_the_first(db: Database, make: Make, ada: Person) -> None:
    make(1)
    (one,) = claim(db, "clips", ada)
    submit(db, ada, answer(one, "accept"))
    submit(db, ada, answer(one, "reject", reasons=("blur",)))
    assert live(db) == [("reject", "counted")]


def test_a_late_answer_counts_while_there_is_a_place_and_is_kept_as_extra_when_there_is_none(
    db: Database, make: Make, ada: Person, ben: Person
) -> None:
    make(1, lease_seconds=60)
    (hers,) = claim(db, "clips", ada, now=0)
    (his,) = claim(db, "clips", ben, now=61)
    submit(db, ada, answer(hers), now=62)  # late, but nobody has answered yet
    submit(db, ben, answer(his, "reject"), now=63)  # in time, but the only place is taken
    assert live(db) == [("accept", "counted"), ("reject", "extra")]
    assert progress(db, "clips").remaining == 0


def test_a_heartbeat_keeps_a_lease_alive_and_cannot_raise_a_dead_one(
    db: Database, make: Make, ada: Person, ben: Person
) -> None:
    make(1, lease_seconds=60)
    (one,) = claim(db, "clips", ada, now=0)
    assert heartbeat(db, ada, [one.item_id], now=50) == [one.item_id]
    assert claim(db, "clips", ben, now=100) == []
    assert heartbeat(db, ada, [one.item_id], now=111) == []
    assert len(claim(db, "clips", ben, now=112)) == 1


def test_undo_gives_the_item_back_first_and_frees_its_place(db: Database, make: Make, ada: Person) -> None:
    make(5)
    held = claim(db, "clips", ada, 3, now=0)
    submit(db, ada, answer(held[0]), now=1)
    undone = undo(db, "clips", ada, now=2)
    assert undone is not None
    assert undone.item.item_id == held[0].item_id
    assert progress(db, "clips").done == 0
    assert claim(db, "clips", ada, 3, now=3)[0].item_id == held[0].item_id
    submit(db, ada, answer(held[0], "reject", key="another"), now=4)
    assert live(db) == [("reject", "counted")]
    with db.read() as connection:
        kinds = Counter(connection.execute(sa.select(event.c.kind)).scalars())
    assert kinds["answer"] == 2  # the log keeps what was undone
    assert kinds["undo"] == 1


def test_undo_goes_back_one_answer_at_a_time_and_ends(db: Database, make: Make, ada: Person) -> None:
    make(2)
    first, second = claim(db, "clips", ada, 2)
    for one in (first, second):
        submit(db, ada, answer(one))
    undone = [undo(db, "clips", ada), undo(db, "clips", ada)]
    assert [step.item.item_id for step in undone if step] == [second.item_id, first.item_id]
    assert undo(db, "clips", ada) is None


def test_an_undo_lets_an_extra_answer_take_the_place(db: Database, make: Make, ada: Person, ben: Person) -> None:
    make(1, lease_seconds=60)
    (hers,) = claim(db, "clips", ada, now=0)
    (his,) = claim(db, "clips", ben, now=61)
    submit(db, ada, answer(hers), now=62)
    submit(db, ben, answer(his, "reject"), now=63)
    undo(db, "clips", ada, now=64)
    assert live(db) == [("reject", "counted")]


def test_an_item_that_was_never_given_to_a_person_takes_no_answer_of_theirs(
    db: Database, make: Make, ada: Person, ben: Person
) -> None:
    make(1)
    (one,) = claim(db, "clips", ada)
    with pytest.raises(NotYours):
        submit(db, ben, answer(one))


@pytest.mark.parametrize(
    "wrong",
    [{"choice": "left"}, {"choice": "reject", "reasons": ("made up",)}, {"choice": "skip", "reasons": ("blur",)}],
    ids=["a pair's answer", "an unknown reason", "a reject's reason for a skip"],
)
def test_answers_that_the_campaign_does_not_offer_are_refused(
    db: Database, make: Make, ada: Person, wrong: dict
) -> None:
    make(1)
    (one,) = claim(db, "clips", ada)
    with pytest.raises(ReviewError, match="This campaign has no"):
        submit(db, ada, answer(one, **wrong))
    assert live(db) == []


def test_a_closed_campaign_takes_no_answer_but_its_log_keeps_it(db: Database, make: Make, ada: Person) -> None:
    make(2)
    (one,) = claim(db, "clips", ada)
    close_campaign(db, "clips", "Ada")
    with pytest.raises(Closed):
        submit(db, ada, answer(one))
    with pytest.raises(Closed):
        claim(db, "clips", ada)
    with pytest.raises(Closed):
        undo(db, "clips", ada)
    with db.read() as connection:
        late = connection.execute(sa.select(event.c.detail).where(event.c.kind == "answer_after_close")).scalars().all()
    assert len(late) == 1
    assert "accept" in late[0]


@pytest.mark.parametrize(("policy", "mine", "others"), [("count", 0, 0), ("others", 0, 1), ("me", 1, 1)])
def test_a_skip_does_what_the_campaigns_policy_says(
    db: Database, make: Make, ada: Person, ben: Person, policy: str, mine: int, others: int
) -> None:
    make(1, skip_policy=policy)
    (one,) = claim(db, "clips", ada, now=0)
    submit(db, ada, answer(one, "skip", reasons=("cannot tell",)), now=1)
    assert len(claim(db, "clips", ben, now=2)) == others
    assert len(claim(db, "clips", ada, now=1000)) == mine  # his lease has run out
    assert progress(db, "clips").done == (policy == "count")


def test_a_skipped_item_comes_back_after_all_others(db: Database, make: Make, ada: Person) -> None:
    make(4, skip_policy="me")
    (skipped,) = claim(db, "clips", ada)
    submit(db, ada, answer(skipped, "skip", reasons=("other",)))
    rest = claim(db, "clips", ada, 4)
    assert [one.item_id for one in rest].index(skipped.item_id) == 3


def test_an_items_sides_are_counterbalanced_between_people(db: Database, make: Make) -> None:
    make(12, form="consis", overlap=4)
    sides: dict[str, list[str]] = {}
    for name in ("a", "b", "c", "d"):
        for one in claim(db, "clips", person_named(db, name), 12):
            sides.setdefault(one.item_id, []).append(one.side)
    assert all(Counter(shown) == {"AB": 2, "BA": 2} for shown in sides.values())
    firsts = Counter(shown[0] for shown in sides.values())
    assert set(firsts) == {"AB", "BA"}  # and one person alone sees both


def test_a_side_never_changes_for_a_person_even_when_the_lease_runs_out(
    db: Database, make: Make, ada: Person, ben: Person
) -> None:
    make(1, form="real_fake", lease_seconds=10)
    (first,) = claim(db, "clips", ada, now=0)
    claim(db, "clips", ben, now=11)
    (again,) = claim(db, "clips", ada, now=30)
    assert again.side == first.side


@pytest.mark.parametrize("pick", ["left", "right"])
def test_sides_are_undone_right(db: Database, make: Make, pick: str) -> None:
    make(8, form="real_fake")
    ada = person_named(db, "Ada")
    expected = {}
    for one in claim(db, "clips", ada, 8):
        expected[one.external_id] = "winner" if (pick == "left") == (one.side == "AB") else "loser"
        submit(db, ada, answer(one, pick))
    close_campaign(db, "clips", "Ada")
    verdicts = {row["external_id"]: row["verdict"] for row in export(db, "clips").verdicts.to_pylist()}
    assert verdicts == expected
    assert set(expected.values()) == {"winner", "loser"}


def test_a_lead_gets_what_people_disagree_on_and_decides_it(db: Database, make: Make, ada: Person, ben: Person) -> None:
    make(2, overlap=2, aggregation="lead")
    items = claim(db, "clips", ada, 2)
    claim(db, "clips", ben, 2)
    submit(db, ada, answer(items[0], key="a0"))
    submit(db, ben, answer(items[0], key="b0"))
    submit(db, ada, answer(items[1], key="a1"))
    submit(db, ben, answer(items[1], "reject", key="b1"))
    now = progress(db, "clips")
    assert (now.done, now.disputed, now.remaining) == (1, 1, 1)
    lead = person_named(db, "Lea", "lead")
    assert claim(db, "clips", person_named(db, "Cid"), 4) == []
    (disputed,) = claim(db, "clips", lead, 4)
    assert disputed.item_id == items[1].item_id
    submit(db, lead, answer(disputed, "reject", key="lead"))
    assert progress(db, "clips").remaining == 0
    close_campaign(db, "clips", "Lea")
    verdicts = {row["item_id"]: row["verdict"] for row in export(db, "clips").verdicts.to_pylist()}
    assert verdicts == {items[0].item_id: "accept", items[1].item_id: "reject"}


def test_scripted_names_are_not_for_people(db: Database) -> None:
    with pytest.raises(ReviewError, match="belong to scripted reviewers"):
        person_named(db, "Script:rules")
    assert person_named(db, "script:rules", "script").role == "script"

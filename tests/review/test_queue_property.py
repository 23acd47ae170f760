"""Nobody collides: real processes with expiring leases, kills and repeated submits, and still k counted answers an item."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from stages.review.answers import Answer
from stages.review.campaigns import close_if_done, create_campaign, progress
from stages.review.database import open_database
from stages.review.people import person_named
from stages.review.queue import claim, submit
from stages.review.schema import event, response
from tests.review.conftest import filter_items, spec

ITEMS, OVERLAP, PEOPLE = 200, 2, 4


def reviewer(database: Path, name: str, seed: int) -> None:
    """Claims a few, forgets some (their leases expire), answers some too late, and sends some answers twice."""
    draw = random.Random(seed)
    db = open_database(database)
    who = person_named(db, name)
    number = 0
    while True:
        held = claim(db, "clips", who, draw.randint(1, 4))
        if not held and progress(db, "clips").remaining == 0:
            return
        if not held:
            time.sleep(0.02)  # others hold the rest; their leases run out by the clock
        for one in held:
            fate = draw.random()
            if fate < 0.08:
                continue
            if fate < 0.12:
                time.sleep(1.05)  # longer than the lease: the answer comes late
            number += 1
            answer = Answer(one.item_id, f"{name}-{seed}-{number}", draw.choice(["accept", "reject"]))
            receipt = submit(db, who, answer)
            if draw.random() < 0.2:
                assert submit(db, who, answer).response_id == receipt.response_id


@pytest.mark.timeout(120)
def test_every_item_gets_exactly_k_counted_answers_and_none_is_lost(tmp_path: Path) -> None:
    database = tmp_path / "review.db"
    db = open_database(database)
    create_campaign(db, spec(overlap=OVERLAP, lease_seconds=1), filter_items(ITEMS))
    spawn = multiprocessing.get_context("spawn")
    people = [spawn.Process(target=reviewer, args=(database, f"person {n}", n)) for n in range(PEOPLE)]
    for process in people:
        process.start()
    # One is killed without warning, mid-work, and comes back under the same name.
    wait_until(lambda: progress(db, "clips").done > 20)
    os.kill(people[0].pid or 0, signal.SIGKILL)
    people[0].join()
    people[0] = spawn.Process(target=reviewer, args=(database, "person 0", 99))
    people[0].start()
    for process in people:
        process.join(90)
        assert process.exitcode == 0

    with db.read() as connection:
        live = connection.execute(
            sa.select(response.c.item_id, response.c.person_id, response.c.standing).where(response.c.state == "live")
        ).all()
        answered = connection.execute(sa.select(sa.func.count()).where(event.c.kind == "answer")).scalar_one()
    per_item = Counter(row.item_id for row in live if row.standing == "counted")
    assert len(per_item) == ITEMS
    assert set(per_item.values()) == {OVERLAP}
    assert len({(row.item_id, row.person_id) for row in live}) == len(live)  # a person answers an item once
    assert answered == len(live)  # every accepted submit is there, counted or extra
    assert close_if_done(db, "clips").remaining == 0


def wait_until(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)

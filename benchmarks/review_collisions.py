"""Nobody collides: reviewers as real processes that forget items, come late, repeat submits and are killed.

At the end every item has exactly min(k, people) counted answers, no person has two on one item, and every answer that was
accepted is in the database.

    python -m benchmarks.review_collisions --processes 8 --items 2000 --overlap 2 --kills 8
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.postgres import postgres, postgres_missing
from stages.review.answers import Answer
from stages.review.campaigns import close_if_done, create_campaign, progress
from stages.review.database import Database, open_database
from stages.review.people import person_named
from stages.review.queue import Claimed, claim, heartbeat, submit, undo
from stages.review.schema import event, response
from stages.review.spec import CampaignSpec, NewItem

CAMPAIGN = "collisions"
SKIPS = ("cannot tell",)
SKIPPER = "person 0"  # one alone: were an item skipped by too many, nobody would be left to answer it


def reviewer(database: str, name: str, seed: int, lease_seconds: float) -> None:
    """Works until nothing remains: 8% of the items forgotten, 4% answered too late, 20% of the answers sent twice."""
    draw = random.Random(seed)
    db = open_database(database)
    who = person_named(db, name)
    number = 0
    while True:
        held = claim(db, CAMPAIGN, who, draw.randint(1, 4))
        if not held and progress(db, CAMPAIGN).remaining == 0:
            return
        if not held:
            time.sleep(0.02)  # others hold the rest; their leases run out by the clock
        if held and draw.random() < 0.1:
            heartbeat(db, who, [one.item_id for one in held])
        for one in held:
            fate = draw.random()
            if fate < 0.08:
                continue
            if fate < 0.12:
                time.sleep(lease_seconds * 1.05)
            number += 1
            answer = _answer(one, f"{name}-{seed}-{number}", draw, may_skip=name == SKIPPER)
            receipt = submit(db, who, answer)
            if draw.random() < 0.2:
                assert submit(db, who, answer).response_id == receipt.response_id
            if draw.random() < 0.02:
                undo(db, CAMPAIGN, who)


def _answer(one: Claimed, key: str, draw: random.Random, *, may_skip: bool) -> Answer:
    choice = draw.choices(["accept", "reject", "skip"], [55, 35, 10 if may_skip else 0])[0]
    return Answer(one.item_id, key, choice, SKIPS if choice == "skip" else ())


def run(
    database: str | Path,
    *,
    processes: int,
    items: int,
    overlap: int,
    kills: int,
    skip_policy: str = "count",
    lease_seconds: int = 1,
    seed: int = 0,
    patience_s: float = 600.0,
) -> dict[str, Any]:
    """One campaign from start to end. Raises ``AssertionError`` when a promise is broken."""
    started = time.monotonic()
    db = open_database(database)
    spec = CampaignSpec(
        campaign_id=CAMPAIGN,
        form="filter",
        title="Collisions",
        guidelines="",
        overlap=overlap,
        lease_seconds=lease_seconds,
        skip_policy=skip_policy,  # type: ignore[arg-type]
        seed=seed,
    )
    create_campaign(db, spec, [NewItem(f"clip-{n:05d}", {"media": f"{n:032x}.webm"}) for n in range(items)])
    spawn = multiprocessing.get_context("spawn")

    def start(number: int, turn: int) -> BaseProcess:
        arguments = (str(database), f"person {number}", seed + 1000 * turn + number, lease_seconds)
        process = spawn.Process(target=reviewer, args=arguments)
        process.start()
        return process

    people = [start(number, 0) for number in range(processes)]
    try:
        killed = 0
        while any(process.is_alive() for process in people):
            assert time.monotonic() - started < patience_s, f"not done in {patience_s} s: {progress(db, CAMPAIGN)}"
            done = progress(db, CAMPAIGN).done
            if killed < kills and done >= items * (killed + 1) / (kills + 2):
                number = killed % processes
                os.kill(people[number].pid or 0, signal.SIGKILL)  # without warning, at whatever it does
                people[number].join()
                killed += 1
                people[number] = start(number, killed)
            time.sleep(0.02)
        for process in people:
            process.join()
            assert process.exitcode == 0, f"a reviewer ended with {process.exitcode}"
    finally:
        for process in people:
            process.kill()
    found = check(db, items, min(overlap, processes), skip_policy)
    assert killed == kills
    db.close()
    return found | {"kills": killed, "seconds": round(time.monotonic() - started, 1)}


def check(db: Database, items: int, wanted: int, skip_policy: str) -> dict[str, Any]:
    """The promises, by counting."""
    columns = (response.c.id, response.c.item_id, response.c.person_id, response.c.standing, response.c.state)
    with db.read() as connection:
        rows = connection.execute(sa.select(*columns, response.c.verdict)).all()
        logged = connection.execute(sa.select(event.c.detail).where(event.c.kind == "answer")).scalars().all()
    live = [row for row in rows if row.state == "live"]
    counted = Counter(row.item_id for row in live if row.standing == "counted")
    assert len(counted) == items, f"{items - len(counted)} items have no counted answer"
    assert set(counted.values()) == {wanted}, f"counted answers per item: {Counter(counted.values())}"
    assert len({(row.item_id, row.person_id) for row in live}) == len(live), "a person has two answers on an item"
    assert {json.loads(detail)["response"] for detail in logged} == {row.id for row in rows}, "an answer is lost"
    assert len(logged) == len(rows)
    if skip_policy != "count":
        assert not [row for row in live if row.verdict == "skip" and row.standing != "set_aside"]
    assert close_if_done(db, CAMPAIGN).remaining == 0
    return {
        "items": items,
        "counted": sum(counted.values()),
        "extra": sum(row.standing == "extra" for row in live),
        "withdrawn": sum(row.state == "withdrawn" for row in rows),
        "answers": len(rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--overlap", type=int, default=2)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    size = {name: getattr(given, name) for name in ("processes", "items", "overlap", "kills")}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fulcrum-review-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the database server runs as somebody else
        for policy in ("count", "others", "me"):
            found[f"sqlite, {policy}"] = run(folder / policy / "review.db", skip_policy=policy, **size)
            print(policy, found[f"sqlite, {policy}"], flush=True)
        missing = postgres_missing()
        if missing:
            found["postgresql"] = missing
        else:
            with postgres(folder / "server") as url:
                found["postgresql, count"] = run(url, **size)
        print(found)
    if not given.no_write:
        from benchmarks.measured import write

        print(write("review_collisions", size | found))


if __name__ == "__main__":
    main()

"""Simulated reviewers against the real server: what claim and submit take, and whether every answer is there afterwards.

Each reviewer logs in with a cookie, keeps a few items ahead as the page does, thinks for an exponential time, answers, and
sends one answer in twenty twice. Latencies are taken at the client, over HTTP on this machine.

    python -m benchmarks.review_load --reviewers 50 --seconds 300
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import sqlalchemy as sa

from stages.review.campaigns import create_campaign
from stages.review.database import open_database
from stages.review.people import invite
from stages.review.schema import response
from stages.review.spec import CampaignSpec, NewItem

CAMPAIGN = "load"
AHEAD = 3  # items that the page keeps beyond the one on show
STARTS_S = 30.0


@dataclass
class Seen:
    """What the clients saw: latencies in seconds, the keys of acknowledged answers, and whatever went wrong."""

    claim: list[float] = field(default_factory=list)
    submit: list[float] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def reviewer(base: str, token: str, number: int, until: float, think_s: float, seen: Seen) -> None:
    """One person from login until the time is up or nothing is left."""
    draw = random.Random(number)
    async with httpx.AsyncClient(base_url=base, timeout=30.0) as browser:
        form = re.search(r'name="csrf" value="([^"]+)"', (await browser.get("/login")).text)
        assert form
        await browser.post("/login", data={"csrf": form[1], "token": token, "next": "/"})
        browser.headers["x-csrf-token"] = (await browser.get("/api/me")).json()["csrf"]
        if think_s:  # people do not all press at the same moment
            await asyncio.sleep(draw.uniform(0, think_s))
        held: list[str] = []
        done = 0
        while time.monotonic() < until:
            if len(held) <= AHEAD:
                claimed = browser.post(f"/api/campaigns/{CAMPAIGN}/claim", json={"n": AHEAD + 1})
                answer = await _timed(claimed, seen.claim, seen)
                held += [one["id"] for one in answer["items"] if one["id"] not in held]
            if not held:
                return
            if think_s:
                await asyncio.sleep(draw.expovariate(1 / think_s))
            item = held.pop(0)
            done += 1
            key = f"{number:04d}-{done:06d}"
            choice = draw.choice(["accept", "reject"])
            body = {"key": key, "choice": choice, "watched_ms": 2000}
            for _ in range(2 if draw.random() < 0.05 else 1):
                sent = browser.post(f"/api/items/{item}/response", json=body)
                if (await _timed(sent, seen.submit, seen)).get("stored"):
                    seen.stored.append(key)


async def _timed(request: Awaitable[httpx.Response], latencies: list[float], seen: Seen) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        got = await request
    except httpx.HTTPError as error:
        seen.wrong.append(f"{type(error).__name__}: {error}")
        return {"items": []}
    latencies.append(time.perf_counter() - started)
    if got.status_code != 200:
        seen.wrong.append(f"{got.status_code}: {got.text[:200]}")
        return {"items": []}
    answer: dict[str, Any] = got.json()
    return answer


def run(folder: Path, *, reviewers: int, seconds: float, think_s: float, items: int) -> dict[str, Any]:
    """One load on a fresh server. Raises ``AssertionError`` when an answer is lost or a request failed."""
    database = folder / "review.db"
    db = open_database(database)
    spec = CampaignSpec(campaign_id=CAMPAIGN, form="filter", title="Load", guidelines="", overlap=2)
    create_campaign(
        db, spec, [NewItem(f"clip-{n:05d}", {"media": f"{n:032x}.webm", "caption": "a clip"}) for n in range(items)]
    )
    tokens = [invite(db, f"person {number}", "annotator") for number in range(reviewers)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    serve = f"from stages.review.app import serve; serve({str(database)!r}, port={port})"
    with log.open("w") as out:
        server = subprocess.Popen([sys.executable, "-c", serve], stdout=out, stderr=out)
    try:
        base = f"http://127.0.0.1:{port}"
        _wait(base, server, log)
        seen = Seen()
        started, before = time.monotonic(), sum(psutil.Process(server.pid).cpu_times()[:2])

        async def crowd() -> None:
            until = time.monotonic() + seconds
            await asyncio.gather(*(reviewer(base, token, n, until, think_s, seen) for n, token in enumerate(tokens)))

        asyncio.run(crowd())
        took = time.monotonic() - started
        spent = sum(psutil.Process(server.pid).cpu_times()[:2]) - before
    finally:
        server.terminate()
        server.wait(20)
    said = log.read_text()
    with db.read() as connection:
        kept = set(connection.execute(sa.select(response.c.idempotency_key)).scalars())
    db.close()
    assert seen.claim, "nothing was claimed in the time given"
    assert seen.submit, "nothing was answered in the time given"
    assert not seen.wrong, f"{len(seen.wrong)} requests failed: {seen.wrong[:3]}\n{said[-2000:]}"
    assert "database is locked" not in said, said[-2000:]
    assert set(seen.stored) == kept, f"{len(set(seen.stored) - kept)} acknowledged answers are not in the database"
    return {
        "reviewers": reviewers,
        "seconds": round(took, 1),
        "think_s": think_s,
        "items": items,
        "answers": len(kept),
        "answers_per_s": round(len(kept) / took, 1),
        "lost": 0,
        "server_cpu_ms_per_answer": round(1000 * spent / max(len(kept), 1), 1),
        "claim_ms": _quantiles(seen.claim),
        "submit_ms": _quantiles(seen.submit),
    }


def _wait(base: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTS_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            if httpx.get(f"{base}/login").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"the server did not answer within {STARTS_S} s: {log.read_text()}")


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)

    return {"n": len(ordered), "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviewers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--closed-seconds", type=float, default=60, help="of the closed loop without think time")
    parser.add_argument("--think", type=float, default=2.0, help="mean think time in seconds")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fulcrum-load-") as name:
        size = {"reviewers": given.reviewers, "items": given.items}
        loads = {"open": (given.seconds, given.think), "closed": (given.closed_seconds, 0.0)}
        for kind, (seconds, think_s) in loads.items():
            found[kind] = run(Path(name, kind), seconds=seconds, think_s=think_s, **size)
            print(kind, found[kind], flush=True)
    if not given.no_write:
        from benchmarks.measured import write

        print(write("review_load", found))


if __name__ == "__main__":
    main()

"""A busy day for real: PostgreSQL, an MLflow server, ``fulcrum serve``, reviewers over HTTP, and two pipelines side by side on one
store, of which one is killed with SIGKILL in the middle and started again. The same is then done one after another, and compared.

    python -m benchmarks.busy_day --films 12 --reviewers 8

Every command is the real one, in a process of its own; processes are forked from one that has imported everything, which
saves seconds of imports each and changes nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from benchmarks.mlflow_server import server as mlflow_server
from benchmarks.postgres import postgres
from benchmarks.s3_faults import content
from data_schemas.tables import DECISIONS
from pipelines.config import hide
from pipelines.dag.artifacts import Manifest, open_table, read_manifest
from pipelines.dag.runs import RunRecord, load_runs
from pipelines.dag.store import Store
from pipelines.tracking import FINGERPRINT, flatten
from stages.review.database import open_database
from stages.review.people import invite
from stages.review.schema import campaign, item, response

OVERLAP = 2
EXPERIMENT = "busy"
ANSWERS = ("review_clips.decisions", "review_clips.ledger")  # who said it is drawn by chance
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["pipelines.launch", "pipelines.curate", "stages.review.app", "mlflow.tracking", "torch"]
)


def _command(arguments: Sequence[str], log: str, env: Mapping[str, str]) -> None:
    """In a new process: ``fulcrum`` with these arguments."""
    os.setsid()
    os.environ.update(env)
    for number, name in ((1, log), (2, f"{log}.err")):
        with open(name, "ab", buffering=0) as out:
            os.dup2(out.fileno(), number)
    sys.argv = ["fulcrum", *arguments]
    from fulcrum.__main__ import main

    main()


class Command:
    """A running ``fulcrum`` command and what it has said so far."""

    def __init__(self, log: Path, env: Mapping[str, str], *arguments: str) -> None:
        self.log, self.arguments, self.env = log, arguments, env
        self.process = _PROCESSES.Process(target=_command, args=(arguments, str(log), dict(env)))
        self.process.start()

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    def said(self) -> str:
        both = (self.log, self.log.with_name(f"{self.log.name}.err"))
        return "".join(path.read_text() for path in both if path.exists())

    def events(self) -> Iterator[dict[str, Any]]:
        """What it has printed so far, which must be JSON lines and nothing else, but for one that is being written."""
        text = self.log.read_text() if self.log.exists() else ""
        yield from (json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines())

    def begun(self, stage: str) -> bool:
        return any(one["event"] == "stage_started" and one["name"] == stage for one in self.events())

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, number)
        self.process.join()


@dataclass
class Services:
    folder: Path
    database: str
    mlflow: str
    page: str
    env: dict[str, str]
    settings: Sequence[str] = ()

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    def run(self, name: str, source: Path, number: int) -> Command:
        settings = ["engine.kind=inline", f"review.database={self.database}", f"tracking.uri={self.mlflow}",
                    f"tracking.experiment={EXPERIMENT}", f"review_clips.overlap={OVERLAP}", *self.settings]  # fmt: skip
        given = [f"--set={one}" for one in settings]
        log = self.folder / f"{name}-{number}.log"
        return Command(log, self.env, "run", "curate", "--source", str(source), "--store", self.store, "--json", *given)


@contextmanager
def services(folder: Path, settings: Sequence[str]) -> Iterator[Services]:
    """PostgreSQL, MLflow and the page, all started and answering."""
    folder.mkdir()
    env = {"FULCRUM_REVIEW_MEDIA": str(folder / "media")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "tracking").mkdir()
    # PostgreSQL runs as nobody: a folder that is closed to others would be closed to it
    with (
        tempfile.TemporaryDirectory(prefix="fulcrum-pg-", dir="/tmp") as at,
        mlflow_server(folder / "tracking") as mlflow,
    ):
        os.chmod(at, 0o755)
        with postgres(Path(at, "server")) as database:
            open_database(database).close()
            Store(str(folder / "store"))
            serve = ["serve", "--store", str(folder / "store"), "--database", database, "--port", str(port)]
            page = Command(folder / "serve.log", env, *serve)
            try:
                base = f"http://127.0.0.1:{port}"
                _await(base, page)
                yield Services(folder, database, mlflow, base, env, settings)
            finally:
                page.kill(signal.SIGTERM)


def _await(base: str, page: Command) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{base}/login").status_code == 200:
                return
        if page.code is not None:
            break
        time.sleep(0.2)
    raise SystemExit(f"the page does not answer:\n{page.said()[-2000:]}")


# -- people ----------------------------------------------------------------------------------------------------------


@dataclass
class People:
    """Reviewers who work until they are told to stop. All judge alike, by the clip's own bytes: verdicts then owe nothing to chance."""

    base: str
    tokens: Sequence[str]
    stored: list[str] = field(default_factory=list)
    sent_twice: int = 0
    wrong: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def working(self) -> Iterator[None]:
        thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join()

    async def _all(self) -> None:
        await asyncio.gather(*(self._one(number, token) for number, token in enumerate(self.tokens)))

    async def _one(self, number: int, token: str) -> None:
        done = 0
        async with httpx.AsyncClient(base_url=self.base, timeout=60.0) as browser:
            form = re.search(r'name="csrf" value="([^"]+)"', (await browser.get("/login")).text)
            assert form
            await browser.post("/login", data={"csrf": form[1], "token": token, "next": "/"})
            browser.headers["x-csrf-token"] = (await browser.get("/api/me")).json()["csrf"]
            while not self.over.is_set():
                held = []
                for found in sorted(set(re.findall(r'href="/c/([^"/?]+)"', (await browser.get("/")).text))):
                    came = await browser.post(f"/api/campaigns/{found}/claim", json={"n": 2})
                    held += came.json()["items"] if came.status_code == 200 else []
                for shown in held:
                    done += 1
                    key = f"{number:04d}-{done:06d}"
                    video = await browser.get(shown["videos"][0])
                    body = {"key": key, "choice": judged(video.content), "watched_ms": 900}
                    for _ in range(1 + (done % 4 == 0)):  # as after an answer that got lost on its way
                        got = await browser.post(f"/api/items/{shown['id']}/response", json=body)
                        if got.status_code != 200:
                            self.wrong.append(f"{got.status_code}: {got.text[:200]}")
                    self.sent_twice += done % 4 == 0
                    self.stored.append(key)
                if not held:
                    await asyncio.sleep(0.5)


def judged(video: bytes) -> str:
    return "reject" if hashlib.sha256(video).digest()[0] < 64 else "accept"


def unanswered(database: str) -> int:
    """Answers that open campaigns still need."""
    opened = open_database(database)
    counted = sa.select(sa.func.count()).select_from(response).where(response.c.item_id == item.c.id).scalar_subquery()
    with opened.read() as connection:
        rows = connection.execute(
            sa.select(counted).select_from(item.join(campaign)).where(campaign.c.state == "open")
        ).scalars()
        missing = sum(max(0, OVERLAP - n) for n in rows)
    opened.close()
    return missing


# -- the day ---------------------------------------------------------------------------------------------------------


def busy(at: Services, sources: Mapping[str, Path], kill: str | None, side_by_side: bool) -> dict[str, Any]:
    """Run curate on every source until all are done; returns how it went. ``kill`` names the one that is killed once."""
    waiting = list(sources)
    running: dict[str, Command] = {}
    starts: Counter[str] = Counter()
    killed: str | None = None
    together = False
    while waiting or running:
        for name in list(waiting):
            if (side_by_side or not running) and (starts[name] == 0 or unanswered(at.database) == 0):
                waiting.remove(name)
                starts[name] += 1
                running[name] = at.run(name, sources[name], starts[name])
                if starts[name] > 8:
                    raise SystemExit(f"{name} does not come to its end:\n{running[name].said()[-3000:]}")
            if not side_by_side:
                break
        together |= len(running) == len(sources)
        for name, command in list(running.items()):
            if name == kill and killed is None and command.begun("embed"):
                command.kill()
                killed = "embed"
            if command.code is None:
                continue
            del running[name]
            list(command.events())
            if command.code not in (0, 75, -signal.SIGKILL):
                raise SystemExit(f"{name} ended with {command.code}:\n{command.said()[-3000:]}")
            if command.code != 0:
                waiting.insert(0, name)
        time.sleep(0.2)
    return {"starts": dict(starts), "killed_in": killed, "side_by_side": together}


def day(
    folder: Path,
    sources: Mapping[str, Path],
    reviewers: int,
    kill: str | None,
    side_by_side: bool,
    settings: Sequence[str],
) -> dict[str, Any]:
    """One day and everything that must be true of it at its end; raises ``SystemExit`` where it is not."""
    with services(folder, settings) as at:
        opened = open_database(at.database)
        tokens = [invite(opened, f"person {number}", "annotator") for number in range(reviewers)]
        people = People(at.page, tokens)
        started = time.monotonic()
        with people.working():
            how = busy(at, sources, kill, side_by_side)
        seconds = time.monotonic() - started
        store = Store(at.store, create=False)
        last = {run.ledger: run for run in load_runs(store) if run.state == "done"}
        runs = [*last.values()]
        if len(runs) != len(sources):
            raise SystemExit(f"{len(runs)} runs of {len(sources)} are done")
        with opened.read() as connection:
            kept = list(connection.execute(sa.select(response.c.idempotency_key, response.c.person_id)).all())
            open_ones = connection.execute(sa.select(sa.func.count()).where(campaign.c.state != "closed")).scalar()
        opened.close()
        decided = sum(_decisions(store, run) for run in runs)
        problems = [*people.wrong]
        problems += [f"{open_ones} campaigns are open"] if open_ones else []
        if not len(kept) == len(set(people.stored)) == decided:
            problems.append(f"{len(set(people.stored))} answers were given, {len(kept)} kept, {decided} committed")
        if not all(_decisions(store, run) for run in runs):
            problems.append("a run had nothing to ask: take more footage")
        published = [one for run in runs for one in _published(at.mlflow, store, run, problems)]
        if problems:
            raise SystemExit("\n".join(problems))
        # by what each pipeline read, since run ids and their order are chance
        results = {name: content(store, _of(runs, store, source)) for name, source in sources.items()}
    return {
        **how,
        "seconds": round(seconds, 1),
        "answers": len(kept),
        "answers_sent_twice": people.sent_twice,
        "answers_counted_once": len(kept),
        "people_who_answered": len({person for _, person in kept}),
        "commits_in_mlflow": len(published),
        "results": results,
    }


def _commits(store: Store, run: RunRecord) -> list[Manifest]:
    found = [read_manifest(store, node.name, node.fingerprint or "") for node in run.nodes]
    return [manifest for manifest in found if manifest is not None]


def _decisions(store: Store, run: RunRecord) -> int:
    gate = next(m for m in _commits(store, run) if "decisions" in m.outputs)
    return open_table(store, gate.outputs["decisions"].path, DECISIONS).count_rows()


def _of(runs: Sequence[RunRecord], store: Store, source: Path) -> RunRecord:
    """The run whose configuration names the source."""
    return next(run for run in runs if store.read_json(f"runs/{run.run_id}/config.json")["source"] == str(source))


def _published(uri: str, store: Store, run: RunRecord, problems: list[str]) -> list[str]:
    """Fingerprints of the run's commits that MLflow holds once, finished, with their parameters, rows and stage."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    parent = client.get_run(run.tracking["parent"])
    if (parent.info.status, parent.data.tags["fulcrum.state"]) != ("FINISHED", "done"):
        problems.append(f"MLflow's run of {run.run_id} is {parent.info.status}")
    whole = []
    for manifest in _commits(store, run):
        found = client.search_runs([experiment], f"tags.`{FINGERPRINT}` = '{manifest.fingerprint}'")
        wanted = flatten(hide(manifest.preimage["params"]))
        rows = {f"rows.{name}": float(o.rows) for name, o in manifest.outputs.items() if o.rows is not None}
        if len(found) != 1 or found[0].info.status != "FINISHED":
            problems.append(f"MLflow has {len(found)} runs of {manifest.node}, not one finished one")
        elif found[0].data.params != wanted or not rows.items() <= found[0].data.metrics.items():
            problems.append(f"MLflow holds other parameters or rows of {manifest.node}")
        elif found[0].data.tags["fulcrum.stage"] != manifest.stage:
            problems.append(f"MLflow calls the stage of {manifest.node} {found[0].data.tags['fulcrum.stage']}")
        else:
            whole.append(manifest.fingerprint)
    return whole


def measure(
    folder: Path, sources: Mapping[str, Path], reviewers: int, compare: bool, settings: Sequence[str] = ()
) -> dict[str, Any]:
    """The busy day, and with ``compare`` the calm one; ``settings`` are of every run, as for ``fulcrum run --set``."""
    killed = list(sources)[-1]
    found = day(folder / "busy", sources, reviewers, killed, True, settings)
    results = found.pop("results")
    if not found["side_by_side"] or found["killed_in"] is None:
        raise SystemExit("the runs were not side by side, or none was killed: take more footage")
    found["outputs"] = sum(len(one) for one in results.values())
    if compare:
        calm = day(folder / "calm", sources, reviewers, None, False, settings)
        theirs = calm.pop("results")
        different = [
            f"{run}: {name}"
            for run in results
            for name in sorted({*results[run], *theirs[run]} - {*ANSWERS})
            if results[run].get(name) != theirs[run].get(name)
        ]
        if different:
            raise SystemExit(f"these differ from the same runs one after another: {', '.join(different)}")
        found |= {"different_from_one_after_another": 0, "one_after_another": calm}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=12, help="rendered films of each pipeline")
    parser.add_argument("--reviewers", type=int, default=8)
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fulcrum-busy-"))
    try:
        from tinyworld.render import render_world

        sources = {name: folder / "films" / name for name in ("morning", "evening")}
        for seed, source in enumerate(sources.values()):
            render_world(seed, given.films, source, None)
        found = measure(folder, sources, given.reviewers, compare=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=1))
    if not given.no_write:
        from benchmarks.measured import write

        print(write("busy_day", found))


if __name__ == "__main__":
    main()

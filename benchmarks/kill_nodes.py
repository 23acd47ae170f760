"""Kills nodes of a real Ray cluster in the middle of a pipeline that was submitted to it, and compares everything it made with
an undisturbed run in one process.

    python -m benchmarks.kill_nodes

The cluster is a head without CPUs, two workers of group cpu and one of group gpu-small, each in a network namespace with an
address of its own where that can be made (benchmarks/nodes.py). `fulcrum submit` sends the code as a wheel. In each round a
fresh store is filled while one node is killed, raylet, agents and workers at once, when a worker of the named stage is at work
on it; after a while the node is started again, as an autoscaler would. In the last round it is the head: the job dies with it,
head and workers are started again, and the same `fulcrum submit` goes on. Every row of every table, the ledger and the digests
of all files, weights among them, must be those of the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from benchmarks.kill_and_resume import digests
from benchmarks.kill_curate import different, lengths, tables
from benchmarks.nodes import Cluster, NodeSpec
from pipelines.dag.runs import load_runs
from pipelines.dag.state import EXIT_DONE, EXIT_WAITING
from pipelines.dag.store import Store

ROOT = Path(__file__).resolve().parent.parent
WORKERS = (NodeSpec("one", "cpu", 1), NodeSpec("two", "cpu", 1), NodeSpec("three", "gpu-small", 1))
LABELS = {
    "analyze": {"fulcrum/group": "cpu"},
    **{name: {"fulcrum/group": "gpu-small"} for name in ("embed", "encode", "sft_in")},
}
KILLS = {"analyze": "one", "embed": "three", "encode": "three", "sft_in": "three"}
AWAY_S = 10.0  # between a node's death and its return


@dataclass(frozen=True)
class Job:
    """What is submitted: a pipeline and everything it is told, but the store."""

    pipeline: str
    options: Sequence[str]
    package: Path | None = None

    def words(self, command: str, store: Path) -> list[str]:
        return [sys.executable, "-m", "fulcrum", command, self.pipeline, "--store", str(store), "--json", *self.options]


@dataclass(frozen=True)
class Kill:
    """Kill ``node`` when a worker has been at work on it for ``delay_s`` since the stage began; ``mark`` is a file made then."""

    node: str
    delay_s: float
    back: bool = True
    mark: Path | None = None


@dataclass
class Round:
    """One run on the cluster, and what was done to it."""

    seconds: float = 0.0
    code: int = 0
    kills: list[dict[str, object]] = field(default_factory=list)
    stages: Mapping[str, float] = field(default_factory=dict)
    said: str = ""


def submit(cluster: Cluster, job: Job, store: Path, kills: Mapping[str, Kill] | None = None) -> Round:
    """Submit and follow, and kill nodes meanwhile: ``kills`` by the stage in whose middle it is to be done."""
    command = [*job.words("submit", store), "--address", cluster.jobs]
    command += ["--package", str(job.package)] if job.package else []
    found, started, todo = Round(), time.monotonic(), dict(kills or {})
    places = [str(ROOT), *([str(job.package.parent)] if job.package else [])]
    process = subprocess.Popen(
        command,
        env={**cluster.client, "PYTHONPATH": os.pathsep.join(places)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cluster.folder,
    )
    over = threading.Event()

    def strike(stage: str, kill: Kill) -> None:
        began = time.monotonic()
        while kill.node != "head" and not cluster.working(kill.node) and not over.wait(0.1):
            continue
        if over.wait(kill.delay_s):
            return
        after = round(time.monotonic() - began, 2)
        count = cluster.kill(kill.node)
        if kill.mark:
            kill.mark.touch()
        found.kills.append({"stage": stage, "node": kill.node, "processes": count, "after_s": after})
        if kill.back and kill.node != "head":
            time.sleep(AWAY_S)
            cluster.start(next(spec for spec in cluster.workers if spec.name == kill.node))

    assert process.stdout is not None
    lines, threads = list[str](), list[threading.Thread]()
    for line in process.stdout:
        lines.append(line)
        event = _event(line)
        if event.get("event") == "stage_started" and event.get("name") in todo:
            stage = str(event["name"])
            threads.append(threading.Thread(target=strike, args=(stage, todo.pop(stage))))
            threads[-1].start()
    found.code = process.wait()
    over.set()
    found.seconds = round(time.monotonic() - started, 1)
    for thread in threads:
        thread.join()
    found.said = "".join(lines)[-4000:]
    if load_runs(Store(str(store), create=False)):
        found.stages = lengths(store)
    return found


def _event(line: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def undisturbed(job: Job, store: Path) -> float:
    """The whole pipeline in one process without Ray; its seconds."""
    started = time.monotonic()
    inline = ["--set", "engine.kind=inline", "--set", "sft_in.engine=inline"]
    done = subprocess.run(
        [*job.words("run", store), *inline],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            f"the undisturbed run ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return time.monotonic() - started


def measure(
    folder: Path, films: int, stages: Sequence[str], with_head: bool, seed: int, together: bool = False
) -> dict[str, object]:
    from tinyworld.render import render_world

    source = folder / "world"
    render_world(seed, films, source, None)
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump({"tracking": {"enabled": False}, "engine": {"labels": LABELS}}))
    options = ["--source", str(source), "--config", str(config)]
    job = Job("benchmarks.short_road:PIPELINE", options, ROOT / "benchmarks")
    inline = undisturbed(job, folder / "inline")
    truth, truth_digests = tables(folder / "inline"), digests(folder / "inline")
    rng, rounds = random.Random(seed), list[dict[str, object]]()

    def check(what: str, store: Path) -> None:
        wrong = different(store, truth, truth_digests)
        if wrong:
            raise SystemExit(f"{what}: these differ from the undisturbed run: {', '.join(wrong)}")
        print(f"{what}: all {len(truth)} tables and {len(truth_digests)} artifacts equal", flush=True)
        shutil.rmtree(store)

    with Cluster(folder / "cluster", WORKERS) as cluster:
        whole = Round() if together else submit(cluster, job, folder / "whole")
        if whole.code:
            raise SystemExit(f"undisturbed on the cluster, it ended with {whole.code}:\n{whole.said}")
        if not together:
            check(f"undisturbed on the cluster, {whole.seconds} s", folder / "whole")
        for stages_here in [list(stages)] if together and stages else [[stage] for stage in stages]:
            store, name = folder / f"killed-{stages_here[0]}", ", ".join(stages_here)
            kills = {s: Kill(KILLS[s], rng.uniform(0, 0.3 * whole.stages.get(s, 6.0))) for s in stages_here}
            done = submit(cluster, job, store, kills)
            if done.code or len(done.kills) != len(kills):
                raise SystemExit(f"{name}: ended with {done.code}, killed {done.kills}:\n{done.said}")
            for kill in done.kills:
                stage = str(kill["stage"])
                rounds.append({**kill, "node_away_s": AWAY_S, "stage_s": done.stages[stage],
                               "stage_undisturbed_s": whole.stages.get(stage), "run_s": done.seconds})  # fmt: skip
            check(f"a node killed in {name}, {done.seconds} s", store)
        head = kill_head(cluster, job, folder / "headless", check) if with_head else None
        apart = cluster.apart
    return {
        "films": films,
        "nodes": ["head, 0 CPUs", *(f"{w.name}, group {w.group}, {w.cpus} CPUs" for w in WORKERS)],
        "own_network_addresses": apart,
        "undisturbed_inline_s": round(inline, 1),
        "undisturbed_on_the_cluster_s": whole.seconds or None,
        "worker_killed": rounds,
        "head_killed": head,
        "tables_compared": sorted(truth),
        "artifacts_compared": len(truth_digests),
        "different": 0,
        "seed": seed,
    }


def kill_head(
    cluster: Cluster, job: Job, store: Path, check: Callable[[str, Path], None], stage: str = "encode"
) -> dict[str, object]:
    """Kill the head in the middle of a stage; start it and the workers again; submit the same again."""
    first = submit(cluster, job, store, {stage: Kill("head", 2.0)})
    if first.code == 0 or not first.kills:
        raise SystemExit(f"the head was not killed in time (code {first.code}):\n{first.said}")
    started = time.monotonic()
    for spec in cluster.workers:
        cluster.kill(spec.name)
    cluster.start_head()
    for spec in cluster.workers:
        cluster.start(spec)
    up = round(time.monotonic() - started, 1)
    second = submit(cluster, job, store)
    if second.code not in (EXIT_DONE, EXIT_WAITING):
        raise SystemExit(f"after the head came back it ended with {second.code}:\n{second.said}")
    states = [node.state for node in load_runs(Store(str(store), create=False))[-1].nodes]
    check(f"head killed in {stage}, then submitted again", store)
    return {
        "submit_ended_with": first.code,
        "first_submit_s": first.seconds,
        "head_and_workers_up_s": up,
        "second_submit_s": second.seconds,
        "stages_cached_in_the_second": states.count("CACHED"),
        "stages_done_in_the_second": states.count("SUCCEEDED"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--stages", nargs="*", choices=list(KILLS), default=list(KILLS))
    parser.add_argument(
        "--together", action="store_true", help="all kills of workers in one run, and no other run before it"
    )
    parser.add_argument("--no-head", action="store_true", help="leave the head alive")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fulcrum-nodes-"))
    try:
        found = measure(folder, given.films, given.stages, not given.no_head, given.seed, given.together)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=1))
    if not given.no_write:
        from benchmarks.measured import write

        print(write("kill_nodes", found))


if __name__ == "__main__":
    main()

"""Kills real training jobs with SIGKILL at random moments until they are done, and compares them with undisturbed ones.

    python benchmarks/kill_train.py --kills 40

Each round is one job (supervised, switching, or DPO whose reference moves; dropout, accumulation, average, cosine, held-out
probes and timestep histograms are all on) on one worker or on two that talk by gloo. It is started, one of its workers is
killed, the others are ended as Ray ends them, and so on until the job is done. Then everything it left is compared bit for
bit: every metric of every step, the adapter, and the last checkpoint with its moments, average, reference and counters. At
the end the same jobs on one worker and on two are compared with each other, which reduction order alone may tell apart.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

STEPS = 24
CHECKPOINT_EVERY = 4
METHODS = ("sft", "switching", "dpo")
Outcome = tuple[dict[int, dict[str, float]], dict[str, bytes]]


def make_cache(folder: Path) -> tuple[Any, Any]:
    """(entries by kind, pairs): latents, references and texts that are random, in the format that training reads."""
    import torch

    from models.backbones.load import BackboneSpec, load_backbone
    from models.training.cache import Entry, text_key, write_samples, write_shard, write_texts
    from models.training.feed import Pair
    from models.training.randomness import noise

    text = load_backbone(BackboneSpec()).encode_text(["", "a dog runs"])
    keys = [text_key(prompt, "e") for prompt in ("", "a dog runs")]
    write_texts(folder, dict(zip(keys, text, strict=True)), {"null_text": keys[0]})
    entries = {}
    for kind, frames, pixels in (("video", 2, "5x64x64"), ("image", 1, "1x64x64")):
        ids = [f"{kind}-{i}" for i in range(12)]
        latents = {i: noise(0, i, 0, (4, frames, 8, 8)) for i in ids}
        references = {i: noise(1, i, 0, (1, 2, 4, 8, 8)) for i in ids}
        shard = write_samples(folder, latents, references, {i: i for i in ids}, {})
        entries[kind] = [Entry(i, shard, pixels, 1, 2, keys[1]) for i in ids]
    tensors: dict[str, torch.Tensor] = {}
    for entry in entries["video"]:
        tensors |= {
            f"{entry.sample_id}/{side}": noise(2, entry.sample_id + side, 0, (4, 2, 8, 8))
            for side in ("winner", "loser")
        }
    shard = write_shard(folder / "pairs", tensors, "pairs", {})
    return entries, [Pair(e.sample_id, e.sample_id, shard) for e in entries["video"][:8]]


def make_job(name: str, cache: Path, entries: Mapping[str, Any], pairs: Sequence[Any], home: Path) -> Any:
    from models.training.adapter import AdapterState
    from models.training.feed import FeedSpec
    from models.training.loop import TrainSpec
    from models.training.lora import LoraSpec, adapter_state, add_lora
    from models.training.methods import Dpo, FrozenAdapter, Sft
    from models.training.randomness import TimestepSpec
    from models.training.switching import SwitchingSpec
    from stages.training.jobs import Job, ProbeSpec
    from stages.training.params import BackboneParams

    def merged_sft() -> AdapterState:
        import torch

        from models.backbones.load import BackboneSpec, load_backbone

        backbone = load_backbone(BackboneSpec())
        add_lora(backbone, LoraSpec(2, 2.0), "sft")
        state = adapter_state(backbone, "sft")
        return replace(state, state={k: torch.full_like(v, 0.02) for k, v in state.state.items()})

    lora = LoraSpec(4, 4.0, dropout=0.2)
    job = Job(
        home=str(home),
        backbone=BackboneParams(),
        method=Sft(lora),
        spec=TrainSpec(
            STEPS, 1e-3, "cosine_restarts", cycles=2, warmup=3, accumulate=2, ema_decay=0.9, seed=7,
            histogram_every=5, checkpoint_every=CHECKPOINT_EVERY,
        ),
        feed=FeedSpec(3, TimestepSpec(), caption_dropout=0.1, reference_dropout=0.1),
        batch=2,
        remainder="repeat",
        cache=str(cache),
        entries=entries["video"][:9],
        held_out=entries["video"][9:],
        probes=ProbeSpec(held_out_every=6, held_out_parts=2),
    )  # fmt: skip
    if name == "switching":
        probes = ProbeSpec(6, 2, 5, False, {k: entries[k][9:11] for k in ("image", "video")})
        held_out = [*entries["video"][9:], *entries["image"][9:]]
        return replace(
            job,
            switching=SwitchingSpec(0.4),
            images=entries["image"][:9],
            image_batch=4,
            held_out=held_out,
            probes=probes,
        )
    if name == "dpo":
        method = Dpo(
            lora, [FrozenAdapter(merged_sft())], beta=100.0, lambda_sft=0.1, refresh_every=5, refresh_decay=0.5
        )
        return replace(job, method=method, pairs=pairs, preferences=str(cache / "pairs"))
    return job


def worker(job: Any, world_size: int, rank: int, meeting: str) -> None:
    import torch
    import torch.distributed as dist

    from stages.training.jobs import run_job

    torch.set_num_threads(1)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)  # what gloo says of a killed neighbour
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    run_job(job, world_size=world_size, rank=rank)
    if world_size > 1:
        dist.destroy_process_group()


def attempt(job: Any, world_size: int, moment: float | None, victim: int) -> bool:
    """Start the job's workers; at ``moment`` seconds kill one of them and then the rest. Whether the job came to its end."""
    context = multiprocessing.get_context("fork")
    meeting = tempfile.mktemp(prefix="meeting-", dir=Path(job.home).parent)
    workers: list[BaseProcess] = [
        context.Process(target=worker, args=(job, world_size, rank, meeting)) for rank in range(world_size)
    ]
    started = time.monotonic()
    for process in workers:
        process.start()
    try:
        while any(process.is_alive() for process in workers):
            dead = [p for p in workers if p.exitcode not in (None, 0)]
            if dead:
                raise SystemExit(f"a worker ended with {dead[0].exitcode} that nobody killed; its job is {job.home}")
            if moment is not None and time.monotonic() - started >= moment:
                # One dies first: the others are then in a collective that never ends, as on a lost machine.
                os.kill(workers[victim].pid or 0, signal.SIGKILL)
                time.sleep(0.02)
                return False
            time.sleep(0.005)
        return True
    finally:
        for process in workers:
            process.kill()
            process.join()
        Path(meeting).unlink(missing_ok=True)


def outcome(job: Any) -> Outcome:
    """(metrics by step without those that measure the machine, bytes of every file that training leaves)."""
    from stages.training.jobs import RESULT, read_events

    home = Path(job.home)
    steps = {
        step: {k: v for k, v in metrics.items() if not k.endswith("_seconds") and not k.startswith("system/")}
        for step, metrics in read_events(home, STEPS).items()
    }
    files = {}
    for path in sorted([*(home / "adapter").iterdir(), *(home / "checkpoints" / f"step_{STEPS:08d}").iterdir()]):
        files[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    assert json.loads((home / RESULT).read_text())["step"] == STEPS
    return steps, files


def until_done(job: Any, world_size: int, seconds: float, rng: random.Random, kills: int) -> list[float]:
    """The moments at which it was killed, in seconds after each start."""
    moments: list[float] = []
    while True:
        moment = rng.uniform(0.05, seconds * 0.7) if len(moments) < kills else None
        if attempt(job, world_size, moment, rng.randrange(world_size)):
            return moments
        moments.append(round(moment or 0.0, 3))


def torn(job: Any, rng: random.Random) -> str | None:
    """Tear the newest checkpoint, as a disk that lost a write would; says which."""
    found = sorted((Path(job.home) / "checkpoints").glob("step_*"))
    if len(found) < 2:
        return None
    path = rng.choice(sorted(found[-1].glob("*.safetensors")))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return found[-1].name


def measure(
    folder: Path, kills: int, seed: int, worlds: Sequence[int] = (1, 2), methods: Sequence[str] = METHODS
) -> dict[str, Any]:
    import torch
    import torch.distributed.nn

    torch.set_num_threads(1)
    entries, pairs = make_cache(folder / "cache")
    rng, rounds, moments, resumed, tears = random.Random(seed), 0, list[float](), 0, 0
    cases = [(name, world_size) for name in methods for world_size in worlds]
    truth: dict[tuple[str, int], Outcome] = {}
    seconds: dict[tuple[str, int], float] = {}
    for name, world_size in cases:
        job = make_job(name, folder / "cache", entries, pairs, folder / f"{name}-{world_size}-undisturbed")
        started = time.monotonic()
        attempt(job, world_size, None, 0)
        seconds[name, world_size] = time.monotonic() - started
        truth[name, world_size] = outcome(job)
        assert sorted(truth[name, world_size][0]) == list(range(1, STEPS + 1))
    while len(moments) < kills:
        name, world_size = case = cases[rounds % len(cases)]
        job = make_job(name, folder / "cache", entries, pairs, folder / f"round-{rounds}")
        here = until_done(job, world_size, seconds[case], rng, min(3, kills - len(moments)))
        moments += here
        if rounds % 3 == 2 and torn(job, rng):
            # A finished job whose newest checkpoint is torn goes back one and must come to the same end.
            (Path(job.home) / "result.json").unlink()
            attempt(job, world_size, None, 0)
            assert json.loads((Path(job.home) / "result.json").read_text())["skipped_checkpoints"], (
                "a torn checkpoint was used"
            )
            tears += 1
        resumed += json.loads((Path(job.home) / "result.json").read_text())["resumed_from"] is not None
        compare(f"round {rounds} ({name}, {world_size} workers)", outcome(job), truth[case])
        print(f"round {rounds}: {name} on {world_size}, killed after {here} s; every bit equal", flush=True)
        shutil.rmtree(job.home)
        rounds += 1
    return {
        "kills": len(moments),
        "rounds": rounds,
        "rounds_that_resumed_from_a_checkpoint": resumed,
        "checkpoints_torn": tears,
        "methods": list(methods),
        "workers": list(worlds),
        "steps": STEPS,
        "different_metrics": 0,
        "different_files": 0,
        "files_compared": sorted(truth[cases[0]][1]),
        "largest_relative_difference_between_worlds": {
            name: between(truth[name, worlds[0]], truth[name, worlds[-1]]) for name in methods
        },
        "killed_after_seconds": moments,
        "undisturbed_seconds": {f"{name} on {world}": round(s, 2) for (name, world), s in seconds.items()},
        "seed": seed,
    }


def compare(what: str, found: Outcome, wanted: Outcome) -> None:
    """SystemExit naming the first metric or file that is not the same bits."""
    if sorted(found[0]) != sorted(wanted[0]):
        raise SystemExit(f"{what}: steps {sorted(found[0])} were logged, not {sorted(wanted[0])}")
    for step, metrics in wanted[0].items():
        if found[0][step] != metrics:
            other = {k: (found[0][step].get(k), v) for k, v in metrics.items() if found[0][step].get(k) != v}
            raise SystemExit(f"{what}: step {step} differs: {other}")
    different = [name for name, content in wanted[1].items() if found[1].get(name) != content]
    if different or set(found[1]) != set(wanted[1]):
        raise SystemExit(f"{what}: files differ: {different or sorted(set(found[1]) ^ set(wanted[1]))}")


def between(left: Outcome, right: Outcome) -> float:
    """The largest relative difference of a step's loss between two numbers of workers."""
    pairs = [(left[0][step]["loss"], right[0][step]["loss"]) for step in left[0]]
    return max(abs(a - b) / max(abs(a), abs(b), math.ulp(0)) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fulcrum-kill-train-"))
    try:
        found = measure(folder, given.kills, given.seed, methods=given.methods)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found))
    if not given.no_write:
        from benchmarks.measured import write

        print(write("kill_train", found))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()

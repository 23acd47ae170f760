"""Training steps on one card beside other trainers, with random weights: python -m benchmarks.training.gpu

Every system takes turns in a process of its own, in another order each round, at the same latents, rank, dtype and
activation checkpointing; a step's time is the median over all turns, and systems are compared by the ratio of medians.
HFU counts what the card computed, recomputation included; MFU counts the model's forward and backward once, and is the
same for all systems. docs/training_speed.md says what to bring. Without a GPU the tiny models run, which says only that it runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.training.models import MODELS
from benchmarks.training.turn import PEERS, Turn, method_of, shape_of
from models.compat import prepare

PEAK_TFLOPS = {"H200": 989, "H100": 989, "H800": 989, "A100": 312, "A800": 312, "L40S": 362, "4090": 165}
"""Dense bfloat16 by a part of the card's name, from the vendor's data sheets."""
OWN = ("fulcrum", "fulcrum compiled")

Runner = Callable[[Turn], dict[str, Any]]


def turns(chosen: argparse.Namespace, folder: str) -> list[Turn]:
    """One round: SFT without references by every system, then our SFT and DPO with them."""
    common = {
        "samples": chosen.samples,
        "rank": chosen.rank,
        "checkpointing": not chosen.no_checkpointing,
        "steps": chosen.steps,
        "warm_up": chosen.warm_up,
        "folder": folder,
    }
    checkouts = {"diffusers": chosen.diffusers_checkout, "diffsynth": chosen.diffsynth_checkout}
    found = []
    for model in chosen.models:
        peers = [name for name, (family, _) in PEERS.items() if checkouts[name] and MODELS[model].family == family]
        for system in [*OWN[: 2 if chosen.compile else 1], *peers]:
            checkout = str(checkouts[system].resolve()) if system in peers else ""
            found.append(Turn(system, model, "sft", 0, **common, checkout=checkout))
        found += [Turn(OWN[0], model, method, chosen.references, **common) for method in ("sft", "dpo")]
    return found


def in_its_own_process(turn: Turn) -> dict[str, Any]:
    """What ``turn.run`` found there, or ``not_run`` with the end of what the process said."""
    with tempfile.TemporaryDirectory() as folder:
        request, result = Path(folder, "request.json"), Path(folder, "result.json")
        request.write_text(json.dumps(vars(turn)))
        command = [sys.executable, "-m", "benchmarks.training.turn", str(request), str(result)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.exists():
            found: dict[str, Any] = json.loads(result.read_text())
            return found
        said = ended.stderr.strip().splitlines()
        return {"not_run": f"ended with code {ended.returncode}: {said[-1] if said else 'nothing said'}"}


def measure(planned: Sequence[Turn], rounds: int, runner: Runner, say: Callable[[str], Any] = print) -> dict[str, Any]:
    """All rounds of all turns: a row of each, their ratios, and what could not run."""
    found: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    not_run: dict[str, str] = {}
    for index in range(rounds):
        shift = index % len(planned)
        for turn in [*planned[shift:], *planned[:shift]]:
            name = " ".join(map(str, turn.row))
            if name in not_run:
                continue
            result = runner(turn)
            if "not_run" in result:
                not_run[name] = result["not_run"]
                say(f"{name}: not run: {result['not_run']}")
            else:
                found.setdefault(turn.row, []).append(result)
                say(f"{name}: {statistics.median(result['seconds']):.3f} s a step")
    rows = [_row(turn, found[turn.row]) for turn in planned if turn.row in found]
    some = next(iter(found.values()))[0] if found else {}
    return {
        "machine": {
            "device": some.get("device"),
            "device_bytes": some.get("device_bytes"),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "rounds": rounds,
        "rows": rows,
        "over_fulcrum": _over(rows),
        "dpo_over_sft": _dpo_over_sft(rows),
        "not_run": not_run,
    }


def _row(turn: Turn, results: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [second for result in results for second in result["seconds"]]
    medians = [statistics.median(result["seconds"]) for result in results]
    median, peaks = statistics.median(seconds), [result["peak_bytes"] for result in results]
    budget = _budget(turn)
    card = peak_flops(results[0]["device"])
    return {
        "model": turn.model,
        "video": MODELS[turn.model].video,
        "method": turn.method,
        "system": turn.system,
        "references": turn.references,
        "samples": turn.samples,
        "lora_rank": turn.rank,
        "activation_checkpointing": turn.checkpointing,
        "step_s": median,
        "turn_medians_s": medians,
        "steps": len(seconds),
        "peak_bytes": max(peaks) if None not in peaks else None,
        "flops": results[0]["flops"],
        "hfu": results[0]["flops"] / median / card if card else None,
        "mfu": budget.model_flops / median / card if card else None,
        "foretold": budget.as_dict() if turn.system in OWN else None,
    }


def _budget(turn: Turn) -> Any:
    """Of our own step at the turn's shape; its arithmetic without recomputation is any system's."""
    return _traced(replace(turn, system=OWN[0], checkout=""))


@cache
def _traced(turn: Turn) -> Any:
    from models.training.budget import step_budget

    shapes = MODELS[turn.model].build("meta", torch.float32 if not torch.cuda.is_available() else torch.bfloat16)
    method, shape = method_of(turn, shapes), shape_of(turn, shapes)
    return step_budget(shapes, method, shape, checkpointing=turn.checkpointing)


def _over(rows: list[dict[str, Any]]) -> dict[str, float]:
    """By model and system: how many of our step times its step takes, at SFT without references."""
    alike = {(row["model"], row["system"]): row["step_s"] for row in rows if not row["references"]}
    return {
        f"{model} {system}": seconds / alike[model, OWN[0]]
        for (model, system), seconds in alike.items()
        if system != OWN[0] and (model, OWN[0]) in alike
    }


def _dpo_over_sft(rows: list[dict[str, Any]]) -> dict[str, float]:
    """By model: how many SFT steps a DPO step takes, both with the same references."""
    seconds = {(row["model"], row["method"]): row["step_s"] for row in rows if row["references"]}
    return {
        model: seconds[model, "dpo"] / seconds[model, "sft"]
        for model, method in seconds
        if method == "dpo" and (model, "sft") in seconds
    }


def peak_flops(device: str) -> float | None:
    """Dense bfloat16 operations a second of a card by its name, or None for one that is not listed."""
    return next((tflops * 1e12 for part, tflops in PEAK_TFLOPS.items() if part in device), None)


def table(found: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = ["| model | method, references | system | step | peak | HFU | MFU |", "|---|---|---|---|---|---|---|"]
    for row in found["rows"]:
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.1f} GiB"
        hfu, mfu = ("" if row[share] is None else f"{row[share]:.0%}" for share in ("hfu", "mfu"))
        what = f"{row['method']}, {row['references']}"
        lines.append(
            f"| {row['model']} {row['video']} | {what} | {row['system']} | {row['step_s']:.3f} s | {peak} | {hfu} | {mfu} |"
        )
    lines += [f"\n{name} over fulcrum: {ratio:.2f}" for name, ratio in found["over_fulcrum"].items()]
    lines += [f"\n{model}: a DPO step is {ratio:.2f} SFT steps" for model, ratio in found["dpo_over_sft"].items()]
    return "\n".join([*lines, *(f"\n{name}: not run: {why}" for name, why in found["not_run"].items())])


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    large = torch.cuda.is_available()
    models = ["cogvideox-5b", "wan-1.3b", "wan-14b"] if large else ["tiny-cogvideox", "tiny-wan"]
    parser.add_argument("--models", nargs="+", default=models, choices=sorted(MODELS))
    parser.add_argument(
        "--diffusers-checkout", type=Path, help="a clone of huggingface/diffusers: its CogVideoX script"
    )
    parser.add_argument(
        "--diffsynth-checkout", type=Path, help="a clone of modelscope/DiffSynth-Studio: its Wan training"
    )
    parser.add_argument("--compile", action="store_true", help="our loop with torch.compile as a further system")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each system")
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn that are timed")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--rank", type=int, default=64 if large else 4)
    parser.add_argument("--references", type=int, default=1, help="of our own SFT and DPO; peers know none")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--out", type=Path, help="write what was found here, as JSON")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None, runner: Runner = in_its_own_process) -> dict[str, Any]:
    prepare()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # models of this size lose by a second one
    chosen = arguments(given)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(turns(chosen, folder), chosen.rounds, runner)
    print(table(found))
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()

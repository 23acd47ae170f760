"""What ``run.py`` counted, as the tables of ``docs/curation_benchmark.md``; run as a module it puts them there."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measured, pages

PAGE = Path(__file__).resolve().parents[2] / "docs" / "curation_benchmark.md"

TITLES = {
    "decode": "bare decode of every frame (the limit)",
    "decode_in_company": "the same, two at once, for each",
    "analyze": "our one pass: shots, nine scorers, key frames",
    "encode": "decode and encode every frame, as the export does",
    "tower_fp32": "three pictures a shot through CLIP, fp32",
    "tower_bf16": "the same in bf16",
    "fulcrum_every_clip_fp32": "`curate`, every clip kept",
    "fulcrum_fp32": "`curate`, default rules and dedupe",
    "fulcrum_bf16": "`curate`, the same, encoder in bf16",
    "fulcrum_tenth_fp32": "`curate`, in fp32, a rule that keeps a tenth",
    "script": "scripts: PySceneDetect, ffmpeg, OpenCV, open_clip",
    "nemo": "NeMo Curator's CPU stages",
    "data_juicer": "Data-Juicer's operators",
}
SHORT = {"script": "the scripts", "nemo": "NeMo Curator's stages", "data_juicer": "Data-Juicer"}
PEERS = tuple(SHORT)
PARTS = ("analyze", "tower_fp32", "encode")


def systems(found: Mapping[str, Any]) -> str:
    """A row for each system: marginal CPU seconds for a second of film, over bare decoding's, marginal wall seconds, fixed CPU
    seconds, peak memory, repeats."""
    rate = {name: row["cpu_s_per_s"] for name, row in found["systems"].items()}
    lines = [
        "| system | CPU s for a second of film | x bare decode | wall s on two cores | fixed CPU s | peak GiB | repeats |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in [name for name in TITLES if name in rate]:
        row = found["systems"][name]
        lines.append(
            f"| {TITLES[name]} | {rate[name]:.3f} | {rate[name] / rate['decode']:.1f} | {_wall(found['runs'][name]):.2f} "
            f"| {row['fixed_cpu_s']:.0f} | {row['peak_gib']:.1f} | {found['repeats'][name]} |"
        )
    return "\n".join(lines)


def floor(found: Mapping[str, Any]) -> str:
    """The parts that no `curate` with every clip kept can do without, beside what it took, in words."""
    rate = {name: row["cpu_s_per_s"] for name, row in found["systems"].items()}
    least, whole = sum(rate[name] for name in PARTS), rate["fulcrum_every_clip_fp32"]
    peers = ", ".join(f"{SHORT[peer]} {rate[peer] / least:.1f} times" for peer in PEERS if peer in rate)
    parts = " + ".join(f"{rate[name]:.3f}" for name in PARTS)
    return (
        f"One pass, CLIP, and decoding and encoding by themselves: {parts} = **{least:.3f}** CPU s, {least / whole:.0%} of "
        f"`curate` with every clip kept. What a peer needs of these parts alone: {peers}."
    )


def _wall(runs: Sequence[Mapping[str, Any]]) -> float:
    """Median over repeats of the marginal wall seconds for a second of film."""
    return statistics.median(
        (run["large"]["cost"]["wall_s"] - run["small"]["cost"]["wall_s"]) / (run["seconds"][1] - run["seconds"][0])
        for run in runs
    )


def against(found: Mapping[str, Any]) -> str:
    """How many times the marginal cost of each of ours a peer needs."""
    rate = {name: row["cpu_s_per_s"] for name, row in found["systems"].items()}
    peers = [name for name in PEERS if name in rate]
    lines = ["| | " + " | ".join(TITLES[peer] for peer in peers) + " |", "|---" * (len(peers) + 1) + "|"]
    for name in [name for name in TITLES if name in rate and name.startswith("fulcrum")]:
        lines.append(f"| {TITLES[name]} | " + " | ".join(f"{rate[peer] / rate[name]:.1f}" for peer in peers) + " |")
    return "\n".join(lines)


def stages(found: Mapping[str, Any]) -> str:
    """Wall seconds of ``curate``'s stages over all films, those of a second or more, and each one's share of their sum."""
    made = found["whole"]["fulcrum_fp32"]["made"]
    seconds = {name.removeprefix("seconds_"): value for name, value in made.items() if name.startswith("seconds_")}
    total = sum(seconds.values())
    shown = sorted(((value, name) for name, value in seconds.items() if value >= 1), reverse=True)
    lines = ["| stage | wall s | share |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value:.0f} | {value / total:.0%} |" for value, name in shown)])


def whole(found: Mapping[str, Any]) -> str:
    """What all films took, in words."""
    films, runs = found["films"], found["whole"]
    ours, low, high = runs["fulcrum_fp32"], *found["nemo_published_clips_per_s_per_core"]
    made, cpu = ours["made"], {name: run["cost"]["cpu_s"] for name, run in runs.items()}
    film = 60 * films["minutes"] / cpu["fulcrum_fp32"]
    over = 1000 * (cpu["analyze"] - cpu["decode"]) / films["frames"]
    return " ".join(
        (
            f"Bare decoding took {cpu['decode']:.0f} CPU s, the one pass {cpu['analyze']:.0f} ({over:.2f} ms a frame more),",
            f"the whole of `curate` at fp32 {cpu['fulcrum_fp32']:.0f} ({ours['cost']['wall_s'] / 60:.0f} minutes of two cores,",
            f"{ours['cost']['peak_gib']:.1f} GiB at most): {made['clips']:.0f} clips, {made['subset']:.0f} of them encoded,",
            f"**{ours['clips_per_s_per_core']:.2f} clips or {film:.1f} s of film per second of a core**.",
            f"NeMo's published nightly floors, on other machines, are {low} to {high} clips of 10 s.",
        )
    )


def tables(found: Mapping[str, Any]) -> str:
    """Markdown."""
    films = found["films"]
    parts = [
        systems(found),
        "How many times the marginal CPU seconds of ours a peer needs:",
        against(found),
        floor(found),
        f"### All {films['count']} films: {films['minutes']:.0f} minutes, {films['frames']:,} frames",
        whole(found),
        stages(found),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    pages.put(tables(json.loads((measured.FOLDER / "curation.json").read_text(encoding="utf-8"))), PAGE)

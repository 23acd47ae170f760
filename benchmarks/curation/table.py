"""The comparison as the tables of docs/curation_benchmark.md, from what run.py wrote.

python -m benchmarks.curation.table
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks import measured

TITLES = {
    "decode": "bare decode of every frame (the limit)",
    "analyze": "our one pass: shots, nine scorers, key frames",
    "fulcrum_every_clip_fp32": "`curate`, every clip kept",
    "fulcrum_fp32": "`curate`, default rules and dedupe",
    "fulcrum_bf16": "the same, encoder in bf16",
    "fulcrum_tenth_fp32": "the same in fp32, a rule that keeps a tenth",
    "script": "scripts: PySceneDetect, ffmpeg, OpenCV, open_clip",
    "nemo": "NeMo Curator's CPU stages",
    "data_juicer": "Data-Juicer's operators",
}
PEERS = ("script", "nemo", "data_juicer")


def systems(found: Mapping[str, Any]) -> str:
    """A row for each system: marginal CPU seconds for a second of film, over bare decoding, fixed CPU seconds, peak memory, runs."""
    rate = {name: row["cpu_s_per_s"] for name, row in found["systems"].items()}
    lines = [
        "| system | CPU s for a second of film | x bare decode | fixed CPU s | peak GiB | repeats |",
        "|---|---|---|---|---|---|",
    ]
    for name in [name for name in TITLES if name in rate]:
        row = found["systems"][name]
        lines.append(
            f"| {TITLES[name]} | {rate[name]:.3f} | {rate[name] / rate['decode']:.1f} | {row['fixed_cpu_s']:.0f} "
            f"| {row['peak_gib']:.1f} | {found['repeats'][name]} |"
        )
    return "\n".join(lines)


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


def main() -> None:
    found = json.loads((measured.FOLDER / "curation.json").read_text(encoding="utf-8"))
    print("\n\n".join((systems(found), against(found), stages(found))))


if __name__ == "__main__":
    main()

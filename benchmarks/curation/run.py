"""One command: curation beside bare decoding, the usual scripts, Data-Juicer and NeMo Curator, in one run on one machine.

    python -m benchmarks.curation.run --data FOOTAGE --work DIR

Every system runs on a small and on a larger set of the same films, so that the cost of starting it and its marginal rate come
apart: rate = (large - small) / (seconds of the large set - of the small). Systems take turns within a repeat. Everything is in
CPU seconds of the whole process tree, which other load on the machine disturbs least. Ours also runs over all films. All of it
takes hours: each finished run is a line of docs/measured/curation_rows.jsonl, to be committed, and the same command goes on where it
was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import measured
from benchmarks.curation import clip_weights, environments, footage
from benchmarks.curation.account import Cost
from benchmarks.curation.footage import Film
from benchmarks.curation.systems import OURS, SYSTEMS, Result, Tools
from fulcrum.shipping import build_wheel, wheel_version

NEMO_FLOOR = (
    0.094,
    0.137,
)  # clips/s/core of NeMo's nightly floors, 10 s clips on 128 cores (docs/curation_benchmark.md)

LONG = ("data_juicer",)
BARE = ("decode", "decode_in_company", "analyze", "encode", "tower_fp32", "tower_bf16")


def marginal(small: float, large: float, small_s: float, large_s: float) -> tuple[float, float]:
    """CPU seconds for each second of footage, and the fixed CPU seconds, from two runs of different length."""
    rate = (large - small) / (large_s - small_s)
    return rate, small - rate * small_s


def subset(films: Sequence[Film], each: int) -> list[Film]:
    """The first ``each`` films of every size."""
    return [f for size in footage.SIZES for f in [g for g in films if g.size == size][:each]]


class Finished:
    """Runs that were finished, by system, films and repeat; one of ours also by the digest of our packages, which it measures."""

    def __init__(self, work: Path, tools: Tools, file: Path) -> None:
        self._work, self._tools, self._file = work / "run", tools, file
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        self._known = {row["key"]: row for row in map(json.loads, lines)}
        with tempfile.TemporaryDirectory() as folder:
            self._ours = wheel_version(build_wheel(Path(folder)))

    def run(self, name: str, films: Sequence[Film], repeat: int | str) -> Result:
        """The kept result, or that of a run made now in an empty folder."""
        ours = self._ours if name in OURS else ""
        chosen = hashlib.sha256("\n".join(f"{Path(f.path).name} {f.frames}" for f in films).encode()).hexdigest()[:12]
        key = f"{name} {repeat} {chosen} {ours}"
        if key not in self._known:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work.mkdir(parents=True)
            try:
                result = SYSTEMS[name](films, self._work, self._tools)
            finally:
                shutil.rmtree(self._work, ignore_errors=True)
            self._known[key] = {"key": key, **asdict(result)}
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._known[key]) + "\n")
        row = self._known[key]
        return Result(Cost(**row["cost"]), row["parts"], row["made"])


def summary(runs: Mapping[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians over repeats of rate and fixed cost, by system."""
    return {
        name: {key: statistics.median(r[key] for r in found) for key in ("cpu_s_per_s", "fixed_cpu_s", "peak_gib")}
        for name, found in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of real footage with a manifest.json")
    parser.add_argument("--work", type=Path, required=True, help="films, weights and peers' environments are kept here")
    parser.add_argument(
        "--rows", type=Path, default=measured.FOLDER / "curation_rows.jsonl", help="finished runs are kept here"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="of films in all")
    parser.add_argument("--films", type=int, nargs=2, default=(1, 4), help="of each size in the small and large set")
    parser.add_argument("--peer-films", type=int, nargs=2, default=(1, 2), help="the same for Data-Juicer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bare-repeats", type=int, default=5, help=f"for {', '.join(BARE)}: all ratios rest on these")
    parser.add_argument("--long-repeats", type=int, default=1, help=f"for {', '.join(LONG)}, whose runs take longest")
    parser.add_argument("--only", nargs="*", choices=list(SYSTEMS), help="systems to run; all by default")
    parser.add_argument("--no-whole", action="store_true", help="leave out the run over all films")
    given = parser.parse_args()

    films = footage.make(given.data, given.work / "footage", given.minutes)
    names = list(given.only or SYSTEMS)
    ours, theirs = clip_weights.make(given.work / "weights")
    envs: dict[str, Path | None] = {"data_juicer": None, "nemo": None}
    left_out: dict[str, str] = {}
    for peer in [p for p in envs if p in names]:
        try:
            envs[peer] = environments.make(given.work / "peers", peer)
        except (subprocess.CalledProcessError, OSError) as error:
            names.remove(peer)
            left_out[peer] = f"does not install here: {error}"
    tools = Tools(ours, theirs, envs["data_juicer"], envs["nemo"])
    finished = Finished(given.work, tools, given.rows)

    runs: dict[str, list[dict[str, float]]] = {}
    details: dict[str, list[dict[str, object]]] = {}
    of = {
        name: given.bare_repeats if name in BARE else given.long_repeats if name in LONG else given.repeats
        for name in names
    }
    for repeat in range(max(of.values())):
        for name in names:
            if repeat >= of[name]:
                continue
            sizes = given.peer_films if name == "data_juicer" else given.films
            small, large = (subset(films, n) for n in sizes)
            costs = [finished.run(name, part, repeat) for part in (small, large)]
            seconds = [sum(f.seconds for f in part) for part in (small, large)]
            rate, fixed = marginal(costs[0].cost.cpu_s, costs[1].cost.cpu_s, seconds[0], seconds[1])
            runs.setdefault(name, []).append(
                {"cpu_s_per_s": rate, "fixed_cpu_s": fixed, "peak_gib": costs[1].cost.peak_gib}
            )
            details.setdefault(name, []).append(
                {"seconds": seconds, "small": asdict(costs[0]), "large": asdict(costs[1])}
            )
            print(f"{repeat + 1}: {name}: {rate:.3f} CPU s per s of film, {fixed:.1f} fixed", flush=True)
    found: dict[str, object] = {
        "films": {
            "minutes": sum(f.seconds for f in films) / 60,
            "count": len(films),
            "frames": sum(f.frames for f in films),
        },
        "repeats": {name: len(found) for name, found in runs.items()},
        "systems": summary(runs),
        "ratios": ratios(summary(runs)),
        "left_out": left_out,
        "runs": details,
    }
    if not given.no_whole and "fulcrum_fp32" in names:
        whole = {}
        for name in ("decode", "analyze", "fulcrum_fp32"):
            result = finished.run(name, films, "whole")
            whole[name] = asdict(result)
            print(f"whole: {name}: {result.cost.cpu_s:.0f} CPU s, {result.cost.wall_s:.0f} s", flush=True)
            clips = result.made.get("clips")
            if clips:
                whole[name]["clips_per_s_per_core"] = clips / result.cost.cpu_s
        found["whole"] = whole
        found["nemo_published_clips_per_s_per_core"] = NEMO_FLOOR
    path = measured.write("curation", found)
    print(f"written: {path}")


def ratios(systems: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Marginal cost of each system over bare decoding's, and of each peer over each of ours."""
    rate = {name: found["cpu_s_per_s"] for name, found in systems.items()}
    result = {f"{name} / decode": rate[name] / rate["decode"] for name in rate if "decode" in rate and name != "decode"}
    for peer in ("data_juicer", "script", "nemo"):
        for mine in (name for name in rate if name.startswith("fulcrum")):
            if peer in rate:
                result[f"{peer} / {mine}"] = rate[peer] / rate[mine]
    return result


if __name__ == "__main__":
    main()

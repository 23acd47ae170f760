"""What the one pass of ``analyze`` costs over bare decoding: milliseconds of one core for each decoded frame, by part.

    python benchmarks/analyze_cost.py --data FOOTAGE

Films at 360p, 720p and 1080p are cut from the real footage. One process, one thread, CPU time; decoding and analysing take
turns on each film, and of several rounds the cheapest counts, since a busy machine only ever adds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models.video.analyze as analyze_module
from models.scorers.catalog import scorer_class
from models.video.analyze import Analysis, analyze_video
from stages.curation.analyze import DEFAULT_SCORERS

GOAL_MS = 0.8


def bare_decode(path: Path) -> int:
    """Decode every frame of the first video stream with one thread, and do nothing with it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = "NONE"
        return sum(1 for _ in container.decode(stream))


def cpu_ms(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return 1e3 * (time.process_time() - started), result


def analyze(path: Path) -> Analysis:
    return analyze_video(path, "video", [scorer_class(name)() for name in DEFAULT_SCORERS])


def by_part(path: Path) -> dict[str, float]:
    """CPU milliseconds of each part of the pass: its own clock, made to count CPU time for once."""
    clock, analyze_module.time = analyze_module.time, SimpleNamespace(perf_counter=time.thread_time)
    try:
        return {name: 1e3 * seconds for name, seconds in analyze(path).seconds.items()}
    finally:
        analyze_module.time = clock


def measure(films: Sequence[Path], rounds: int) -> dict[str, Any]:
    """CPU milliseconds a decoded frame over these films: decoding, the whole pass, and each part of it.

    ``over_decode`` is the pass less bare decoding. The parts are measured in a run of their own, whose clocks cost some more;
    their ``decode`` less bare decoding is what the reader adds and what the caches of decoding lose to the other parts.
    """
    decode = total = 0.0
    frames = shots = 0
    parts: dict[str, float] = {}
    for film in films:
        bare, whole, split = [], [], []
        for _ in range(rounds):
            spent, count = cpu_ms(lambda film=film: bare_decode(film))  # type: ignore[misc]
            bare.append(spent)
            spent, found = cpu_ms(lambda film=film: analyze(film))  # type: ignore[misc]
            whole.append(spent)
            split.append(by_part(film))
            if found.facts.frames != count:
                raise SystemExit(f"{film}: analyze saw {found.facts.frames} frames, bare decoding {count}")
        decode, total = decode + min(bare), total + min(whole)
        for name, ms in min(split, key=lambda s: sum(s.values())).items():
            parts[name] = parts.get(name, 0.0) + ms
        frames, shots = frames + count, shots + len(found.shots)
    over = (total - decode) / frames
    return {
        "films": len(films),
        "frames": frames,
        "shots": shots,
        "decode_ms": round(decode / frames, 4),
        "analyze_ms": round(total / frames, 4),
        "over_decode_ms": round(over, 4),
        "meets_goal": over <= GOAL_MS,
        "parts_ms": {n: round(s / frames, 4) for n, s in sorted(parts.items(), key=lambda p: -p[1])},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real footage, with its manifest.json")
    parser.add_argument("--minutes", type=float, default=6.0, help="of films, a third at each size (default 6)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--films", type=Path, help="keep the films in this folder and use them again")
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()

    import cv2

    from benchmarks.curation.footage import make

    cv2.setNumThreads(1)
    folder = given.films or Path(tempfile.mkdtemp(prefix="fulcrum-cost-"))
    try:
        films = make(given.data, folder, given.minutes)
        found = {}
        for size in dict.fromkeys(film.size for film in films):
            found[size] = measure([Path(f.path) for f in films if f.size == size], given.rounds)
            print(size, found[size], flush=True)
    finally:
        if given.films is None:
            shutil.rmtree(folder, ignore_errors=True)
    if not given.no_write:
        from benchmarks.measured import write

        # other work on the machine takes caches and memory bandwidth away, which CPU time counts
        load = round(os.getloadavg()[1], 1)
        print(
            write(
                "analyze_cost",
                {"goal_ms": GOAL_MS, "rounds": given.rounds, "load_average": load, "sizes": found},
            )
        )


if __name__ == "__main__":
    main()

"""Scores shot detection on spliced and on real footage, beside PySceneDetect's detectors at their defaults on the same frames.

    python benchmarks/shots.py --data FOLDER

The folder holds ``manifest.json`` and ``cuts.json``. Every video is decoded once and each frame is shown to all detectors.
A boundary that is found explains at most one that is true, and the other way round, by a largest possible matching. A hard cut
is a moment; a gradual change is the stretch of its mixed frames, and a boundary anywhere in it, or within the tolerance of
its ends, finds it. A found boundary that explains nothing is false, and counts against the precision of hard cuts and of gradual
changes alike: detectors that name no kind cannot be told which of the two they meant.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detector import SceneDetector
from scenedetect.detectors import AdaptiveDetector, ContentDetector

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.boundaries import Count, matched
from benchmarks.splices import Spliced, Trap, Truth, plan, render, seconds_of
from models.scorers.base import Picture
from models.video.reader import Frame, UndecodableError, VideoReader
from models.video.shots import ShotDetector

OURS, CONTENT, ADAPTIVE = "fulcrum", "ContentDetector", "AdaptiveDetector"
TOLERANCES = {"2 frames": (2.0, "frames"), "0.5 s": (0.5, "seconds")}

_PEER_WIDTH = 256  # px: the width to which PySceneDetect's SceneManager scales by default
_TIMED = ("sam2/01_dog.mp4", "sam2/03_blocks.mp4", "sam2/04_coffee.mp4")  # 720p, one shot each
_ROUNDS = 7
_TRAP_SLACK = 3  # frames around a flash or a whip pan in which a false boundary is put down to it


# -- detectors -----------------------------------------------------------------------------------------------------------


class Peer:
    """One of PySceneDetect's detectors, fed as its SceneManager does: linear downscaling to 256 px of width."""

    def __init__(self, detector: SceneDetector, fps: float) -> None:
        self.detector, self.rate = detector, Fraction(fps).limit_denominator(1001)
        self.found: list[int] = []
        self.last = 0

    def frame(self, small: np.ndarray, index: int) -> None:
        self.found += [t.frame_num for t in self.detector.process_frame(FrameTimecode(index, fps=self.rate), small)]
        self.last = index

    def finish(self) -> list[int]:
        self.found += [t.frame_num for t in self.detector.post_process(FrameTimecode(self.last, fps=self.rate))]
        return sorted(set(self.found))


def downscaled(full: np.ndarray) -> np.ndarray:
    height, width = full.shape[:2]
    if width <= _PEER_WIDTH:
        return full
    factor = width / _PEER_WIDTH
    return cv2.resize(full, (round(width / factor), round(height / factor)), interpolation=cv2.INTER_LINEAR)


@dataclass
class Found:
    """Frames that each detector calls the first of a shot, and every frame's instant."""

    frames: dict[str, list[int]]
    times: list[float]


def detect(path: Path, *, peers: bool = True) -> Found:
    """Decode once, and show every frame to every detector."""
    ours = ShotDetector()
    others: dict[str, Peer] = {}
    found: list[int] = []
    times: list[float] = []
    with VideoReader(path) as reader:
        if peers:
            fps = reader.header_fps or 25.0
            others = {CONTENT: Peer(ContentDetector(), fps), ADAPTIVE: Peer(AdaptiveDetector(), fps)}
        for frame in reader:
            times.append(frame.time_s)
            found += [b.frame for b in ours.frame(Picture(frame).tiny, frame.index, frame.time_s)]
            _show(others.values(), frame)
    found += [b.frame for b in ours.finish()]
    return Found({OURS: found, **{name: peer.finish() for name, peer in others.items()}}, times)


def _show(peers: Iterable[Peer], frame: Frame) -> None:
    small = None
    for peer in peers:
        if small is None:
            small = downscaled(frame.picture())
        peer.frame(small, frame.index)


# -- scores --------------------------------------------------------------------------------------------------------------


@dataclass
class Score:
    """Counts of one detector on one set of videos, by tolerance and by kind; traps and kinds at 2 frames."""

    hard: dict[str, Count] = field(default_factory=lambda: {name: Count() for name in TOLERANCES})
    gradual: dict[str, Count] = field(default_factory=lambda: {name: Count() for name in TOLERANCES})
    kinds: dict[str, list[int]] = field(default_factory=dict)
    false_in: dict[str, int] = field(default_factory=dict)

    def add(self, found: Sequence[int], truths: Sequence[Truth], traps: Sequence[Trap], times: Sequence[float]) -> None:
        for name, (tolerance, unit) in TOLERANCES.items():
            at = (lambda n: times[min(n, len(times) - 1)]) if unit == "seconds" else float
            spans = [(at(t.start), at(t.end)) for t in truths]
            explained, hit = matched([at(f) for f in found], spans, tolerance)
            false = len(found) - len(explained)
            for count, is_kind in ((self.hard[name], True), (self.gradual[name], False)):
                mine = [n for n, t in enumerate(truths) if (t.kind == "cut") == is_kind]
                hits = sum(n in hit for n in mine)
                count.hit, count.missed, count.false = (
                    count.hit + hits,
                    count.missed + len(mine) - hits,
                    count.false + false,
                )
            if unit == "frames":
                self._details(found, explained, hit, truths, traps)

    def _details(
        self, found: Sequence[int], explained: set[int], hit: set[int], truths: Sequence[Truth], traps: Sequence[Trap]
    ) -> None:
        for n, truth in enumerate(truths):
            count = self.kinds.setdefault(truth.kind, [0, 0])
            count[0] += n in hit
            count[1] += 1
        for n, frame in enumerate(found):
            if n not in explained:
                place = next(
                    (t.kind for t in traps if t.start - _TRAP_SLACK <= frame <= t.end + _TRAP_SLACK), "elsewhere"
                )
                self.false_in[place] = self.false_in.get(place, 0) + 1

    def as_json(self) -> dict[str, Any]:
        def figures(count: Count) -> dict[str, Any]:
            rounded = {k: None if v is None else round(v, 4) for k, v in
                       (("precision", count.precision), ("recall", count.recall), ("f1", count.f1))}  # fmt: skip
            return {**rounded, "hit": count.hit, "missed": count.missed, "false": count.false}

        return {
            "hard": {name: figures(c) for name, c in self.hard.items()},
            "gradual": {name: figures(c) for name, c in self.gradual.items()},
            "found_by_kind": {kind: f"{hit} of {of}" for kind, (hit, of) in sorted(self.kinds.items())},
            "false_in": dict(sorted(self.false_in.items())),
        }


def score(videos: Iterable[tuple[Path, Sequence[Truth], Sequence[Trap]]], *, peers: bool = True) -> dict[str, Any]:
    """Scores of every detector over these videos."""
    scores = {name: Score() for name in ((OURS, CONTENT, ADAPTIVE) if peers else (OURS,))}
    frames = 0
    for path, truths, traps in videos:
        found = detect(path, peers=peers)
        frames += len(found.times)
        for name, each in scores.items():
            each.add(found.frames[name], truths, traps, found.times)
    return {"frames": frames, "detectors": {name: each.as_json() for name, each in scores.items()}}


# -- footage -------------------------------------------------------------------------------------------------------------


def real_truths(footage: Path) -> list[tuple[Path, list[Truth], list[Trap]]]:
    """``cuts.json``: boundaries that a person found frame by frame."""
    videos: list[tuple[Path, list[Truth], list[Trap]]] = []
    for name, value in json.loads((footage / "cuts.json").read_text(encoding="utf-8")).items():
        truths = [Truth("cut", cut, cut) for cut in value["hard_cuts_first_frame_of_new_shot"]]
        truths += [Truth("gradual", start, end, detail) for start, end, detail in value["gradual"]]
        videos.append((footage / name, sorted(truths, key=lambda t: t.start), []))
    return videos


def single_shots(footage: Path) -> list[tuple[Path, list[Truth], list[Trap]]]:
    """Every file that decodes and that the manifest calls one shot: whatever is found in it is false."""
    videos: list[tuple[Path, list[Truth], list[Trap]]] = []
    for row in json.loads((footage / "manifest.json").read_text(encoding="utf-8")):
        if row.get("shots") != 1 or row["kind"] not in ("video", "made") or row.get("frames", 0) < 2:
            continue
        try:
            with VideoReader(footage / row["file"]):
                videos.append((footage / row["file"], [], []))
        except UndecodableError:
            continue
    return videos


def spliced(footage: Path, half: Any, boundaries: int, seed: int, folder: Path) -> tuple[list[Spliced], dict[str, Any]]:
    made = [render(footage, one, folder, seed) for one in plan(footage, half, boundaries, seed)]
    kinds: dict[str, int] = {}
    for video in made:
        for kind in (*(t.kind for t in video.truths), *(t.kind for t in video.traps)):
            kinds[kind] = kinds.get(kind, 0) + 1
    facts = {
        "videos": len(made),
        "minutes": round(seconds_of(made) / 60, 1),
        "boundaries": sum(len(v.truths) for v in made),
        "made_of": kinds,
    }
    return made, facts


# -- the run -------------------------------------------------------------------------------------------------------------


def measure(footage: Path, boundaries: Mapping[str, int], seed: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"seed": seed, "spliced": {}}
    for half, count in boundaries.items():
        made, facts = spliced(footage, half, count, seed, folder)
        found["spliced"][half] = {**facts, **score((v.path, v.truths, v.traps) for v in made)}
        print(f"spliced, {half} half: {facts}", flush=True)
        show(found["spliced"][half]["detectors"])
    videos = real_truths(footage)
    found["real"] = {"videos": len(videos), "boundaries": sum(len(t) for _, t, _ in videos), **score(videos)}
    print("real footage with boundaries found by eye:", flush=True)
    show(found["real"]["detectors"])
    alone = single_shots(footage)
    found["single_shots"] = {"videos": len(alone), **score(alone)}
    false = {name: value["hard"]["2 frames"]["false"] for name, value in found["single_shots"]["detectors"].items()}
    print(
        f"{len(alone)} real files of one shot each, {found['single_shots']['frames']} frames; false boundaries: {false}"
    )
    found["cost"] = cost(footage)
    print(f"CPU milliseconds a frame: {found['cost']['cpu_ms_per_frame']}", flush=True)
    return found


def cost(footage: Path) -> dict[str, Any]:
    """CPU milliseconds a frame of detection alone, on frames in memory at the size that each detector is shown.

    The detectors take turns, and of several rounds the cheapest counts: a busy machine only ever adds.
    """
    planes: list[list[tuple[np.ndarray, float]]] = []
    smalls: list[list[np.ndarray]] = []
    for name in _TIMED:
        with VideoReader(footage / name) as reader:
            shown = [(Picture(f).tiny, f.time_s, downscaled(f.picture())) for f in reader]
        planes.append([(tiny, time_s) for tiny, time_s, _ in shown])
        smalls.append([small for _, _, small in shown])

    def ours() -> None:
        for video in planes:
            detector = ShotDetector()
            for n, (plane, time_s) in enumerate(video):
                detector.frame(plane, n, time_s)
            detector.finish()

    def theirs(make: Callable[[], SceneDetector]) -> None:
        for video in smalls:
            peer = Peer(make(), 30.0)
            for n, small in enumerate(video):
                peer.frame(small, n)
            peer.finish()

    ways = {OURS: ours, CONTENT: lambda: theirs(ContentDetector), ADAPTIVE: lambda: theirs(AdaptiveDetector)}
    frames = sum(len(video) for video in planes)
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            clock = time.process_time()
            way()
            best[name] = min(best[name], 1e3 * (time.process_time() - clock) / frames)
    return {"frames": frames, "cpu_ms_per_frame": {name: round(ms, 3) for name, ms in best.items()}}


def show(detectors: Mapping[str, Any]) -> None:
    print(f"  {'':17s} {'':9s} {'':8s} precision  recall      F1    hit missed  false")
    for name, value in detectors.items():
        for kind in ("hard", "gradual"):
            for tolerance, row in value[kind].items():
                figures = " ".join(
                    f"{row[k]:9.3f}" if row[k] is not None else "        -" for k in ("precision", "recall", "f1")
                )
                print(
                    f"  {name:17s} {tolerance:9s} {kind:8s} {figures} {row['hit']:5d} {row['missed']:6d} {row['false']:6d}"
                )
        print(f"  {name:17s} found {value['found_by_kind']}; false {value['false_in']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.json and cuts.json")
    parser.add_argument(
        "--tuning", type=int, default=200, help="boundaries spliced from the tuning half of the sources"
    )
    parser.add_argument("--held-out", type=int, default=520, help="boundaries spliced from the other half")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the spliced videos; those already there are used again")
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="fulcrum-shots-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = measure(given.data.resolve(), {"tuning": given.tuning, "held-out": given.held_out}, given.seed, folder)
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if not given.no_write:
        from benchmarks.measured import write
        from benchmarks.pages import put
        from benchmarks.shot_tables import PAGE, tables

        put(tables(found), PAGE)

        print(write("shots", found))  # fmt: skip


if __name__ == "__main__":
    main()

"""Fits the weights of ``models.video.gradual`` by logistic regression, on splices of the tuning half and on ``cuts.json``.

    python benchmarks/fit_gradual.py --data FOLDER --keep SPLICES

Stretches around one dissolve or wipe are the yes, stretches inside one shot (whip pans and flashes too) the no. Of each change
only the two stretches that the weights like best count, since detection keeps only the surest; of each second of a shot the
three likeliest, since they are the ones to be told apart. That depends on the weights, so it is done a few times over.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.shots import real_truths, spliced
from benchmarks.splices import Truth
from models.scorers.base import Picture
from models.video import gradual
from models.video.fades import Fade
from models.video.reader import VideoReader
from models.video.shots import ShotDetector

NAMES = ("way", "largest step", "neighbours' motion", "drift", "colours")
_ROUNDS, _YES, _NO, _RIDGE = 5, 2, 3, 3.0

Sample = tuple[bool, tuple[Any, ...], np.ndarray]  # is one; which change or second of which video; features


def samples(path: Path, truths: Sequence[Truth]) -> list[Sample]:
    """Every stretch that detection would score in this video and that lies clear of other boundaries."""
    seen: list[tuple[float, float, np.ndarray]] = []
    fades: list[Fade] = []
    detector = ShotDetector()
    finder, found_fade = detector._gradual, detector._wait_fade

    def note(start: int, end: int, size: float, colours: float) -> tuple[float, ...]:
        values = gradual.GradualFinder.features(finder, start, end, size, colours)
        seen.append((finder._times[start], finder._times[end], np.array(values)))
        return values

    def note_fade(fade: Fade) -> None:
        fades.append(fade)
        found_fade(fade)

    finder.features = note  # type: ignore[method-assign]
    detector._wait_fade = note_fade  # type: ignore[method-assign]
    times = []
    with VideoReader(path) as reader:
        for frame in reader:
            times.append(frame.time_s)
            detector.frame(Picture(frame).tiny, frame.index, frame.time_s)
    detector.finish()
    spans = [(t, times[min(t.start, len(times) - 1)], times[min(t.end, len(times) - 1)]) for t in truths]
    kept: list[Sample] = []
    for start, end, values in seen:
        if any(f.start_s <= end and f.end_s >= start for f in fades):
            continue
        over = [(n, t, a, b) for n, (t, a, b) in enumerate(spans) if a <= end and b >= start]
        if not over:
            kept.append((False, (path.name, int((start + end) / 2)), values))
        elif len(over) == 1 and over[0][1].kind in ("dissolve", "wipe", "gradual"):
            n, _, a, b = over[0]
            if a <= (start + end) / 2 <= b:
                kept.append((True, (path.name, "change", n), values))
    return kept


def fit(found: Sequence[Sample]) -> tuple[np.ndarray, float]:
    """Weights and bias."""
    yes = np.array([s[0] for s in found])
    values = np.stack([s[2] for s in found])
    groups: dict[tuple[Any, ...], list[int]] = {}
    for n, sample in enumerate(found):
        groups.setdefault(sample[1], []).append(n)
    likely = -values[:, 0]
    for _ in range(_ROUNDS):
        chosen = []
        for members in groups.values():
            ranked = sorted(members, key=lambda n: -likely[n])
            chosen += ranked[: _YES if yes[members[0]] else _NO]
        weights = _logistic(values[chosen], yes[chosen].astype(float))
        likely = values @ weights[:-1] + weights[-1]
    return weights[:-1], float(weights[-1])


def _logistic(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Newton's method with a ridge on all weights but the bias, which comes last."""
    inputs = np.c_[values, np.ones(len(values))]
    ridge = np.diag([_RIDGE] * values.shape[1] + [1e-6])
    weights = np.zeros(inputs.shape[1])
    for _ in range(50):
        odds = 1.0 / (1.0 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        slope = inputs.T @ (odds - labels) + ridge @ weights
        curve = (inputs * (odds * (1 - odds))[:, None]).T @ inputs + ridge
        weights = weights - np.linalg.solve(curve, slope)
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keep", type=Path, required=True, help="folder for the spliced videos")
    parser.add_argument("--boundaries", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    given.keep.mkdir(parents=True, exist_ok=True)
    made, _ = spliced(given.data.resolve(), "tuning", given.boundaries, given.seed, given.keep)
    videos = [(v.path, v.truths) for v in made] + [(p, t) for p, t, _ in real_truths(given.data)]
    found = [s for path, truths in videos for s in samples(path, truths)]
    weights, bias = fit(found)
    print(f"{sum(s[0] for s in found)} stretches of changes, {sum(not s[0] for s in found)} of shots")
    print({name: round(float(w), 2) for name, w in zip(NAMES, weights, strict=True)}, "bias", round(bias, 2))


if __name__ == "__main__":
    main()

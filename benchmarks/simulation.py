"""Whether the simulation may be believed: rates are fitted on small runs of ``curate``, and a larger run is foretold and then made.

    python -m benchmarks.simulation --fit 16 24 32 40 --films 80

The runs share nothing: each renders its own world with its own seed into a store of its own. What is foretold of the larger
run is read off its files' headers alone, before it is made. Done once in one process and once with Ray on two cores, each after
a run that is thrown away: the first one reads libraries from the disk that the others find in memory. Smaller runs than these
foretell badly: in a dozen films are too few clips for every kind of work of ``dedupe`` to occur, and each kind starts workers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from scipy.stats import theilslopes

from benchmarks import measured
from pipelines.dag.runs import load_run
from pipelines.dag.store import Store
from pipelines.estimate import claims
from pipelines.simulation.schedule import Load, simulate
from pipelines.stored_run import StoredRun
from stages.contract import Resources

GOAL = 0.2
PER_BATCH = 8  # files that analyze gives to a worker at once
WORKED = "analyze"  # the stage whose files are timed one by one; the others are short and go by footage


@dataclass(frozen=True)
class Films:
    """What the headers say: claimed ``footage_s`` in all, and the ``work`` of each file in the order in which it is worked on."""

    footage_s: float
    work: np.ndarray

    @staticmethod
    def of(folder: Path) -> Films:
        files = sorted(path for path in folder.iterdir() if path.suffix in (".mp4", ".webm", ".mkv", ".mov"))
        seconds, work = claims([str(path) for path in files], np.array([path.stat().st_size for path in files], float))
        return Films(float(seconds.sum()), work)

    def batches(self, rate: float) -> list[float]:
        return [rate * float(self.work[n : n + PER_BATCH].sum()) for n in range(0, len(self.work), PER_BATCH)]


@dataclass(frozen=True)
class Run:
    """One run: seconds on the clock in all, of each stage, and of all files of ``analyze`` in its workers."""

    films: Films
    wall_s: float
    stages: Mapping[str, float]
    after: Mapping[str, tuple[str, ...]]
    files_s: float


@dataclass(frozen=True)
class Rates:
    """``rate`` seconds a unit of work in a worker of ``analyze``, ``rest`` of it beside; of any other stage (fixed, seconds a second
    of footage); ``around`` seconds of the process before, between and after its stages."""

    rate: float
    rest: float
    lines: Mapping[str, tuple[float, float]]
    around: float

    def loads(self, films: Films, after: Mapping[str, tuple[str, ...]]) -> list[Load]:
        def load(name: str) -> Load:
            if name == WORKED:
                return Load(name, after[name], films.batches(self.rate), driver_s=self.rest)
            fixed, each = self.lines[name]
            return Load(name, after[name], (), driver_s=fixed + each * films.footage_s)

        return [load(name) for name in after]


def fit(runs: Sequence[Run], capacity: Resources | None) -> Rates:
    """Rates from runs of different sizes."""
    # What a worker's first file costs more than others (libraries that load) is no rate: it stays with ``rest``.
    _, rate = _line(np.array([float(run.films.work.sum()) for run in runs]), np.array([run.files_s for run in runs]))
    rest = []
    for run in runs:
        alone = simulate([Load(WORKED, (), run.films.batches(rate))], capacity)[WORKED].end
        rest.append(run.stages[WORKED] - alone)
    footage = np.array([run.films.footage_s for run in runs])
    lines = {}
    for name in runs[0].stages:
        if name != WORKED:
            lines[name] = _line(footage, np.array([run.stages[name] for run in runs]))
    without = Rates(rate, max(0.0, float(np.median(rest))), lines, 0.0)
    around = [run.wall_s - foretell(without, run.films, run.after, capacity)[0] for run in runs]
    return Rates(rate, without.rest, lines, float(np.median(around)))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The line through the points by Theil and Sen, whom one disturbed run does not move: (height at zero, slope).

    Flat where it would fall, and through the origin where it would begin below.
    """
    found = theilslopes(y, x, method="joint")
    if not found.slope > 0:
        return float(np.median(y)), 0.0
    return (float(found.intercept), float(found.slope)) if found.intercept >= 0 else (0.0, float(np.median(y / x)))


def foretell(
    rates: Rates, films: Films, after: Mapping[str, tuple[str, ...]], capacity: Resources | None
) -> tuple[float, dict[str, float]]:
    """Seconds on the clock in all, and of each stage."""
    spans = simulate(rates.loads(films, after), capacity)
    end = max(span.end for span in spans.values())
    return float(rates.around + end), {name: float(span.end - span.start) for name, span in spans.items()}


def curate(folder: Path, films: int, seed: int, engine: str, cores: int) -> tuple[Films, Path, list[str]]:
    """A world of its own for a run, and the command of that run."""
    from tinyworld.render import render_world

    source = folder / f"world-{films}-{seed}"
    if not source.exists():
        render_world(seed, films, source, None)
    store = folder / f"store-{engine}-{films}-{seed}"
    settings = [f"engine.kind={engine}", "tracking.enabled=false", "review_clips.reviewer=script:rules"]
    settings += [f"engine.num_cpus={cores}"] if engine == "ray" else []
    options = [part for setting in settings for part in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "fulcrum",
        "run",
        "curate",
        "--source",
        str(source),
        "--store",
        str(store),
        *options,
    ]
    return Films.of(source), store, command


def observe(films: Films, store: Path, command: Sequence[str]) -> Run:
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.monotonic() - started
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    opened = Store(str(store), create=False)
    record = load_run(opened)
    ledger = StoredRun(opened, record).ledger()
    assert ledger is not None
    spent = ledger.to_table(columns=["seconds"], filter=pc.field("stage") == WORKED)
    return Run(
        films,
        wall,
        {node.name: node.seconds for node in record.nodes},
        {node.name: tuple(node.after) for node in record.nodes},
        float(pc.sum(spent.column("seconds")).as_py()),
    )


def measure(folder: Path, fit_on: Sequence[int], films: int, engine: str, cores: int) -> dict[str, object]:
    capacity = Resources(float(cores)) if engine == "ray" else None
    observe(*curate(folder, min(fit_on), 99, engine, cores))
    small = [observe(*curate(folder, count, 100 + n, engine, cores)) for n, count in enumerate(fit_on)]
    rates = fit(small, capacity)
    seen, store, command = curate(folder, films, 7, engine, cores)
    foretold, stages = foretell(rates, seen, small[0].after, capacity)
    came = observe(seen, store, command)
    return {
        "engine": engine,
        "workers": cores if capacity else 1,
        "foretold_s": round(foretold, 2),
        "measured_s": round(came.wall_s, 2),
        "off_by": round(foretold / came.wall_s - 1, 4),
        "within_goal": bool(abs(foretold / came.wall_s - 1) <= GOAL),
        "footage_s": round(seen.footage_s, 1),
        "fitted_on": [
            {
                "films": n,
                "wall_s": round(run.wall_s, 2),
                "stages": {name: round(seconds, 2) for name, seconds in run.stages.items()},
            }
            for n, run in zip(fit_on, small, strict=True)
        ],
        "stages": {
            name: {"foretold_s": round(seconds, 2), "measured_s": round(came.stages[name], 2)}
            for name, seconds in stages.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fit", type=int, nargs="+", default=[16, 24, 32, 40], help="films of the runs that rates are fitted on"
    )
    parser.add_argument("--films", type=int, default=80, help="films of the run that is foretold")
    parser.add_argument("--engines", nargs="+", default=["inline", "ray"])
    parser.add_argument("--cores", type=int, default=2, help="workers with Ray")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fulcrum-simulation-") as folder:
        runs = [measure(Path(folder), options.fit, options.films, e, options.cores) for e in options.engines]
    found = {"goal": GOAL, "films": options.films, "runs": runs}
    if options.no_write:
        print(json.dumps(found, indent=1))
        return
    print(measured.write("simulation", found))


if __name__ == "__main__":
    main()

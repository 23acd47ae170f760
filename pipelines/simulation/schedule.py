"""A discrete-event simulation of a run: stages of a DAG on a cluster, batches on their pools, answers on people's shifts.

Events are the ends of stages. Which stage may start, and how many workers its pool gets, is asked of the very code that a run
asks (``pipelines.dag.room``, ``pipelines.dag.nodes``); within a pool, batches go in their order to whoever is free first.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from pipelines.dag.nodes import Node, Worker, holds
from pipelines.dag.room import Room
from stages.contract import Resources

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S


@dataclass(frozen=True)
class Load:
    """One stage's work. ``batches`` are seconds of one worker each, which takes ``cpus`` and ``gpus`` and needs ``start_s`` before
    its first batch; ``driver_s`` are seconds that nothing of the stage runs beside, after the batches.

    A batch is lost with probability ``lost``, at a moment drawn evenly over its time, and done again. With ``people`` the
    batches are answers: they take nothing of the cluster.
    """

    name: str
    after: tuple[str, ...]
    batches: Sequence[float] | np.ndarray
    cpus: float = 1.0
    gpus: float = 0.0
    start_s: float = 0.0
    driver_s: float = 0.0
    lost: float = 0.0
    people: bool = False


@dataclass(frozen=True)
class Span:
    """A stage in simulated time: seconds since the start at which all it reads from was there, it started, and ended; ``workers`` of
    its pool, ``busy_s`` of all of them together, of which ``wasted_s`` went into batches that were lost."""

    name: str
    ready: float
    start: float
    end: float
    workers: int
    busy_s: float
    wasted_s: float


@dataclass(frozen=True)
class Shifts:
    """``people`` who answer from ``from_h`` to ``to_h`` o'clock on the first ``days`` days of each week; the simulation starts
    on a Monday at ``from_h``."""

    people: int
    from_h: float = 9.0
    to_h: float = 17.0
    days: int = 5

    @property
    def hours(self) -> float:
        return self.to_h - self.from_h

    def worked(self, clock: float) -> float:
        """Seconds of work that one person has had by ``clock``."""
        long = self.hours * 3600
        week, at = divmod(clock, WEEK_S)
        day, since = divmod(at, DAY_S)
        return (week * self.days + min(day, self.days)) * long + (min(since, long) if day < self.days else 0.0)

    def clock(self, worked: float) -> float:
        """When a person has had so many seconds of work; at the end of a day this is that end, not the next beginning."""
        long = self.hours * 3600
        days, rest = divmod(worked, long)
        if rest == 0 and days:
            days, rest = days - 1, long
        weeks, day = divmod(days, self.days)
        return weeks * WEEK_S + day * DAY_S + rest


def simulate(
    loads: Sequence[Load], capacity: Resources | None, shifts: Shifts | None = None, seed: int = 0
) -> dict[str, Span]:
    """The span of every stage, in the order in which they end. ``capacity`` None is one worker and one stage at a time.

    Raises ``ValueError`` where a stage comes after one that is not there or after itself, or waits for people without any.
    """
    rng = np.random.default_rng(seed)
    room = Room(capacity)
    waiting = list(loads)
    running: list[tuple[float, int, str]] = []
    held: dict[str, ExitStack] = {}
    spans: dict[str, Span] = {}
    ended: dict[str, Span] = {}
    free = [0.0] * (shifts.people if shifts else 0)  # when each person has nothing more to do, in seconds of work
    now = 0.0
    while waiting or running:
        ready = [load for load in waiting if all(name in ended for name in load.after)]
        started = [one for one in ready if one.people or room.admit(one.name, Resources(one.cpus, one.gpus))]
        names = {load.name for load in started}
        waiting = [load for load in waiting if load.name not in names]
        for load in started:
            since = max((ended[name].end for name in load.after), default=0.0)
            attempts, wasted = _attempts(load, rng)
            if load.people:
                if not free:
                    raise ValueError(f"{load.name} waits for people, and there are none")
                assert shifts is not None
                end = _answered(free, shifts, now, attempts)
                workers = len(free)
            else:
                share = room.share(load.name)
                workers = _pool(load, share) if share else 1
                pool = ExitStack()
                pool.enter_context(room.pool(load.name, Resources(workers * load.cpus, workers * load.gpus)))
                held[load.name] = pool
                end = _worked_off(now, workers, load.start_s if len(attempts) else 0.0, attempts)
            end += load.driver_s
            spans[load.name] = Span(load.name, since, now, end, workers, float(attempts.sum()), wasted)
            heapq.heappush(running, (end, len(spans), load.name))
        if not running:
            raise ValueError(
                f"these stages wait for each other or for one that is not there: {[w.name for w in waiting]}"
            )
        now, _, name = heapq.heappop(running)
        ended[name] = spans[name]
        if name in held:
            held.pop(name).close()
            room.leave(name)
    return ended


def _attempts(load: Load, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Seconds of every attempt, the lost ones before the one that succeeds, and what was lost. float64 (N,)."""
    batches = np.asarray(load.batches, float)
    if not load.lost:
        return batches, 0.0
    tries = rng.geometric(1 - load.lost, len(batches))
    attempts = np.repeat(batches, tries)
    lost = np.ones(len(attempts), bool)
    lost[np.cumsum(tries) - 1] = False
    attempts[lost] *= rng.random(int(lost.sum()))
    return attempts, float(attempts[lost].sum())


def _worked_off(now: float, workers: int, start_s: float, attempts: np.ndarray) -> float:
    """When the last of a pool's workers is done, each taking the next batch when it is free."""
    return now + start_s + max(_clocks([0.0] * workers, attempts))


def _pool(load: Load, share: Resources) -> int:
    """Workers for a stage's batches, of what it may take together."""
    fit = holds([Node(share.cpus, share.gpus)], Worker(load.cpus, load.gpus))
    return int(max(1, min(len(load.batches), fit)))


def _answered(free: list[float], shifts: Shifts, now: float, answers: np.ndarray) -> float:
    """When the last answer is given. ``free`` is brought up to date: gates that are open together share the people."""
    if not len(answers):
        return now
    # Everybody works the same hours, so seconds of work are as good a clock as the one on the wall.
    free[:] = _clocks([max(shifts.worked(now), clock) for clock in free], answers)
    return max(now, shifts.clock(max(free)))


def _clocks(clocks: list[float], pieces: np.ndarray) -> list[float]:
    """When each worker is done, if the next piece goes to whoever is free first."""
    if len(pieces) and len(set(clocks)) == 1 and pieces.min() == pieces.max():  # a million equal ones, in no time
        each, more = divmod(len(pieces), len(clocks))
        return [clocks[0] + pieces[0] * (each + (n < more)) for n in range(len(clocks))]
    heapq.heapify(clocks)
    for piece in pieces.tolist():
        heapq.heapreplace(clocks, clocks[0] + piece)
    return clocks


def critical_path(loads: Sequence[Load], spans: dict[str, Span]) -> list[str]:
    """The stages that the end waits for, first to last: before each, the one that it waited for, by need or for room."""
    path = [max(spans.values(), key=lambda span: span.end)]
    while path[-1].start > 0:
        before = [span for span in spans.values() if abs(span.end - path[-1].start) < 1e-6 and span is not path[-1]]
        needed = next(load.after for load in loads if load.name == path[-1].name)
        if not before:
            break
        path.append(max(before, key=lambda span: (span.name in needed, span.end - span.start)))
    return [span.name for span in reversed(path)]

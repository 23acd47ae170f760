"""Simulated time keeps the laws that any schedule must: work is conserved, nothing beats its bounds, trivial cases are exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.simulation.schedule import DAY_S, WEEK_S, Load, Shifts, critical_path, simulate
from stages.contract import Resources

SECONDS = st.lists(st.floats(0.1, 50), max_size=12)


@st.composite
def jobs(draw: st.DrawFn) -> list[Load]:
    """A DAG of up to six stages, each after some of the earlier ones."""
    loads: list[Load] = []
    for n in range(draw(st.integers(1, 6))):
        after = draw(st.lists(st.sampled_from([load.name for load in loads]), unique=True)) if loads else []
        loads.append(
            Load(
                f"s{n}",
                tuple(after),
                draw(SECONDS),
                cpus=draw(st.sampled_from([0.5, 1.0, 2.0])),
                start_s=draw(st.sampled_from([0.0, 3.0])),
                driver_s=draw(st.sampled_from([0.0, 5.0])),
                lost=draw(st.sampled_from([0.0, 0.3])),
            )
        )
    return loads


def _alone(load: Load) -> float:
    """No schedule ends a stage sooner: its longest batch, and its driver."""
    return load.driver_s + (load.start_s + max(load.batches) if len(load.batches) else 0.0)


@settings(deadline=None, max_examples=40)
@given(jobs(), st.sampled_from([None, 2.0, 3.0, 16.0]), st.integers(0, 3))
def test_work_is_conserved_and_no_bound_is_beaten(loads: list[Load], cpus: float | None, seed: int) -> None:
    spans = simulate(loads, None if cpus is None else Resources(cpus), seed=seed)
    assert set(spans) == {load.name for load in loads}
    for load in loads:
        span = spans[load.name]
        assert span.busy_s == pytest.approx(sum(load.batches) + span.wasted_s)
        assert span.wasted_s == 0 or load.lost
        assert span.end - span.start >= _alone(load) - 1e-6
        assert span.end - span.start >= load.driver_s + span.busy_s / span.workers - 1e-6
        assert span.start >= span.ready == max((spans[a].end for a in load.after), default=0.0)
    end = max(span.end for span in spans.values())
    longest: dict[str, float] = {}
    for load in loads:  # the critical path through the DAG
        longest[load.name] = _alone(load) + max((longest[a] for a in load.after), default=0.0)
    assert end >= max(longest.values()) - 1e-6
    if cpus is not None:
        worked = sum(spans[load.name].busy_s * load.cpus for load in loads)
        assert end * cpus >= worked - 1e-6  # nobody works in two places at once
    path = critical_path(loads, spans)
    assert spans[path[0]].start == 0
    assert spans[path[-1]].end == end


@settings(deadline=None, max_examples=40)
@given(SECONDS, st.integers(1, 8), st.sampled_from([0.0, 2.0]))
def test_a_worker_more_never_makes_a_stage_longer(batches: list[float], workers: int, start_s: float) -> None:
    load = Load("a", (), batches, start_s=start_s)
    few, more = (simulate([load], Resources(float(n)))["a"].end for n in (workers, workers + 1))
    assert more <= few + 1e-9
    # Graham: never longer than the mean load and the longest batch together
    assert few <= start_s + sum(batches) / workers + max(batches, default=0.0) + 1e-9


@pytest.mark.parametrize(("batches", "workers"), [(0, 3), (1, 3), (3, 3), (10, 3), (1000, 64)])
def test_equal_batches_take_as_many_rounds_as_it_needs(batches: int, workers: int) -> None:
    """D/D/c with all arrivals at 0: ceil(n / c) rounds."""
    end = simulate([Load("a", (), np.full(batches, 7.0))], Resources(float(workers)))["a"].end
    assert end == pytest.approx(7.0 * math.ceil(batches / workers))


def test_lost_batches_cost_what_chance_says() -> None:
    """With loss p, attempts are geometric: p / (1 - p) lost ones a batch, half a batch each."""
    span = simulate([Load("a", (), np.full(20_000, 2.0), lost=0.2)], None, seed=1)["a"]
    assert span.wasted_s / 40_000 == pytest.approx(0.5 * 0.2 / 0.8, rel=0.05)


def test_stages_run_side_by_side_only_where_both_fit() -> None:
    pair = [Load("a", (), [10.0], gpus=4), Load("b", (), [10.0], gpus=4)]
    assert max(s.end for s in simulate(pair, Resources(8.0, 8.0)).values()) == 10
    assert max(s.end for s in simulate(pair, Resources(8.0, 4.0)).values()) == 20
    assert max(s.end for s in simulate(pair, None).values()) == 20  # one process


# -- people ------------------------------------------------------------------------------------------------------------

DAYTIME = Shifts(1, 9, 15, 5)  # 21,600 s a day


@pytest.mark.parametrize(
    ("start", "work", "done"),
    [
        (0, 3600, 3600),
        (0, 21_600, 21_600),  # just a day
        (0, 21_601, DAY_S + 1),
        (21_600, 10, DAY_S + 10),  # in the evening
        (4 * DAY_S + 21_590, 20, WEEK_S + 10),  # over the weekend
        (5 * DAY_S + 100, 30, WEEK_S + 30),  # from Saturday
        (WEEK_S + 5, 5 * 21_600, 2 * WEEK_S + 5),
    ],
)
def test_people_work_in_their_hours_alone(start: float, work: float, done: float) -> None:
    assert DAYTIME.clock(DAYTIME.worked(start) + work) == pytest.approx(done)
    before = [Load("x", (), [], driver_s=start)] if start else []
    gate = Load("g", tuple(load.name for load in before), [work], people=True)
    assert simulate([*before, gate], None, DAYTIME)["g"].end == pytest.approx(done)


@given(st.floats(0, 3 * WEEK_S))
def test_the_two_clocks_of_people_agree(clock: float) -> None:
    worked = DAYTIME.worked(clock)
    assert DAYTIME.worked(DAYTIME.clock(worked)) == pytest.approx(worked, abs=1e-6)
    assert DAYTIME.clock(worked) <= clock + 1e-6  # an evening counts as the end of its day


def test_two_gates_share_the_people_and_take_nothing_of_the_cluster() -> None:
    gates = [Load("g", (), np.full(100, 36.0), people=True), Load("h", (), np.full(100, 36.0), people=True)]
    spans = simulate([*gates, Load("work", (), [50.0])], Resources(1.0), Shifts(2, 9, 15, 5))
    assert spans["work"].end == 50
    assert max(spans["g"].end, spans["h"].end) == 3600


def test_what_cannot_be_scheduled_is_said() -> None:
    with pytest.raises(ValueError, match="wait for each other or for one that is not there"):
        simulate([Load("a", ("b",), []), Load("b", ("a",), [])], None)
    with pytest.raises(ValueError, match="waits for people, and there are none"):
        simulate([Load("a", (), [1.0], people=True)], None)

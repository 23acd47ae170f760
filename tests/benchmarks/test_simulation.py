"""The fit behind benchmarks/simulation.py finds planted rates, so that what it foretells of a larger run is what happens there."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulation import Films, Rates, Run, fit, foretell
from stages.contract import Resources

AFTER = {"ingest": (), "analyze": ("ingest",), "select": ("analyze",), "export": ("select",)}
FIRST_FILE_S = 1.5
"""What the first file of a run costs more than others."""
TRUE = Rates(0.02, 3.0, {"ingest": (0.5, 0.0), "select": (0.2, 0.001), "export": (1.0, 0.05)}, 4.0)


def _run(count: int, capacity: Resources | None) -> Run:
    """A run as the true rates would have it."""
    rng = np.random.default_rng(count)
    films = Films(10.0 * count, rng.uniform(50, 150, count))
    wall, stages = foretell(TRUE, films, AFTER, capacity)
    return Run(films, wall, stages, AFTER, FIRST_FILE_S + TRUE.rate * float(films.work.sum()))


@pytest.mark.parametrize("capacity", [None, Resources(2.0), Resources(5.0)])
def test_planted_rates_are_found_and_foretell_a_larger_run(capacity: Resources | None) -> None:
    rates = fit([_run(3, capacity), _run(10, capacity)], capacity)
    assert rates.rate == pytest.approx(TRUE.rate)
    assert rates.rest == pytest.approx(TRUE.rest)
    assert rates.around == pytest.approx(TRUE.around)
    for name, line in TRUE.lines.items():
        assert rates.lines[name] == pytest.approx(line, abs=1e-6)
    larger = _run(40, capacity)
    foretold, stages = foretell(rates, larger.films, AFTER, capacity)
    assert foretold == pytest.approx(larger.wall_s)
    assert stages == pytest.approx(dict(larger.stages))


def test_noise_that_falls_with_size_or_begins_below_nothing_is_not_believed() -> None:
    few, many = _run(3, None), _run(10, None)
    odd = dict(many.stages) | {"ingest": 0.1, "export": 100.0}
    rates = fit([few, Run(many.films, many.wall_s, odd, AFTER, many.files_s)], None)
    assert rates.lines["ingest"] == (pytest.approx(0.3), 0.0)
    fixed, each = rates.lines["export"]
    assert fixed == 0
    assert each > 0


def test_one_disturbed_run_of_five_moves_nothing() -> None:
    runs = [_run(count, None) for count in (4, 8, 12, 16, 20)]
    middle = runs[2]
    slow = {name: 2 * seconds for name, seconds in middle.stages.items()}
    runs[2] = Run(middle.films, 2 * middle.wall_s, slow, AFTER, 2 * middle.files_s)
    larger = _run(60, None)
    assert foretell(fit(runs, None), larger.films, AFTER, None)[0] == pytest.approx(larger.wall_s)

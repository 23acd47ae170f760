"""The fit behind benchmarks/simulation.py finds planted rates, so that what it foretells of a larger run is what happens there."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulation import Films, Rates, Run, fit, foretell
from stages.contract import Resources

AFTER = {"ingest": (), "analyze": ("ingest",), "select": ("analyze",), "export": ("select",)}
TRUE = Rates(0.02, 3.0, {"ingest": (0.5, 0.0), "select": (0.2, 0.001), "export": (1.0, 0.05)}, 4.0)


def _run(count: int, capacity: Resources | None) -> Run:
    """A run as the true rates would have it."""
    rng = np.random.default_rng(count)
    films = Films(10.0 * count, rng.uniform(50, 150, count))
    wall, stages = foretell(TRUE, films, AFTER, capacity)
    return Run(films, wall, stages, AFTER, TRUE.rate * float(films.work.sum()))


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

"""A scenario worked through: when each stage ends, what the end waits for, bytes, cost, people's days, and what if a rate is off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.simulation.scenario import Scenario, StageCost
from pipelines.simulation.schedule import Span, critical_path, simulate

TWICE = 2.0


@dataclass(frozen=True)
class Row:
    """A stage: its span, and by how many hours the whole ends later when each of its items takes twice as long."""

    stage: StageCost
    span: Span
    critical: bool
    later_if_twice_h: float

    driver_s: float

    @property
    def core_hours(self) -> float:
        return 0.0 if self.stage.people else (self.span.busy_s * self.stage.cpus + self.driver_s) / 3600

    @property
    def gpu_hours(self) -> float:
        return self.span.busy_s * self.stage.gpus / 3600

    @property
    def person_hours(self) -> float:
        return self.span.busy_s / 3600 if self.stage.people else 0.0

    @property
    def limited_by(self) -> str:
        """What sets the stage's length."""
        if self.stage.people:
            return "people"
        if self.driver_s > (self.span.end - self.span.start) / 2:
            return "one process"
        return "GPUs" if self.stage.gpus else "cores"


@dataclass(frozen=True)
class Forecast:
    scenario: Scenario
    rows: tuple[Row, ...]

    @property
    def hours(self) -> float:
        return max(row.span.end for row in self.rows) / 3600

    def bytes(self) -> float:
        return sum(row.stage.bytes * self.scenario.counts[row.stage.per] for row in self.rows)

    def totals(self) -> dict[str, float]:
        """Hours worked and what they cost, and what the same machines cost if they are held from beginning to end."""
        prices, cluster = self.scenario.prices, self.scenario.cluster
        cores, gpus, people = (
            sum(getattr(row, f"{kind}_hours") for row in self.rows) for kind in ("core", "gpu", "person")
        )
        return {
            "core_hours": cores,
            "gpu_hours": gpus,
            "person_hours": people,
            "cost_of_machines": cores * prices.core_hour + gpus * prices.gpu_hour,
            "cost_of_machines_if_held": self.hours * (cluster.cpus * prices.core_hour + cluster.gpus * prices.gpu_hour),
            "cost_of_people": people * prices.person_hour,
            "cost_of_store_a_month": self.bytes() / 1e9 * prices.gb_month,
        }

    def as_dict(self) -> dict[str, Any]:
        stages = [
            {
                "name": row.stage.name,
                "started_h": round(row.span.start / 3600, 3),
                "hours": round((row.span.end - row.span.start) / 3600, 3),
                "workers": row.span.workers,
                "limited_by": row.limited_by,
                "critical": row.critical,
                "core_hours": round(row.core_hours, 2),
                "gpu_hours": round(row.gpu_hours, 2),
                "person_hours": round(row.person_hours, 2),
                "bytes": round(row.stage.bytes * self.scenario.counts[row.stage.per]),
                "known": row.stage.known,
                "source": row.stage.source,
                "later_if_twice_h": round(row.later_if_twice_h, 3),
            }
            for row in self.rows
        ]
        return {
            "hours": round(self.hours, 2),
            "bytes": round(self.bytes()),
            **{name: round(value, 2) for name, value in self.totals().items()},
            "stages": stages,
        }


def forecast(scenario: Scenario, seed: int = 0) -> Forecast:
    """Simulate the scenario, and once more for every stage with its seconds doubled."""

    def end(spans: dict[str, Span]) -> float:
        return max(span.end for span in spans.values())

    loads = scenario.loads()
    spans = simulate(loads, scenario.capacity, scenario.shifts, seed)
    path = set(critical_path(loads, spans))
    rows = []
    for one in scenario.stages:
        slow = simulate(scenario.loads({one.name: TWICE}), scenario.capacity, scenario.shifts, seed)
        later = (end(slow) - end(spans)) / 3600
        driver_s = one.driver_seconds * scenario.counts[one.per]
        rows.append(Row(one, spans[one.name], one.name in path, later, driver_s))
    return Forecast(scenario, tuple(sorted(rows, key=lambda row: (row.span.start, row.span.end))))

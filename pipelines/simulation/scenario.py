"""A job on paper: how many of what, which stage takes how long for each, on which machines, with which people, at which prices.

A scenario is a YAML file; ``full_job.yaml`` beside this module is the default and says of every number whether it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError

from pipelines.overlay import ConfigError
from pipelines.simulation.schedule import Load, Shifts
from stages.contract import Resources

FULL_JOB = Path(__file__).with_name("full_job.yaml")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cluster(_Part):
    cpus: NonNegativeFloat
    gpus: NonNegativeFloat


class People(_Part):
    reviewers: int = Field(ge=0)
    from_hour: float = Field(9.0, ge=0, lt=24)
    to_hour: float = Field(15.0, gt=0, le=24)
    days_a_week: int = Field(5, ge=1, le=7)


class Prices(_Part):
    """In one currency: an hour of a core, of a GPU and of a person, and a GB (10^9 bytes) kept for a month."""

    core_hour: NonNegativeFloat
    gpu_hour: NonNegativeFloat
    person_hour: NonNegativeFloat
    gb_month: NonNegativeFloat


class StageCost(_Part):
    """What one stage takes. ``seconds`` of one worker for each of ``per`` (a name in ``counts``), ``batch`` of them at a time;
    ``driver_seconds`` for each on the driver, one after the other; ``start_seconds`` of every worker; ``bytes`` left for each.

    ``known`` is how ``seconds`` is known: measured (``source`` names the file of docs/measured and the value in it, times ``factor``),
    or assumed (``source`` says why so much).
    """

    name: str
    after: tuple[str, ...] = ()
    per: str
    seconds: NonNegativeFloat = 0.0
    driver_seconds: NonNegativeFloat = 0.0
    start_seconds: NonNegativeFloat = 0.0
    batch: PositiveInt = 1
    cpus: NonNegativeFloat = 1.0
    gpus: NonNegativeFloat = 0.0
    lost: float = Field(0.0, ge=0, lt=1)
    people: bool = False
    bytes: NonNegativeFloat = 0.0
    known: Literal["measured", "assumed"] = "assumed"
    source: str = ""
    factor: PositiveFloat = 1.0


class Scenario(_Part):
    counts: dict[str, NonNegativeFloat]
    cluster: Cluster
    people: People
    prices: Prices
    stages: tuple[StageCost, ...]

    def loads(self, seconds_of: Mapping[str, float] | None = None) -> list[Load]:
        """The stages for ``simulate``; ``seconds_of`` multiplies the seconds of single stages, for asking what if."""
        return [self._load(one, (seconds_of or {}).get(one.name, 1.0)) for one in self.stages]

    def _load(self, one: StageCost, times: float) -> Load:
        count = self.counts[one.per]
        whole, rest = divmod(count, one.batch)
        batches = np.full(int(whole) + (rest > 0), one.batch * one.seconds * times)
        if rest:
            batches[-1] = rest * one.seconds * times
        return Load(
            one.name,
            one.after,
            batches if one.seconds else (),
            cpus=one.cpus,
            gpus=one.gpus,
            start_s=one.start_seconds,
            driver_s=one.driver_seconds * count * times,
            lost=one.lost,
            people=one.people,
        )

    @property
    def capacity(self) -> Resources:
        return Resources(self.cluster.cpus, self.cluster.gpus)

    @property
    def shifts(self) -> Shifts | None:
        team = self.people
        return Shifts(team.reviewers, team.from_hour, team.to_hour, team.days_a_week) if team.reviewers else None

    def with_estimate(self, told: Mapping[str, Any]) -> Scenario:
        """The same with what ``fulcrum plan --estimate --json`` found on a source: videos, clips, and hours of each stage it tried."""
        counts = {
            **self.counts,
            "videos": told["videos"],
            "footage_seconds": told["hours"]["estimate"] * 3600,
            "shots": told["clips"]["estimate"],
            "candidates": told["kept_clips"]["estimate"],
        }
        stages = []
        for one in self.stages:
            key = "gpu_hours_by_stage" if one.gpus else "cpu_hours_by_stage"
            hours = told[key].get(one.name)
            if hours is not None and counts[one.per]:
                source = f"a sample of {told['sampled_videos']} videos of this source"
                worker_s = hours["estimate"] * 3600 / (one.gpus or one.cpus or 1.0)
                found = {"seconds": worker_s / counts[one.per], "known": "measured", "source": source, "factor": 1.0}
                one = one.model_copy(update=found)
            stages.append(one)
        return self.model_copy(update={"counts": counts, "stages": tuple(stages)})


def load_scenario(file: Path | None = None) -> Scenario:
    """Read a scenario. Raises ``ConfigError`` naming the file, the key and what is wrong."""
    file = file or FULL_JOB
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = Scenario.model_validate(tree)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"the scenario {file} cannot be read: {error}"]) from None
    except ValidationError as error:
        problems = [f"{file}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise ConfigError(problems) from None
    names = [one.name for one in found.stages]
    problems = [f"{file}: two stages are named {name}" for name in sorted({n for n in names if names.count(n) > 1})]
    for one in found.stages:
        if one.per not in found.counts:
            problems.append(f"{file}: stage {one.name}: per: {one.per} is not among counts")
        problems += [f"{file}: stage {one.name}: after: there is no stage {a}" for a in one.after if a not in names]
        if one.people and not found.people.reviewers:
            problems.append(f"{file}: stage {one.name} waits for people, and people.reviewers is 0")
        if not one.people and (one.cpus > found.cluster.cpus or one.gpus > found.cluster.gpus):
            problems.append(f"{file}: stage {one.name}: one worker takes more than the cluster has")
    if found.people.to_hour <= found.people.from_hour:
        problems.append(f"{file}: people: to_hour comes before from_hour")
    if problems:
        raise ConfigError(problems)
    return found

"""Parameters that several training stages share."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipelines.demo import PIPELINE as DEMO
from stages.training.params import GuidanceParams, ScheduleParams


@pytest.mark.parametrize("vain", [{"end": 2.0}, {"at": 0.5}, {"table": [[0.0, 1.0]]}])
def test_a_constant_that_seems_to_change_is_refused(vain: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=f"a constant guidance has no {next(iter(vain))}; say kind: step"):
        GuidanceParams.model_validate({"text": {"start": 3.0, **vain}})


def test_schedules_survive_the_way_to_a_worker() -> None:
    for schedule in (ScheduleParams(), ScheduleParams(start=3.0), ScheduleParams(kind="step", start=5.0, end=3.0)):
        assert ScheduleParams.model_validate(schedule.model_dump(mode="json")) == schedule


def test_the_demos_guidance_changes_over_the_denoising() -> None:
    exam = DEMO["exam"]
    guidance = exam.stage.params.model_validate(exam.params).sampling.guidance.build()  # type: ignore[attr-defined]
    first, last = (guidance.branches(level, share, True) for level, share in ((0.999, 0.0), (0.1, 0.9)))
    assert first == [(1.0, (False, True)), (5.0, (True, True))]
    assert last == [(1.0, (False, False)), (3.0, (True, True))]

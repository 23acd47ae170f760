"""The job on paper: every number that is called measured is the one that was measured, and the page says what the model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli.app import run_app
from pipelines.overlay import ConfigError
from pipelines.simulation.forecast import Forecast, forecast
from pipelines.simulation.scenario import FULL_JOB, load_scenario

MEASURED = Path(__file__).parents[2] / "docs" / "measured"


@pytest.mark.parametrize("name", [one.name for one in load_scenario().stages if one.known == "measured"])
def test_what_is_called_measured_was_measured(name: str) -> None:
    one = next(stage for stage in load_scenario().stages if stage.name == name)
    file, _, place = one.source.partition(": ")
    value: Any = json.loads((MEASURED / file).read_text())
    for key in place.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    assert one.seconds or one.driver_seconds == pytest.approx(value * one.factor, rel=1e-3)


def test_everything_else_says_why_so_much() -> None:
    assert all(one.source for one in load_scenario().stages)
    assert not [one.name for one in load_scenario().stages if one.gpus and one.known == "measured"]  # none was, here


@pytest.fixture(scope="module")
def told() -> Forecast:
    return forecast(load_scenario())


def page_table(told: Forecast) -> list[str]:
    """The table of docs/scale.md."""
    lines = [
        "| stage | begins | takes | workers | limited by | GPU hours | bytes | if twice | rate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in told.rows:
        if row.span.end - row.span.start < 36:  # a hundredth of an hour
            continue
        stage, span = row.stage, row.span
        size = stage.bytes * told.scenario.counts[stage.per] / 1e9
        cells = [
            f"**{stage.name}**" if row.critical else stage.name,
            f"{span.start / 3600:.1f}",
            f"{(span.end - span.start) / 3600:.2f}",
            str(span.workers) if span.busy_s else "",
            row.limited_by,
            f"{row.gpu_hours:,.0f}" if row.gpu_hours else "",
            f"{size:,.1f} GB" if size > 0.05 else "",
            f"+{row.later_if_twice_h:.1f}" if row.later_if_twice_h > 0.05 else "",
            stage.known,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def test_the_page_says_what_the_model_says(told: Forecast) -> None:
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    assert "\n".join(page_table(told)) in page


def test_a_forecast_adds_up(told: Forecast) -> None:
    scenario = told.scenario
    total = told.totals()
    answers = {row.stage.name: row.person_hours for row in told.rows if row.stage.people}
    assert answers["review_clips"] == pytest.approx(40_000 * 6 / 3600)
    analyze = next(row for row in told.rows if row.stage.name == "analyze")
    assert analyze.core_hours == pytest.approx(1.8e9 * 0.0022668 / 3600, rel=1e-3)
    assert analyze.limited_by == "cores"
    assert analyze.span.workers == scenario.cluster.cpus
    machines = total["core_hours"] * 0.04 + total["gpu_hours"] * 2.0
    assert total["cost_of_machines"] == pytest.approx(machines)
    assert total["cost_of_machines_if_held"] > machines
    assert all(row.later_if_twice_h >= 0 for row in told.rows)
    assert any(row.critical and row.later_if_twice_h > 1 for row in told.rows)


def test_an_estimate_of_a_source_takes_the_place_of_the_defaults() -> None:
    def hours(value: float) -> dict[str, float]:
        return {"estimate": value, "low": value, "high": value}

    told = {
        "videos": 100,
        "sampled_videos": 5,
        "hours": hours(10),
        "clips": hours(500),
        "kept_clips": hours(50),
        "cpu_hours_by_stage": {"analyze": hours(3), "export": hours(2)},
        "gpu_hours_by_stage": {"embed": hours(0.5)},
    }
    mine = load_scenario().with_estimate(told)
    rows = {row.stage.name: row for row in forecast(mine).rows}
    assert rows["analyze"].core_hours == pytest.approx(3, rel=0.01)  # but for lost batches
    assert rows["embed"].gpu_hours == pytest.approx(0.5)
    assert rows["export"].stage.known == "measured"
    assert rows["ingest"].driver_s == pytest.approx(100 * 9.648e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": {"videos": 1}}, "is not among counts"),
        ({"cluster": {"cpus": 1, "gpus": 0}}, "takes more than the cluster has"),
        ({"people": {"reviewers": 1, "from_hour": 9, "to_hour": 8}}, "to_hour comes before"),
        ({"people": {"reviewers": 0}}, "waits for people, and people.reviewers is 0"),
        ({"prices": {"core_hour": -1}}, "greater than or equal to 0"),
        ({"what": 1}, "what"),
    ],
)
def test_a_scenario_that_cannot_be_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(FULL_JOB.read_text()) | change))
    with pytest.raises(ConfigError) as told:
        load_scenario(file)
    assert message in str(told.value)


def test_the_command_prints_the_table_and_a_scenario_that_can_be_changed(
    told: Forecast, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["fulcrum", "simulate", "--show"])
    assert run_app() == 0
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out.replace("gpus: 64}", "gpus: 128}"))
    monkeypatch.setattr("sys.argv", ["fulcrum", "simulate", "--scenario", str(file), "--json"])
    assert run_app() == 0
    faster = json.loads(capsys.readouterr().out)["hours"]
    monkeypatch.setattr("sys.argv", ["fulcrum", "simulate"])
    assert run_app() == 0
    out = capsys.readouterr().out
    assert "64 GPUs, 50 reviewers" in out
    assert "sft_cross * " in out or "sft_in * " in out
    assert faster < told.hours
    file.write_text(file.read_text().replace("{name: ingest, after: []", "{name: ingest, after: [evaluate]"))
    monkeypatch.setattr("sys.argv", ["fulcrum", "simulate", "--scenario", str(file)])
    assert run_app() == 2
    assert "wait for each other" in capsys.readouterr().err.replace("\n", " ")
    monkeypatch.setattr("sys.argv", ["fulcrum", "simulate", "--estimate", str(file)])
    assert run_app() == 2
    assert "is not what" in capsys.readouterr().err

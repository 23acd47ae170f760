"""The sweep measures every point on one model and keeps the best; its front and its winner follow from stated rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.training.adapter import load_adapter
from models.training.merge import adapter_of, factors_of, merge
from models.training.pareto import choose
from stages.contract import StageError
from stages.evaluation.evaluate import evaluate
from stages.evaluation.params import EvaluateParams
from stages.training.adapters import read_card, write_adapter
from stages.training.sample import SampleParams, sample
from stages.training.sweep import SweepSftParams, sweep_sft
from tests.context import LocalContext
from tests.training_stages.conftest import Encoded, Road
from tests.training_stages.footing import BACKBONE, SAMPLING

torch.set_num_threads(1)
HIGHER = {"a": "higher", "b": "higher", "c": "lower"}
MEASURED = EvaluateParams(metrics=("dynamic_degree_dis", "sharpness_crete"), clip=None)
PARAMS = SweepSftParams(
    backbone=BACKBONE,
    sampling=SAMPLING,
    grid={"cross": (0.0, 1.0), "in_pair": (0.0, 1.0)},
    sum_to_one=False,
    prompts=1,
    metrics=MEASURED,
    objective={"dynamic_degree_dis": 1.0, "sharpness_crete": 1.0},
)


def test_front_and_winner() -> None:
    # Point 2 is beaten by 1 in both; 0, 1 and 3 are each best somewhere. Scaled a: 0, 2/3, 1/3, 1; b: 1, 3/4, 1/2, 0.
    points = [{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 4.0}, {"a": 2.0, "b": 3.0}, {"a": 4.0, "b": 1.0}]
    found = choose(points, {"a": 1.0, "b": 1.0}, HIGHER)
    assert found.front == (0, 1, 3)
    assert found.winner == 1
    assert found.scores[1] == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert choose(points, {"a": 9.0, "b": 1.0}, HIGHER).winner == 3
    assert choose(points, {"a": 9.0, "b": 1.0}, HIGHER, {"b": 2.0}).winner == 1
    assert choose([{"c": 2.0}, {"c": 1.0}, {"c": None}], {"c": 1.0}, HIGHER).winner == 1


def test_what_cannot_choose_is_said() -> None:
    for objective, limits, said in (
        ({"n": 1.0}, {}, "n has no better side"),
        ({"a": 0.0}, {}, "weights above 0"),
        ({"a": 1.0}, {"a": 9.0}, "no point keeps the limits"),
        ({"b": 1.0}, {}, "no point has a value of every objective"),
    ):
        with pytest.raises(ValueError, match=said):
            choose([{"a": 1.0, "b": None}], objective, {**HIGHER, "n": "neither"}, limits)


VALUE = st.integers(0, 5).map(float)


@settings(max_examples=60, deadline=None)
@given(points=st.lists(st.fixed_dictionaries({"a": VALUE, "b": VALUE}), min_size=1, max_size=8))
def test_nothing_beats_a_point_of_the_front_and_something_beats_every_other(points: list[dict[str, Any]]) -> None:
    found = choose(points, {"a": 2.0, "b": 1.0}, HIGHER)
    assert found.winner in found.front
    for i, mine in enumerate(points):
        beaten = any(p["a"] >= mine["a"] and p["b"] >= mine["b"] and p != mine for p in points)
        assert beaten == (i not in found.front)
    assert found.scores[found.winner] == max(s for s in found.scores if s is not None)


def test_a_sweep_measures_as_evaluate_does_and_writes_the_winner_alone(
    tmp_path: Path, encoded: Encoded, road: Road
) -> None:
    parents = {"cross": road.adapters["cross_pair"], "in_pair": road.adapters["in_pair"]}
    cached: dict[str, Any] = {"cache": encoded.cache, "latents": encoded.latents}
    context = LocalContext(tmp_path, sweep_sft, {**cached, **parents})
    context.run(PARAMS)
    rows = context.outputs["metrics"].to_pylist()
    assert {r["system"] for r in rows} == {f"cross={a} in_pair={b}" for a in (0, 1) for b in (0, 1)}
    page = json.loads((context.outputs["sweep"] / "points.json").read_text())
    winner = next(p for p in page["points"] if p["winner"])
    assert winner["front"]
    assert read_card(context.outputs["adapter"])["weights"] == winner["weights"]
    assert "Pareto" in (context.outputs["sweep"] / "index.html").read_text()
    assert [p.name for p in context.outputs["adapter"].glob("*.safetensors")] == ["pytorch_lora_weights.safetensors"]

    # The same point through the pipeline's own stages: merged to a file, sampled, evaluated.
    factors = {name: factors_of(load_adapter(folder)) for name, folder in parents.items()}
    both, _ = merge(factors, {"cross": 1.0, "in_pair": 1.0})
    write_adapter(adapter_of(both, {}), tmp_path / "both", {})
    sampled = LocalContext(tmp_path / "s", sample, {**cached, "sft": tmp_path / "both"})
    sampled.run(SampleParams(backbone=BACKBONE, sampling=SAMPLING, prompts=9, seeds=1, systems=("sft",)))
    last = sorted(sampled.outputs["samples"].to_pylist(), key=lambda r: r["prompt_id"])
    swept_prompt = {item["record_id"].split("/")[1] for item in context.ledger_rows}
    kept = [r for r in last if r["prompt_id"] in swept_prompt]
    table = pa.Table.from_pylist(kept, schema=sampled.outputs["samples"].schema)
    evaluated = LocalContext(tmp_path / "e", evaluate, {"samples": table, "videos": sampled.outputs["videos"]})
    evaluated.run(MEASURED)
    there = {r["metric"]: r["value"] for r in evaluated.outputs["metrics"].to_pylist()}
    here = {r["metric"]: r["value"] for r in rows if r["system"] == "cross=1 in_pair=1"}
    assert here == pytest.approx(there)

    again = LocalContext(tmp_path, sweep_sft, {**cached, **parents})
    again.run(PARAMS.model_copy(update={"grid": {"cross": (0.0, 0.5, 1.0), "in_pair": (0.0, 1.0)}}))
    seconds = [row["seconds"] for row in again.ledger_rows]
    assert sum(s is None for s in seconds) == 4  # known points are not sampled again
    assert sum(s is not None for s in seconds) == 2


def test_a_sweep_that_cannot_choose_stops(tmp_path: Path, encoded: Encoded, road: Road) -> None:
    inputs: dict[str, Any] = {
        "cache": encoded.cache,
        "latents": encoded.latents,
        "cross": road.adapters["cross_pair"],
        "in_pair": road.adapters["in_pair"],
    }
    for change, said in (
        ({"objective": {"clip_t": 1.0}}, "objective or limits name clip_t; add them to metrics.metrics"),
        ({"grid": {"cross": (0.3,), "in_pair": (0.3,)}}, "the grid has 0 points"),
        ({"grid": {"cross": (0.3,)}}, "give some for each of cross, in_pair"),
    ):
        params = PARAMS.model_copy(update={"sum_to_one": True, **change})
        with pytest.raises(StageError, match=said):
            LocalContext(tmp_path, sweep_sft, inputs).run(params)

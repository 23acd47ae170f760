"""The evaluate stage: coverage counts failures, notes say what a number is worth, nothing is measured twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_schemas.tables import SAMPLES
from models.metrics.catalogue import METRICS
from models.metrics.tools import MetricInfo
from models.subjects.frames import png
from models.video.encode import write_video
from pipelines.dag.engine import InlineEngine
from stages.contract import NotEnoughRows, StageError
from stages.evaluation.evaluate import evaluate
from stages.evaluation.measure import Measurer
from stages.evaluation.params import EvaluateParams, models_behind
from stages.evaluation.summary import compare, summarise
from tests.context import LocalContext

CHEAP = {"metrics": ["temporal_flicker", "dynamic_degree_dis", "clip_t", "subject_similarity"]}


def make_samples(folder: Path) -> list[dict[str, Any]]:
    """Two systems on two prompts: one stands still, one moves; one of the latter's samples failed."""
    (folder / "references").mkdir(parents=True)
    rng = np.random.default_rng(0)
    wide = np.repeat(np.repeat(rng.integers(40, 200, (8, 30, 3)).astype(np.uint8), 8, 0), 8, 1)
    (folder / "references" / "r.png").write_bytes(png(wide[:64, :64]))
    rows = []
    for system in ("base", "final"):
        for prompt in range(2):
            step = 6 if system == "final" else 0
            file = folder / f"{system}{prompt}.webm"
            write_video(
                np.stack([wide[:64, i * step : i * step + 64] for i in range(9)]), 8.0, file, codec="libvpx-vp9"
            )
            rows.append(
                {
                    "system": system,
                    "prompt_id": f"p{prompt}",
                    "seed": 0,
                    "prompt": "Ref 1: a thing. Video: Ref 1[a thing] moves",
                    "uri": f"s3://bucket/attempt/videos/{file.name}",
                    "reference_uri": "s3://bucket/attempt/videos/references/r.png",
                    "status": "ok",
                }
            )
    rows[-1] |= {"status": "failed", "uri": None, "error_type": "ValueError", "error_message": "not finite"}
    return rows


def run(tmp_path: Path, rows: list[dict[str, Any]], folder: Path, **params: Any) -> LocalContext:
    ctx = LocalContext(tmp_path, evaluate, {"samples": SAMPLES.table(rows), "videos": folder})
    ctx.run(EvaluateParams.model_validate({**CHEAP, **params}))
    return ctx


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], Path, LocalContext]:
    tmp = tmp_path_factory.mktemp("evaluate")
    folder = tmp / "videos"
    rows = make_samples(folder)
    (folder / "base1.webm").write_bytes(b"cut short")
    return tmp, rows, folder, run(tmp, rows, folder)


def cells(ctx: LocalContext) -> dict[tuple[str, str], dict[str, Any]]:
    return {(r["system"], r["metric"]): r for r in ctx.outputs["metrics"].to_pylist()}


def test_a_failed_sample_and_a_broken_file_lower_the_coverage(done: tuple[Any, Any, Any, LocalContext]) -> None:
    for system in ("base", "final"):
        row = cells(done[3])[system, "temporal_flicker"]
        assert (row["n"], row["coverage"]) == (1, 0.5)
    ledger = [(r["status"], r["error_type"]) for r in done[3].ledger_rows]
    assert sorted(s for s, _ in ledger) == ["accepted", "accepted", "failed", "failed"]
    assert any("base1.webm" in (r["error_message"] or "") for r in done[3].ledger_rows)


def test_mlflow_gets_the_tables_numbers_with_interval_n_and_coverage(done: tuple[Any, Any, Any, LocalContext]) -> None:
    told = {key: value for (key, _), value in done[3].metrics_seen.items()}
    for (system, metric), row in cells(done[3]).items():
        for key in ("value", "low", "high", "n", "coverage"):
            name = f"{system}/{metric}" if key == "value" else f"{system}/{metric}/{key}"
            assert told.get(name) == (None if row[key] is None else pytest.approx(row[key])), name
    assert told["base/temporal_flicker/coverage"] == 0.5


def test_the_still_system_is_flat_and_the_moving_one_moves(done: tuple[Any, Any, Any, LocalContext]) -> None:
    table = cells(done[3])
    assert table["base", "dynamic_degree_dis"]["value"] == 0.0
    assert table["final", "dynamic_degree_dis"]["value"] == 1.0
    assert table["base", "temporal_flicker"]["value"] > table["final", "temporal_flicker"]["value"]


def test_numbers_of_random_encoders_say_so_and_a_lone_prompt_has_no_interval(
    done: tuple[Any, Any, Any, LocalContext],
) -> None:
    row = cells(done[3])["base", "clip_t"]
    assert "random" in row["note"]
    assert "no interval" in row["note"]
    assert row["low"] is None
    assert row["high"] is None


def test_samples_are_measured_once(
    done: tuple[Path, list[dict[str, Any]], Path, LocalContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: object, sample: Any, metrics: Any) -> None:
        if "base1" not in sample.video:  # what failed is tried again
            raise AssertionError("measured again")
        raise ValueError("base1.webm still broken")

    monkeypatch.setattr("stages.evaluation.measure.Measurer.measure", never)
    again = run(done[0], done[1], done[2])
    assert again.outputs["metrics"] == done[3].outputs["metrics"]


def test_a_changed_metric_measures_its_own_column_and_no_other(
    done: tuple[Path, list[dict[str, Any]], Path, LocalContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, tuple[str, ...]]] = []

    def told(self: Measurer, sample: Any, metrics: tuple[str, ...]) -> dict[str, float | None]:
        measured.append((Path(sample.video).name, metrics))
        if sample.video.endswith("base1.webm"):
            raise ValueError("base1.webm still broken")
        assert self.toolbox._tower is None  # nothing that is wanted needs CLIP, so it is not loaded
        return {"temporal_flicker": 0.25}

    raised = replace(METRICS["temporal_flicker"], version="9")
    monkeypatch.setitem(METRICS, "temporal_flicker", raised)
    monkeypatch.setattr("stages.evaluation.measure.Measurer.measure", told)
    rows = [row for row in done[1] if not str(row["uri"]).endswith("base1.webm")]
    again = run(done[0], rows, done[2])
    assert sorted(measured) == [("base0.webm", ("temporal_flicker",)), ("final0.webm", ("temporal_flicker",))]
    before, after = cells(done[3]), cells(again)
    assert after["final", "temporal_flicker"]["value"] == 0.25
    for metric in ("dynamic_degree_dis", "clip_t", "subject_similarity"):
        assert after["final", metric]["value"] == before["final", metric]["value"]
    recipes = [{m: json.loads(t["final", m]["source"])["recipe"] for m in CHEAP["metrics"]} for t in (before, after)]
    assert [m for m in CHEAP["metrics"] if recipes[0][m] != recipes[1][m]] == ["temporal_flicker"]


def test_a_metric_hangs_on_the_models_that_it_needs_and_on_no_others() -> None:
    models = {"clip_encoder": "a", "clip_aesthetic_head": "b", "grounder": "c", "raft": "d", "endpoint_e": "f"}
    behind = {key: set(models_behind(key, METRICS[key], models)) for key in ("clip_t", "aesthetic", "dynamic_degree")}
    assert behind == {
        "clip_t": {"clip_encoder"},
        "aesthetic": {"clip_encoder", "clip_aesthetic_head"},
        "dynamic_degree": {"raft"},
    }
    assert models_behind("temporal_flicker", METRICS["temporal_flicker"], models) == {}
    assert set(models_behind("e.score", METRICS["clip_t"], models)) == {"endpoint_e"}
    own = replace(METRICS["temporal_flicker"], key="mine")  # says nothing of what it needs
    assert set(models_behind("mine.metrics:MINE", own, models)) == set(models)


def test_without_a_clip_model_its_metrics_are_missing_not_zero(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    rows = make_samples(folder)
    row = cells(run(tmp_path, rows, folder, clip=None))["base", "clip_t"]
    assert (row["value"], row["n"], row["coverage"]) == (None, 0, 0.0)
    assert "not measured" in row["note"]


def test_no_samples_stop_the_pipeline_by_name(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(NotEnoughRows, match="needs 1 samples, has 0"):
        run(tmp_path, [], tmp_path / "videos")


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown metrics fid"):
        EvaluateParams(metrics=("fid",))


class Shuffled(InlineEngine):
    """Hands work out in another order, as more workers would."""

    def map(self, actor: Any, batches: Any, *how: Any) -> Any:
        alone = [(lacking, [item]) for lacking, items in batches for item in items]
        return super().map(actor, list(reversed(alone)), *how)


def test_the_numbers_do_not_depend_on_who_measured_what_when(
    tmp_path: Path, done: tuple[Path, list[dict[str, Any]], Path, LocalContext]
) -> None:
    inputs = {"samples": SAMPLES.table(done[1]), "videos": done[2]}
    other = LocalContext(tmp_path, evaluate, inputs, engine=Shuffled())
    other.run(EvaluateParams.model_validate(CHEAP))
    for name in ("measurements", "comparisons"):
        assert other.outputs[name] == done[3].outputs[name]
    columns = [c for c in done[3].outputs["metrics"].column_names if c != "source"]  # which names another store's table
    assert other.outputs["metrics"].select(columns) == done[3].outputs["metrics"].select(columns)


def test_every_videos_number_is_kept_with_its_digest_or_why_there_is_none(
    done: tuple[Path, list[dict[str, Any]], Path, LocalContext],
) -> None:
    rows = {(r["system"], r["prompt_id"], r["metric"]): r for r in done[3].outputs["measurements"].to_pylist()}
    assert len(rows) == 4 * len(CHEAP["metrics"])
    good = rows["base", "p0", "temporal_flicker"]
    assert good["missing"] is None
    assert good["video_sha256"] == hashlib.sha256((done[2] / "base0.webm").read_bytes()).hexdigest()
    assert rows["final", "p1", "temporal_flicker"]["missing"] == "ValueError: not finite"
    assert "base1.webm" in rows["base", "p1", "temporal_flicker"]["missing"]


def test_a_number_names_the_models_that_made_it(done: tuple[Any, Any, Any, LocalContext]) -> None:
    source = json.loads(cells(done[3])["base", "clip_t"]["source"])
    assert source["metric"] == "clip_t/1"
    assert source["models"] == {"clip_encoder": "tiny-random seed 0"}
    assert json.loads(cells(done[3])["base", "temporal_flicker"]["source"])["models"] == {}


def rows_of(
    values: dict[str, dict[str, float | None]],
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float | None]]]:
    """Samples and measured values of ``{system: {prompt: value}}``, one seed each."""
    samples = [
        {"system": s, "prompt_id": p, "seed": 0, "record_id": f"{s}/{p}"} for s, found in values.items() for p in found
    ]
    return samples, {f"{s}/{p}": {"exposure": v} for s, found in values.items() for p, v in found.items()}


def test_systems_are_compared_on_the_prompts_that_both_have() -> None:
    prompts = [f"p{i}" for i in range(8)]
    values: dict[str, dict[str, float | None]] = {
        "base": {p: 0.1 * i for i, p in enumerate(prompts)},
        "better": {p: 0.1 * i + 0.2 for i, p in enumerate(prompts)},
        "holey": {p: None if i < 6 else 0.1 * i for i, p in enumerate(prompts)},
    }
    found = {r["system"]: r for r in compare(*rows_of(values), EvaluateParams(metrics=("exposure",), clip=None))}
    better, holey = found["better"], found["holey"]
    assert better["difference"] == pytest.approx(0.2)
    assert better["p"] == 2 / 2**8
    assert better["p_holm"] == 2 * better["p"]  # two systems were compared
    assert (holey["prompts"], holey["difference"], holey["p"]) == (2, 0.0, 1.0)
    with pytest.raises(StageError, match="no system is called so"):
        compare(*rows_of(values), EvaluateParams(metrics=("exposure",), clip=None, baseline="nobody"))


def test_steadiness_without_motion_beside_it_says_that_a_frozen_video_wins() -> None:
    samples, values = rows_of({"base": {"p": 1.0, "q": 0.5}})
    for metrics, said in ((("temporal_flicker",), True), (("temporal_flicker", "dynamic_degree_dis"), False)):
        row = summarise(samples, values, EvaluateParams(metrics=metrics, clip=None))[0]
        assert ("frozen" in str(row["note"])) == said


class MeanColour:
    """A video network that sees the mean colour."""

    name = "mean-colour/1"

    def encode(self, video_FHWC: np.ndarray, fps: float) -> np.ndarray:
        return np.asarray(video_FHWC.mean((0, 1, 2)), np.float32)


def test_fvd_is_measured_by_option_and_prints_its_caveats(
    tmp_path: Path, done: tuple[Path, list[dict[str, Any]], Path, LocalContext]
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    for number in range(3):
        write_video(np.full((3, 32, 32, 3), 90 * number, np.uint8), 8.0, real / f"{number}.webm", codec="libvpx-vp9")
    fvd = {"encoder": f"{__name__}:MeanColour", "real": str(real)}
    table = cells(run(tmp_path, done[1], done[2], fvd=fvd, metrics=["exposure"]))
    assert table["base", "fvd"]["value"] is None  # one of its two videos is broken
    assert table["base", "fvd"]["note"] == "fewer than two videos"
    good = make_samples(tmp_path / "good")[:2]
    row = cells(run(tmp_path / "two", good, tmp_path / "good", fvd=fvd, metrics=["exposure"]))["base", "fvd"]
    assert row["value"] > 0
    assert (row["n"], row["coverage"], row["better"], row["low"]) == (2, 1.0, "lower", None)
    assert "by mean-colour/1 on 2 generated and 3 real videos, biased upwards" in row["note"]
    assert "covariances are singular" in row["note"]


ENDLESS = MetricInfo("endless", "Endless", lambda video, prompt, references, tools: float("nan"), "higher", "1")


def test_a_metric_of_ones_own_that_breaks_fails_the_sample_and_not_the_stage(
    tmp_path: Path, done: tuple[Path, list[dict[str, Any]], Path, LocalContext]
) -> None:
    ctx = run(tmp_path, done[1], done[2], metrics=["exposure", f"{__name__}:ENDLESS"])
    row = cells(ctx)["base", "exposure"]
    assert (row["n"], row["coverage"]) == (0, 0.0)
    assert any("came out as no finite number" in (r["error_message"] or "") for r in ctx.ledger_rows)

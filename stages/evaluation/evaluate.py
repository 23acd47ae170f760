"""Stage ``evaluate``: every metric on every sample, with coverage and intervals bootstrapped by prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from data_schemas.ids import short_hash
from data_schemas.tables import METRICS, SAMPLES
from stages.contract import Context, Files, Group, NotEnoughRows, Params, StageError, Table, stage
from stages.curation.embed import EncoderParams
from stages.evaluation.measure import Measurer, Sample
from stages.subjects.locate import in_folder
from stages.work import Item, Work, content_key, run_items

if TYPE_CHECKING:
    from models.metrics.tools import MetricInfo

# The embedded models and metrics by name and version, repeated so that planning imports none of them; a test compares.
EMBEDDED = {"grounder": "motion-saliency/1", "segmenter": "grabcut/1", "identity": "closed-form/1"}
METRIC_VERSIONS = {
    "subject_similarity": "1",
    "copy_paste": "1",
    "clip_t": "1",
    "clip_i": "1",
    "dynamic_degree_dis": "1",
    "motion_smoothness_dis": "1",
    "temporal_flicker": "1",
    "frame_consistency": "1",
    "aesthetic": "1",
    "sharpness_crete": "1",
    "exposure": "1",
}


class ClipParams(EncoderParams):
    """The CLIP model of CLIP-T, CLIP-I, frame consistency and aesthetic, named as the ``embed`` stage names its encoder."""

    @property
    def random(self) -> bool:
        return self.model == "tiny-random"


class EvaluateParams(Params):
    metrics: tuple[str, ...] = Field(tuple(METRIC_VERSIONS), min_length=1, description="which metrics, in table order")
    clip: ClipParams | None = Field(ClipParams(), description="null leaves the CLIP metrics unmeasured")
    draws: int = Field(2000, ge=100, description="bootstrap draws")
    seed: int = Field(0, description="seed of the bootstrap")

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [m for m in metrics if m not in METRIC_VERSIONS]
        if unknown:
            raise ValueError(f"unknown metrics {', '.join(unknown)}; there are {', '.join(METRIC_VERSIONS)}")
        return metrics


def _models(params: EvaluateParams) -> Mapping[str, str]:
    if params.clip is None:
        return dict(EMBEDDED)
    from models.scorers.clip_tower import EncoderError, encoder_digests

    try:
        return {**EMBEDDED, **{f"clip_{k}": v for k, v in encoder_digests(params.clip.spec()).items()}}
    except EncoderError as error:
        raise StageError(f"evaluate: {error}") from error


@stage(
    name="evaluate",
    version="1",
    params=EvaluateParams,
    inputs={"samples": Table(SAMPLES), "videos": Files("videos")},
    outputs={"metrics": Table(METRICS)},
    models=_models,
)
def evaluate(ctx: Context, params: EvaluateParams) -> None:
    """Measure each sample once; a sample that failed to be made or measured counts against its system's coverage."""
    columns = ["system", "prompt_id", "seed", "prompt", "uri", "reference_uri", "status", "error_type", "error_message"]
    samples = ctx.dataset("samples").to_table(columns=columns).to_pylist()
    if not samples:
        raise NotEnoughRows("samples", 1, 0, "Let the sample stage make some: raise sample.prompts or its seeds.")
    folder = ctx.path("videos")
    items: dict[str, Item] = {}
    broken: dict[str, tuple[str, str]] = {}
    for row in samples:
        record_id = row["record_id"] = short_hash("sample", row["system"], row["prompt_id"], row["seed"])
        if row["status"] != "ok" or row["uri"] is None:
            broken[record_id] = (row["error_type"] or "SamplingFailed", row["error_message"] or "sampling failed")
            continue
        try:
            items[record_id] = _item(folder, row, record_id)
        except (StageError, OSError, ValueError) as error:
            broken[record_id] = (type(error).__name__, str(error))
    versions = {m: METRIC_VERSIONS[m] for m in params.metrics}
    recipe = ctx.recipe("measure", "1", {"metrics": versions, "models": dict(_models(params))})
    work = run_items(
        ctx,
        group=Group("measure", recipe),
        items=list(items.values()),
        make=Measurer,
        init={"metrics": params.metrics, "encoder": params.clip.spec() if params.clip else None},
        unit="videos",
    )
    broken |= {k: (o.error_type or "", o.error_message or "") for k, o in work.failed.items()}
    values = {
        r["record_id"]: json.loads(r["values"]) for r in work.rows(ctx, [i for i in items if i not in work.failed])
    }
    ctx.write("metrics", METRICS.table(summarise(samples, values, params)))
    ctx.ledger([_ledger(row["record_id"], broken.get(row["record_id"]), work) for row in samples])


def _item(folder: Path, row: Mapping[str, Any], record_id: str) -> Item:
    from stages.subjects.locate import read_uri

    video = in_folder(folder, row["uri"])
    reference = row["reference_uri"]
    if reference:
        try:
            reference = str(in_folder(folder, reference))
        except StageError:
            pass  # a reference may lie elsewhere: with the pairs, or with the user's own prompts
    seen = read_uri(reference) if reference else b""
    key = content_key(video.read_bytes(), row["prompt"], hashlib.sha256(seen).digest())
    return Item(key, record_id, Sample(str(video), row["prompt"], reference))


def _ledger(record_id: str, problem: tuple[str, str] | None, work: Work) -> dict[str, Any]:
    row: dict[str, Any] = {"record_id": record_id, "seconds": work.seconds.get(record_id)}
    if problem is None:
        return {**row, "status": "accepted"}
    return {**row, "status": "failed", "error_type": problem[0], "error_message": problem[1]}


def summarise(
    samples: list[dict[str, Any]], values: Mapping[str, Mapping[str, float | None]], params: EvaluateParams
) -> list[dict[str, object]]:
    """Rows of METRICS: per system and metric the mean over prompts, its interval, n, and coverage of what was asked for."""
    from models.metrics.bootstrap import bootstrap
    from models.metrics.catalogue import METRICS as CATALOGUE

    rows: list[dict[str, object]] = []
    for system in dict.fromkeys(s["system"] for s in samples):
        mine = [s for s in samples if s["system"] == system]
        for key in params.metrics:
            measured = [values.get(s["record_id"], {}).get(key) for s in mine]
            interval = bootstrap(measured, [s["prompt_id"] for s in mine], seed=params.seed, draws=params.draws)
            rows.append(
                {
                    "system": system,
                    "metric": key,
                    "value": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "n": interval.n,
                    "coverage": interval.n / len(mine),
                    "better": CATALOGUE[key].better,
                    "note": _note(CATALOGUE[key], params, interval.prompts),
                }
            )
    return rows


def _note(metric: MetricInfo, params: EvaluateParams, prompts: int) -> str | None:
    notes = []
    if "clip" in metric.needs:
        if params.clip is None:
            notes.append("not measured: evaluate.clip is null")
        elif params.clip.random:
            notes.append("encoder weights are random: the number means nothing")
    if "aesthetic" in metric.needs and (params.clip is None or params.clip.aesthetic_head is None):
        notes.append("not measured: evaluate.clip.aesthetic_head is not set")
    if "identity" in metric.needs:
        notes.append("embedded encoder: colour, texture and shape, no semantics")
    if prompts == 1:
        notes.append("one prompt: no interval")
    return "; ".join(notes) or None

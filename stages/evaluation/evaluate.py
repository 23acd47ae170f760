"""Stage ``evaluate``: every metric on every sample, with coverage, intervals bootstrapped by prompt, and paired tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.ids import short_hash
from data_schemas.tables import COMPARISONS, MEASUREMENTS, METRICS, SAMPLES
from stages.contract import Context, Files, NotEnoughRows, StageError, Table, stage
from stages.evaluation.fvd import distances
from stages.evaluation.measure import Sample
from stages.evaluation.measured import Measured, measure_all
from stages.evaluation.params import EvaluateParams
from stages.evaluation.summary import compare, summarise
from stages.subjects.locate import in_folder, read_uri
from stages.work import Item, content_key

ASKED = (
    "system", "prompt_id", "seed", "prompt", "uri", "reference_uri", "reference_uris", "status", "error_type",
    "error_message",
)  # fmt: skip


def _models(params: EvaluateParams) -> Mapping[str, str]:
    try:
        return params.models()
    except ValueError as error:
        raise StageError(f"evaluate: {error}") from error


@stage(
    name="evaluate",
    version="2",
    params=EvaluateParams,
    inputs={"samples": Table(SAMPLES), "videos": Files("videos")},
    outputs={"metrics": Table(METRICS), "measurements": Table(MEASUREMENTS), "comparisons": Table(COMPARISONS)},
    models=_models,
)
def evaluate(ctx: Context, params: EvaluateParams) -> None:
    """Measure each sample once; a sample that failed to be made or measured counts against its system's coverage."""
    samples = ctx.dataset("samples").to_table(columns=list(ASKED)).to_pylist()
    if not samples:
        raise NotEnoughRows("samples", 1, 0, "Let the sample stage make some: raise sample.prompts or its seeds.")
    folder = ctx.path("videos")
    items: dict[str, Item] = {}
    digests: dict[str, str] = {}
    broken: dict[str, tuple[str, str]] = {}
    for row in samples:
        record_id = row["record_id"] = short_hash("sample", row["system"], row["prompt_id"], row["seed"])
        if row["status"] != "ok" or row["uri"] is None:
            broken[record_id] = (row["error_type"] or "SamplingFailed", row["error_message"] or "sampling failed")
            continue
        try:
            found = _locate(folder, row)
        except (StageError, OSError, ValueError) as error:
            broken[record_id] = (type(error).__name__, str(error))
            continue
        items[record_id] = Item(found.key, record_id, found.sample)
        digests[record_id] = found.sha256
    work = measure_all(ctx, params, list(items.values()))
    broken |= {k: (o.error_type or "", o.error_message or "") for k, o in work.failed.items()}
    values = work.values
    source = {"recipes": work.recipes, "samples": ctx.digest("samples")[0], "models": dict(_models(params))}
    metrics = summarise(samples, values, params, source)
    if params.fvd is not None:
        metrics += distances(ctx, params.fvd, samples, items)
    ctx.write("metrics", METRICS.table(metrics))
    ctx.write("measurements", MEASUREMENTS.table(_measured(samples, values, params, broken, digests)))
    ctx.write("comparisons", COMPARISONS.table(compare(samples, values, params)))
    _track(ctx, metrics)
    ctx.ledger([_ledger(row["record_id"], broken.get(row["record_id"]), work) for row in samples])


def _track(ctx: Context, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Every row of METRICS for MLflow: the value, its interval, n and coverage. What nobody measured shows as coverage 0."""
    for row in metrics:
        name = f"{row['system']}/{row['metric']}"
        told = {name: row["value"], **{f"{name}/{key}": row[key] for key in ("low", "high", "n", "coverage")}}
        for key, value in told.items():
            if value is not None:
                ctx.metric(key, float(value))


@dataclass(frozen=True)
class _Found:
    key: str
    sha256: str
    sample: Sample


def _locate(folder: Path, row: Mapping[str, Any]) -> _Found:
    """The sample's files; its key digests what they hold, so that a moved file is not measured again."""
    video = in_folder(folder, row["uri"])
    references = []
    for uri in row["reference_uris"] or ([row["reference_uri"]] if row["reference_uri"] else []):
        try:
            references.append(str(in_folder(folder, uri)))
        except StageError:
            references.append(uri)  # a reference may lie elsewhere: with the pairs, or with the user's own prompts
    shown, seen = video.read_bytes(), [hashlib.sha256(read_uri(uri)).digest() for uri in references]
    key = content_key(shown, row["prompt"], *seen)
    return _Found(key, hashlib.sha256(shown).hexdigest(), Sample(str(video), row["prompt"], tuple(references)))


def _measured(
    samples: list[dict[str, Any]],
    values: Mapping[str, Mapping[str, float | None]],
    params: EvaluateParams,
    broken: Mapping[str, tuple[str, str]],
    digests: Mapping[str, str],
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for sample in samples:
        record_id = sample["record_id"]
        problem = broken.get(record_id)
        failed = f"{problem[0]}: {problem[1]}" if problem else None
        for key in params.infos():
            value = values.get(record_id, {}).get(key)
            rows.append(
                {
                    **{name: sample[name] for name in ("system", "prompt_id", "seed")},
                    "metric": key,
                    "value": value,
                    "missing": None if value is not None else failed or "cannot be told for this video",
                    "video_sha256": digests.get(record_id),
                }
            )
    return rows


def _ledger(record_id: str, problem: tuple[str, str] | None, work: Measured) -> dict[str, Any]:
    row: dict[str, Any] = {"record_id": record_id, "seconds": work.seconds.get(record_id)}
    if problem is None:
        return {**row, "status": "accepted"}
    return {**row, "status": "failed", "error_type": problem[0], "error_message": problem[1]}

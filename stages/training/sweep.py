"""Finds merge weights: every point of a grid samples the same prompts on one loaded model and is measured as ``evaluate`` does.

Nothing but the winner is written as an adapter; the others remain as their numbers and a Pareto front.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from data_schemas.tables import CACHE, METRICS
from stages.contract import Artifact, Context, Files, Group, NotEnoughRows, StageError, Table, stage
from stages.evaluation.params import EvaluateParams
from stages.evaluation.summary import summarise
from stages.training.adapters import adapter_digest
from stages.training.generate import Studio, check_cache, entries_of
from stages.training.merge import ADAPTER, MergeParams, check_parent, combine, read_parents, write_merged
from stages.training.params import BackboneParams, SamplingParams, backbone_models
from stages.work import Item, Work, content_key, run_items

if TYPE_CHECKING:
    from models.training.pareto import Choice

POINT = "point"  # name of the merged adapter on the backbone
MAX_POINTS = 200
MEANINGLESS = "means nothing"  # what evaluate notes beside numbers of random encoders


class SweepParams(MergeParams):
    """Which weights to try, on what, and what makes one better.

    LibraGen does not publish its weights. Motion counts as much as identity here because raising the second at the cost of
    the first is what the merge is there to avoid.
    """

    backbone: BackboneParams = BackboneParams()
    sampling: SamplingParams = SamplingParams()
    grid: dict[str, tuple[float, ...]] = Field(description="values to try by adapter; all combinations are points")
    sum_to_one: bool = Field(False, description="keep only points whose weights sum to 1")
    prompts: int = Field(8, ge=1, description="prompts with their references, from the end of the order sample uses")
    seeds: int = Field(1, ge=1, description="videos per prompt and point")
    split: str = Field("held_out", description="rows of the cache to sample")
    metrics: EvaluateParams = EvaluateParams(
        metrics=("subject_similarity", "dynamic_degree_dis", "motion_smoothness_dis"), clip=None
    )
    objective: dict[str, float] = Field(
        {"subject_similarity": 0.5, "dynamic_degree_dis": 0.25, "motion_smoothness_dis": 0.25},
        description="weight by metric, each scaled from the worst point to the best",
    )
    limits: dict[str, float] = Field(default_factory=dict, description="worst value by metric that a winner may have")


class SweepSftParams(SweepParams):
    grid: dict[str, tuple[float, ...]] = {
        "cross": (0.0, 0.25, 0.5, 0.75, 1.0),
        "in_pair": (0.0, 0.25, 0.5, 0.75, 1.0),
    }
    sum_to_one: bool = True


class SweepFinalParams(SweepParams):
    grid: dict[str, tuple[float, ...]] = {"sft": (1.0,), "consis": (0.0, 0.5, 1.0), "real_fake": (0.0, 0.5, 1.0)}


def _models(params: SweepParams) -> Mapping[str, str]:
    try:
        return {**backbone_models(params.backbone), **params.metrics.models()}
    except ValueError as error:
        raise StageError(f"the sweep's metrics: {error}") from error


CACHED: dict[str, Artifact] = {"cache": Table(CACHE), "latents": Files("latents")}
OUTPUTS: dict[str, Artifact] = {"adapter": ADAPTER, "metrics": Table(METRICS), "sweep": Files("sweep")}


@stage(
    name="sweep_sft",
    version="1",
    params=SweepSftParams,
    inputs={**CACHED, "cross": ADAPTER, "in_pair": ADAPTER},
    outputs=OUTPUTS,
    models=_models,
    resources=lambda params: params.sampling.needs(),
)
def sweep_sft(ctx: Context, params: SweepSftParams) -> None:
    """The best merge of the cross-pair and the in-pair adapter."""
    _sweep(ctx, params, ("cross", "in_pair"), "sft")


@stage(
    name="sweep_final",
    version="1",
    params=SweepFinalParams,
    inputs={**CACHED, "sft": ADAPTER, "consis": ADAPTER, "real_fake": ADAPTER},
    outputs=OUTPUTS,
    models=_models,
    resources=lambda params: params.sampling.needs(),
)
def sweep_final(ctx: Context, params: SweepFinalParams) -> None:
    """The best weights of both DPO deltas on the merged SFT adapter."""
    check_parent(ctx)
    _sweep(ctx, params, ("sft", "consis", "real_fake"), "final")


@dataclass(frozen=True)
class PointPayload:
    """One video to make and measure: weights by adapter, in the grid's order."""

    weights: tuple[tuple[str, float], ...]
    sample_id: str
    seed: int


class MeasurePoint:
    """Merges in memory, samples and measures; a point's adapter stays attached while its videos are made."""

    def __init__(
        self,
        studio: Mapping[str, Any],
        adapters: Mapping[str, str],
        params: SweepParams,
        seed: int,
        prompts: Mapping[str, str],
    ) -> None:
        from models.training.adapter import load_adapter
        from models.training.merge import factors_of
        from stages.evaluation.measure import Measurer

        self.studio = Studio(**studio)
        self.studio.systems[POINT] = [POINT]
        self.factors = {name: factors_of(load_adapter(Path(folder))) for name, folder in adapters.items()}
        self.params, self.seed, self.prompts = params, seed, prompts
        self.measure = Measurer(tuple(params.metrics.infos()), params.metrics.tools())
        self.attached: tuple[tuple[str, float], ...] | None = None

    def __call__(self, point: PointPayload) -> Mapping[str, Any]:
        from stages.evaluation.measure import Sample

        self._attach(point.weights)
        video = self.studio.video(self.studio.sample(POINT, point.sample_id, point.seed))
        picture = self.studio.reader.folder / "references" / f"{point.sample_id}.png"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.webm"
            path.write_bytes(video)
            prompt = self.prompts[point.sample_id]
            return self.measure(Sample(str(path), prompt, (str(picture),) if picture.exists() else ()))

    def _attach(self, weights: tuple[tuple[str, float], ...]) -> None:
        from models.training.lora import attach_adapter, remove_adapter, set_adapters

        if weights == self.attached:
            return
        if self.attached is not None:
            self.attached = None
            remove_adapter(self.studio.backbone, POINT)
        merged, _ = combine(self.factors, dict(weights), self.params, self.seed)
        attach_adapter(self.studio.backbone, merged, POINT)
        set_adapters(self.studio.backbone, [])
        self.attached = weights


def _sweep(ctx: Context, params: SweepParams, names: Sequence[str], kind: str) -> None:
    points = _points(params, names)
    _check_objective(params)
    digest = check_cache(ctx, params.backbone)
    adapters = read_parents(ctx, names)
    rows = {row["sample_id"]: row for row in ctx.table("cache").to_pylist() if row["split"] == params.split}
    if not rows:
        raise NotEnoughRows(
            f"rows of split {params.split} in the cache",
            1,
            0,
            "Raise the held-out share of pairs, or set split: train.",
        )
    order, items = _items(ctx, params, points, rows, names)
    studio = {
        "backbone": params.backbone,
        "sampling": params.sampling,
        "systems": [],
        "cache": str(ctx.path("latents")),
        "entries": entries_of(rows[i] for i in order),
    }
    init = {
        "studio": studio,
        "adapters": {name: str(ctx.path(name)) for name in names},
        "params": params,
        "seed": ctx.seed,
        "prompts": {i: rows[i]["prompt"] for i in order},
    }
    merging = {name: getattr(params, name) for name in MergeParams.model_fields if name != "allow_inexact"}
    recipe = {
        "backbone": digest,
        "models": dict(_models(params)),
        "metrics": params.metrics.measuring()["metrics"],
        "sampling": params.sampling.model_dump(mode="json"),
        "merge": MergeParams(**merging).model_dump(mode="json"),
    }
    work = run_items(
        ctx,
        group=Group("point", ctx.recipe("point", "1", recipe)),
        items=items,
        make=MeasurePoint,
        init=init,
        unit="videos",
        batch=len(order) * params.seeds,  # a point's videos together, so that a worker merges it once
        cpus=params.sampling.workers_cpus,
        gpus=params.sampling.workers_gpus,
    )
    measured = _measured(ctx, params, work, items)
    ctx.write("metrics", METRICS.table(measured))
    ctx.ledger([_ended(work, item) for item in items])
    choice = _choose(params, points, measured)
    ctx.event("swept", points=len(points), videos=len(items), failed=len(work.failed), winner=points[choice.winner])
    write_merged(ctx, params, adapters, points[choice.winner], kind)
    _write_page(ctx, params, points, measured, choice)


def _points(params: SweepParams, names: Sequence[str]) -> list[dict[str, float]]:
    if set(params.grid) != set(names):
        raise StageError(f"grid has values for {sorted(params.grid)}; give some for each of {', '.join(names)}")
    found = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(dict.fromkeys(params.grid[name]) for name in names))
        if not params.sum_to_one or abs(sum(values) - 1) < 1e-9
    ]
    if not 1 <= len(found) <= MAX_POINTS:
        remedy = "set sum_to_one: false or other values" if not found else "give fewer values"
        raise StageError(f"the grid has {len(found)} points (1 to {MAX_POINTS} are taken); {remedy}")
    return found


def _check_objective(params: SweepParams) -> None:
    unmeasured = sorted({*params.objective, *params.limits} - set(params.metrics.infos()))
    if unmeasured:
        raise StageError(f"objective or limits name {', '.join(unmeasured)}; add them to metrics.metrics")


def _items(
    ctx: Context,
    params: SweepParams,
    points: Sequence[Mapping[str, float]],
    rows: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
) -> tuple[list[str], list[Item]]:
    """The prompts, and each point's videos. ``sample`` takes its prompts from the other end of the same order."""
    from models.training.randomness import seed_of

    order = sorted(rows, key=lambda i: (seed_of(ctx.seed, "prompt", i), i))[-params.prompts :]
    digests = [adapter_digest(ctx.path(name)) for name in names]
    entries = {entry.sample_id: entry for entry in entries_of(rows[i] for i in order)}
    items = []
    for point in points:
        for sample_id in order:
            for number in range(params.seeds):
                payload = PointPayload(tuple(point.items()), sample_id, seed_of(ctx.seed, "sample", sample_id, number))
                entry = entries[sample_id]
                key = content_key(*digests, payload.weights, sample_id, payload.seed, entry.shard, entry.text_key)
                items.append(Item(key, f"{_title(point)}/{sample_id}/{number}", payload))
    return order, items


def _title(point: Mapping[str, float]) -> str:
    return " ".join(f"{name}={weight:g}" for name, weight in point.items())


def _measured(ctx: Context, params: SweepParams, work: Work, items: Sequence[Item]) -> list[dict[str, object]]:
    """Rows of METRICS, the system being the point."""
    made = [item.record_id for item in items if item.record_id not in work.failed]
    if not made:
        first = next(iter(work.failed.values()))
        raise StageError(f"all {len(items)} videos of the sweep failed; first: {first.error_message}")
    values = {row["record_id"]: json.loads(row["values"]) for row in work.rows(ctx, made)}
    samples = [
        {
            "system": _title(dict(item.payload.weights)),
            "prompt_id": item.payload.sample_id,
            "record_id": item.record_id,
        }
        for item in items
    ]
    return summarise(samples, values, params.metrics)


def _ended(work: Work, item: Item) -> dict[str, object]:
    failure = work.failed.get(item.record_id)
    row: dict[str, object] = {"record_id": item.record_id, "seconds": work.seconds.get(item.record_id)}
    if failure is None:
        return {**row, "status": "accepted"}
    return {**row, "status": "failed", "error_type": failure.error_type, "error_message": failure.error_message}


def _choose(
    params: SweepParams, points: Sequence[Mapping[str, float]], measured: Sequence[Mapping[str, Any]]
) -> Choice:
    from models.training.pareto import choose

    random = sorted({r["metric"] for r in measured if r["note"] and MEANINGLESS in r["note"]} & set(params.objective))
    if random:
        raise StageError(f"{', '.join(random)} is measured with random weights and cannot choose; set metrics.clip")
    by_point = {
        _title(point): {r["metric"]: r["value"] for r in measured if r["system"] == _title(point)} for point in points
    }
    better = {r["metric"]: r["better"] for r in measured}
    try:
        return choose([by_point[_title(point)] for point in points], params.objective, better, params.limits)
    except ValueError as error:
        raise StageError(f"the sweep has no winner: {error}") from error


def _write_page(
    ctx: Context,
    params: SweepParams,
    points: Sequence[Mapping[str, float]],
    measured: Sequence[Mapping[str, Any]],
    choice: Choice,
) -> None:
    from stages.training.sweep_page import render

    rows = []
    for index, point in enumerate(points):
        mine = [r for r in measured if r["system"] == _title(point)]
        rows.append(
            {
                "weights": dict(point),
                "metrics": {r["metric"]: {k: r[k] for k in ("value", "low", "high", "n", "coverage")} for r in mine},
                "score": choice.scores[index],
                "front": index in choice.front,
                "winner": index == choice.winner,
            }
        )
    folder = ctx.folder("sweep")
    found = {
        "objective": params.objective,
        "limits": params.limits,
        "better": {r["metric"]: r["better"] for r in measured},
        "points": rows,
    }
    (folder / "points.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "index.html").write_text(render(found), encoding="utf-8")

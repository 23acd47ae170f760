"""Trains LoRA adapters: supervised on pair rows, and by direct preference optimisation on reviewed pairs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from data_schemas.tables import CACHE, PREFERENCES, VERDICTS
from stages.contract import Context, Files, NotEnoughRows, StageError, Table, stage
from stages.training.adapters import adapter_digest, read_adapter, write_adapter
from stages.training.curves import CURVES, curves_page
from stages.training.feeds import make_sampler
from stages.training.generate import check_cache, entries_of
from stages.training.jobs import Job, ProbeSpec, launch, publish, read_events, write_log
from stages.training.memory import announce_memory, compare_memory
from stages.training.params import BackboneParams, EngineParams, LoraParams, TimestepParams, backbone_models
from stages.training.reference import with_reference_errors

if TYPE_CHECKING:
    from models.training.feed import FeedSpec, Pair
    from models.training.loop import TrainSpec
    from models.training.methods import Dpo, Sft

ADAPTER = Files("adapter")
WARN_DROPPED = 0.02  # an epoch that leaves out more than this share is worth a warning


class TrainParams(EngineParams):
    """What every kind of training is told; see ``models.training.loop.TrainSpec``."""

    backbone: BackboneParams = BackboneParams()
    lora: LoraParams = LoraParams()
    timesteps: TimestepParams = TimestepParams()
    steps: int = Field(1000, ge=1, description="optimiser steps")
    batch: int = Field(8, ge=1, description="samples of a step over all workers, before accumulation")
    accumulate: int = Field(1, ge=1, description="batches per optimiser step")
    balance: Literal["samples", "flops"] = Field(
        "samples",
        description="flops: cheaper buckets get whole multiples of batch, so that all steps cost about the same",
    )
    remainder: Literal["drop", "repeat"] = Field("repeat", description="what fills no batch of its bucket in an epoch")
    min_rows: int | None = Field(None, ge=1, description="rows without which the stage stops; null is one batch")
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["constant", "cosine", "cosine_restarts"] = "constant"
    cycles: int = Field(1, ge=1, description="cosines one after another, for cosine_restarts")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(1e-4, ge=0)
    max_grad_norm: float | None = Field(1.0, gt=0)
    ema_decay: float | None = Field(None, gt=0, lt=1, description="with it, the averaged adapter is the output")
    gradient_checkpointing: bool = False
    shard: bool = Field(False, description="split the frozen base over the workers (FSDP2); the numbers are the same")
    compile: bool = Field(False, description="compile the transformer's blocks (torch.compile)")
    max_nonfinite: int = Field(0, ge=0, description="steps in a row that may be skipped for a loss that is not finite")
    checkpoint_every: int = Field(100, ge=1)
    held_out_every: int = Field(
        200, ge=0, description="steps between measurements of the held-out error at fixed timesteps; 0 is never"
    )
    held_out_samples: int = Field(4, ge=1, description="held-out rows that are measured")
    held_out_parts: int = Field(9, ge=1, description="equal parts of the timesteps, each measured at its middle")
    histogram_every: int = Field(100, ge=0, description="steps between histograms of the timesteps drawn; 0 is never")


class SftParams(TrainParams):
    """Rank, rate and steps are unpublished; 1e-4 is finetrainers' and DiffSynth's, 0.1 of texts dropped is HuMo's."""

    kind: Literal["in_pair", "cross_pair"] = Field("cross_pair", description="which rows to train on")
    caption_dropout: float = Field(0.1, ge=0, le=1)
    reference_dropout: float = Field(0.1, ge=0, le=1)
    null_reference: Literal["absent", "zeros"] = Field(
        "absent", description="what dropped references are, as in guidance"
    )


class DpoParams(TrainParams):
    """Flow-DPO of VideoAlign: beta 500 (range 100 to 2000 with mean errors), rate 5e-6, LoRA only, about one epoch."""

    kind: Literal["consis", "real_fake"] = "consis"
    learning_rate: float = Field(5e-6, gt=0)
    steps: int = Field(500, ge=1, description="optimiser steps; over-training degrades even with LoRA (VideoAlign)")
    beta: float = Field(500.0, gt=0)
    objective: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    weighting: Literal["one", "epsilon"] = Field("one", description="w(t); constant beat time-weighted in VideoAlign")
    lambda_sft: float = Field(
        0.0, ge=0, description="weight of the winner's own error, against likelihood displacement"
    )
    losers: int = Field(1, ge=1, description="most losers that train with their winner in one forward; RealDPO has 3")
    refresh_every: int | None = Field(
        None, ge=1, description="steps after which the reference follows the policy; 40 in online DPO, null is never"
    )
    refresh_decay: float = Field(0.0, ge=0, lt=1, description="what the reference keeps of itself then; RealDPO 0.999")
    reference_errors: Literal["online", "cached"] = Field(
        "online",
        description="cached: computed once before training and kept, for runs that differ in beta and the like",
    )
    max_winner_drift: float | None = Field(
        None, description="stop when e_w - e_ref_w averages above this over the window"
    )
    drift_window: int = Field(20, ge=1, description="steps over which the drift is averaged")

    @model_validator(mode="after")
    def _still_reference(self) -> Self:
        if self.reference_errors == "cached" and self.refresh_every is not None:
            raise ValueError("reference_errors: cached needs a reference that stays; set refresh_every: null")
        return self


@stage(
    name="sft",
    version="2",
    params=SftParams,
    inputs={"cache": Table(CACHE), "latents": Files("latents")},
    outputs={"adapter": ADAPTER},
    models=lambda params: backbone_models(params.backbone),
    resources=lambda params: params.needs(),
    needs_ray=True,
)
def sft(ctx: Context, params: SftParams) -> None:
    """One adapter from the cache's in-pair or cross-pair training rows."""
    from models.training.methods import Sft

    check_cache(ctx, params.backbone)
    rows = [r for r in ctx.table("cache").to_pylist() if r["kind"] == params.kind and r["split"] == "train"]
    enough(params, params.kind.replace("_pair", "-pair") + " rows", len(rows), "Add footage or loosen the pair rules.")
    feed = feed_spec(ctx, params, params.caption_dropout, params.reference_dropout, params.null_reference)
    job = make_job(ctx, params, Sft(lora_spec(params)), feed, rows)
    train_job(ctx, params, job, {"kind": f"sft_{params.kind}", "rows": len(rows)}, {})


@stage(
    name="dpo",
    version="2",
    params=DpoParams,
    inputs={
        "cache": Table(CACHE),
        "latents": Files("latents"),
        "preferences": Table(PREFERENCES),
        "shards": Files("preferences"),
        "verdicts": Table(VERDICTS),
        "adapter": ADAPTER,
    },
    optional=("adapter",),
    outputs={"adapter": ADAPTER},
    models=lambda params: backbone_models(params.backbone),
    resources=lambda params: params.needs(),
    needs_ray=True,
)
def dpo(ctx: Context, params: DpoParams) -> None:
    """A delta on the merged SFT adapter (without one, on the base) from pairs that review kept; that is also the reference."""
    from models.training.feed import Pair
    from models.training.methods import Dpo, FrozenAdapter

    digest = check_cache(ctx, params.backbone)
    kept = _kept(ctx, params.kind)
    enough(
        params,
        f"reviewed {params.kind.replace('_', '-')} pairs that may train",
        len(kept),
        "Make more pairs, or review those that wait.",
    )
    samples = {row["sample_id"] for row in kept}
    rows = [row for row in ctx.table("cache").to_pylist() if row["sample_id"] in samples]
    lost = sorted(samples - {row["sample_id"] for row in rows})
    if lost:
        raise StageError(
            f"preferences speak of samples that this cache lacks, first {lost[0]}; wire the same cache to both"
        )
    base = read_adapter(ctx.path("adapter"), "adapter", digest) if ctx.has("adapter") else None
    method = Dpo(
        lora=lora_spec(params),
        base=(FrozenAdapter(base, name="sft"),) if base else (),
        beta=params.beta,
        objective=params.objective,
        weighting=params.weighting,
        lambda_sft=params.lambda_sft,
        refresh_every=params.refresh_every,
        refresh_decay=params.refresh_decay,
        raw_reference=base is None,
    )
    pairs = [Pair(row["pair_id"], row["sample_id"], row["shard"], _winner(row)) for row in kept]
    job = make_job(ctx, params, method, feed_spec(ctx, params), rows, pairs)
    parents = {"sft": adapter_digest(ctx.path("adapter"))} if base else {}
    if params.reference_errors == "cached":
        job = with_reference_errors(ctx, params, job)
    train_job(ctx, params, job, {"kind": f"dpo_{params.kind}", "rows": len(pairs), "beta": params.beta}, parents)


def _winner(row: Mapping[str, Any]) -> str:
    """What a pair's winner is called: the real clip of a sample, or what this noise gave."""
    return "real" if row["kind"] == "real_fake" else str(row["seed"])


def _kept(ctx: Context, kind: Literal["consis", "real_fake"]) -> list[dict[str, Any]]:
    """Pairs that review lets train; every pair ends in the ledger. A pair is never flipped."""
    from stages.review.answers import trains

    verdicts = {row["external_id"]: row["verdict"] for row in ctx.table("verdicts").to_pylist()}
    pairs = sorted(ctx.table("preferences").to_pylist(), key=lambda row: str(row["pair_id"]))
    strange = sorted({row["kind"] for row in pairs} - {kind})
    if strange:
        raise StageError(
            f"this stage trains on {kind} pairs but was given {', '.join(strange)}; wire the other preferences"
        )
    kept, ended = [], []
    for row in pairs:
        verdict = verdicts.get(row["pair_id"], "in_review")
        if verdict == "in_review":
            ended.append({"record_id": row["pair_id"], "status": "in_review"})
        elif trains(kind, verdict):
            kept.append(row)
            ended.append({"record_id": row["pair_id"], "status": "accepted"})
        else:
            ended.append({"record_id": row["pair_id"], "status": "rejected", "reason": f"verdict: {verdict}"})
    ctx.ledger(ended)
    ctx.event("reviewed_pairs", **Counter(str(row["status"]) for row in ended))
    return kept


def enough(params: TrainParams, what: str, has: int, remedy: str) -> None:
    needs = params.min_rows or params.batch
    if has < needs:
        raise NotEnoughRows(what, needs, has, remedy)


def lora_spec(params: TrainParams) -> Any:
    from models.training.lora import LoraSpec

    return LoraSpec(**params.lora.model_dump())


def feed_spec(
    ctx: Context,
    params: TrainParams,
    caption_dropout: float = 0.0,
    reference_dropout: float = 0.0,
    null_reference: Literal["absent", "zeros"] = "absent",
) -> FeedSpec:
    from models.training.feed import FeedSpec

    return FeedSpec(
        seed=ctx.seed,
        timesteps=params.timesteps.spec(),
        caption_dropout=caption_dropout,
        reference_dropout=reference_dropout,
        null_reference=null_reference,
    )


def train_spec(ctx: Context, params: TrainParams) -> TrainSpec:
    from models.training.loop import StopRule, TrainSpec

    rules: tuple[StopRule, ...] = ()
    if isinstance(params, DpoParams) and params.max_winner_drift is not None:
        rules = (StopRule("winner_drift", params.max_winner_drift, params.drift_window),)
    names = set(TrainSpec.__dataclass_fields__) & set(type(params).model_fields)
    return TrainSpec(**params.model_dump(include=names), stop_rules=rules, seed=ctx.seed)


def make_job(
    ctx: Context,
    params: TrainParams,
    method: Sft | Dpo,
    feed: FeedSpec,
    rows: Sequence[Mapping[str, Any]],
    pairs: Sequence[Pair] = (),
    **more: Any,
) -> Job:
    """The job of these rows of the cache; ``more`` are fields of ``Job``. Says what an epoch does with the data."""
    home = (Path(params.storage) if params.storage else ctx.workdir) / f"{ctx.name}-{ctx.fingerprint[:16]}"
    fields: dict[str, Any] = {
        "probes": ProbeSpec(params.held_out_every, params.held_out_parts),
        "held_out": entries_of(held_out_rows(ctx)[: params.held_out_samples]),
        **more,
    }
    job = Job(
        home=str(home.absolute()),
        backbone=params.backbone,
        method=method,
        spec=train_spec(ctx, params),
        feed=feed,
        batch=params.batch,
        remainder=params.remainder,
        cache=str(ctx.path("latents").absolute()),
        entries=entries_of(rows),
        pairs=pairs,
        preferences=str(ctx.path("shards").absolute()) if pairs else None,
        losers=getattr(params, "losers", 1),
        balance=params.balance,
        device="cuda" if params.gpus_per_worker else "cpu",
        **fields,
    )
    try:
        sampler = make_sampler(job)
    except ValueError as error:
        raise StageError(str(error)) from error
    for plan in sampler.plans():
        ctx.event("data_plan", plan=plan.describe(), warn=plan.dropped_share > WARN_DROPPED)
    ctx.event("first_epoch", **sampler.leftovers(0))
    return job


def held_out_rows(ctx: Context) -> list[dict[str, Any]]:
    """Rows of the cache that no method trains on, in seeded order."""
    from models.training.randomness import seed_of

    rows = [row for row in ctx.table("cache").to_pylist() if row["split"] == "held_out"]
    return sorted(rows, key=lambda row: (seed_of(ctx.seed, "held out", row["sample_id"]), row["sample_id"]))


def train_job(
    ctx: Context, params: TrainParams, job: Job, facts: Mapping[str, Any], parents: Mapping[str, str]
) -> None:
    from models.training.adapter import load_adapter

    budget = announce_memory(ctx, params, job)
    note = launch(ctx, params, job)
    home = Path(job.home)
    last = publish(ctx, home, note)
    compare_memory(ctx, budget, read_events(home, note["step"]))
    ctx.event("trained", step=note["step"], stopped=note["stopped"], skipped_checkpoints=note["skipped_checkpoints"])
    metadata = {
        **facts,
        "parents": dict(parents),
        "steps": note["step"],
        "stopped": note["stopped"],
        "averaged": note["averaged"],
        "final_loss": last.get("loss"),
        "data_digest": make_sampler(job).digest,
        "backbone_digest": note["backbone_digest"],
        "weights_note": note["weights_note"],
        "lora": params.lora.model_dump(mode="json"),
        "seed": ctx.seed,
    }
    write_adapter(load_adapter(home / "adapter"), ctx.folder("adapter"), metadata)
    write_log(home, note, ctx.folder("adapter") / "log.jsonl")
    (ctx.folder("adapter") / CURVES).write_text(curves_page(ctx.name, read_events(home, note["step"])), "utf-8")
    # Checkpoints have done their work once the adapter is in the output; the note and events stay for a rerun.
    shutil.rmtree(home / "checkpoints", ignore_errors=True)

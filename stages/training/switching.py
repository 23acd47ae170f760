"""Trains one adapter on image pairs and unpaired videos in turns: identity from the first, motion from the second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from data_schemas.tables import CACHE
from stages.contract import Context, Files, Table, stage
from stages.training.disentangle import IMAGE, VIDEO
from stages.training.generate import check_cache, entries_of
from stages.training.jobs import ProbeSpec
from stages.training.params import LoraParams, backbone_models
from stages.training.train import (
    ADAPTER,
    TrainParams,
    enough,
    feed_spec,
    held_out_rows,
    lora_spec,
    make_job,
    train_job,
)


class SwitchingParams(TrainParams):
    """Numbers of arXiv 2504.17816: rank 128, alpha 64, dropout 0.2, 5e-5, warm-up 200, cosine with restarts, 4,000 steps.

    Its ablations are configurations: image only is ``video_probability: 0``; two-stage is ``stage_two_at`` (images up to
    there, then videos alone); joint, T2I with T2V, is ``reference_dropout: 1``.
    """

    lora: LoraParams = LoraParams(rank=128, alpha=64.0, dropout=0.2)
    steps: int = Field(4000, ge=1, description="optimiser steps")
    learning_rate: float = Field(5e-5, gt=0)
    schedule: Literal["constant", "cosine", "cosine_restarts"] = "cosine_restarts"
    warmup: int = Field(200, ge=0, description="steps of linear warm-up")
    batch: int = Field(8, ge=1, description="videos of a video step over all workers, before accumulation")
    image_batch: int | None = Field(
        None, ge=1, description="pairs of an image step; null is 8 x batch, the paper's 256 to 32"
    )
    video_probability: float = Field(0.2, ge=0, le=1, description="p: the share of video steps, drawn by (seed, step)")
    stage_two_at: int | None = Field(
        None, ge=0, description="step from which all steps are video steps, before it none is"
    )
    view_drop: float = Field(0.5, ge=0, le=1, description="share of image steps that lose one reference of each sample")
    token_drop: float = Field(0.5, ge=0, le=1, description="share of a video's reference tokens that are emptied")
    reference_dropout: float = Field(0.0, ge=0, le=1, description="share of steps of either kind without references")
    caption_dropout: float = Field(0.1, ge=0, le=1)
    gradients_every: int = Field(
        0,
        ge=0,
        description="steps between analyses of how image and video gradients agree; 0 is never, the paper's 5 to 50",
    )
    gradient_samples: int = Field(8, ge=1, description="held-out rows of each kind that are analysed")
    gradient_layers: bool = Field(False, description="the same for each transformer block")


@stage(
    name="switching",
    version="1",
    params=SwitchingParams,
    inputs={"cache": Table(CACHE), "latents": Files("latents")},
    outputs={"adapter": ADAPTER},
    models=lambda params: backbone_models(params.backbone),
    resources=lambda params: params.needs(),
    needs_ray=True,
)
def switching(ctx: Context, params: SwitchingParams) -> None:
    """Each step is all image pairs or all videos; rows of other kinds are left alone."""
    from models.training.methods import Sft
    from models.training.switching import SwitchingSpec

    check_cache(ctx, params.backbone)
    spec = SwitchingSpec(params.video_probability, params.stage_two_at)
    kinds = {spec.kind(ctx.seed, step) for step in range(params.steps)}
    rows = [row for row in ctx.table("cache").to_pylist() if row["split"] == "train"]
    images, videos = ([row for row in rows if row["kind"] == kind] for kind in (IMAGE, VIDEO))
    image_batch = params.image_batch or 8 * params.batch
    remedy = "Add rows of this kind, lower the batch, or let no step be of this kind (video_probability)."
    for kind, what, found in (("image", "image pairs", images), ("video", "videos", videos)):
        if kind in kinds:
            # Image batches may be larger than the data: further visits fill them (remainder: repeat).
            enough(params, what, len(found), remedy)
    feed = feed_spec(ctx, params, params.caption_dropout, params.reference_dropout)
    feed = replace(feed, view_drop=params.view_drop, token_drop=params.token_drop)
    job = make_job(
        ctx,
        params,
        Sft(lora_spec(params), adapter="switching"),
        feed,
        videos if "video" in kinds else [],
        switching=spec,
        images=entries_of(images if "image" in kinds else []),
        image_batch=image_batch,
        probes=_probes(ctx, params),
    )
    facts = {"kind": "switching", "rows": len(images) + len(videos), "video_probability": params.video_probability}
    train_job(ctx, params, job, facts, {})


def _probes(ctx: Context, params: SwitchingParams) -> ProbeSpec:
    if not params.gradients_every:
        return ProbeSpec(params.held_out_every, params.held_out_parts)
    held_out = held_out_rows(ctx)
    samples = {
        name: entries_of(_of_one_shape([row for row in held_out if row["kind"] == kind])[: params.gradient_samples])
        for name, kind in (("image", IMAGE), ("video", VIDEO))
    }
    lost = [name for name, found in samples.items() if not found]
    if lost:
        ctx.event("gradients_not_analysed", reason=f"no held-out {' and no '.join(lost)} rows")
    every = 0 if lost else params.gradients_every
    return ProbeSpec(params.held_out_every, params.held_out_parts, every, params.gradient_layers, samples)


def _of_one_shape(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that can be stacked: those of the first row's shape."""
    return [row for row in rows if (row["bucket"], row["references"]) == (rows[0]["bucket"], rows[0]["references"])]

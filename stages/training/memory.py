"""Says before a training starts what memory its largest step will take, and afterwards what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from models.training.bucket import Bucket
from stages.contract import Context
from stages.training.feeds import make_sampler
from stages.training.params import EngineParams

if TYPE_CHECKING:
    from models.training.budget import Budget, StepShape
    from stages.training.jobs import Job

GPU_PEAK = "system/gpu_memory_peak_mib"


def announce_memory(ctx: Context, params: EngineParams, job: Job) -> Budget | None:
    """Tell the budget of one worker's step, from the model's configuration alone; no weights are read. None if unasked."""
    wanted = bool(params.gpus_per_worker) if params.foretell_memory is None else params.foretell_memory
    if not wanted:
        return None
    from models.backbones.load import load_backbone
    from models.training.budget import step_budget

    shape = largest_step(job, params.num_workers)
    budget = step_budget(
        load_backbone(job.backbone.spec(), device="meta"),
        job.method,
        shape,
        checkpointing=job.spec.gradient_checkpointing,
        ema=job.spec.ema_decay is not None,
    )
    device = _device_bytes(job.device)
    fits = device is None or budget.peak <= device
    ctx.event("memory_budget", plan=budget.describe(shape, device), warn=not fits, **budget.as_dict())
    return budget


def compare_memory(ctx: Context, budget: Budget | None, events: Mapping[int, Mapping[str, float]]) -> None:
    """Tell the allocator's peak on the first worker's GPU beside the budget; events without one are of a CPU."""
    from models.training.budget import GIB

    peaks = [metrics[GPU_PEAK] for metrics in events.values() if GPU_PEAK in metrics]
    if budget is not None and peaks:
        taken = max(peaks) * 2**20
        off = budget.peak / taken - 1.0
        plan = f"memory of a step was {taken / GIB:.2f} GiB at its peak; {budget.peak / GIB:.2f} GiB was foretold ({off:+.0%})"
        ctx.event("memory_peak", peak=int(taken), foretold=budget.peak, off_by=off, plan=plan)


def largest_step(job: Job, workers: int) -> StepShape:
    """One worker's micro-batch in the bucket with the most latents a step, references and losers counted.

    Both kinds of steps of ``switching``, and buckets with a batch of their own (``balance: flops``), are looked at.
    """
    from models.backbones.load import load_backbone
    from models.training.budget import StepShape

    backbone = load_backbone(job.backbone.spec(), device="meta")
    text = (backbone.text_length, backbone.text_width)
    sizes = []
    for part in (part for plan in make_sampler(job).plans() for part in plan.buckets):
        shape, references, *losers = part.bucket.split("/")
        bucket = Bucket.parse(shape)
        latents = backbone.latent_shape(bucket.frames, bucket.height, bucket.width)
        count = int(losers[0].removeprefix("n")) if losers else 1
        step = StepShape(-(-part.size // workers), latents, int(references.removeprefix("r")), text, count)
        videos = step.samples * (1 + count if job.pairs else 1)
        sizes.append((videos * (latents[1] + step.references) * latents[2] * latents[3], step))
    return max(sizes, key=lambda pair: pair[0])[1]


def _device_bytes(device: str) -> int | None:
    """Memory of this machine's GPU, where workers use one like it."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)

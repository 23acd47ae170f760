"""Says before a training starts what memory a step of its largest bucket will take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.training.bucket import Bucket
from stages.contract import Context
from stages.training.params import EngineParams

if TYPE_CHECKING:
    from models.training.budget import StepShape
    from stages.training.jobs import Job


def announce_memory(ctx: Context, params: EngineParams, job: Job) -> None:
    """Tell the budget of one worker's step, from the model's configuration alone; no weights are read."""
    wanted = bool(params.gpus_per_worker) if params.foretell_memory is None else params.foretell_memory
    if not wanted:
        return
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


def largest_step(job: Job, workers: int) -> StepShape:
    """One worker's micro-batch in the bucket with the most latents, references counted."""
    from models.backbones.load import load_backbone
    from models.training.budget import StepShape

    backbone = load_backbone(job.backbone.spec(), device="meta")
    shapes = []
    for text, references in {(entry.bucket, entry.references) for entry in job.entries}:
        bucket = Bucket.parse(text)
        latents = backbone.latent_shape(bucket.frames, bucket.height, bucket.width)
        shapes.append(((latents[1] + references) * latents[2] * latents[3], references, latents))
    _, references, latents = max(shapes)
    text_shape = (backbone.text_length, backbone.text_width)
    return StepShape(-(-job.batch // workers), latents, references, text_shape, job.losers)


def _device_bytes(device: str) -> int | None:
    """Memory of this machine's GPU, where workers use one like it."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)

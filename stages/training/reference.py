"""The reference's errors of a DPO job, computed once: runs that differ in beta, objective or rate share them.

The reference, the pairs, their noise and their timesteps are all fixed before training, so its errors are too. Each batch is
computed just as the loop would compute it, so that with them a run gives the bits it gives without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.contract import Context, Group, StageError
from stages.training.feeds import make_sampler, preference_feed
from stages.training.jobs import Job
from stages.training.params import EngineParams
from stages.work import Item, content_key, run_items

if TYPE_CHECKING:
    from models.training.sampler import Draw

FILE = "reference_errors.safetensors"


class ReferenceErrors:
    """Computes the reference's errors on one rank's batch after another."""

    def __init__(self, job: Job) -> None:
        from models.backbones.load import load_backbone

        self.job = job
        self.backbone = load_backbone(job.backbone.spec(), device=job.device)
        job.method.attach(self.backbone, job.spec.seed)
        self.feed = preference_feed(job, self.backbone, make_sampler(job), 1, 0)

    def __call__(self, draws: tuple[Draw, ...]) -> Mapping[str, Any]:
        from safetensors.torch import save

        from models.training.methods import Dpo

        assert isinstance(self.job.method, Dpo)
        batch = self.feed.batch(draws).to(self.backbone.device)
        errors = self.job.method.reference_errors(self.backbone, batch)
        return {"payload": save({"errors": errors.float().cpu().contiguous()})}


def with_reference_errors(ctx: Context, params: EngineParams, job: Job) -> Job:
    """The job with the file of its reference's errors, which is made from the store's records and what they lack."""
    from safetensors.torch import load, save_file

    from models.backbones.load import backbone_digest
    from models.training.feed import batch_key, winner_groups

    sampler, method = make_sampler(job), job.method
    batches = {
        batch_key(draws): tuple(draws)
        for step in range(job.spec.steps * job.spec.accumulate)
        for rank in range(params.num_workers)
        for draws in [sampler.rank_batch(step, world_size=params.num_workers, rank=rank)]
    }
    frozen = [(part.name, part.weight, part.state.digest()) for part in method.base] if hasattr(method, "base") else []
    recipe = {
        "backbone": backbone_digest(job.backbone.spec()),
        "reference": frozen,
        "noise": job.feed.seed,
        "timesteps": asdict(job.feed.timesteps),
        "losers": job.losers,
    }
    entries = {entry.sample_id: entry for entry in job.entries}
    about = {
        group[0].pair_id: [
            (p.pair_id, p.shard, entries[p.sample_id].shard, entries[p.sample_id].text_key) for p in group
        ]
        for group in winner_groups(job.pairs, job.losers)
    }
    work = run_items(
        ctx,
        group=Group("reference", ctx.recipe("reference", "1", recipe)),
        items=[
            Item(
                content_key(*((d.visit, about[d.sample_id]) for d in draws)),
                key,
                draws,
            )
            for key, draws in sorted(batches.items())
        ],
        make=ReferenceErrors,
        init={"job": job},
        unit="batches",
        cpus=params.cpus_per_worker,
        gpus=params.gpus_per_worker,
    )
    if work.failed:
        first = next(iter(work.failed.values()))
        raise StageError(f"the reference's error on a batch cannot be computed: {first.error_message}")
    ctx.event("reference_errors", batches=len(batches), reused=work.reused)
    path = Path(job.home) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({r["record_id"]: load(r["payload"])["errors"] for r in work.rows(ctx, sorted(batches))}, str(path))
    return replace(job, reference_errors=str(path))

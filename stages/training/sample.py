"""Samples held-out prompts with every system, the same prompts, references and noise for all, so that they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from data_schemas.tables import CACHE, SAMPLES
from stages.contract import Context, Files, Group, NotEnoughRows, Params, StageError, Table, stage
from stages.location import child_uri
from stages.training.adapters import adapter_digest, read_adapter
from stages.training.generate import Studio, System, check_cache, entries_of, put_file, reference_picture
from stages.training.params import BackboneParams, SamplingParams, backbone_models
from stages.work import Item, Work, content_key, run_items

ADAPTER = Files("adapter")
S2V_KINDS = (
    "in_pair",
    "cross_pair",
)  # image pairs and videos that show themselves are for training and measuring alone
# System -> the adapter inputs it stacks on the base. A DPO delta means something only on top of the merged SFT.
STACKS: dict[str, tuple[str, ...]] = {
    "base": (),
    "cross": ("cross",),
    "in": ("in_pair",),
    "sft": ("sft",),
    "consis": ("sft", "consis"),
    "real_fake": ("sft", "real_fake"),
    "final": ("final",),
}
ADAPTERS = ("cross", "in_pair", "sft", "consis", "real_fake", "final")


class SampleParams(Params):
    backbone: BackboneParams = BackboneParams()
    sampling: SamplingParams = SamplingParams()
    systems: tuple[str, ...] | None = Field(
        None, description=f"of {', '.join(STACKS)}; null is base and all that is wired"
    )
    prompts: int = Field(50, ge=1, description="held-out prompts with their references")
    seeds: int = Field(2, ge=1, description="videos per prompt and system")
    split: str = Field(
        "held_out", description="rows of the cache to sample: held_out, or train to see the training set"
    )


@dataclass(frozen=True)
class SamplePayload:
    """One video to make."""

    system: str
    sample_id: str
    seed: int


class SampleVideo:
    """Samples one video after another."""

    def __init__(self, studio: Mapping[str, Any]) -> None:
        self.studio = Studio(**studio)

    def __call__(self, item: SamplePayload) -> Mapping[str, Any]:
        return {"video": self.studio.video(self.studio.sample(item.system, item.sample_id, item.seed))}


@stage(
    name="sample",
    version="1",
    params=SampleParams,
    inputs={"cache": Table(CACHE), "latents": Files("latents"), **dict.fromkeys(ADAPTERS, ADAPTER)},
    optional=ADAPTERS,
    outputs={"samples": Table(SAMPLES), "videos": Files("videos")},
    models=lambda params: backbone_models(params.backbone),
    resources=lambda params: params.sampling.needs(),
)
def sample(ctx: Context, params: SampleParams) -> None:
    """Every system makes the same videos; one that fails is a row with status failed."""
    from models.training.randomness import seed_of

    digest = check_cache(ctx, params.backbone)
    systems = _systems(ctx, params)
    for name in sorted({adapter for system in systems for adapter, _ in system.adapters}):
        read_adapter(ctx.path(name), name, digest)
    rows = {
        row["sample_id"]: row
        for row in ctx.table("cache").to_pylist()
        if row["split"] == params.split and row["kind"] in S2V_KINDS
    }
    if not rows:
        raise NotEnoughRows(
            f"rows of split {params.split} in the cache",
            1,
            0,
            "Raise the held-out share of pairs, or set split: train.",
        )
    order = sorted(rows, key=lambda i: (seed_of(ctx.seed, "prompt", i), i))[: params.prompts]
    entries = {entry.sample_id: entry for entry in entries_of(rows[i] for i in order)}
    digests = {name: adapter_digest(ctx.path(name)) for name in ADAPTERS if ctx.has(name)}
    items = []
    for system in systems:
        for sample_id in order:
            for number in range(params.seeds):
                # The seed does not know the system: all start from the same noise.
                payload = SamplePayload(system.name, sample_id, seed_of(ctx.seed, "sample", sample_id, number))
                entry, weights = entries[sample_id], [digests[name] for name, _ in system.adapters]
                key = content_key(sample_id, payload.seed, entry.shard, entry.text_key, weights)
                items.append(Item(key, f"{system.name}/{sample_id}/{number}", payload))
    studio = {
        "backbone": params.backbone,
        "sampling": params.sampling,
        "systems": systems,
        "cache": str(ctx.path("latents")),
        "entries": list(entries.values()),
    }
    recipe = {"backbone": digest, "sampling": params.sampling.model_dump(mode="json")}
    work = run_items(
        ctx,
        group=Group("video", ctx.recipe("video", "1", recipe)),
        items=items,
        make=SampleVideo,
        init={"studio": studio},
        unit="videos",
        batch=1,
        cpus=params.sampling.workers_cpus,
        gpus=params.sampling.workers_gpus,
    )
    ctx.event(
        "samples", systems=[s.name for s in systems], videos=len(items), failed=len(work.failed), reused=work.reused
    )
    ctx.write("samples", SAMPLES.table(_pack(ctx, work, items, rows)))


def _systems(ctx: Context, params: SampleParams) -> list[System]:
    wired = {name for name in ADAPTERS if ctx.has(name)}
    names = params.systems or tuple(name for name, stack in STACKS.items() if wired.issuperset(stack))
    systems = []
    for name in names:
        if name not in STACKS:
            raise StageError(f"there is no system {name}; known are {', '.join(STACKS)}")
        lost = [adapter for adapter in STACKS[name] if adapter not in wired]
        if lost:
            raise StageError(f"system {name} needs the adapter input {', '.join(lost)}, which is not wired")
        systems.append(System(name, tuple((adapter, str(ctx.path(adapter))) for adapter in STACKS[name])))
    return systems


def _pack(
    ctx: Context, work: Work, items: Sequence[Item], cached: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, object]]:
    folder, uri, latents = ctx.folder("videos"), ctx.final_uri("videos"), ctx.path("latents")
    made = [item.record_id for item in items if item.record_id not in work.failed]
    files = {row["record_id"]: put_file(folder, row["video"], ".webm") for row in work.rows(ctx, made)}
    rows: list[dict[str, object]] = []
    for item in items:
        payload: SamplePayload = item.payload
        failure = work.failed.get(item.record_id)
        picture = reference_picture(latents, payload.sample_id)
        rows.append(
            {
                "system": payload.system,
                "prompt_id": payload.sample_id,
                "seed": payload.seed,
                "prompt": cached[payload.sample_id]["prompt"],
                "uri": None if failure else child_uri(uri, files[item.record_id]),
                "reference_uri": child_uri(uri, f"references/{put_file(folder / 'references', picture, '.png')}")
                if picture
                else None,
                "status": "failed" if failure else "ok",
                "error_type": failure.error_type if failure else None,
                "error_message": failure.error_message if failure else None,
                "seconds": work.seconds.get(item.record_id),
            }
        )
    return rows

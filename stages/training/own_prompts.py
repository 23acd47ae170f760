"""A user's own prompts and reference pictures, encoded for sampling: a cache without videos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator

from data_schemas.tables import CACHE
from models.training.bucket import Bucket
from stages.contract import Context, Files, Group, NotEnoughRows, StageError, Table, stage
from stages.training.encoders import EncodeSample, Prepare, SamplePayload, ViewParams
from stages.training.own import read_picture
from stages.training.own_table import OwnParams, own_world, reachable, read_rows, stamp
from stages.training.params import BackboneParams, backbone_models
from stages.work import Item, content_key, run_items

SPLIT = "held_out"  # what sample samples


class OwnPromptsParams(OwnParams):
    backbone: BackboneParams = BackboneParams()
    bucket: str = Field("9x64x64", description="frames x height x width of the videos to make")
    workers_cpus: float = Field(1.0, gt=0)
    workers_gpus: float = Field(0.0, ge=0)

    @field_validator("bucket")
    @classmethod
    def _shape(cls, bucket: str) -> str:
        return str(Bucket.parse(bucket))


@dataclass(frozen=True)
class PromptPayload:
    prompt: str
    references: tuple[tuple[bytes, bytes], ...]


class EncodePrompt:
    """The embedding of a prompt and the latents of its references, at the size of the video to come."""

    def __init__(self, backbone: BackboneParams, bucket: str, device: str) -> None:
        self.prepare = Prepare(backbone, "float32", device)
        self.prepare(("bucket", bucket))  # refuses a length that the codec does not give back
        self.references = EncodeSample(backbone, 1, ViewParams(), "float32", 0, device)
        self.bucket = bucket

    def __call__(self, prompt: PromptPayload) -> Mapping[str, Any]:
        from safetensors.torch import load, save

        tensors = load(self.prepare(("prompt", prompt.prompt))["payload"])
        if prompt.references:
            sample = SamplePayload("", self.bucket, prompt.references)
            tensors |= self.references.reference_tensors(sample)
        return {"payload": save({name: tensor.contiguous() for name, tensor in tensors.items()})}


@stage(
    name="own_prompts",
    version="1",
    params=OwnPromptsParams,
    outputs={"cache": Table(CACHE), "latents": Files("latents")},
    models=lambda params: backbone_models(params.backbone),
    world=own_world("prompt"),
)
def own_prompts(ctx: Context, params: OwnPromptsParams) -> None:
    """Every row of the user's table, ready to be sampled."""
    from safetensors.torch import load

    from models.backbones.load import backbone_digest
    from models.training.cache import NULL_PROMPT, text_key, unpack_text, write_samples, write_texts
    from stages.training.generate import png

    digest = backbone_digest(params.backbone.spec())
    rows = read_rows(params, ("prompt",))
    reachable(sorted({f for row in rows for f in row.references}), params)
    pictures = {r: read_picture(r) for r in sorted({f for row in rows for f in row.references})}
    items, ended = [Item(content_key("", params.bucket), "", PromptPayload(NULL_PROMPT, ()))], []
    for row in rows:
        read = [pictures[f] for f in row.references]
        broken = next((p for p in read if isinstance(p, str)), None)
        if broken is not None:
            ended.append(_failed(row.sample_id, "UnreadableInput", broken))
            continue
        key = content_key(row.prompt, params.bucket, *(part for f in row.references for part in stamp(f)))
        references = tuple(p for p in read if not isinstance(p, str))
        items.append(Item(key, row.sample_id, PromptPayload(row.prompt, references)))
    work = run_items(
        ctx,
        group=Group("prompt", ctx.recipe("prompt", "1", {"backbone": digest})),
        items=items,
        make=EncodePrompt,
        init={
            "backbone": params.backbone,
            "bucket": params.bucket,
            "device": "cuda" if params.workers_gpus else "cpu",
        },
        unit="prompts",
        cpus=params.workers_cpus,
        gpus=params.workers_gpus,
    )
    if "" in work.failed:
        raise StageError(f"{params.bucket} cannot be used: {work.failed[''].error_message}")
    for row in rows:
        failure = work.failed.get(row.sample_id)
        if failure is not None:
            ended.append(_failed(row.sample_id, failure.error_type or "", failure.error_message or ""))
        elif row.sample_id in work.keys:
            ended.append({"record_id": row.sample_id, "status": "accepted"})
    ctx.ledger(ended)
    made = [row for row in rows if row.sample_id in work.keys and row.sample_id not in work.failed]
    if not made:
        raise NotEnoughRows(f"usable rows in {params.table}", 1, 0, f"First: {ended[0]['error_message']}.")
    folder, texts, samples = ctx.folder("latents"), {}, {}
    (folder / "references").mkdir()
    prompts = {"": NULL_PROMPT, **{row.sample_id: row.prompt for row in made}}
    for record in work.rows(ctx, list(prompts)):
        loaded, name = load(record["payload"]), record["record_id"]
        texts[text_key(prompts[name], digest)] = unpack_text(loaded)
        if "references" in loaded:
            samples[name] = loaded["references"]
            (folder / "references" / f"{name}.png").write_bytes(png(loaded["picture"].numpy()))
    metadata = {"backbone_digest": digest, "dtype": "float32"}
    write_texts(folder, texts, {**metadata, "null_text": text_key(NULL_PROMPT, digest)})
    shard = write_samples(folder, {}, samples, {}, {**metadata, "bucket": params.bucket})
    (folder / "cache.json").write_text(json.dumps({**metadata, "samples": len(made)}, indent=2) + "\n")
    ctx.write(
        "cache",
        CACHE.table(
            [
                {
                    "sample_id": row.sample_id,
                    "kind": row.kind or "cross_pair",
                    "split": SPLIT,
                    "shard": shard,
                    "bucket": params.bucket,
                    "references": len(row.references),
                    "views": 1,
                    "text_key": text_key(row.prompt, digest),
                    "prompt": row.prompt,
                }
                for row in made
            ]
        ),
    )


def _failed(sample_id: str, kind: str, message: str) -> dict[str, object]:
    return {"record_id": sample_id, "status": "failed", "error_type": kind, "error_message": message}

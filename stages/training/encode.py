"""Encodes training samples once: video latents, seeded reference views and text embeddings, into the training cache."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from data_schemas.tables import CACHE, PAIRS, SUBJECTS, SUBSET
from models.training.bucket import Bucket, choose_bucket
from stages.contract import Context, Files, Group, NotEnoughRows, Params, StageError, Table, stage
from stages.training.generate import png
from stages.training.media import local_media
from stages.training.params import BackboneParams, backbone_models
from stages.work import Item, Work, content_key, run_items

TRANSFORM_VERSION = "1"  # of decoding, resizing and views; raise it when the same input would give other pixels
SAMPLES_PER_SHARD = 64
PROMPTS_PER_SHARD = 256


class ViewParams(Params):
    """How reference views differ from the crop; see ``models.training.views.ViewSpec``."""

    jitter: float = Field(0.08, ge=0, lt=0.5, description="share by which each side of the crop may move inwards")
    turn: float = Field(8.0, ge=0, le=180, description="largest rotation, degrees")
    shrink: float = Field(0.8, gt=0, le=1, description="smallest scale on the canvas")
    flip: float = Field(0.0, ge=0, le=1, description="probability of mirroring; mirrored text is other text")
    background: Literal["white", "keep"] = Field("white", description="masked subject on white, or the crop as cut")


class EncodeParams(Params):
    backbone: BackboneParams = BackboneParams()
    buckets: tuple[str, ...] = Field(("9x64x64",), min_length=1, description="frames x height x width; 4k+1 frames")
    fps: float | None = Field(None, gt=0, description="frames per second to train at; null spreads them over the clip")
    views: int = Field(4, ge=1, description="cached views per reference; the first is the crop itself")
    view: ViewParams = ViewParams()
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    workers_cpus: float = Field(1.0, gt=0)
    workers_gpus: float = Field(0.0, ge=0)

    @field_validator("buckets")
    @classmethod
    def _shape(cls, buckets: tuple[str, ...]) -> tuple[str, ...]:
        for bucket in buckets:
            Bucket.parse(bucket)
        return buckets


@dataclass(frozen=True)
class SamplePayload:
    """What a worker needs to encode one sample; ``references`` are (crop, mask) as encoded pictures."""

    sample_id: str
    media: str
    frames: int
    bucket: str
    fps: float | None
    references: tuple[tuple[bytes, bytes], ...]


class EncodeSample:
    """Encodes one sample after another on one loaded backbone."""

    def __init__(
        self, backbone: BackboneParams, views: int, view: ViewParams, dtype: str, seed: int, device: str
    ) -> None:
        from models.backbones.load import load_backbone
        from models.training.cache import DTYPES
        from models.training.views import ViewSpec

        self.backbone = load_backbone(backbone.spec(), device=device)
        self.views, self.view, self.seed, self.dtype = views, ViewSpec(**view.model_dump()), seed, DTYPES[dtype]
        self.last: tuple[tuple[str, str], Any] | None = None  # samples of one clip come one after the other

    def __call__(self, sample: SamplePayload) -> Mapping[str, Any]:
        import torch
        from safetensors.torch import save

        from models.training.views import fit_video, from_unit, video_to_unit
        from stages.training.media import decode_frames

        bucket = Bucket.parse(sample.bucket)
        clip = (sample.media, sample.bucket)
        if self.last is None or self.last[0] != clip:
            frames = decode_frames(Path(sample.media), bucket.frames, of=sample.frames, fps=sample.fps)
            video = video_to_unit(fit_video(frames, height=bucket.height, width=bucket.width))
            self.last = (clip, self.backbone.encode_video(video[None])[0].to(self.dtype).cpu())
        tensors = {"latents": self.last[1]}
        if sample.references:
            pictures = self._references(sample, bucket)
            encoded = torch.stack([self.backbone.encode_reference(views) for views in pictures])
            tensors["references"] = encoded.to(self.dtype).cpu()
            tensors["picture"] = torch.from_numpy(from_unit(pictures[0][:1].transpose(0, 1))[0])
        if not all(bool(t.isfinite().all()) for t in tensors.values()):
            raise ValueError(f"the encoder gave latents that are not finite for {sample.media}")
        return {"bucket": sample.bucket, "payload": save({k: t.contiguous() for k, t in tensors.items()})}

    def _references(self, sample: SamplePayload, bucket: Bucket) -> list[Any]:
        import torch

        from models.training.views import make_view, open_reference, to_unit

        pictures = []
        for number, (crop, mask) in enumerate(sample.references):
            picture = open_reference(crop, mask, self.view.background)
            views = [
                make_view(
                    picture,
                    height=bucket.height,
                    width=bucket.width,
                    spec=self.view,
                    seed=self.seed,
                    sample_id=sample.sample_id,
                    reference=number,
                    view=view,
                )
                for view in range(self.views)
            ]
            pictures.append(torch.stack([to_unit(view) for view in views]))
        return pictures


class Prepare:
    """Embeds prompts and states latent shapes: everything a cache needs beside its samples."""

    def __init__(self, backbone: BackboneParams, dtype: str, device: str) -> None:
        from models.backbones.load import load_backbone
        from models.training.cache import DTYPES

        self.backbone, self.dtype = load_backbone(backbone.spec(), device=device), DTYPES[dtype]

    def __call__(self, payload: tuple[Literal["prompt", "bucket"], str]) -> Mapping[str, Any]:
        from safetensors.torch import save

        kind, value = payload
        if kind == "bucket":
            bucket = Bucket.parse(value)
            shape = self.backbone.latent_shape(bucket.frames, bucket.height, bucket.width)
            self._comes_back(bucket, shape)
            return {"payload": json.dumps({"shape": shape, "max_references": self.backbone.max_references}).encode()}
        embedding = self.backbone.encode_text([value])[0].to(self.dtype).cpu().contiguous()
        return {"payload": save({"text": embedding})}

    def _comes_back(self, bucket: Bucket, shape: tuple[int, int, int, int]) -> None:
        """Refuse a length that the codec takes and does not give back: CogVideoX turns 5 frames into 8."""
        import torch

        side = self.backbone.spatial_multiple // self.backbone.spatial_factor  # the smallest picture is enough to see
        frames = self.backbone.decode_video(torch.zeros(1, *shape[:2], side, side)).shape[2]
        if frames != bucket.frames:
            raise ValueError(
                f"the codec gives {frames} frames back for {bucket.frames}; choose another length (CogVideoX keeps "
                "lengths of 8k + 1: 9, 17, 49, 81)"
            )


@stage(
    name="encode",
    version="1",
    params=EncodeParams,
    inputs={"subset": Table(SUBSET), "media": Files("media"), "pairs": Table(PAIRS), "subjects": Table(SUBJECTS)},
    outputs={"cache": Table(CACHE), "latents": Files("latents")},
    models=lambda params: backbone_models(params.backbone),
)
def encode(ctx: Context, params: EncodeParams) -> None:
    """Every pair row ends in the cache, or in the ledger as rejected (too short) or failed."""
    from models.backbones.load import backbone_digest
    from models.training.cache import NULL_PROMPT, text_key

    digest = backbone_digest(params.backbone.spec())
    pairs = sorted(ctx.table("pairs").to_pylist(), key=lambda row: row["sample_id"])
    if not pairs:
        raise NotEnoughRows("rows in pairs", 1, 0, "Loosen the subject or pair rules, or give more footage.")
    prompts = {text_key(p, digest): p for p in [NULL_PROMPT, *(pair["prompt"] for pair in pairs)]}
    init = {"backbone": params.backbone, "dtype": params.dtype, "device": "cuda" if params.workers_gpus else "cpu"}
    prepared = run_items(
        ctx,
        group=_group(ctx, "prepared", {"backbone": digest, "dtype": params.dtype}),
        items=[
            *(Item(content_key("bucket", b), b, ("bucket", b)) for b in params.buckets),
            *(Item(key, key, ("prompt", prompt)) for key, prompt in sorted(prompts.items())),
        ],
        make=Prepare,
        init=init,
        unit="prompts",
        batch=32,
        cpus=params.workers_cpus,
        gpus=params.workers_gpus,
    )
    if prepared.failed:
        name, first = next(iter(prepared.failed.items()))
        raise StageError(f"{prompts.get(name, f'bucket {name}')!r} cannot be used: {first.error_message}")
    shapes = {row["record_id"]: json.loads(row["payload"]) for row in prepared.rows(ctx, params.buckets)}
    items, ended = _items(ctx, params, pairs, max_references=shapes[params.buckets[0]]["max_references"])
    ctx.ledger(ended)
    _announce(ctx, params, items, shapes, prepared, sorted(prompts))
    samples = run_items(
        ctx,
        group=_group(
            ctx,
            "sample",
            {
                **params.model_dump(include={"views", "view", "dtype"}, mode="json"),
                "seed": ctx.seed,
                "backbone": digest,
                "transform": TRANSFORM_VERSION,
            },
        ),
        items=items,
        make=EncodeSample,
        init={**init, "views": params.views, "view": params.view, "seed": ctx.seed},
        unit="samples",
        cpus=params.workers_cpus,
        gpus=params.workers_gpus,
    )
    ctx.event("cache_reuse", samples=len(items), reused=samples.reused)
    by_id = {pair["sample_id"]: pair for pair in pairs}
    ctx.ledger([_ended(samples, item, by_id[item.record_id]) for item in items])
    encoded = [item for item in items if item.record_id not in samples.failed]
    if not encoded:
        why = next((o.error_message for o in samples.failed.values()), None) or ended[0].get("reason")
        raise NotEnoughRows("encoded samples", 1, 0, f"First reason: {why or ended[0]['error_message']}.")
    folder = ctx.folder("latents")
    metadata = {"backbone_digest": digest, "dtype": params.dtype, "transform": TRANSFORM_VERSION}
    _pack_texts(ctx, folder, prepared, sorted(prompts), {**metadata, "null_text": text_key(NULL_PROMPT, digest)})
    keys = {prompt: key for key, prompt in prompts.items()}
    rows: list[dict[str, object]] = [
        {
            "sample_id": item.record_id,
            "kind": by_id[item.record_id]["kind"],
            "split": by_id[item.record_id]["split"],
            "shard": shard,
            "bucket": item.payload.bucket,
            "references": len(item.payload.references),
            "views": params.views,
            "text_key": keys[by_id[item.record_id]["prompt"]],
            "prompt": by_id[item.record_id]["prompt"],
        }
        for item, shard in _pack_samples(ctx, folder, samples, encoded, metadata)
    ]
    ctx.write("cache", CACHE.table(sorted(rows, key=lambda row: str(row["sample_id"]))))
    note = {**params.model_dump(mode="json"), **metadata, "samples": len(rows)}
    (folder / "cache.json").write_text(json.dumps(note, indent=2) + "\n")


def _items(
    ctx: Context, params: EncodeParams, pairs: Sequence[Mapping[str, Any]], *, max_references: int
) -> tuple[list[Item], list[dict[str, object]]]:
    """The samples to encode, and ledger rows of those that cannot be."""
    clips = {row["clip_id"]: row for row in ctx.table("subset").to_pylist()}
    wanted = {reference["subject_id"] for pair in pairs for reference in pair["references"]}
    subjects = ctx.table("subjects").select(["subject_id", "crop", "mask"]).to_pylist()
    crops = {row["subject_id"]: (row["crop"], row["mask"]) for row in subjects if row["subject_id"] in wanted}
    folder = ctx.path("media")
    buckets = [Bucket.parse(text) for text in params.buckets]
    items: list[Item] = []
    ended: list[dict[str, object]] = []
    for pair in pairs:
        row = {"record_id": pair["sample_id"], "video_id": pair["video_id"]}
        clip = clips.get(pair["clip_id"])
        lost = [r["subject_id"] for r in pair["references"] if r["subject_id"] not in crops]
        if clip is None or lost:
            what = (
                f"clip {pair['clip_id']} is not in subset"
                if clip is None
                else f"subjects {', '.join(lost)} are missing"
            )
            ended.append({**row, "status": "failed", "error_type": "MissingInput", "error_message": what})
            continue
        if len(pair["references"]) > max_references:
            ended.append({**row, "status": "rejected", "reason": f"more than {max_references} references"})
            continue
        frames = clip["frames"] if params.fps is None else int(clip["frames"] / clip["fps"] * params.fps)
        bucket = choose_bucket(buckets, frames=frames, height=clip["height"], width=clip["width"])
        if bucket is None:
            shortest = min(b.frames for b in buckets)
            ended.append({**row, "status": "rejected", "reason": f"too_short: {frames} frames, needs {shortest}"})
            continue
        references = tuple(crops[r["subject_id"]] for r in pair["references"])
        media = str(local_media(folder, clip["media_uri"]))
        key = content_key(
            pair["sample_id"], clip["media_sha256"], str(bucket), params.fps, *(part for r in references for part in r)
        )
        payload = SamplePayload(pair["sample_id"], media, clip["frames"], str(bucket), params.fps, references)
        items.append(Item(key, pair["sample_id"], payload))
    return sorted(items, key=lambda item: (item.payload.media, item.record_id)), ended


def _announce(
    ctx: Context,
    params: EncodeParams,
    items: Sequence[Item],
    shapes: Mapping[str, Mapping[str, Any]],
    prepared: Work,
    keys: Sequence[str],
) -> None:
    """Say how large the cache will be before the work starts."""
    width = {"float32": 4, "bfloat16": 2, "float16": 2}[params.dtype]
    latents = views = 0
    for item in items:
        channels, frames, rows, columns = shapes[item.payload.bucket]["shape"]
        latents += width * channels * frames * rows * columns
        views += width * channels * rows * columns * params.views * len(item.payload.references)
    texts = sum(len(row["payload"]) for row in prepared.rows(ctx, keys))
    counts = Counter(item.payload.bucket for item in items)
    ctx.event(
        "cache_estimate",
        samples=len(items),
        buckets=dict(sorted(counts.items())),
        latent_bytes=latents,
        view_bytes=views,
        text_bytes=texts,
        total_bytes=latents + views + texts,
    )


def _group(ctx: Context, part: str, recipe: Mapping[str, Any]) -> Group:
    return Group(part, ctx.recipe(part, "1", recipe))


def _ended(samples: Work, item: Item, pair: Mapping[str, Any]) -> dict[str, object]:
    row: dict[str, object] = {
        "record_id": item.record_id,
        "video_id": pair["video_id"],
        "status": "accepted",
        "seconds": samples.seconds.get(item.record_id),
    }
    failure = samples.failed.get(item.record_id)
    if failure is not None:
        row.update(status="failed", error_type=failure.error_type, error_message=failure.error_message)
    return row


def _pack_texts(ctx: Context, folder: Path, prepared: Work, keys: Sequence[str], metadata: Mapping[str, str]) -> None:
    from safetensors.torch import load

    from models.training.cache import write_shard

    for start in range(0, len(keys), PROMPTS_PER_SHARD):
        part = keys[start : start + PROMPTS_PER_SHARD]
        tensors = {row["record_id"]: load(row["payload"])["text"] for row in prepared.rows(ctx, part)}
        write_shard(folder, tensors, "text", metadata)


def _pack_samples(
    ctx: Context, folder: Path, samples: Work, encoded: Sequence[Item], metadata: Mapping[str, str]
) -> Iterator[tuple[Item, str]]:
    """Write the sample shards, one bucket to a shard, and say in which each sample lies."""
    from safetensors.torch import load

    from models.training.cache import sample_tensors, write_shard

    pictures = folder / "references"  # the first reference of each sample, for the pages that show it
    pictures.mkdir(exist_ok=True)
    ordered = sorted(encoded, key=lambda item: (item.payload.bucket, item.record_id))
    for bucket, group in groupby(ordered, key=lambda item: item.payload.bucket):
        members = list(group)
        for start in range(0, len(members), SAMPLES_PER_SHARD):
            part = members[start : start + SAMPLES_PER_SHARD]
            tensors: dict[str, Any] = {}
            for row in samples.rows(ctx, [item.record_id for item in part]):
                loaded = load(row["payload"])
                tensors |= sample_tensors(row["record_id"], loaded["latents"], loaded.get("references"))
                if "picture" in loaded:
                    (pictures / f"{row['record_id']}.png").write_bytes(png(loaded["picture"].numpy()))
            shard = write_shard(folder, tensors, "samples", {**metadata, "bucket": bucket})
            yield from ((item, shard) for item in part)

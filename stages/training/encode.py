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
from models.training.bucket import Bucket, BucketPlan, Fit, choose_bucket, parse_aspect, spread
from stages.contract import Context, Files, Group, NotEnoughRows, Params, Resources, StageError, Table, stage
from stages.training.encoders import ClipPayload, EncodeClip, EncodeSample, Prepare, SamplePayload, ViewParams
from stages.training.generate import png
from stages.training.media import local_media
from stages.training.params import BackboneParams, backbone_models
from stages.work import Item, Outcome, Work, content_key, run_items

TRANSFORM_VERSION = "2"  # of decoding, resizing and views; raise it when the same input would give other pixels
SAMPLES_PER_SHARD = 64
PROMPTS_PER_SHARD = 256
# What decides latents and embeddings; another transformer with the same codec and encoders needs no other cache.
LATENT_PARTS = ("vae", "transformer/config.json")
TEXT_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer/config.json")


class EncodeParams(Params):
    backbone: BackboneParams = BackboneParams()
    buckets: tuple[str, ...] = Field(("9x64x64",), min_length=1, description="frames x height x width; 4k+1 frames")
    aspects: tuple[str, ...] = Field(
        (), description="width:height, e.g. 9:16; each bucket again at each of these, with about its area"
    )
    max_padding: float = Field(
        0.0, ge=0, lt=1, description="share of a bucket's frames that a short clip may lack; its last frame is held"
    )
    fps: float | None = Field(None, gt=0, description="frames per second to train at; null spreads them over the clip")
    views: int = Field(4, ge=1, description="cached views per reference; the first is the crop itself")
    view: ViewParams = ViewParams()
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    plan_batch: int = Field(8, ge=1, description="batch for which the printed plan counts steps; changes nothing")
    workers_cpus: float = Field(1.0, gt=0)
    workers_gpus: float = Field(0.0, ge=0)

    @field_validator("buckets")
    @classmethod
    def _shape(cls, buckets: tuple[str, ...]) -> tuple[str, ...]:
        for bucket in buckets:
            Bucket.parse(bucket)
        return buckets

    @field_validator("aspects")
    @classmethod
    def _ratio(cls, aspects: tuple[str, ...]) -> tuple[str, ...]:
        for aspect in aspects:
            parse_aspect(aspect)
        return aspects


@dataclass(frozen=True)
class Planned:
    """One sample and what is to be encoded for it; samples of one clip and bucket share the clip's item."""

    pair: Mapping[str, Any]
    fit: Fit
    clip: Item
    views: Item | None

    @property
    def sample_id(self) -> str:
        return str(self.pair["sample_id"])


@stage(
    name="encode",
    version="2",
    params=EncodeParams,
    inputs={"subset": Table(SUBSET), "media": Files("media"), "pairs": Table(PAIRS), "subjects": Table(SUBJECTS)},
    outputs={"cache": Table(CACHE), "latents": Files("latents")},
    models=lambda params: backbone_models(params.backbone),
    resources=lambda params: Resources(params.workers_cpus, params.workers_gpus),
)
def encode(ctx: Context, params: EncodeParams) -> None:
    """Every pair row ends in the cache, or in the ledger as rejected (too short) or failed."""
    from models.backbones.load import backbone_digest
    from models.training.cache import NULL_PROMPT, text_key

    spec = params.backbone.spec()
    digest, codec, encoder = (backbone_digest(spec, parts) for parts in ((), LATENT_PARTS, TEXT_PARTS))
    pairs = sorted(ctx.table("pairs").to_pylist(), key=lambda row: row["sample_id"])
    if not pairs:
        raise NotEnoughRows("rows in pairs", 1, 0, "Loosen the subject or pair rules, or give more footage.")
    prompts = {text_key(p, encoder): p for p in [NULL_PROMPT, *(pair["prompt"] for pair in pairs)]}
    init = {"backbone": params.backbone, "dtype": params.dtype, "device": "cuda" if params.workers_gpus else "cpu"}
    buckets = _buckets(params)
    prepared = run_items(
        ctx,
        group=_group(ctx, "prepared", {"backbone": [codec, encoder], "dtype": params.dtype}),
        items=[
            *(Item(content_key("bucket", str(b)), str(b), ("bucket", str(b))) for b in buckets),
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
    shapes = {row["record_id"]: json.loads(row["payload"]) for row in prepared.rows(ctx, [str(b) for b in buckets])}
    planned, ended = _plan(ctx, params, buckets, pairs, max_references=shapes[str(buckets[0])]["max_references"])
    ctx.ledger(ended)
    _announce(ctx, params, planned, shapes, prepared, sorted(prompts))
    made = {"dtype": params.dtype, "codec": codec, "transform": TRANSFORM_VERSION}
    clips = run_items(
        ctx,
        group=_group(ctx, "clip", made),
        items=list({p.clip.key: p.clip for p in planned}.values()),
        make=EncodeClip,
        init=init,
        unit="clips",
        cpus=params.workers_cpus,
        gpus=params.workers_gpus,
    )
    how = {**params.model_dump(include={"views", "view"}, mode="json"), "seed": ctx.seed}
    views = run_items(
        ctx,
        group=_group(ctx, "views", {**made, **how}),
        items=[p.views for p in planned if p.views is not None],
        make=EncodeSample,
        init={**init, "views": params.views, "view": params.view, "seed": ctx.seed},
        unit="samples",
        cpus=params.workers_cpus,
        gpus=params.workers_gpus,
    )
    ctx.event(
        "cache_reuse",
        clips=len(clips.keys),
        clips_reused=clips.reused,
        samples=len(views.keys),
        samples_reused=views.reused,
    )
    ctx.ledger([_ended(p, clips, views) for p in planned])
    encoded = [p for p in planned if _failure(p, clips, views) is None]
    if not encoded:
        failed = [f.error_message for f in (*clips.failed.values(), *views.failed.values())]
        why = failed[0] if failed else ended[0].get("reason") or ended[0]["error_message"]
        raise NotEnoughRows("encoded samples", 1, 0, f"First reason: {why}.")
    folder = ctx.folder("latents")
    metadata = {"backbone_digest": digest, "dtype": params.dtype, "transform": TRANSFORM_VERSION}
    _pack_texts(ctx, folder, prepared, sorted(prompts), {**metadata, "null_text": text_key(NULL_PROMPT, encoder)})
    keys = {prompt: key for key, prompt in prompts.items()}
    rows: list[dict[str, object]] = [
        {
            "sample_id": p.sample_id,
            "kind": p.pair["kind"],
            "split": p.pair["split"],
            "shard": shard,
            "bucket": str(p.fit.bucket),
            "references": len(p.pair["references"]),
            "views": params.views,
            "text_key": keys[p.pair["prompt"]],
            "prompt": p.pair["prompt"],
        }
        for p, shard in _pack_samples(ctx, folder, clips, views, encoded, metadata)
    ]
    ctx.write("cache", CACHE.table(sorted(rows, key=lambda row: str(row["sample_id"]))))
    note = {**params.model_dump(mode="json"), **metadata, "samples": len(rows)}
    (folder / "cache.json").write_text(json.dumps(note, indent=2) + "\n")


def _buckets(params: EncodeParams) -> list[Bucket]:
    """The buckets and, where aspects are given, what they become at each; those need the model to know its multiple."""
    shapes = [Bucket.parse(text) for text in params.buckets]
    if not params.aspects:
        return shapes
    from models.backbones.load import load_backbone

    return spread(shapes, params.aspects, load_backbone(params.backbone.spec(), device="meta").spatial_multiple)


def _plan(
    ctx: Context,
    params: EncodeParams,
    buckets: Sequence[Bucket],
    pairs: Sequence[Mapping[str, Any]],
    *,
    max_references: int,
) -> tuple[list[Planned], list[dict[str, object]]]:
    """The samples to encode, and ledger rows of those that cannot be."""
    clips = {row["clip_id"]: row for row in ctx.table("subset").to_pylist()}
    wanted = {reference["subject_id"] for pair in pairs for reference in pair["references"]}
    subjects = ctx.table("subjects").select(["subject_id", "crop", "mask"]).to_pylist()
    crops = {row["subject_id"]: (row["crop"], row["mask"]) for row in subjects if row["subject_id"] in wanted}
    folder = ctx.path("media")
    planned: list[Planned] = []
    ended: list[dict[str, object]] = []
    dropped: Counter[str] = Counter()
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
            dropped["missing input"] += 1
            continue
        if len(pair["references"]) > max_references:
            ended.append({**row, "status": "rejected", "reason": f"more than {max_references} references"})
            dropped["too many references"] += 1
            continue
        frames = clip["frames"] if params.fps is None else int(clip["frames"] / clip["fps"] * params.fps)
        size = {"frames": frames, "height": clip["height"], "width": clip["width"]}
        bucket = choose_bucket(buckets, **size, padding=params.max_padding)
        if bucket is None:
            shortest = min(b.frames for b in buckets)
            ended.append({**row, "status": "rejected", "reason": f"too_short: {frames} frames, needs {shortest}"})
            dropped["too short"] += 1
            continue
        references = tuple(crops[r["subject_id"]] for r in pair["references"])
        media = str(local_media(folder, clip["media_uri"]))
        clip_key = content_key(clip["media_sha256"], clip["frames"], str(bucket), params.fps)
        view_key = content_key(pair["sample_id"], str(bucket), *(part for r in references for part in r))
        there = min(frames, bucket.frames)
        planned.append(
            Planned(
                pair,
                Fit.of(bucket, **size),
                Item(clip_key, clip_key, ClipPayload(media, clip["frames"], str(bucket), there, params.fps)),
                Item(view_key, pair["sample_id"], SamplePayload(pair["sample_id"], str(bucket), references))
                if references
                else None,
            )
        )
    plan = BucketPlan.of((p.fit for p in planned), dict(dropped))
    ctx.event("bucket_plan", plan=plan.describe(params.plan_batch), warn=plan.warns)
    return planned, ended


def _announce(
    ctx: Context,
    params: EncodeParams,
    planned: Sequence[Planned],
    shapes: Mapping[str, Mapping[str, Any]],
    prepared: Work,
    keys: Sequence[str],
) -> None:
    """Say how large the cache will be before the work starts."""
    from models.training.cache import DTYPES, stored_bytes

    width = DTYPES[params.dtype].itemsize
    clips = {p.clip.key: p.fit.bucket for p in planned}

    def size(bucket: Bucket, frames: int | None = None) -> int:
        channels, latent_frames, rows, columns = shapes[str(bucket)]["shape"]
        return int(width * channels * (frames or latent_frames) * rows * columns)

    latents = sum(size(bucket) for bucket in clips.values())
    views = sum(size(p.fit.bucket, 1) * params.views * len(p.pair["references"]) for p in planned)
    texts = sum(stored_bytes(row["payload"]) for row in prepared.rows(ctx, keys))
    ctx.event(
        "cache_estimate",
        samples=len(planned),
        clips=len(clips),
        buckets=dict(sorted(Counter(str(p.fit.bucket) for p in planned).items())),
        latent_bytes=latents,
        view_bytes=views,
        text_bytes=texts,
        total_bytes=latents + views + texts,
        plan=f"the cache will take {_size(latents + views + texts)}: {len(clips)} clips {_size(latents)}, reference views "
        f"{_size(views)}, texts {_size(texts)}",
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _group(ctx: Context, part: str, recipe: Mapping[str, Any]) -> Group:
    return Group(part, ctx.recipe(part, "1", recipe))


def _failure(planned: Planned, clips: Work, views: Work) -> Outcome | None:
    return clips.failed.get(planned.clip.record_id) or views.failed.get(planned.sample_id)


def _ended(planned: Planned, clips: Work, views: Work) -> dict[str, object]:
    seconds = [s for s in (clips.seconds.get(planned.clip.record_id), views.seconds.get(planned.sample_id)) if s]
    row: dict[str, object] = {
        "record_id": planned.sample_id,
        "video_id": planned.pair["video_id"],
        "status": "accepted",
        "seconds": sum(seconds) if seconds else None,
    }
    failure = _failure(planned, clips, views)
    if failure is not None:
        row.update(status="failed", error_type=failure.error_type, error_message=failure.error_message)
    return row


def _pack_texts(ctx: Context, folder: Path, prepared: Work, keys: Sequence[str], metadata: Mapping[str, str]) -> None:
    from safetensors.torch import load

    from models.training.cache import unpack_text, write_texts

    for start in range(0, len(keys), PROMPTS_PER_SHARD):
        part = keys[start : start + PROMPTS_PER_SHARD]
        texts = {r["record_id"]: unpack_text(load(r["payload"])) for r in prepared.rows(ctx, part)}
        write_texts(folder, texts, metadata)


def _pack_samples(
    ctx: Context, folder: Path, clips: Work, views: Work, encoded: Sequence[Planned], metadata: Mapping[str, str]
) -> Iterator[tuple[Planned, str]]:
    """Write the sample shards, one bucket to a shard and samples of one clip together, and say where each sample lies."""
    from safetensors.torch import load

    from models.training.cache import write_samples

    pictures = folder / "references"  # the first reference of each sample, for the pages that show it
    pictures.mkdir(exist_ok=True)
    ordered = sorted(encoded, key=lambda p: (str(p.fit.bucket), p.clip.key, p.sample_id))
    for bucket, group in groupby(ordered, key=lambda p: str(p.fit.bucket)):
        members = list(group)
        for start in range(0, len(members), SAMPLES_PER_SHARD):
            part = members[start : start + SAMPLES_PER_SHARD]
            wanted = list(dict.fromkeys(p.clip.record_id for p in part))
            latents = {r["record_id"]: load(r["payload"])["latents"] for r in clips.rows(ctx, wanted)}
            references: dict[str, Any] = {}
            for row in views.rows(ctx, [p.sample_id for p in part if p.views is not None]):
                loaded = load(row["payload"])
                references[row["record_id"]] = loaded["references"]
                (pictures / f"{row['record_id']}.png").write_bytes(png(loaded["picture"].numpy()))
            shows = {p.sample_id: p.clip.record_id for p in part}
            shard = write_samples(folder, latents, references, shows, {**metadata, "bucket": bucket})
            yield from ((p, shard) for p in part)

"""A user's own preferences: clips and the clips that lost against them, as the pairs that DPO trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from data_schemas.tables import CACHE, PREFERENCES, VERDICTS
from stages.contract import Context, Files, Group, NotEnoughRows, Table, stage
from stages.training.own import Look
from stages.training.own_table import OwnParams, Row, own_world, reachable, read_rows, stamp
from stages.training.params import BackboneParams, backbone_models
from stages.work import Item, Work, content_key, run_items


class OwnPreferencesParams(OwnParams):
    backbone: BackboneParams = BackboneParams()
    kind: Literal["consis", "real_fake"] = "real_fake"
    fps: float | None = Field(None, gt=0, description="as encode.fps")
    workers_cpus: float = Field(1.0, gt=0)
    workers_gpus: float = Field(0.0, ge=0)


class EncodeLoser:
    """Encodes a losing clip as ``encode`` did the winning one."""

    def __init__(self, backbone: BackboneParams, fps: float | None, device: str) -> None:
        from stages.training.encoders import EncodeClip

        self.encode = EncodeClip(backbone, "float32", device)
        self.fps = fps

    def __call__(self, loser: tuple[str, str, str]) -> Mapping[str, Any]:
        from models.training.bucket import Bucket
        from stages.spool import local_copy
        from stages.training.encoders import ClipPayload

        _, uri, bucket = loser
        with local_copy(uri) as file:
            frames = Look()(str(file.path))["frames"]
            return self.encode(ClipPayload(str(file.path), frames, bucket, Bucket.parse(bucket).frames, self.fps))


@stage(
    name="own_preferences",
    version="2",
    params=OwnPreferencesParams,
    inputs={"cache": Table(CACHE), "latents": Files("latents")},
    outputs={"preferences": Table(PREFERENCES), "shards": Files("preferences"), "verdicts": Table(VERDICTS)},
    models=lambda params: backbone_models(params.backbone),
    world=own_world("prompt", "loser"),
)
def own_preferences(ctx: Context, params: OwnPreferencesParams) -> None:
    """Pairs of the encoded videos and their losers. The table itself says who won, so every pair may train."""
    from safetensors.torch import load

    from models.training.cache import CacheReader, write_shard
    from stages.training.generate import check_cache, entries_of

    digest = check_cache(ctx, params.backbone)
    cached = {row["sample_id"]: row for row in ctx.table("cache").to_pylist()}
    rows = [row for row in read_rows(params, ("prompt", "loser")) if row.sample_id in cached]
    held_out = [row.sample_id for row in rows if cached[row.sample_id]["split"] != "train"]
    ctx.ledger([{"record_id": i, "status": "rejected", "reason": "held out"} for i in held_out])
    rows = [row for row in rows if row.sample_id not in set(held_out)]
    if not rows:
        raise NotEnoughRows("preference pairs", 1, 0, "All rows are held out or could not be encoded.")
    losers = {row.sample_id: str(row.loser) for row in rows}
    reachable(list(losers.values()), params)
    reader = CacheReader(ctx.path("latents"), entries_of(cached[i] for i in losers))
    work = run_items(
        ctx,
        group=Group("loser", ctx.recipe("loser", "1", {"backbone": digest, "fps": params.fps})),
        items=[
            Item(content_key(*stamp(uri), cached[i]["bucket"]), i, (i, uri, cached[i]["bucket"]))
            for i, uri in sorted(losers.items())
        ],
        make=EncodeLoser,
        init={
            "backbone": params.backbone,
            "fps": params.fps,
            "device": "cuda" if params.workers_gpus else "cpu",
        },
        unit="losers",
        cpus=params.workers_cpus,
        gpus=params.workers_gpus,
    )
    made = [i for i in sorted(losers) if i not in work.failed]
    ctx.ledger([_pair_ended(i, work) for i in sorted(losers)])
    if not made:
        first = next(iter(work.failed.values()))
        raise NotEnoughRows("preference pairs", 1, 0, f"All {len(losers)} losers failed; first: {first.error_message}.")
    tensors = {}
    for row in work.rows(ctx, made):
        # A copy each: samples of one clip share its latents, and a file holds no tensor twice.
        tensors[f"{row['record_id']}/winner"] = reader.latents(row["record_id"]).clone()
        tensors[f"{row['record_id']}/loser"] = load(row["payload"])["latents"].float().contiguous()
    shard = write_shard(ctx.folder("shards"), tensors, "pairs", {"kind": params.kind})
    videos = {row.sample_id: row.video or "" for row in rows}
    winners = _winners(rows)
    ctx.write(
        "preferences",
        PREFERENCES.table(
            [
                {
                    "pair_id": i,
                    "kind": params.kind,
                    "sample_id": winners[i],
                    "shard": shard,
                    "winner_uri": videos[i],
                    "loser_uri": losers[i],
                    "reference_uri": "",
                    "prompt": cached[i]["prompt"],
                    "seed": 0,
                    "rope_offset": [0.0, 0.0, 0.0],
                }
                for i in made
            ]
        ),
    )
    verdict = {"verdict": "winner", "reasons": [], "answers": 0}
    ctx.write("verdicts", VERDICTS.table([{"external_id": i, "item_id": i, **verdict} for i in made]))


def _winners(rows: Sequence[Row]) -> dict[str, str]:
    """By row the first row with the same winner, prompt and references: their losers can train together."""
    first: dict[tuple[object, ...], str] = {}
    return {row.sample_id: first.setdefault((row.video, row.prompt, row.references), row.sample_id) for row in rows}


def _pair_ended(sample_id: str, work: Work) -> dict[str, object]:
    failure = work.failed.get(sample_id)
    if failure is None:
        return {"record_id": sample_id, "status": "accepted"}
    row: dict[str, object] = {"record_id": sample_id, "status": "failed"}
    return {**row, "error_type": failure.error_type, "error_message": failure.error_message}

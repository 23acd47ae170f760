"""Makes preference pairs: Consis losers by offset reference positions, Real-Fake winners from real clips."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from data_schemas.tables import CACHE, PREFERENCES
from stages.contract import Artifact, Context, Files, Group, NotEnoughRows, Params, StageError, Table, stage
from stages.location import child_uri
from stages.training.adapters import adapter_digest, read_adapter
from stages.training.generate import Studio, System, check_cache, entries_of, put_file, reference_picture
from stages.training.params import BackboneParams, OffsetBackbone, SamplingParams, backbone_models
from stages.training.tell_apart import tell_apart
from stages.work import Item, Work, content_key, run_items

if TYPE_CHECKING:
    from models.training.cache import Entry

PAIRS_PER_SHARD = 64
SYSTEM = "sft"
Kind = Literal["consis", "real_fake"]


class PreferParams(Params):
    """LibraGen says thousand-scale after filtering; OmniInsert used 500 human-chosen pairs (papers, A8)."""

    backbone: BackboneParams = BackboneParams()
    sampling: SamplingParams = SamplingParams()
    pairs: int = Field(500, ge=1, description="pairs to make, if the cache has samples for so many")
    per_sample: int = Field(1, ge=1, description="most pairs (noise seeds) of one cached sample")


class ConsisParams(OffsetBackbone, PreferParams):
    """The offset's size is unpublished: sweep it until identity drops and the scene stays."""

    rope_offset: tuple[float, float, float] = Field(
        (0.0, 8.0, 8.0),
        description="shift of the reference tokens' time, row and column positions, in latent patches, at every step; "
        "a diagonal shift is UNO's (papers, A6)",
    )


class RealFakeParams(PreferParams):
    """Several losers of one winner come from ``per_sample``; ``dpo.losers`` says how many train together."""

    max_separability: float | None = Field(
        None,
        ge=0.5,
        le=1,
        description="stop when a trivial statistic alone tells real from fake in more than this share of the pairs for sure",
    )


@dataclass(frozen=True)
class PairPayload:
    """One pair to make."""

    pair_id: str
    sample_id: str
    seed: int


class ConsisPair:
    """Winner and loser from one noise, one prompt and the same references; only the loser's references are shifted."""

    def __init__(self, rope_offset: tuple[float, float, float], studio: Mapping[str, Any]) -> None:
        self.studio, self.rope_offset = Studio(**studio), rope_offset

    def __call__(self, pair: PairPayload) -> Mapping[str, Any]:
        winner = self.studio.sample(SYSTEM, pair.sample_id, pair.seed)
        loser = self.studio.sample(SYSTEM, pair.sample_id, pair.seed, self.rope_offset)
        return _row(winner, self.studio.video(winner), loser, self.studio.video(loser))


class RealFakePair:
    """The real clip against the model's sample, both decoded, written, read and encoded again the same way.

    Otherwise the codec or the VAE, not reality, would tell winner from loser.
    """

    def __init__(self, studio: Mapping[str, Any]) -> None:
        self.studio = Studio(**studio)

    def __call__(self, pair: PairPayload) -> Mapping[str, Any]:
        from models.training.bucket import Bucket
        from models.training.separability import statistics

        frames = Bucket.parse(self.studio.reader.entries[pair.sample_id].bucket).frames
        real = self.studio.video(self.studio.reader.latents(pair.sample_id))
        fake = self.studio.video(self.studio.sample(SYSTEM, pair.sample_id, pair.seed))
        row = _row(self.studio.through_file(real, frames), real, self.studio.through_file(fake, frames), fake)
        sides = {"winner": real, "loser": fake}
        told = {side: statistics(self.studio.read_back(video, frames)) for side, video in sides.items()}
        return {**row, "statistics": json.dumps(told)}


def _row(winner: Any, winner_video: bytes, loser: Any, loser_video: bytes) -> Mapping[str, Any]:
    from safetensors.torch import save

    latents = {"winner": winner.float().cpu().contiguous(), "loser": loser.float().cpu().contiguous()}
    return {"payload": save(latents), "winner": winner_video, "loser": loser_video}


INPUTS: dict[str, Artifact] = {"cache": Table(CACHE), "latents": Files("latents"), "adapter": Files("adapter")}
OUTPUTS: dict[str, Artifact] = {"preferences": Table(PREFERENCES), "shards": Files("preferences")}


@stage(
    name="prefer_consis",
    version="1",
    params=ConsisParams,
    inputs=INPUTS,
    outputs=OUTPUTS,
    models=lambda params: backbone_models(params.backbone),
    resources=lambda params: params.sampling.needs(),
)
def prefer_consis(ctx: Context, params: ConsisParams) -> None:
    """Pairs that differ in subject consistency alone, from the cross-pair SFT adapter."""
    if not any(params.rope_offset):
        raise StageError("rope_offset is (0, 0, 0): loser and winner would be the same video. Give an offset.")
    _make(ctx, params, "consis", "cross_pair", ConsisPair, {"rope_offset": params.rope_offset})


@stage(
    name="prefer_real_fake",
    version="2",
    params=RealFakeParams,
    inputs=INPUTS,
    outputs={**OUTPUTS, "separability": Files("separability")},
    models=lambda params: backbone_models(params.backbone),
    resources=lambda params: params.sampling.needs(),
)
def prefer_real_fake(ctx: Context, params: RealFakeParams) -> None:
    """Real clips of in-pair triplets against the in-pair SFT adapter's samples, and how easily the two are told apart."""
    work, made = _make(ctx, params, "real_fake", "in_pair", RealFakePair, {})
    told = [json.loads(row["statistics"]) for row in work.rows(ctx, [pair.pair_id for pair in made])]
    tell_apart(ctx, [t["winner"] for t in told], [t["loser"] for t in told], params.max_separability)


def _make(
    ctx: Context, params: PreferParams, kind: Kind, rows_kind: str, make: Any, options: Mapping[str, Any]
) -> tuple[Work, list[PairPayload]]:
    digest = check_cache(ctx, params.backbone)
    read_adapter(ctx.path("adapter"), "adapter", digest)
    adapter = adapter_digest(ctx.path("adapter"))
    rows = {
        row["sample_id"]: row
        for row in ctx.table("cache").to_pylist()
        if row["kind"] == rows_kind and row["split"] == "train" and row["references"]
    }
    if not rows:
        raise NotEnoughRows(f"{rows_kind} training rows with references", 1, 0, "Loosen the pair rules or add footage.")
    offset = options.get("rope_offset")
    chosen = _choose(params, ctx.seed, kind, sorted(rows))
    entries = {entry.sample_id: entry for entry in entries_of(rows.values())}
    studio = {
        "backbone": params.backbone,
        "sampling": params.sampling,
        "systems": [System(SYSTEM, ((SYSTEM, str(ctx.path("adapter"))),))],
        "cache": str(ctx.path("latents")),
        "entries": [entries[i] for i in sorted({pair.sample_id for pair in chosen})],
    }
    recipe = {"backbone": digest, "sampling": params.sampling.model_dump(mode="json"), "offset": offset}
    work = run_items(
        ctx,
        group=Group("pair", ctx.recipe("pair", "2", recipe)),
        items=[Item(_key(pair, entries[pair.sample_id], adapter), pair.pair_id, pair) for pair in chosen],
        make=make,
        init={**options, "studio": studio},
        unit="pairs",
        batch=1,
        cpus=params.sampling.workers_cpus,
        gpus=params.sampling.workers_gpus,
    )
    ctx.event("preferences", asked=params.pairs, chosen=len(chosen), failed=len(work.failed), reused=work.reused)
    ctx.ledger([_ended(work, pair) for pair in chosen])
    made = [pair for pair in chosen if pair.pair_id not in work.failed]
    if not made:
        first = next(iter(work.failed.values()))
        raise NotEnoughRows("preference pairs", 1, 0, f"All {len(chosen)} failed; first: {first.error_message}.")
    ctx.write("preferences", PREFERENCES.table(_pack(ctx, work, made, rows, kind, offset)))
    return work, made


def _choose(params: PreferParams, run_seed: int, kind: Kind, sample_ids: Sequence[str]) -> list[PairPayload]:
    """Pairs in seeded order, every sample once before any sample twice."""
    from models.training.randomness import seed_of

    order = sorted(sample_ids, key=lambda i: (seed_of(run_seed, kind, i), i))
    chosen: list[PairPayload] = []
    for visit in range(params.per_sample):
        for sample_id in order:
            if len(chosen) == params.pairs:
                return chosen
            seed = seed_of(run_seed, "pair", sample_id, visit)
            pair_id = content_key(kind, sample_id, seed)[:32]
            chosen.append(PairPayload(pair_id, sample_id, seed))
    return chosen


def _key(pair: PairPayload, entry: Entry, adapter: str) -> str:
    # The shard's name digests the latents and references, the text key the prompt: together all that is conditioned on.
    return content_key(*asdict(pair).values(), entry.shard, entry.text_key, adapter)


def _ended(work: Work, pair: PairPayload) -> dict[str, object]:
    row: dict[str, object] = {
        "record_id": pair.pair_id,
        "status": "accepted",
        "seconds": work.seconds.get(pair.pair_id),
    }
    failure = work.failed.get(pair.pair_id)
    if failure is not None:
        row.update(status="failed", error_type=failure.error_type, error_message=failure.error_message)
    return row


def _pack(
    ctx: Context,
    work: Work,
    made: Sequence[PairPayload],
    cached: Mapping[str, Mapping[str, Any]],
    kind: Kind,
    offset: tuple[float, float, float] | None,
) -> list[dict[str, object]]:
    """Write latents, videos and reference pictures; returns the table's rows."""
    from safetensors.torch import load

    from models.training.cache import write_shard

    folder, uri, latents = ctx.folder("shards"), ctx.final_uri("shards"), ctx.path("latents")
    rows: list[dict[str, object]] = []
    for start in range(0, len(made), PAIRS_PER_SHARD):
        part = made[start : start + PAIRS_PER_SHARD]
        tensors: dict[str, Any] = {}
        files: dict[str, dict[str, str]] = {}
        for row in work.rows(ctx, [pair.pair_id for pair in part]):
            pair_id = row["record_id"]
            tensors |= {f"{pair_id}/{side}": tensor for side, tensor in load(row["payload"]).items()}
            files[pair_id] = {side: put_file(folder / "videos", row[side], ".webm") for side in ("winner", "loser")}
        shard = write_shard(folder, tensors, "pairs", {"kind": kind})
        for pair in part:
            rows.append(
                {
                    "pair_id": pair.pair_id,
                    "kind": kind,
                    "sample_id": pair.sample_id,
                    "shard": shard,
                    "winner_uri": child_uri(uri, f"videos/{files[pair.pair_id]['winner']}"),
                    "loser_uri": child_uri(uri, f"videos/{files[pair.pair_id]['loser']}"),
                    "reference_uri": child_uri(uri, f"references/{_reference(folder, latents, pair.sample_id)}"),
                    "prompt": cached[pair.sample_id]["prompt"],
                    "seed": pair.seed,
                    # Zeros, not null, where nothing is shifted: pyarrow 25 cannot read a null fixed-size list back.
                    "rope_offset": list(offset or (0.0, 0.0, 0.0)),
                }
            )
    return rows


def _reference(folder: Path, latents: Path, sample_id: str) -> str:
    picture = reference_picture(latents, sample_id)
    if picture is None:
        raise StageError(f"the cache holds no reference picture of sample {sample_id}; encode it again")
    return put_file(folder / "references", picture, ".png")

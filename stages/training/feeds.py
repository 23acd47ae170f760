"""From a job's plain data to what its loop is fed: sampler, batches, and the probes that measure on held-out rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.backbones.base import Backbone
    from models.training.cache import CacheReader, Entry
    from models.training.feed import FeedSpec, PreferenceFeed
    from models.training.probes import Probe
    from models.training.sampler import Batches, Row, Sampler
    from stages.training.jobs import Job
    from stages.training.params import BackboneParams


def make_sampler(job: Job) -> Batches:
    """The sampler of the job's rows; ``ValueError`` when no bucket holds a batch."""
    from models.training.feed import PreferenceFeed, rows_of, winner_groups
    from models.training.switching import SwitchingSampler

    if job.switching is not None:
        images = _sampler(job, rows_of(job.images), job.image_batch) if job.images else None
        videos = _sampler(job, rows_of(job.entries), job.batch) if job.entries else None
        return SwitchingSampler(images, videos, job.switching, seed=job.feed.seed, accumulate=job.spec.accumulate)
    rows = rows_of(job.entries)
    if job.preferences is not None:
        entries = {entry.sample_id: entry for entry in job.entries}
        rows = PreferenceFeed.rows(entries, winner_groups(job.pairs, job.losers))
    return _sampler(job, rows, job.batch)


def _sampler(job: Job, rows: Sequence[Row], batch: int) -> Sampler:
    from models.training.sampler import Sampler, balanced_sizes

    sizes = balanced_sizes(rows, bucket_costs(job), batch) if job.balance == "flops" else None
    return Sampler(rows, seed=job.feed.seed, global_batch=batch, remainder=job.remainder, sizes=sizes)


def bucket_costs(job: Job) -> dict[str, float]:
    """Relative FLOPs of one row by the sampler's bucket; reads shapes, never weights."""
    from models.training.cost import relative_flops, tokens
    from models.training.feed import PreferenceFeed, winner_groups

    config = transformer_config(job.backbone)
    reader, costs = _reader(job), {}
    for entry in (*job.entries, *job.images):
        if entry.shape_class not in costs:
            channels, *rest = reader.latents(entry.sample_id).shape
            costs[entry.shape_class] = relative_flops(tokens((channels, *rest), entry.references, config), config)
    if job.preferences is not None:
        by_id = {entry.sample_id: entry for entry in job.entries}
        for group in winner_groups(job.pairs, job.losers):
            (row,) = PreferenceFeed.rows(by_id, [group])
            costs[row.bucket] = (1 + len(group)) * costs[by_id[group[0].sample_id].shape_class]
    return costs


def transformer_config(backbone: BackboneParams) -> dict[str, Any]:
    """The transformer's configuration, from its file."""
    from models.backbones.tiny import tiny_config

    spec = backbone.spec()
    if spec.is_tiny:
        return dict(tiny_config(spec.family, spec.variant)["transformer"])
    found: dict[str, Any] = json.loads((spec.folder / "transformer" / "config.json").read_text())
    return found


def make_feed(job: Job, backbone: Backbone, sampler: Batches, world_size: int, rank: int) -> Callable[[int], Any]:
    """``feed(i)`` is this rank's micro-batch i."""
    from models.training.feed import SftFeed, SwitchingFeed
    from models.training.switching import SwitchingSampler

    if job.preferences is not None:
        return preference_feed(job, backbone, sampler, world_size, rank)
    reader, spec = _reader(job), _spec(job, backbone)
    if isinstance(sampler, SwitchingSampler):
        return SwitchingFeed(reader, sampler, spec, _patch(backbone), world_size=world_size, rank=rank)
    return SftFeed(reader, sampler, spec, world_size=world_size, rank=rank)


def preference_feed(job: Job, backbone: Backbone, sampler: Batches, world_size: int, rank: int) -> PreferenceFeed:
    from models.training.adapter import read_tensors
    from models.training.feed import PreferenceFeed, winner_groups

    assert job.preferences is not None
    return PreferenceFeed(
        _reader(job),
        Path(job.preferences),
        winner_groups(job.pairs, job.losers),
        sampler,
        _spec(job, backbone),
        world_size=world_size,
        rank=rank,
        known=read_tensors(Path(job.reference_errors))[0] if job.reference_errors else None,
    )


def make_probes(job: Job, backbone: Backbone, feed: Any, world_size: int, rank: int) -> list[Probe]:
    """The probes that the job asks for and has held-out rows for."""
    from models.training.feed import SwitchingFeed
    from models.training.probes import GradientAnalysis, HeldOutLoss

    asked, probes = job.probes, list[Any]()
    if asked.held_out_every and job.held_out:
        ids = [entry.sample_id for entry in job.held_out]
        probes.append(
            HeldOutLoss(
                _reader(job), ids, seed=job.feed.seed, every=asked.held_out_every, quantiles=asked.held_out_parts
            )
        )
    if asked.gradients_every and isinstance(feed, SwitchingFeed):
        batches = {
            kind: _fixed(feed, kind, [entry.sample_id for entry in entries[rank::world_size] or entries[:1]])
            for kind, entries in asked.gradient_samples.items()
        }
        probes.append(GradientAnalysis(batches, asked.gradients_every, asked.gradient_layers))
    return probes


def _fixed(feed: Any, kind: str, ids: Sequence[str]) -> Callable[[], Any]:
    return lambda: feed.fixed(kind, ids)


def _reader(job: Job) -> CacheReader:
    from models.training.cache import CacheReader

    analysed = [entry for part in job.probes.gradient_samples.values() for entry in part]
    entries: dict[str, Entry] = {e.sample_id: e for e in (*job.entries, *job.images, *job.held_out, *analysed)}
    return CacheReader(Path(job.cache), entries.values())


def _spec(job: Job, backbone: Backbone) -> FeedSpec:
    return replace(job.feed, timesteps=replace(job.feed.timesteps, train_steps=backbone.num_train_timesteps))


def _patch(backbone: Backbone) -> tuple[int, int]:
    side = backbone.spatial_multiple // backbone.spatial_factor
    return side, side

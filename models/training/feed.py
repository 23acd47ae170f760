"""From step numbers to batches: the sampler says who, the cache says what, and hashed seeds say with which noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from models.training.batch import Batch, PreferenceBatch
from models.training.cache import CacheReader, Entry, TensorShards
from models.training.randomness import TimestepSpec, choose_views, happens, noise, timestep
from models.training.sampler import Draw, Row, Sampler


@dataclass(frozen=True)
class FeedSpec:
    """Dropouts teach the null branches that guidance needs; captions drop by sample.

    ``null_reference`` must be what guidance will use: ``absent`` drops the references of a whole step, by (seed, step)
    alone so that all ranks agree and a batch keeps one shape; ``zeros`` puts zero latents in a sample's references.
    """

    seed: int
    timesteps: TimestepSpec
    caption_dropout: float = 0.0
    reference_dropout: float = 0.0
    null_reference: Literal["absent", "zeros"] = "absent"


def rows_of(entries: Iterable[Entry]) -> list[Row]:
    """Sampler rows of cache entries, one bucket per shape class."""
    return [Row(entry.sample_id, entry.shape_class) for entry in entries]


class SftFeed:
    """``feed(step)`` is this rank's batch of the step: latents, one random view per reference, text, noise, timestep."""

    def __init__(
        self, reader: CacheReader, sampler: Sampler, spec: FeedSpec, *, world_size: int = 1, rank: int = 0
    ) -> None:
        self.reader, self.sampler, self.spec = reader, sampler, spec
        self.world_size, self.rank = world_size, rank

    def __call__(self, step: int) -> Batch:
        draws = self.sampler.rank_batch(step, world_size=self.world_size, rank=self.rank)
        latents = torch.stack([self.reader.latents(d.sample_id) for d in draws])
        return Batch(
            latents_BCFHW=latents,
            references_BRCHW=None if self._absent(step) else _stack([self._references(d) for d in draws]),
            text_BLD=torch.stack([self._text(d) for d in draws]),
            noise_BCFHW=torch.stack([noise(self.spec.seed, d.sample_id, d.visit, latents.shape[1:]) for d in draws]),
            t_B=_timesteps(self.spec, draws),
            sample_ids=tuple(d.sample_id for d in draws),
        )

    def _text(self, draw: Draw) -> Tensor:
        if happens(self.spec.seed, draw.sample_id, draw.visit, "caption", self.spec.caption_dropout):
            return self.reader.null_text
        return self.reader.text(draw.sample_id)

    def _references(self, draw: Draw) -> Tensor | None:
        entry = self.reader.entries[draw.sample_id]
        if not entry.references:
            return None
        views = choose_views(self.spec.seed, draw.sample_id, draw.visit, entry.references, entry.views)
        references = self.reader.references(draw.sample_id, views)
        assert references is not None
        if self.spec.null_reference == "zeros" and happens(
            self.spec.seed, draw.sample_id, draw.visit, "references", self.spec.reference_dropout
        ):
            return torch.zeros_like(references)
        return references

    def _absent(self, step: int) -> bool:
        return self.spec.null_reference == "absent" and happens(
            self.spec.seed, "", step, "absent references", self.spec.reference_dropout
        )


@dataclass(frozen=True)
class Pair:
    """A reviewed preference: both latents in ``shard``, conditioned on a cached sample."""

    pair_id: str
    sample_id: str
    shard: str


class PreferenceFeed:
    """``feed(step)`` is this rank's batch of pairs; winner and loser share noise and timestep, drawn by pair and visit.

    References are view 0, the one that the samples were made with; nothing is dropped.
    """

    def __init__(
        self,
        reader: CacheReader,
        folder: Path,
        pairs: Sequence[Pair],
        sampler: Sampler,
        spec: FeedSpec,
        *,
        world_size: int = 1,
        rank: int = 0,
    ) -> None:
        self.reader, self.sampler, self.spec = reader, sampler, spec
        self.world_size, self.rank = world_size, rank
        self.pairs = {pair.pair_id: pair for pair in pairs}
        self._store = TensorShards(folder)

    @staticmethod
    def rows(entries: Mapping[str, Entry], pairs: Sequence[Pair]) -> list[Row]:
        """Sampler rows of pairs, one bucket per shape class of the samples that condition them."""
        return [Row(pair.pair_id, entries[pair.sample_id].shape_class) for pair in pairs]

    def __call__(self, step: int) -> PreferenceBatch:
        draws = self.sampler.rank_batch(step, world_size=self.world_size, rank=self.rank)
        pairs = [self.pairs[d.sample_id] for d in draws]
        winner = torch.stack([self._store.tensor(p.shard, f"{p.pair_id}/winner") for p in pairs])
        loser = torch.stack([self._store.tensor(p.shard, f"{p.pair_id}/loser") for p in pairs])
        return PreferenceBatch(
            winner_BCFHW=winner,
            loser_BCFHW=loser,
            references_BRCHW=_stack([self.reader.references(p.sample_id) for p in pairs]),
            text_BLD=torch.stack([self.reader.text(p.sample_id) for p in pairs]),
            noise_BCFHW=torch.stack([noise(self.spec.seed, d.sample_id, d.visit, winner.shape[1:]) for d in draws]),
            t_B=_timesteps(self.spec, draws),
            sample_ids=tuple(d.sample_id for d in draws),
        )


def _stack(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    assert len(present) in (0, len(parts)), "a batch is pure in its number of references"
    return torch.stack(present) if present else None


def _timesteps(spec: FeedSpec, draws: Sequence[Draw]) -> Tensor:
    return torch.tensor([timestep(spec.seed, d.sample_id, d.visit, spec.timesteps) for d in draws], dtype=torch.int64)

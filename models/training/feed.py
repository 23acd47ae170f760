"""From step numbers to batches: the sampler says who, the cache says what, and hashed seeds say with which noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from models.training.batch import Batch, PreferenceBatch
from models.training.cache import CacheReader, Entry, TensorShards
from models.training.randomness import TimestepSpec, choose_views, generator, happens, noise, seed_of, timestep
from models.training.sampler import Batches, Draw, Row
from models.training.switching import StepKind, SwitchingSampler


@dataclass(frozen=True)
class FeedSpec:
    """Dropouts teach the null branches that guidance needs; captions drop by sample.

    ``null_reference`` must be what guidance will use: ``absent`` drops the references of a whole step, by (seed, step)
    alone so that all ranks agree and a batch keeps one shape; ``zeros`` puts zero latents in a sample's references.

    ``view_drop`` and ``token_drop`` belong to ``switching`` (arXiv 2504.17816): the share of image steps that lose one
    reference, and the share of a video step's reference tokens that are emptied.
    """

    seed: int
    timesteps: TimestepSpec
    caption_dropout: float = 0.0
    reference_dropout: float = 0.0
    null_reference: Literal["absent", "zeros"] = "absent"
    view_drop: float = 0.5
    token_drop: float = 0.5


def rows_of(entries: Iterable[Entry]) -> list[Row]:
    """Sampler rows of cache entries, one bucket per shape class."""
    return [Row(entry.sample_id, entry.shape_class) for entry in entries]


class SftFeed:
    """``feed(step)`` is this rank's batch of the step: latents, one random view per reference, text, noise, timestep."""

    def __init__(
        self, reader: CacheReader, sampler: Batches, spec: FeedSpec, *, world_size: int = 1, rank: int = 0
    ) -> None:
        self.reader, self.sampler, self.spec = reader, sampler, spec
        self.world_size, self.rank = world_size, rank

    def __call__(self, step: int) -> Batch:
        draws = self.sampler.rank_batch(step, world_size=self.world_size, rank=self.rank)
        return self.batch(draws, None if self._absent(step) else _stack([self._references(d) for d in draws]))

    def batch(self, draws: Sequence[Draw], references: Tensor | None, kind: str = "") -> Batch:
        """The batch of these draws with ``references`` (B, R, C, H, W) or none."""
        latents = torch.stack([self.reader.latents(d.sample_id) for d in draws])
        return Batch(
            latents_BCFHW=latents,
            references_BRCHW=references,
            text_BLD=torch.stack([self._text(d) for d in draws]),
            noise_BCFHW=torch.stack([noise(self.spec.seed, d.sample_id, d.visit, latents.shape[1:]) for d in draws]),
            t_B=_timesteps(self.spec, draws),
            sample_ids=tuple(d.sample_id for d in draws),
            kind=kind,
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


class SwitchingFeed:
    """``feed(index)`` is this rank's batch of micro-batch ``index``: all image pairs, or all videos.

    An image pair shows a random view of each reference; with ``view_drop`` the step loses one reference of each sample
    (the only one, where there is one), and with ``reference_dropout`` a step of either kind loses all. A video shows its
    reference, a frame of its own, with each token emptied with probability ``token_drop``. Emptied means zero
    latents: the token keeps its place, for the sequence of diffusers' own forward has no holes.

    ``patch`` is (rows, columns) of latents to a token.
    """

    def __init__(
        self,
        reader: CacheReader,
        sampler: SwitchingSampler,
        spec: FeedSpec,
        patch: tuple[int, int],
        *,
        world_size: int = 1,
        rank: int = 0,
    ) -> None:
        self.reader, self.sampler, self.spec, self.patch = reader, sampler, spec, patch
        self.world_size, self.rank = world_size, rank
        self._samples = SftFeed(reader, sampler, spec, world_size=world_size, rank=rank)

    def __call__(self, index: int) -> Batch:
        kind, _, _ = self.sampler.at(index)
        draws = self.sampler.rank_batch(index, world_size=self.world_size, rank=self.rank)
        references = self._image(index, draws) if kind == "image" else self._video(draws)
        absent = happens(self.spec.seed, "", index, "absent references", self.spec.reference_dropout)
        return self._samples.batch(draws, None if absent else references, kind)

    def fixed(self, kind: StepKind, sample_ids: Sequence[str]) -> Batch:
        """A batch for measuring: visit 0 of these samples, with nothing dropped and view 0 of each reference."""
        references = _stack([self.reader.references(i) for i in sample_ids])
        return self._samples.batch([Draw(i, 0) for i in sample_ids], references, kind)

    def _image(self, index: int, draws: Sequence[Draw]) -> Tensor | None:
        parts = [self._views(d) for d in draws]
        if happens(self.spec.seed, "", index, "dropped view", self.spec.view_drop):
            parts = [_without_one(part, self.spec.seed, d) for part, d in zip(parts, draws, strict=True)]
        return _stack(parts)

    def _views(self, draw: Draw) -> Tensor | None:
        entry = self.reader.entries[draw.sample_id]
        views = choose_views(self.spec.seed, draw.sample_id, draw.visit, entry.references, entry.views)
        return self.reader.references(draw.sample_id, views)

    def _video(self, draws: Sequence[Draw]) -> Tensor | None:
        references = _stack([self.reader.references(d.sample_id) for d in draws])
        if references is None or not self.spec.token_drop:
            return references
        _, many, _, height, width = references.shape
        rows, columns = self.patch
        kept = []
        for d in draws:
            draws_of = generator(self.spec.seed, d.sample_id, d.visit, "dropped tokens")
            share = torch.rand((many, 1, height // rows, width // columns), generator=draws_of)
            tokens = (share >= self.spec.token_drop).to(references.dtype)
            kept.append(tokens.repeat_interleave(rows, 2).repeat_interleave(columns, 3))
        return references * torch.stack(kept)


def _without_one(references: Tensor | None, seed: int, draw: Draw) -> Tensor | None:
    """Without one reference, drawn by sample and visit; None where none is left."""
    if references is None or len(references) == 1:
        return None
    lost = choose_views(seed, draw.sample_id, draw.visit, 1, len(references))[0]
    return torch.cat([references[:lost], references[lost + 1 :]])


@dataclass(frozen=True)
class Pair:
    """A reviewed preference: both latents in ``shard``, conditioned on a cached sample.

    ``winner`` names the winning video: pairs of one winner may train together (``winner_groups``).
    """

    pair_id: str
    sample_id: str
    shard: str
    winner: str = ""


def winner_groups(pairs: Iterable[Pair], losers: int) -> list[tuple[Pair, ...]]:
    """Pairs in groups of at most ``losers`` that share their winner, in order of their ids; each pair in one group."""
    by_winner: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda p: p.pair_id):
        by_winner[pair.sample_id, pair.winner or pair.pair_id].append(pair)
    return [tuple(of[i : i + losers]) for of in by_winner.values() for i in range(0, len(of), losers)]


class PreferenceFeed:
    """``feed(step)`` is this rank's batch of winners with their losers; all share noise and timestep, by winner and visit.

    A group of pairs goes by the id of its first. References are view 0, the one that the samples were made with; nothing
    is dropped. ``known`` are the reference's errors by ``batch_key``, where they were computed before.
    """

    def __init__(
        self,
        reader: CacheReader,
        folder: Path,
        groups: Sequence[Sequence[Pair]],
        sampler: Batches,
        spec: FeedSpec,
        *,
        world_size: int = 1,
        rank: int = 0,
        known: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.reader, self.sampler, self.spec = reader, sampler, spec
        self.world_size, self.rank = world_size, rank
        self.groups = {group[0].pair_id: group for group in groups}
        self.known = known or {}
        self._store = TensorShards(folder)

    @staticmethod
    def rows(entries: Mapping[str, Entry], groups: Sequence[Sequence[Pair]]) -> list[Row]:
        """Sampler rows of groups, one bucket per shape class of the samples that condition them and number of losers."""
        return [
            Row(group[0].pair_id, entries[group[0].sample_id].shape_class + (f"/n{len(group)}" if group[1:] else ""))
            for group in groups
        ]

    def __call__(self, step: int) -> PreferenceBatch:
        draws = self.sampler.rank_batch(step, world_size=self.world_size, rank=self.rank)
        return self.batch(draws)

    def batch(self, draws: Sequence[Draw]) -> PreferenceBatch:
        groups = [self.groups[d.sample_id] for d in draws]
        winner = torch.stack([self._side(group[0], "winner") for group in groups])
        losers = torch.stack([torch.stack([self._side(pair, "loser") for pair in group]) for group in groups])
        samples = [group[0].sample_id for group in groups]
        return PreferenceBatch(
            winner_BCFHW=winner,
            losers_BNCFHW=losers,
            references_BRCHW=_stack([self.reader.references(i) for i in samples]),
            text_BLD=torch.stack([self.reader.text(i) for i in samples]),
            noise_BCFHW=torch.stack([noise(self.spec.seed, d.sample_id, d.visit, winner.shape[1:]) for d in draws]),
            t_B=_timesteps(self.spec, draws),
            sample_ids=tuple(d.sample_id for d in draws),
            reference_errors_BK=self.known.get(batch_key(draws)),
        )

    def _side(self, pair: Pair, side: str) -> Tensor:
        return self._store.tensor(pair.shard, f"{pair.pair_id}/{side}")


def batch_key(draws: Sequence[Draw]) -> str:
    """A name for a batch among those of one job: who is in it, at which visit, in order."""
    return f"{seed_of(*(part for d in draws for part in (d.sample_id, d.visit))):016x}"


def _stack(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    assert len(present) in (0, len(parts)), "a batch is pure in its number of references"
    return torch.stack(present) if present else None


def _timesteps(spec: FeedSpec, draws: Sequence[Draw]) -> Tensor:
    return torch.tensor([timestep(spec.seed, d.sample_id, d.visit, spec.timesteps) for d in draws], dtype=torch.int64)

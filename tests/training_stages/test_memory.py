"""A training says what memory it will take before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.training.budget import Budget, StepShape
from models.training.cache import Entry
from models.training.feed import FeedSpec, Pair
from models.training.loop import TrainSpec
from models.training.lora import LoraSpec
from models.training.methods import Sft
from models.training.randomness import TimestepSpec
from models.training.switching import SwitchingSpec
from stages.training.jobs import Job
from stages.training.memory import GPU_PEAK, compare_memory, largest_step
from stages.training.train import SftParams, sft
from tests.context import LocalContext
from tests.training_stages.conftest import Encoded
from tests.training_stages.footing import BACKBONE, LORA


def test_the_budget_of_the_largest_bucket_is_told_before_the_first_step(tmp_path: Path, encoded: Encoded) -> None:
    told = []
    for name, wanted in (("asked", True), ("cpu", None)):
        inputs: dict[str, object] = {"cache": encoded.cache, "latents": encoded.latents}
        context = LocalContext(tmp_path / name, sft, inputs, name="sft_in")
        context.run(
            SftParams(
                backbone=BACKBONE, lora=LORA, kind="in_pair", engine="inline", steps=1, batch=2, foretell_memory=wanted
            )
        )
        told.append([fields for kind, fields in context.events if kind == "memory_budget"])
        kinds = [kind for kind, _ in context.events]
    assert told[1] == []  # no GPU, nobody asked
    (budget,) = told[0]
    # Latents of 9x32x32 through a codec of 4x8x8: 3x4x4, two of them and one reference each.
    assert budget["plan"].startswith("memory of a step with 2 x 3x4x4 latents, 1 references: ")
    # Rank 2 on q, k, v and out of two blocks of width 64: 8 modules x 2 x 2 x 64 x 4 bytes.
    assert budget["adapters"] == budget["gradients"] == 8 * 2 * 2 * 64 * 4
    assert not budget["warn"]
    assert "trained" in kinds


def job(entries: list[Entry], **more: Any) -> Job:
    feed = FeedSpec(seed=0, timesteps=TimestepSpec())
    return Job("home", BACKBONE, Sft(LoraSpec(rank=2)), TrainSpec(steps=1), feed, 2, "repeat", "cache", entries, **more)


def entries(bucket: str, references: int, count: int = 4) -> list[Entry]:
    return [Entry(f"{bucket}-{references}-{i}", "shard", bucket, references, 1, "text") for i in range(count)]


def test_the_largest_step_counts_references_losers_workers_and_both_kinds_of_switching() -> None:
    def shape(step: StepShape) -> tuple[int, int, int, int]:
        return step.samples, step.latents[1], step.references, step.losers

    assert shape(largest_step(job([*entries("9x32x32", 1), *entries("9x32x32", 3)]), 2)) == (1, 3, 3, 1)
    stills = {"switching": SwitchingSpec(0.5), "images": entries("1x32x32", 1, 32)}
    assert shape(largest_step(job(entries("9x32x32", 1), **stills, image_batch=3), 1)) == (2, 3, 1, 1)
    assert shape(largest_step(job(entries("9x32x32", 1), **stills, image_batch=16), 1)) == (16, 1, 1, 1)
    images_alone = {**stills, "switching": SwitchingSpec(0.0)}
    assert shape(largest_step(job([], **images_alone, image_batch=16), 1)) == (16, 1, 1, 1)
    losers = [Pair(f"{i}", "9x32x32-1-0", "shard", "real") for i in range(3)] + [Pair("3", "9x32x32-1-1", "shard")]
    preferred = replace(job(entries("9x32x32", 1)), pairs=losers, preferences="pairs", losers=3)
    assert shape(largest_step(preferred, 1)) == (2, 3, 1, 3)


def test_the_budget_is_held_against_the_peak(tmp_path: Path) -> None:
    context, budget = LocalContext(tmp_path, sft, {}, name="sft"), Budget(2**20, 0, 0, 0, 2**20, 1, 1)
    compare_memory(context, budget, {1: {"loss": 1.0}})  # a CPU
    compare_memory(context, None, {1: {GPU_PEAK: 1.0}})  # nothing was foretold
    assert not context.events
    compare_memory(context, budget, {1: {GPU_PEAK: 1.0}, 2: {GPU_PEAK: 1.6}, 3: {}})
    ((kind, told),) = context.events
    assert (kind, told["off_by"]) == ("memory_peak", pytest.approx(0.25))

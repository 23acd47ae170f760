"""Small pipelines over a user's own table, weights and adapters: the same stages as the road's, fed from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.dag.graph import Node, Pipeline, node
from stages.training.disentangle import disentangle
from stages.training.encode import encode
from stages.training.merge import merge_of
from stages.training.own import own_samples
from stages.training.own_adapter import own_adapter
from stages.training.own_preferences import own_preferences
from stages.training.own_prompts import own_prompts
from stages.training.sample import sample
from stages.training.switching import switching
from stages.training.train import dpo, sft

ROWS = ("subset", "media", "pairs", "subjects")
CACHE = {"cache": "encode.cache", "latents": "encode.latents"}
PROMPTS = {"cache": "prompts.cache", "latents": "prompts.latents"}


def train_sft(table: Mapping[str, Any]) -> Pipeline:
    """``table`` are the parameters that say where the user's table lies."""
    return Pipeline("train-sft", (*_encoded(table), node("sft", sft, CACHE)), "SFT on a table of your own")


def train_switching(table: Mapping[str, Any]) -> Pipeline:
    """Stills of the clips with their references, and the clips with frames of their own, in turns."""
    raw = {name: f"samples.{name}" for name in ROWS}
    parted = {name: f"disentangle.{name}" for name in ROWS}
    return Pipeline(
        "train-switching",
        (
            node("samples", own_samples, params=table),
            node("disentangle", disentangle, raw),
            node("encode", encode, parted, params={"buckets": ("1x64x64", "9x64x64")}),
            node("switching", switching, CACHE),
        ),
        "image pairs and unpaired videos of your own in turns",
    )


def train_dpo(table: Mapping[str, Any], adapter: str | None) -> Pipeline:
    given = (_adapter("base", adapter),) if adapter else ()
    wired = {"adapter": "base.adapter"} if adapter else {}
    return Pipeline(
        "train-dpo",
        (
            *_encoded(table),
            *given,
            node("preferences", own_preferences, CACHE, params=table, follow={"fps": "encode"}),
            node(
                "dpo",
                dpo,
                {**CACHE, **wired},
                params={"kind": "real_fake"},
                preferences="preferences.preferences",
                shards="preferences.shards",
                verdicts="preferences.verdicts",
            ),
        ),
        "DPO on winners and losers of your own",
    )


def merge(adapters: Mapping[str, str], weights: Mapping[str, float]) -> Pipeline:
    """Adapters by name, as paths of their files."""
    names = tuple(adapters)
    wired = {name: f"{name}.adapter" for name in names}
    given = tuple(_adapter(name, path) for name, path in adapters.items())
    merged = node("merge", merge_of(names), wired, params={"weights": dict(weights)})
    return Pipeline("merge", (*given, merged), "one adapter from several of your own")


def sample_own(table: Mapping[str, Any], adapter: str | None) -> Pipeline:
    given = (_adapter("adapter", adapter),) if adapter else ()
    wired = {"final": "adapter.adapter"} if adapter else {}
    return Pipeline(
        "sample",
        (node("prompts", own_prompts, params=table), *given, node("sample", sample, {**PROMPTS, **wired})),
        "videos for prompts and references of your own",
    )


def _encoded(table: Mapping[str, Any]) -> tuple[Node, ...]:
    samples = {name: f"samples.{name}" for name in ROWS}
    return node("samples", own_samples, params=table), node("encode", encode, samples)


def _adapter(name: str, path: str) -> Node:
    return node(name, own_adapter, params={"path": path})

"""The cache that most tests of this room stand on, encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tests.context import LocalContext
from tests.training_stages.footing import BACKBONE, BUCKET, LORA, SAMPLING, world

torch.set_num_threads(1)


@dataclass(frozen=True)
class Encoded:
    cache: pa.Table
    latents: Path
    context: LocalContext


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    from stages.training.encode import EncodeParams, encode

    root = tmp_path_factory.mktemp("encoded")
    context = LocalContext(root, encode, world(root))
    context.run(EncodeParams(backbone=BACKBONE, buckets=(BUCKET,), views=3))
    return Encoded(context.outputs["cache"], context.outputs["latents"], context)


@dataclass(frozen=True)
class Road:
    """The LibraGen road up to the reviews: adapters by name, preferences by kind as (table, shards)."""

    adapters: dict[str, Path]
    preferences: dict[str, tuple[pa.Table, Path]]
    contexts: dict[str, LocalContext]


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory, encoded: Encoded) -> Road:
    from stages.training.merge import merge_sft
    from stages.training.preferences import ConsisParams, RealFakeParams, prefer_consis, prefer_real_fake
    from stages.training.train import SftParams, sft

    root = tmp_path_factory.mktemp("road")
    cached: dict[str, pa.Table | Path] = {"cache": encoded.cache, "latents": encoded.latents}
    common = {"backbone": BACKBONE, "lora": LORA, "engine": "inline", "steps": 6, "batch": 2, "checkpoint_every": 2}
    contexts: dict[str, LocalContext] = {}
    adapters: dict[str, Path] = {}
    for kind in ("cross_pair", "in_pair"):
        contexts[kind] = LocalContext(root / kind, sft, cached, name=f"sft_{kind}")
        contexts[kind].run(SftParams(**common, kind=kind, learning_rate=1e-2))  # type: ignore[arg-type]
        adapters[kind] = contexts[kind].outputs["adapter"]
    contexts["sft"] = LocalContext(
        root / "merge", merge_sft, {"cross": adapters["cross_pair"], "in_pair": adapters["in_pair"]}
    )
    contexts["sft"].run()
    adapters["sft"] = contexts["sft"].outputs["adapter"]
    prefer = {"backbone": BACKBONE, "sampling": SAMPLING, "pairs": 3}
    contexts["consis"] = LocalContext(root / "consis", prefer_consis, {**cached, "adapter": adapters["cross_pair"]})
    contexts["consis"].run(ConsisParams(**prefer, rope_offset=(0, 2, 2)))  # type: ignore[arg-type]
    contexts["real_fake"] = LocalContext(root / "fake", prefer_real_fake, {**cached, "adapter": adapters["in_pair"]})
    contexts["real_fake"].run(RealFakeParams(**prefer))  # type: ignore[arg-type]
    preferences = {
        kind: (contexts[kind].outputs["preferences"], contexts[kind].outputs["shards"])
        for kind in ("consis", "real_fake")
    }
    return Road(adapters, preferences, contexts)

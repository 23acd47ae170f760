"""The training benchmarks at a size of seconds: what they count is right, and what they time is there."""

from __future__ import annotations

import pytest

from benchmarks.training import guidance, overhead
from benchmarks.training.models import MODELS


def test_guidance_forwards_are_the_fewest_and_batched() -> None:
    found = guidance.measure("cogvideox", steps=10, repeats=1)
    counts = {name: (way["forwards_per_step"], way["calls_per_step"]) for name, way in found.items()}
    assert counts == {
        "none": (1.0, 1.0),
        "plain": (2.0, 1.0),
        "dynamic": (2.0, 1.9),  # one step of ten guides the text alone, with the references in both branches
        "three branches, reference first": (3.0, 2.0),
        "three branches, text first": (3.0, 2.0),
        "three branches, zero latents": (3.0, 1.0),
    }
    assert found["none"]["time_ratio"] == 1.0
    assert all(way["time_ratio"] > 0 for way in found.values())


def test_overhead_is_measured_in_every_way_that_needs_no_ray() -> None:
    found = overhead.run(15, window=5, with_ray=False)
    assert set(found["ways"]) == {"bare", "loop", "job"}
    assert all(way["median_ms"] > 0 and way["windows"] == 2 for way in found["ways"].values())
    assert found["mlflow_publish_ms_per_step"] > 0
    assert found["checkpoint_ms"] > 0


@pytest.mark.parametrize(("name", "parameters"), [("cogvideox-5b", 5.57e9), ("wan-1.3b", 1.42e9), ("wan-14b", 14.29e9)])
def test_the_large_models_have_the_size_that_their_names_say(name: str, parameters: float) -> None:
    import torch

    from models.compat import prepare

    prepare()
    built = MODELS[name].build("meta", torch.bfloat16)
    assert sum(p.numel() for p in built.transformer.parameters()) == pytest.approx(parameters, rel=0.01)

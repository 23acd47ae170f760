"""A tiny random backbone and seeded batches, one thread: these models are too small for a second one to pay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone
from models.backbones.load import BackboneSpec, load_backbone
from models.training.batch import Batch, PreferenceBatch
from models.training.lora import adapter_names, remove_adapter

LATENTS = (4, 2, 8, 8)  # C, F, H, W


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def _loaded() -> Backbone:
    return load_backbone(BackboneSpec())


@pytest.fixture
def backbone(_loaded: Backbone) -> Iterator[Backbone]:
    """The shared tiny CogVideoX without adapters; whatever a test adds is taken off again."""
    yield _loaded
    for name in sorted(adapter_names(_loaded)):
        remove_adapter(_loaded, name)


@pytest.fixture(scope="session")
def text(_loaded: Backbone) -> Tensor:
    """Two short texts, trimmed to 12 tokens: the transformer takes any length and the tests get faster."""
    return _loaded.encode_text(["Ref 1: a red cup. Video: Ref 1[a red cup] falls", "a dog runs"])[:, :12]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def randn() -> Callable[..., Tensor]:
    """randn(seed, *shape): standard normal, a function of its arguments alone."""
    return draw


@pytest.fixture
def batches(text: Tensor) -> Callable[[int], Batch]:
    """Micro-batch i: fixed latents and references, noise and timesteps from i alone."""

    def batch(index: int) -> Batch:
        timesteps = torch.randint(0, 1000, (2,), generator=torch.Generator().manual_seed(index))
        return Batch(
            sample_ids=("a", "b"),
            text_BLD=text,
            noise_BCFHW=draw(1000 + index, 2, *LATENTS),
            t_B=timesteps,
            references_BRCHW=draw(8, 2, 1, 4, 8, 8),
            latents_BCFHW=draw(9, 2, *LATENTS),
        )

    return batch


@pytest.fixture
def pairs(text: Tensor) -> Callable[[int], PreferenceBatch]:
    def batch(index: int) -> PreferenceBatch:
        timesteps = torch.randint(0, 1000, (2,), generator=torch.Generator().manual_seed(index))
        return PreferenceBatch(
            sample_ids=("a", "b"),
            text_BLD=text,
            noise_BCFHW=draw(1000 + index, 2, *LATENTS),
            t_B=timesteps,
            references_BRCHW=draw(8, 2, 1, 4, 8, 8),
            winner_BCFHW=draw(9, 2, *LATENTS),
            losers_BNCFHW=draw(10, 2, *LATENTS)[:, None],
        )

    return batch

"""Probes measure fixed things, with dropout off, and leave the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.backbones.base import Backbone
from models.training.batch import Batch
from models.training.cache import CacheReader, Entry, text_key, write_samples, write_texts
from models.training.loop import StopRule, TrainSpec, train
from models.training.lora import LoraSpec, adapter_parameters
from models.training.methods import Sft
from models.training.probes import GradientAnalysis, HeldOutLoss, run_probe
from models.training.timesteps import TimestepHistogram
from models.training.world import World
from tests.training_models.conftest import LATENTS, draw

SFT = Sft(LoraSpec(rank=4, alpha=4.0, dropout=0.5))
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def reader(backbone: Backbone, tmp_path: Path) -> CacheReader:
    key = text_key("", "e")
    write_texts(tmp_path, {key: backbone.encode_text([""])[0]}, {"null_text": key})
    ids = ["a", "b", "c"]
    latents = {name: draw(index, *LATENTS) for index, name in enumerate(ids)}
    shard = write_samples(tmp_path, latents, {}, {i: i for i in ids}, {})
    return CacheReader(tmp_path, [Entry(i, shard, "5x64x64", 0, 1, key) for i in ids])


def test_the_held_out_error_is_fixed_and_shared_by_the_ranks(backbone: Backbone, reader: CacheReader) -> None:
    SFT.attach(backbone, seed=0)
    probe = HeldOutLoss(reader, ["a", "b", "c"], seed=1, every=1, quantiles=3)
    torch.manual_seed(0)
    first = run_probe(probe, backbone, SFT, ALONE)
    torch.manual_seed(1)
    assert run_probe(probe, backbone, SFT, ALONE) == first
    assert set(first) == {"held_out/loss", "held_out/loss_0166", "held_out/loss_0500", "held_out/loss_0833"}
    parts = [value for key, value in first.items() if key != "held_out/loss"]
    assert first["held_out/loss"] == pytest.approx(sum(parts) / 3)

    class Rank(World):
        """A rank whose sums nobody adds, so that they can be added here."""

        def sum_tensor(self, values: torch.Tensor) -> torch.Tensor:
            sums.append(values.clone())
            return values

    sums: list[torch.Tensor] = []
    for rank in (0, 1):
        run_probe(probe, backbone, SFT, Rank(rank, 2, torch.device("cpu")))
    total = sum(sums)
    assert isinstance(total, torch.Tensor)
    assert total[-1] == 3  # the padded fourth counts nothing
    assert (total[:-1] / total[-1]).tolist() == pytest.approx(parts, rel=1e-12)


def test_gradients_that_are_the_same_agree_and_opposite_ones_do_not(
    backbone: Backbone, batches: Callable[[int], Batch]
) -> None:
    SFT.attach(backbone, seed=0)
    for parameter in adapter_parameters(backbone, "sft").values():
        parameter.requires_grad_(True)
    same = GradientAnalysis({"image": lambda: batches(0), "video": lambda: batches(0)}, every=1, layers=True)
    found = run_probe(same, backbone, SFT, ALONE)
    assert found["gradient/cosine"] == pytest.approx(1.0)
    assert found["gradient/image_norm"] == found["gradient/video_norm"] > 0
    blocks = [value for key, value in found.items() if key.startswith("gradient/cosine/")]
    assert blocks == pytest.approx([1.0] * len(blocks))
    assert len(blocks) >= 2
    other = GradientAnalysis({"image": lambda: batches(0), "video": lambda: batches(3)}, every=1)
    assert run_probe(other, backbone, SFT, ALONE)["gradient/cosine"] < 0.999
    assert all(parameter.grad is None for parameter in adapter_parameters(backbone, "sft").values())


def test_a_rule_on_a_probe_can_end_the_run(
    backbone: Backbone, batches: Callable[[int], Batch], reader: CacheReader
) -> None:
    probe = HeldOutLoss(reader, ["a"], seed=1, every=2, quantiles=1)
    spec = TrainSpec(steps=9, stop_rules=(StopRule("held_out/loss", above=-1.0, window=3),))
    stopped = train(backbone, SFT, batches, spec, None, probes=[probe])
    assert stopped.step == 4  # measured after 1, 2 and 4


def test_the_histogram_counts_every_draw_and_means_the_error_since_it_last_told(
    backbone: Backbone, batches: Callable[[int], Batch], tmp_path: Path
) -> None:
    spec = TrainSpec(steps=6, histogram_every=3, checkpoint_every=2)
    seen: dict[int, dict[str, float]] = {}
    train(backbone, SFT, batches, spec, None, seen.__setitem__)
    drawn = [int(t) for step in range(6) for t in batches(step).t_B]
    counts = [seen[6][f"timesteps/{part / 10:.1f}"] for part in range(10)]
    assert counts == [sum(part * 100 <= t < (part + 1) * 100 for t in drawn) for part in range(10)]
    assert sum(seen[3][f"timesteps/{part / 10:.1f}"] for part in range(10)) == 6
    assert all("timesteps/0.0" not in seen[step] for step in (1, 2, 4, 5))
    again: dict[int, dict[str, float]] = {}
    train(backbone, SFT, batches, spec, tmp_path, stop_after=5)
    train(backbone, SFT, batches, spec, tmp_path, again.__setitem__)
    assert {k: v for k, v in again[6].items() if "/" in k} == {k: v for k, v in seen[6].items() if "/" in k}


def test_a_bin_is_a_tenth_and_its_error_a_mean() -> None:
    histogram, totals = TimestepHistogram(1000), dict[str, torch.Tensor]()
    histogram.add(torch.tensor([0, 99, 100, 999, 1000]), torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), totals)
    sums = {key: float(value) for key, value in totals.items()} | {"loss": 1.0}
    histogram.take(sums)
    assert sums == {"loss": 1.0}
    told = histogram.tell()
    assert (told["timesteps/0.0"], told["timesteps/0.1"], told["timesteps/0.9"]) == (2, 1, 2)
    assert (told["error_at/0.0"], told["error_at/0.1"], told["error_at/0.9"]) == (2.0, 5.0, 8.0)
    assert "error_at/0.5" not in told
    assert "error_at/0.0" not in histogram.tell()

"""A sharded base trains the same bits on half the memory, and compiled blocks train the same model and are given back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from models.backbones.load import BackboneSpec, load_backbone
from models.training.batch import Batch
from models.training.loop import TrainSpec, train
from models.training.lora import LoraSpec
from models.training.methods import Sft

torch.set_num_threads(1)
REPOSITORY = Path(__file__).resolve().parents[2]


def batch(index: int) -> Batch:
    draws = torch.Generator().manual_seed(index)
    return Batch(
        latents_BCFHW=torch.randn(1, 4, 2, 4, 4, generator=draws),
        references_BRCHW=torch.randn(1, 1, 4, 4, 4, generator=draws),
        text_BLD=torch.randn(1, 226, 32, generator=draws),
        noise_BCFHW=torch.randn(1, 4, 2, 4, 4, generator=draws),
        t_B=torch.tensor([500]),
        sample_ids=("a",),
    )


def run(**options: bool) -> tuple[str, list[float], int]:
    """The adapter's digest, the losses, and how many numbers of the transformer this process holds."""
    backbone = load_backbone(BackboneSpec())
    losses: list[float] = []
    spec = TrainSpec(steps=2, learning_rate=1e-2, **options)  # type: ignore[arg-type]
    held = 0

    def on_metrics(step: int, metrics: dict[str, float]) -> None:
        nonlocal held
        losses.append(metrics["loss"])
        parameters = [p for n, p in backbone.transformer.named_parameters() if ".lora_" not in n]
        held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in parameters)

    method = Sft(LoraSpec(rank=2, alpha=4.0))
    result = train(backbone, method, batch, spec, None, on_metrics)
    return result.adapter.digest(), losses, held


RANK = """
import sys
sys.path.insert(0, sys.argv[1])
import torch.distributed as dist
from tests.training_models.test_parallel import run

dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=int(sys.argv[3]), world_size=2)
plain, sharded = run(), run(shard=True)
assert sharded[:2] == plain[:2], (plain, sharded)
print(plain[2], sharded[2])
dist.destroy_process_group()
"""


def test_a_sharded_base_trains_the_same_bits_and_is_half_on_each_rank(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", RANK, str(REPOSITORY), str(tmp_path / "meeting")]
    ranks = [
        subprocess.Popen([*arguments, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for process in ranks:
        out, error = process.communicate(timeout=240)
        assert process.returncode == 0, error[-2000:]
        whole, held = map(int, out.split())
        assert held <= 0.55 * whole


def test_one_worker_has_nothing_to_shard_over() -> None:
    with pytest.raises(ValueError, match="nothing to shard over; set num_workers above 1"):
        run(shard=True)


def test_compiled_blocks_train_the_same_model_and_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    # Dynamo with the eager backend: the graphs are the ones that ship, without minutes of a C++ compiler.
    compiled: list[nn.Module] = []
    compile_with = nn.Module.compile

    def compile_eagerly(self: nn.Module) -> None:
        compiled.append(self)
        compile_with(self, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    losses, compiled_losses = run()[1], run(compile=True)[1]
    assert compiled_losses == pytest.approx(losses, rel=1e-5)
    assert len(compiled) == 2
    assert all(block._compiled_call_impl is None for block in compiled)

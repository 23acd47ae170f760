"""Ranks that train together: gradients and metrics are sums over all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from models.training.world import World

REPOSITORY = Path(__file__).resolve().parents[2]

# Rank r has gradient (r + 1) on the first parameter; only rank 1 has one on the second.
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import torch.distributed as dist
from torch import nn
from models.training.world import World

rank = int(sys.argv[3])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
world = World.current(torch.device("cpu"))
first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1, 3))
first.grad = torch.full((2,), rank + 1.0)
if rank == 1:
    second.grad = torch.full((1, 3), 5.0)
world.sum_gradients([first, second])
world.barrier()
values = world.sum_values({"b": torch.tensor(rank * 0.5), "a": torch.tensor(1.0)})
print(world.rank, world.size, first.grad.tolist(), second.grad.tolist(), world.sum(2.0), sorted(values.items()))
"""


def test_two_ranks_end_up_with_the_same_sums(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", SCRIPT, str(REPOSITORY), str(tmp_path / "meeting")]
    ranks = [
        subprocess.Popen([*arguments, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for rank, process in enumerate(ranks):
        out, error = process.communicate(timeout=120)
        assert out.strip() == f"{rank} 2 [3.0, 3.0] [[5.0, 5.0, 5.0]] 4.0 [('a', 2.0), ('b', 0.5)]", error


def test_one_rank_alone_changes_nothing() -> None:
    world = World.current(torch.device("cpu"))
    parameter, untouched = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    world.sum_gradients([parameter, untouched])
    assert (world.rank, world.size, world.sum(3.0)) == (0, 1, 3.0)
    assert parameter.grad.tolist() == [1.0, 1.0]
    assert untouched.grad is None

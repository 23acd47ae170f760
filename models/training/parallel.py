"""How a transformer is laid out while a LoRA trains: its frozen base sharded over the ranks (FSDP2), its blocks compiled.

Only the base is sharded. The adapters are a percent of its size, stay whole on every rank and are none of FSDP's business,
so the loop sums their gradients, clips, checkpoints and switches them as it does without, and the numbers are the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import nn

from models.backbones.base import Backbone


@contextmanager
def laid_out(backbone: Backbone, *, shard: bool, compiled: bool) -> Iterator[None]:
    """Inside, the transformer with all its adapters is sharded and compiled as asked.

    Compiled blocks are given back afterwards; shards are not, because FSDP cannot be taken off a module: a backbone that was
    sharded is good for its training and nothing else. ValueError where there is nothing to shard over.
    """
    blocks = repeated_blocks(backbone.transformer)
    if shard:
        _shard(backbone, blocks)
    if compiled:
        for block in blocks:
            block.compile()
    try:
        yield
    finally:
        if compiled:
            for block in blocks:
                block._compiled_call_impl = None


def repeated_blocks(transformer: nn.Module) -> list[nn.Module]:
    """The transformer's blocks: what lies in lists of modules directly below it, as in all of diffusers' transformers."""
    blocks = [block for child in transformer.children() if isinstance(child, nn.ModuleList) for block in child]
    if not blocks:
        raise ValueError(f"{type(transformer).__name__} has no list of blocks to shard or compile")
    return blocks


def _shard(backbone: Backbone, blocks: list[nn.Module]) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not dist.is_initialized() or dist.get_world_size() < 2:
        raise ValueError(
            "shard: there is one worker and so nothing to shard over; set num_workers above 1, or shard: false"
        )
    mesh = init_device_mesh(backbone.device.type, (dist.get_world_size(),))
    # Adapters stay whole, and so does what diffusers keeps in float32 beside a bfloat16 base: FSDP wants one dtype.
    whole = {
        parameter
        for name, parameter in backbone.transformer.named_parameters()
        if ".lora_" in name or parameter.dtype != backbone.dtype
    }
    for module in (*blocks, backbone.transformer):
        fully_shard(module, mesh=mesh, ignored_params=whole)
    # Nothing here writes into the prediction in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

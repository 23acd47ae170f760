"""What a training step will cost, before it runs: memory by kind and arithmetic, from one step on tensors without data.

The step is the real one (method, adapters, activation checkpointing) on a transformer of the real shape, traced under
torch's fake tensors, which have sizes and no memory. Every allocation is followed from its birth to its release, so no
family needs a formula, and a 14B model is judged in seconds on any machine. What kernels allocate inside themselves,
the allocator's rounding and the framework's own context are not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from models.backbones.base import Backbone
from models.training.batch import Batch, PreferenceBatch
from models.training.lora import adapter_parameters, train_mode
from models.training.methods import Dpo, Method

GIB = 2**30
ADAM_MOMENTS = 2
_aten = torch.ops.aten
# torch counts the fused attention of GPUs by itself. In the backward it recomputes its scores, as theirs does.
CPU_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


@dataclass(frozen=True)
class StepShape:
    """One rank's micro-batch: samples, latents (C, F, H, W), references, text (L, D), and losers of each DPO winner."""

    samples: int
    latents: tuple[int, int, int, int]
    references: int
    text: tuple[int, int]
    losers: int = 1

    def __str__(self) -> str:
        _, frames, height, width = self.latents
        return f"{self.samples} x {frames}x{height}x{width} latents, {self.references} references"


@dataclass(frozen=True)
class Budget:
    """Bytes at the peak of a training step by what they are, and the step's floating-point operations.

    ``parameters`` are the frozen base, ``adapters`` all adapters, ``gradients`` and ``optimizer`` those of the one that
    trains (with its average, if there is one), ``activations`` all that lives between the batch and the end of the
    backward. ``flops`` is what the hardware does in one micro-batch, recomputation included (of that, HFU is a share);
    ``model_flops`` the same without recomputation (MFU).
    """

    parameters: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    flops: int
    model_flops: int

    @property
    def peak(self) -> int:
        """Bytes; from the second step on the moments are there while the activations are."""
        return self.parameters + self.adapters + self.gradients + self.optimizer + self.activations

    def describe(self, shape: StepShape, device_bytes: int | None = None) -> str:
        """For people: a line of each kind, and what to do where the device is smaller."""
        lines = [f"memory of a step with {shape}: {_gib(self.peak)}, {self.flops / 1e12:.3g} TFLOP"]
        kinds = ("parameters", "adapters", "gradients", "optimizer", "activations")
        lines.append("  " + ", ".join(f"{kind} {_gib(getattr(self, kind))}" for kind in kinds))
        if device_bytes is not None and self.peak > device_bytes:
            lines.append(
                f"  more than the device has ({_gib(device_bytes)}): turn on gradient_checkpointing, use bfloat16 "
                "weights, a smaller batch with accumulate, or a smaller largest bucket"
            )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, int]:
        return {**asdict(self), "peak": self.peak}


def step_budget(
    backbone: Backbone, method: Method, shape: StepShape, *, checkpointing: bool = False, ema: bool = False
) -> Budget:
    """The budget of a step of ``method`` on a backbone that was loaded on the device ``meta``, whose weights are nowhere.

    The backbone is used up: what it holds afterwards is good for nothing else.
    """
    transformer: Any = backbone.transformer
    with torch.device("meta"):
        method.attach(backbone, 0)
    train_mode(backbone, method.adapter)
    transformer.requires_grad_(False)
    trained = _bytes(adapter_parameters(backbone, method.adapter).values())
    with FakeTensorMode(allow_non_fake_inputs=True):
        _become_fake(transformer)
        backbone.device = torch.device("cpu")
        for parameter in adapter_parameters(backbone, method.adapter).values():
            parameter.requires_grad_(True)
        batch = _batch(method, shape)
        flops = {
            on: _count(transformer, on, lambda: method.loss(backbone, batch).loss.backward())
            for on in {False, checkpointing}
        }
        transformer.zero_grad(set_to_none=True)
        activations = _peak(transformer, batch, lambda: method.loss(backbone, batch).loss.backward()) - trained
    adapters = _bytes(p for name, p in transformer.named_parameters() if ".lora_" in name)
    return Budget(
        parameters=_bytes([*transformer.parameters(), *transformer.buffers()]) - adapters,
        adapters=adapters,
        gradients=trained,
        optimizer=trained * (ADAM_MOMENTS + ema),
        activations=max(activations, 0),
        flops=flops[checkpointing],
        model_flops=flops[False],
    )


class _LiveBytes(TorchDispatchMode):
    """Follows the bytes of every storage that operations make; those in ``known`` were there before and are not counted."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata)
        return out

    def _gone(self, storage: int) -> None:
        self.now -= self._sizes.pop(storage, 0)


def _peak(transformer: nn.Module, batch: Batch | PreferenceBatch, step: Callable[[], None]) -> int:
    given = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    live = _LiveBytes([*transformer.parameters(), *transformer.buffers(), *given])
    with live:
        step()
    return live.peak


def _count(transformer: Any, checkpointing: bool, step: Callable[[], None]) -> int:
    (transformer.enable_gradient_checkpointing if checkpointing else transformer.disable_gradient_checkpointing)()
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        step()
    return int(counter.get_total_flops())


def _become_fake(transformer: nn.Module) -> None:
    """Inside a fake mode: CPU tensors of the same shapes, for the kernels that a CPU and a GPU both fuse."""
    for module in transformer.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(fake, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _batch(method: Method, shape: StepShape) -> Batch | PreferenceBatch:
    channels, _, height, width = shape.latents
    latents = torch.empty(shape.samples, *shape.latents)
    references = torch.empty(shape.samples, shape.references, channels, height, width) if shape.references else None
    common: dict[str, Any] = {
        "sample_ids": ("",) * shape.samples,
        "text_BLD": torch.empty(shape.samples, *shape.text),
        "noise_BCFHW": torch.empty_like(latents),
        "t_B": torch.zeros(shape.samples, dtype=torch.int64),
        "references_BRCHW": references,
    }
    if isinstance(method, Dpo):
        losers = torch.empty(shape.samples, shape.losers, *shape.latents)
        return PreferenceBatch(winner_BCFHW=latents, losers_BNCFHW=losers, **common)
    return Batch(latents_BCFHW=latents, **common)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB // 10 else f"{size / 2**20:.2f} MiB"

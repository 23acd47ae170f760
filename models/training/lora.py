"""LoRA adapters on a backbone's transformer: add, attach, switch, read back.

Every function keeps two promises that PEFT's own switching does not: no parameter becomes trainable or frozen as a side
effect of turning adapters on and off, and dropout is active in an adapter that trains and nowhere else.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models.backbones.base import Backbone
from models.backbones.tiny import seeded
from models.training.adapter import AdapterState, load_adapter, save_adapter

__all__ = [
    "AdapterState",
    "LoraSpec",
    "active_adapters",
    "adapter_names",
    "adapter_parameters",
    "adapter_state",
    "add_lora",
    "attach_adapter",
    "load_adapter",
    "only_adapters",
    "remove_adapter",
    "save_adapter",
    "set_adapters",
    "train_mode",
]

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class LoraSpec:
    """A new adapter: delta W = (alpha / rank) B A on every module whose name ends in one of ``targets``.

    Neither LibraGen nor its siblings publish a rank for this task; 64 to 128 is what the closest LoRA recipes use
    (research on arXiv 2504.17816: rank 128, alpha 64, dropout 0.2), so these are configuration.
    """

    rank: int = 64
    alpha: float = 64.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ATTENTION

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.targets:
            raise ValueError(f"LoRA needs a rank of at least 1 and some targets, not {self.rank} and {self.targets}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"LoRA dropout {self.dropout} is not in [0, 1)")


def add_lora(backbone: Backbone, spec: LoraSpec, name: str, seed: int = 0) -> list[str]:
    """Injects a new trainable adapter (B = 0, A drawn from ``seed``) and switches it on beside the active ones.

    Its parameters are float32 whatever the base's dtype. Returns the modules it sits on. ValueError for a name that is
    taken, or a target that no module answers to.
    """
    from peft import LoraConfig

    transformer = backbone.transformer
    _free_name(backbone, name)
    _targets_exist(transformer, spec.targets)
    config = LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=list(spec.targets)
    )
    _inject(backbone, config, name, seed)
    modules = [module for module, _ in _layers(transformer, name)]
    for parameter in adapter_parameters(backbone, name).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return modules


def attach_adapter(
    backbone: Backbone, adapter: AdapterState, name: str, trainable: bool = False, weight: float = 1.0
) -> None:
    """Injects ``adapter`` with its own ranks and scales, times ``weight``, and switches it on beside the active ones.

    Frozen unless ``trainable``; never with dropout. ValueError when the backbone lacks one of its modules or a shape
    differs: the adapter belongs to another model.
    """
    from peft import LoraConfig

    transformer = backbone.transformer
    _free_name(backbone, name)
    present = dict(transformer.named_modules())
    missing = [module for module in adapter.modules if module not in present]
    if missing or not adapter.modules:
        raise ValueError(
            f"adapter {name!r} does not fit {backbone.name} ({backbone.weights_note}): "
            + (f"{len(missing)} of its modules are not there, first {missing[0]}" if missing else "it has no modules")
        )
    first = adapter.modules[0]
    config = LoraConfig(
        r=adapter.rank[first],
        lora_alpha=adapter.alpha[first],
        rank_pattern=dict(adapter.rank),
        alpha_pattern=dict(adapter.alpha),
        target_modules=list(adapter.modules),
        lora_dropout=0.0,
    )
    _inject(backbone, config, name, seed=0)
    layers = dict(_layers(transformer, name))
    for module in adapter.modules:
        layer: Any = layers[module]
        for factor, linear in (("A", layer.lora_A[name]), ("B", layer.lora_B[name])):
            value = adapter.state[f"{module}.lora_{factor}.weight"]
            if value.shape != linear.weight.shape:
                remove_adapter(backbone, name)
                raise ValueError(
                    f"adapter {name!r} does not fit {backbone.name}: {module}.lora_{factor} is {tuple(value.shape)}, "
                    f"the module needs {tuple(linear.weight.shape)}"
                )
            linear.weight.data = value.detach().to(backbone.device, torch.float32, copy=True)
            linear.weight.requires_grad_(trainable)
        layer.set_scale(name, weight)


def adapter_state(backbone: Backbone, name: str, metadata: dict[str, Any] | None = None) -> AdapterState:
    """A copy (float32, CPU) of the adapter ``name`` as it is now, ``attach_adapter``'s weight folded into alpha."""
    state: dict[str, torch.Tensor] = {}
    rank: dict[str, int] = {}
    alpha: dict[str, float] = {}
    for module, layer in _layers(backbone.transformer, name):
        state[f"{module}.lora_A.weight"] = layer.lora_A[name].weight.detach().float().cpu().clone()
        state[f"{module}.lora_B.weight"] = layer.lora_B[name].weight.detach().float().cpu().clone()
        rank[module] = layer.r[name]
        alpha[module] = layer.scaling[name] * layer.r[name]
    if not rank:
        raise ValueError(f"{backbone.name} has no adapter {name!r}; it has {sorted(adapter_names(backbone)) or 'none'}")
    return AdapterState(state, rank, alpha, dict(metadata or {}))


def adapter_parameters(backbone: Backbone, name: str) -> dict[str, nn.Parameter]:
    """The live parameters of one adapter, keyed as in ``AdapterState.state``, in the transformer's own order."""
    parameters: dict[str, nn.Parameter] = {}
    for module, layer in _layers(backbone.transformer, name):
        parameters[f"{module}.lora_A.weight"] = layer.lora_A[name].weight
        parameters[f"{module}.lora_B.weight"] = layer.lora_B[name].weight
    return parameters


def active_adapters(backbone: Backbone) -> tuple[str, ...]:
    """The adapters that take part in a forward now."""
    for _, layer in _layers(backbone.transformer):
        return () if layer.disable_adapters else tuple(layer.active_adapters)
    return ()


def set_adapters(backbone: Backbone, names: Sequence[str]) -> None:
    """Exactly ``names`` take part from now on; no names is the raw base. What is trainable stays as it was."""
    unknown = set(names) - adapter_names(backbone)
    if unknown:
        raise ValueError(f"{backbone.name} has no adapter {sorted(unknown)}; it has {sorted(adapter_names(backbone))}")
    for _, layer in _layers(backbone.transformer):
        trainable = {parameter: parameter.requires_grad for parameter in layer.parameters()}
        # set_adapter before enable_adapters: the latter makes whatever is active trainable.
        layer.set_adapter(list(names), inference_mode=True)
        layer.enable_adapters(bool(names))
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


@contextmanager
def only_adapters(backbone: Backbone, names: Sequence[str]) -> Iterator[None]:
    """Inside, exactly ``names`` take part; afterwards, what took part before.

    Do not leave it between a forward that needs gradients and its backward: with activation checkpointing the backward
    computes the forward again, with the adapters that are active then.
    """
    before = active_adapters(backbone)
    set_adapters(backbone, names)
    try:
        yield
    finally:
        set_adapters(backbone, before)


def remove_adapter(backbone: Backbone, name: str) -> None:
    """Takes an adapter out of the transformer; the others stay as they were."""
    left = [other for other in active_adapters(backbone) if other != name]
    transformer: Any = backbone.transformer
    if adapter_names(backbone) <= {name}:
        # PEFT leaves its emptied, switched-off layers behind, and whatever diffusers loads next would stay off in them.
        transformer.unload_lora()
        return
    set_adapters(backbone, left)
    trainable = {parameter: parameter.requires_grad for parameter in transformer.parameters()}
    transformer.delete_adapters(name)
    for parameter in transformer.parameters():
        parameter.requires_grad_(trainable[parameter])
    set_adapters(backbone, left)


def train_mode(backbone: Backbone, name: str | None) -> None:
    """Everything in eval mode except the dropout of adapter ``name`` (None: everything).

    The base has no dropout to train with, and a frozen adapter with dropout would make policy and reference differ.
    """
    backbone.transformer.eval()
    if name is not None:
        for _, layer in _layers(backbone.transformer, name):
            layer.lora_dropout[name].train()


def _inject(backbone: Backbone, config: Any, name: str, seed: int) -> None:
    before = active_adapters(backbone)
    transformer: Any = backbone.transformer
    trainable = {parameter: parameter.requires_grad for parameter in transformer.parameters()}
    with seeded(seed), warnings.catch_warnings():
        # PEFT warns of a second adapter on one model; here that is the point.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        transformer.add_adapter(config, adapter_name=name)
    if not any(True for _ in _layers(transformer, name)):
        raise ValueError(f"adapter {name!r}: nothing was injected into {backbone.name}")
    set_adapters(backbone, (*before, name))
    for parameter in transformer.parameters():
        parameter.requires_grad_(trainable.get(parameter, False))
    train_mode(backbone, None)


def _layers(transformer: nn.Module, name: str | None = None) -> Iterator[tuple[str, Any]]:
    """(module name, PEFT layer) of every adapted module, or of those that adapter ``name`` sits on."""
    from peft.tuners.lora import LoraLayer

    for module, layer in transformer.named_modules():
        if isinstance(layer, LoraLayer) and (name is None or name in layer.lora_A):
            yield module, layer


def adapter_names(backbone: Backbone) -> set[str]:
    """Every adapter on the transformer, active or not."""
    return {name for _, layer in _layers(backbone.transformer) for name in layer.lora_A}


def _free_name(backbone: Backbone, name: str) -> None:
    # diffusers refuses a repeated name too; PEFT ignores it silently, and a dot breaks parameter names.
    if not name.isidentifier():
        raise ValueError(f"adapter name {name!r} should be a plain identifier (letters, digits, underscores)")
    if name in adapter_names(backbone):
        raise ValueError(f"{backbone.name} already has an adapter {name!r}: choose another name or remove it first")


def _targets_exist(transformer: nn.Module, targets: Sequence[str]) -> None:
    names = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    names = [name.removesuffix(".base_layer") for name in names if ".lora_" not in name]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            leaves = sorted(
                {name.split(".")[-1] if not name[-1].isdigit() else ".".join(name.split(".")[-2:]) for name in names}
            )
            close = difflib.get_close_matches(target, leaves, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(leaves)}"
            raise ValueError(f"LoRA target {target!r} matches no layer of the transformer{hint}")

"""Fusing an adapter into the base: weights that need no adapter, with a report of what their number format lost."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.training.adapter import AdapterState, read_tensors, write_tensors

INDEX = "diffusion_pytorch_model.safetensors.index.json"
NOTE = "fulcrum.json"


@dataclass(frozen=True)
class FuseReport:
    """``max_ulp``: largest |stored - (W + dW)| in units of the stored format's last place there, at most a half where
    rounding is right. ``lost``: ||stored - (W + dW)|| / ||dW||, what rounding takes of the adapter itself; near 1 the adapter
    is too small for the format and should stay beside the base, or the base be kept in float32.
    """

    modules: int
    max_ulp: float
    lost: float


class BaseWeights:
    """The weights of a transformer's folder (diffusers' layout, safetensors), read one tensor at a time."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self.files = sorted(folder.glob("*.safetensors"))
        if not self.files:
            raise ValueError(f"{folder} holds no safetensors; give a transformer's folder as save_pretrained writes it")
        self._file_of: dict[str, Path] = {}
        for file in self.files:
            with safe_open(file, framework="pt") as opened:
                self._file_of.update(dict.fromkeys(opened.keys(), file))

    def modules(self) -> Iterator[str]:
        """Names of all modules that have a weight."""
        return (key.removesuffix(".weight") for key in self._file_of if key.endswith(".weight"))

    def weight(self, module: str) -> Tensor:
        """The module's weight; ValueError when there is none."""
        from safetensors import safe_open

        key = f"{module}.weight"
        if key not in self._file_of:
            raise ValueError(f"the backbone has no module {module}; the adapter belongs to another model")
        with safe_open(self._file_of[key], framework="pt") as opened:
            weight: Tensor = opened.get_tensor(key)
        return weight


def fuse(adapter: AdapterState, transformer: Path, target: Path) -> FuseReport:
    """Writes ``target``: the transformer of folder ``transformer`` with ``adapter`` in its weights, in the same files.

    Sums are in float32 and rounded once, to the base's own dtype. Always from the base: fusing into a fused model, and
    taking an adapter out again, would each round once more. Holds one file's tensors at a time. ValueError when a module
    or a shape does not fit, before anything is written, or when ``target`` exists.
    """
    base = BaseWeights(transformer)
    if target.exists():
        raise ValueError(f"{target} is there already; choose another folder, or remove it first")
    for module in adapter.modules:
        shape, delta = tuple(base.weight(module).shape), tuple(adapter.delta(module).shape)
        if shape != delta:
            raise ValueError(f"module {module}: the base's weight is {shape}, the adapter's delta {delta}")
    partial = target.with_name(f".{target.name}.writing")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in ("config.json", INDEX):
        if (transformer / name).is_file():
            shutil.copy(transformer / name, partial / name)
    worst, off, size = 0.0, 0.0, 0.0
    for file in base.files:
        tensors, text = read_tensors(file)
        for module in adapter.modules:
            key = f"{module}.weight"
            if key in tensors:
                delta = adapter.delta(module)
                exact = tensors[key].float() + delta
                stored = exact.to(tensors[key].dtype)
                error = (stored.float() - exact).abs()
                worst = max(worst, float((error / _ulp(exact, stored.dtype)).max()))
                off += float((error.double() ** 2).sum())
                size += float((delta.double() ** 2).sum())
                tensors[key] = stored
        write_tensors(partial / file.name, tensors, text)
    report = FuseReport(len(adapter.modules), worst, math.sqrt(off / size) if size else 0.0)
    (partial / NOTE).write_text(json.dumps({"adapter": adapter.digest(), **asdict(report)}, indent=2) + "\n")
    partial.replace(target)
    return report


def _ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance of neighbouring numbers of ``dtype`` at ``values``."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(values.abs().clamp_min(info.tiny)).exponent - 1
    return torch.ldexp(torch.full_like(values, info.eps), exponent)

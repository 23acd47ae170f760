"""An adapter as plain data, and its file: diffusers' LoRA format with ranks and alphas in the metadata."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE_NAME = "pytorch_lora_weights.safetensors"
PREFIX = "transformer."


@dataclass(frozen=True)
class AdapterState:
    """Low-rank factors of one adapter: for each module m, delta W_m = (alpha_m / rank_m) B_m A_m.

    ``state`` maps "<module>.lora_A.weight" (rank, in) and "<module>.lora_B.weight" (out, rank) to tensors, with module
    names of the bare transformer (no "transformer." prefix); for a convolution A is (rank, in, h, w), B (out, rank, 1, 1).
    ``metadata`` is free JSON data: parents, step, data digests.
    """

    state: dict[str, Tensor]
    rank: dict[str, int]
    alpha: dict[str, float]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for module in self.modules:
            a, b = self.state.get(f"{module}.lora_A.weight"), self.state.get(f"{module}.lora_B.weight")
            if a is None or b is None:
                raise ValueError(f"adapter: {module} has {'no lora_A' if a is None else 'no lora_B'}")
            fits = a.ndim == b.ndim and a.ndim in (2, 4) and a.shape[0] == b.shape[1] == self.rank[module]
            if not fits:
                raise ValueError(
                    f"adapter: {module} has rank {self.rank[module]} but factors A {tuple(a.shape)}, B {tuple(b.shape)}"
                )
        if len(self.state) != 2 * len(self.rank) or set(self.alpha) != set(self.rank):
            raise ValueError("adapter: state, rank and alpha should speak of the same modules")

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(self.rank)

    def digest(self) -> str:
        """sha256 (hex) of factors, ranks and alphas; metadata does not count."""
        sha = hashlib.sha256()
        for key in sorted(self.state):
            factor = self.state[key].detach().float().cpu().contiguous()
            sha.update(f"{key}{tuple(factor.shape)}".encode())
            sha.update(factor.numpy().tobytes())
        sha.update(json.dumps([self.rank, self.alpha], sort_keys=True).encode())
        return sha.hexdigest()

    def scale(self, module: str) -> float:
        return self.alpha[module] / self.rank[module]

    def delta(self, module: str) -> Tensor:
        """delta W of one module in the shape of its weight, (out, in) or (out, in, h, w), float32."""
        a, b = self.state[f"{module}.lora_A.weight"].float(), self.state[f"{module}.lora_B.weight"].float()
        return self.scale(module) * (b.flatten(1) @ a.flatten(1)).reshape(b.shape[0], *a.shape[1:])


def save_adapter(adapter: AdapterState, folder: Path, metadata: Mapping[str, Any] | None = None) -> Path:
    """Writes ``folder``/pytorch_lora_weights.safetensors and returns its path.

    A plain diffusers pipeline loads it with load_lora_weights(folder), at the right scale. ``metadata`` is added to the
    adapter's own and kept under "fulcrum". The same adapter gives the same bytes.
    """
    if not adapter.modules:
        raise ValueError("adapter: no modules to save")
    ranks, alphas = list(adapter.rank.values()), list(adapter.alpha.values())
    rank, alpha = ranks[0], alphas[0]
    config: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(adapter.modules),
        "rank_pattern": {m: r for m, r in sorted(adapter.rank.items()) if r != rank},
        "alpha_pattern": {m: a for m, a in sorted(adapter.alpha.items()) if a != alpha},
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }
    text = {
        "format": "pt",
        "lora_adapter_metadata": json.dumps({PREFIX + k: v for k, v in config.items()}, indent=2, sort_keys=True),
        "fulcrum": json.dumps({**adapter.metadata, **(metadata or {})}, sort_keys=True),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    aside = folder / f".{FILE_NAME}.{os.getpid()}"
    write_tensors(aside, {PREFIX + key: adapter.state[key] for key in sorted(adapter.state)}, text)
    os.replace(aside, path)
    return path


def load_adapter(path: Path) -> AdapterState:
    """Reads an adapter as plain data from its folder or file; see ``models.training.formats`` for the layouts.

    ValueError names the file and what is wrong with it; DoRA is refused because its delta depends on the base.
    """
    from models.training.formats import read_adapter_file

    found = read_adapter_file(path)
    if found.magnitude:
        raise ValueError(
            f"{path} is a DoRA adapter: its delta depends on the base weights; import it with its base first"
        )
    return found.adapter


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file whose bytes depend on its content alone, flushed to disk.

    safetensors writes its metadata in an order that changes from process to process, so the header is written anew with
    sorted keys; the format is an 8-byte little-endian length, a JSON header, the tensors.
    """
    from safetensors.torch import save

    plain = {key: value.detach().to("cpu").contiguous() for key, value in tensors.items()}
    blob = save(plain, metadata=dict(metadata))
    (length,) = struct.unpack("<Q", blob[:8])
    header = json.dumps(json.loads(blob[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.write(memoryview(blob)[8 + length :])
        stream.flush()
        os.fsync(stream.fileno())


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors on the CPU, metadata) of a safetensors file; ValueError names a file that is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, torch.Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error

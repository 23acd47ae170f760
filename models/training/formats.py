"""LoRA files of other tools: reads diffusers', PEFT's and kohya's layouts, and writes them.

They differ in three things: what a module is called, what the factors are called, and where alpha is kept. A file without
any alpha has scale 1 (alpha = rank), which is what all three assume.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from models.training.adapter import FILE_NAME, AdapterState, read_tensors, save_adapter, write_tensors

Format = Literal["diffusers", "peft", "kohya"]
FORMATS: tuple[Format, ...] = ("diffusers", "peft", "kohya")
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model."
KOHYA_PREFIX = "lora_unet_"
# What tools put before a transformer's module names.
_PREFIXES = (PEFT_PREFIX, "transformer.", "diffusion_model.", "model.diffusion_model.")
_PLAIN = re.compile(r"(?P<module>.+)\.lora_(?P<factor>A|B)\.weight")
_MAGNITUDE = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(\.weight)?")
_KOHYA = re.compile(
    r"(?:lora_unet|lora_transformer)_(?P<module>.+)\.(?:lora_(?P<factor>down|up)\.weight|(?P<alpha>alpha))"
)
_FACTOR_OF = {"A": "A", "B": "B", "down": "A", "up": "B"}


@dataclass(frozen=True)
class Imported:
    """A file's adapter. With ``magnitude``, (out,) by module, it is DoRA: its delta needs the base (models.training.dora)."""

    adapter: AdapterState
    format: Format
    magnitude: dict[str, Tensor] = field(default_factory=dict)


def read_adapter_file(path: Path, module_names: Iterable[str] | None = None) -> Imported:
    """Reads a LoRA file, or the folder it lies in, whichever tool wrote it.

    ``module_names`` are those of the transformer: kohya writes every dot as an underscore, so its names can only be read
    beside the real ones; for the others they are a check. ValueError names the file, the key and what to do.
    """
    file = _find(path)
    tensors, text = read_tensors(file)
    names = sorted(module_names) if module_names is not None else None
    found = (
        _read_kohya(file, tensors, text, names)
        if any(key.startswith(("lora_unet_", "lora_transformer_", "lora_te")) for key in tensors)
        else _read_plain(file, tensors, text)
    )
    if not found.adapter.modules:
        raise ValueError(f"{file} holds no LoRA factors")
    if names is not None:
        strangers = sorted(set(found.adapter.modules) - set(names))
        if strangers:
            raise ValueError(
                f"{file}: {len(strangers)} of {len(found.adapter.modules)} modules are not in this backbone, first "
                f"{strangers[0]}{_near(strangers[0], names)}. The adapter belongs to another model, or its tool names "
                "modules otherwise than diffusers"
            )
    return found


def write_adapter_file(adapter: AdapterState, folder: Path, form: Format) -> Path:
    """Writes ``adapter`` into ``folder`` as the tool ``form`` would; returns the weights' file.

    Factors are stored as they are, alpha as each tool keeps it, so that reading the file back gives the same deltas.
    """
    if form == "diffusers":
        return save_adapter(adapter, folder)
    folder.mkdir(parents=True, exist_ok=True)
    if form == "peft":
        path = folder / PEFT_WEIGHTS
        write_tensors(path, {PEFT_PREFIX + key: value for key, value in adapter.state.items()}, {"format": "pt"})
        (folder / PEFT_CONFIG).write_text(json.dumps(_peft_config(adapter), indent=2, sort_keys=True) + "\n")
        return path
    path = folder / "lora.safetensors"
    tensors: dict[str, Tensor] = {}
    for module in adapter.modules:
        name = KOHYA_PREFIX + module.replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = adapter.state[f"{module}.lora_A.weight"]
        tensors[f"{name}.lora_up.weight"] = adapter.state[f"{module}.lora_B.weight"]
        tensors[f"{name}.alpha"] = torch.tensor(adapter.alpha[module])
    ranks, alphas = set(adapter.rank.values()), set(adapter.alpha.values())
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(alphas.pop()) if len(alphas) == 1 else "Dynamic",
    }
    write_tensors(path, tensors, metadata)
    return path


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    candidates = [path / name for name in (FILE_NAME, PEFT_WEIGHTS) if (path / name).is_file()]
    others = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if not candidates and len(others) == 1:
        candidates = others
    if not candidates:
        pickled = sorted([*path.glob("*.bin"), *path.glob("*.pt")]) if path.is_dir() else []
        raise ValueError(
            f"no adapter at {path}: expected a .safetensors file, or a folder with {FILE_NAME} or {PEFT_WEIGHTS}"
            + (f" ({pickled[0].name} may run code when opened and is not read)" if pickled else "")
            + (f"; it holds several, name one: {', '.join(o.name for o in others)}" if len(others) > 1 else "")
        )
    return candidates[0]


def _read_plain(file: Path, tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> Imported:
    config, form = _config(file, text)
    state: dict[str, Tensor] = {}
    magnitude: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key in sorted(tensors):
        name = _bare(key)
        if match := _PLAIN.fullmatch(name):
            state[f"{match['module']}.lora_{match['factor']}.weight"] = tensors[key]
        elif match := _MAGNITUDE.fullmatch(name):
            magnitude[match["module"]] = tensors[key].flatten()
        elif name.endswith(".alpha"):
            alphas[name.removesuffix(".alpha")] = float(tensors[key])
        else:
            raise ValueError(f"{file}: {key!r} is not a LoRA factor (expected ...lora_A.weight or ...lora_B.weight)")
    if config.get("use_dora") and not magnitude:
        raise ValueError(f"{file} says that it is a DoRA adapter, but holds no lora_magnitude_vector; export it again")
    rank = {key.removesuffix(".lora_A.weight"): int(a.shape[0]) for key, a in state.items() if ".lora_A." in key}
    alpha = {module: alphas.get(module, _alpha(module, rank[module], config)) for module in rank}
    return Imported(_state(file, state, rank, alpha, _fulcrum(text)), form, magnitude)


def _read_kohya(
    file: Path, tensors: Mapping[str, Tensor], text: Mapping[str, str], names: Sequence[str] | None
) -> Imported:
    if names is None:
        raise ValueError(
            f"{file} is a kohya file, whose module names have underscores for dots; give the backbone it was trained on, "
            "so that they can be told apart"
        )
    if any(key.endswith(".dora_scale") for key in tensors):
        raise ValueError(f"{file} is a DoRA adapter in kohya's layout; export it from its tool as PEFT or diffusers")
    by_flat = {name.replace(".", "_"): name for name in names}
    state: dict[str, Tensor] = {}
    rank: dict[str, int] = {}
    alpha: dict[str, float] = {}
    for key in sorted(tensors):
        match = _KOHYA.fullmatch(key)
        if match is None:
            raise ValueError(
                f"{file}: {key!r} is not a LoRA factor of a transformer; text encoders are not adapted here"
            )
        module = by_flat.get(match["module"])
        if module is None:
            raise ValueError(
                f"{file}: {key!r} is no module of this backbone{_near(match['module'], list(by_flat))}. The adapter "
                "belongs to another model, or its tool names modules otherwise than diffusers"
            )
        if match["alpha"]:
            alpha[module] = float(tensors[key])
            continue
        factor = _FACTOR_OF[match["factor"]]
        state[f"{module}.lora_{factor}.weight"] = tensors[key]
        if factor == "A":
            rank[module] = int(tensors[key].shape[0])
    return Imported(_state(file, state, rank, {m: alpha.get(m, float(r)) for m, r in rank.items()}, {}), "kohya")


def _state(
    file: Path, state: dict[str, Tensor], rank: dict[str, int], alpha: dict[str, float], metadata: dict[str, Any]
) -> AdapterState:
    try:
        return AdapterState(state, rank, alpha, metadata)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _config(file: Path, text: Mapping[str, str]) -> tuple[dict[str, Any], Format]:
    """LoRA settings from PEFT's file beside the weights, or from diffusers' metadata inside them."""
    beside = file.with_name(PEFT_CONFIG)
    if file.name == PEFT_WEIGHTS and beside.is_file():
        config: dict[str, Any] = json.loads(beside.read_text())
        if config.get("peft_type", "LORA") != "LORA":
            raise ValueError(f"{beside}: this is a {config['peft_type']} adapter; only LoRA is read")
        return config, "peft"
    config = json.loads(text.get("lora_adapter_metadata", "{}"))
    return {_bare(key): value for key, value in config.items()}, "diffusers"


def _alpha(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """alpha such that the scale is alpha / rank, whatever convention the file's own configuration used."""
    alpha = float(config.get("lora_alpha", rank))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern.removeprefix('^')}", module):
            alpha = float(value)
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


def _fulcrum(text: Mapping[str, str]) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(text.get("fulcrum", "{}"))
    return metadata


def _peft_config(adapter: AdapterState) -> dict[str, Any]:
    rank, alpha = next(iter(adapter.rank.values())), next(iter(adapter.alpha.values()))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(adapter.modules),
        "rank_pattern": {m: r for m, r in sorted(adapter.rank.items()) if r != rank},
        "alpha_pattern": {m: a for m, a in sorted(adapter.alpha.items()) if a != alpha},
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def _bare(key: str) -> str:
    """Without what tools put before a module's name, which may be several things: base_model.model.transformer.x."""
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _near(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; the nearest there is {close[0]}" if close else ""

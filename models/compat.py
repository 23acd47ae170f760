"""Makes a torchvision whose compiled operators cannot load harmless, before anything imports it.

PyPI's torchvision is linked against CUDA's torch. Beside a CPU torch its library cannot be opened, and its Python half
then fails at import, because it registers shape functions for operators that nobody defined. transformers, peft,
diffusers and open_clip all import torchvision where it is installed, so all of them fail with it. ``prepare()`` defines
those operators' schemas (signatures without kernels): everything imports, and calling such an operator still ends in
torchvision's own error, which says that the compiled operators are missing. Where the library loads, nothing is defined.

Call it in every process, before the first import of torchvision, transformers, peft, diffusers or open_clip:

    from models.compat import prepare

    prepare()
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import threading
from enum import Enum
from pathlib import Path

import torch

# Operators whose shape functions torchvision registers at import without first asking whether its library loaded.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_lock = threading.Lock()
_state: Operators | None = None
_library: torch.library.Library | None = None  # schemas live only as long as the Library that defined them


class Operators(Enum):
    """What stands behind torchvision's operators in this process."""

    NATIVE = "native"  # torchvision's own compiled library, or a definition that was already there
    SCHEMAS = "schemas"  # signatures only, defined by prepare()
    ABSENT = "absent"  # torchvision is not installed


def prepare() -> Operators:
    """Makes torchvision importable in this process; cheap, thread-safe, and the same answer on every call."""
    global _state
    with _lock:
        if _state is None:
            _state = _prepare()
        return _state


def _prepare() -> Operators:
    global _library
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return Operators.ABSENT
    if _defined("nms") or _loads(_compiled_library(spec)):
        return Operators.NATIVE
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    return Operators.SCHEMAS


def _defined(operator: str) -> bool:
    return hasattr(torch.ops.torchvision, operator)


def _compiled_library(spec: importlib.machinery.ModuleSpec) -> Path | None:
    """The file that torchvision itself would open, found without importing torchvision."""
    for folder in spec.submodule_search_locations or ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            library = Path(folder) / f"_C{suffix}"
            if library.is_file():
                return library
    return None


def _loads(library: Path | None) -> bool:
    if library is None:
        return False
    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True

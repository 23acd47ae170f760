"""Names a backbone, digests it without importing torch, and loads it."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import embedded
from models.backbones.components import PARTS
from models.backbones.tiny import COGVIDEOX

if TYPE_CHECKING:
    from models.backbones.base import Backbone, ReferencePlacement

TINY = "tiny-random"
FAMILIES = ("cogvideox",)
DTYPES = ("float32", "bfloat16", "float16")
_TINY_CONFIGS: dict[str, dict[str, dict[str, Any]]] = {"cogvideox": COGVIDEOX}


@dataclass(frozen=True)
class BackboneSpec:
    """Which model: a family, its weights, the seed of random weights, and a dtype.

    ``weights``: ``tiny-random``, ``embedded:tinyworld`` (the base that ``make embedded`` trains), or a diffusers folder.
    """

    family: str = "cogvideox"
    weights: str = TINY
    seed: int = 0
    dtype: str = "float32"

    def check(self) -> None:
        """ValueError naming the field, the value and the remedy; reads no weights."""
        _one_of("family", self.family, FAMILIES)
        _one_of("dtype", self.dtype, DTYPES)
        if self.weights == embedded.NAME and not self.folder.is_dir():
            raise ValueError(f"backbone weights {embedded.NAME!r} are not trained yet; make embedded trains them")
        if self.weights != TINY and not self.folder.is_dir():
            raise ValueError(
                f"backbone weights {self.weights!r}: no such folder; give a local diffusers pipeline folder "
                f"(with {', '.join(PARTS)}), {embedded.NAME!r} or {TINY!r}"
            )

    @property
    def folder(self) -> Path:
        """Where weights that are no random ones lie."""
        return embedded.BASE if self.weights == embedded.NAME else Path(self.weights).resolve()


def backbone_digest(spec: BackboneSpec) -> str:
    """sha256 (hex) of everything that makes this model this model; imports no torch.

    For a folder: the content of its parts' files (hashes of large files are remembered by path, size and mtime).
    """
    spec.check()
    identity: dict[str, Any] = {"format": 1, "family": spec.family, "dtype": spec.dtype}
    if spec.weights == TINY:
        identity |= {"tiny": _TINY_CONFIGS[spec.family], "seed": spec.seed}
    else:
        folder = spec.folder
        files = [path for part in PARTS for path in sorted((folder / part).rglob("*")) if path.is_file()]
        if not files:
            raise ValueError(f"{folder} holds none of {', '.join(PARTS)}: not a diffusers pipeline folder")
        identity["files"] = {path.relative_to(folder).as_posix(): _file_sha256(path) for path in files}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def load_backbone(
    spec: BackboneSpec, device: str | Any = "cpu", placement: ReferencePlacement | None = None
) -> Backbone:
    """The backbone of ``spec``; its parts load on first use. ``placement`` says where references sit in RoPE space."""
    spec.check()
    import torch

    from models.compat import prepare

    prepare()
    from models.backbones.base import ReferencePlacement
    from models.backbones.cogvideox import CogVideoX
    from models.backbones.components import Components, FolderComponents
    from models.backbones.tiny import TinyCogVideoX

    dtype = getattr(torch, spec.dtype)
    digest = backbone_digest(spec)
    components: Components
    if spec.weights == TINY:
        components, note = TinyCogVideoX(spec.seed), f"random weights, seed {spec.seed}"
    else:
        folder = spec.folder
        components = FolderComponents(folder, CogVideoX.transformer_class, CogVideoX.vae_classes, dtype)
        note = f"{embedded.NAME if spec.weights == embedded.NAME else folder} sha256:{digest[:16]}"
    return CogVideoX(
        components,
        device=torch.device(device),
        dtype=dtype,
        config_digest=digest,
        weights_note=note,
        placement=placement or ReferencePlacement(),
    )


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(value.lower(), allowed, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown backbone {field} {value!r}{hint} (known: {', '.join(allowed)})")


_REMEMBER_ABOVE = 1 << 20  # bytes: below, hashing is cheaper than looking the hash up


def _file_sha256(path: Path) -> str:
    stat = path.stat()
    if stat.st_size <= _REMEMBER_ABOVE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    memory = _memory_file()
    key = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
    known = _recall(memory)
    if key not in known:
        with path.open("rb") as stream:
            known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        _remember(memory, {**_recall(memory), key: known[key]})
    return known[key]


def _memory_file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "fulcrum" / "weight_digests.json"


def _recall(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memory: Path, known: dict[str, str]) -> None:
    # Only a cache: where it cannot be written the next run hashes again. Written aside and renamed, so that two
    # processes never see half a file.
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=memory.parent)
        with os.fdopen(handle, "w") as stream:
            json.dump(known, stream)
        os.replace(aside, memory)
    except OSError:
        return

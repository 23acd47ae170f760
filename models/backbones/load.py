"""Names a backbone, digests it without importing torch, and loads it."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from models import embedded
from models.backbones.components import FURTHER_PARTS, PARTS, class_of, settings_of
from models.backbones.tiny import VARIANTS, tiny_config

if TYPE_CHECKING:
    from models.backbones.base import Backbone, ReferencePlacement
    from models.backbones.family import Family

TINY = "tiny-random"
FAMILIES: dict[str, tuple[str, str]] = {
    "cogvideox": ("models.backbones.cogvideox", "CogVideoX"),
    "wan": ("models.backbones.wan", "Wan"),
    "hunyuan": ("models.backbones.hunyuan", "HunyuanVideo"),
    "ltx": ("models.backbones.ltx", "Ltx"),
}
"""Where each family's class is; imported when it is used, for this module is read at plan time."""
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class BackboneSpec:
    """Which model: a family, its weights, the seed of random weights, a dtype, and where its references stand.

    ``weights``: ``tiny-random``, a variant of it such as ``tiny-random:1.5``, ``embedded:tinyworld`` (the base that
    ``make embedded`` trains), or a diffusers folder.
    """

    family: str = "cogvideox"
    weights: str = TINY
    seed: int = 0
    dtype: str = "float32"
    references: Literal["after", "before"] = "after"
    reference_gap: float = 0.0

    def check(self) -> None:
        """ValueError naming the field, the value and the remedy; reads no weights."""
        _one_of("family", self.family, tuple(FAMILIES))
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("references", self.references, ("after", "before"))
        if self.is_tiny:
            variants = tuple(name.partition(":")[2] for name in VARIANTS if name.startswith(f"{self.family}:"))
            if self.variant:
                _one_of(f"variant of {self.family}", self.variant, variants)
        elif self.weights == embedded.NAME and not self.folder.is_dir():
            raise ValueError(f"backbone weights {embedded.NAME!r} are not trained yet; make embedded trains them")
        elif not self.folder.is_dir():
            raise ValueError(
                f"backbone weights {self.weights!r}: no such folder; give a local diffusers pipeline folder "
                f"(with {', '.join(PARTS)}), {embedded.NAME!r} or {TINY!r}"
            )

    @property
    def is_tiny(self) -> bool:
        return self.weights.partition(":")[0] == TINY

    @property
    def variant(self) -> str:
        """Of tiny random weights; empty for the family's usual model."""
        return self.weights.partition(":")[2] if self.is_tiny else ""

    @property
    def folder(self) -> Path:
        """Where weights that are no random ones lie."""
        return embedded.BASE if self.weights == embedded.NAME else Path(self.weights).resolve()


def backbone_digest(spec: BackboneSpec, parts: Sequence[str] = ()) -> str:
    """sha256 (hex) of everything that makes this model this model, or these ``parts`` of it; imports no torch.

    For a folder: the content of its parts' files (hashes of large files are remembered by path, size and mtime), without
    what a ``config.json`` tells of the folder and the library that it was saved from. A part is a folder in it or one
    file, such as ``transformer/config.json``.
    """
    spec.check()
    identity: dict[str, Any] = {"format": 1, "family": spec.family, "dtype": spec.dtype}
    if not parts and (spec.references, spec.reference_gap) != ("after", 0.0):
        identity |= {"references": [spec.references, spec.reference_gap]}  # adapters learn where references stand
    if spec.is_tiny:
        config = tiny_config(spec.family, spec.variant)
        wanted = {part.partition("/")[0] for part in parts} or set(config)
        identity |= {"tiny": {part: values for part, values in config.items() if part in wanted}, "seed": spec.seed}
    else:
        folder, names = spec.folder, parts or (*PARTS, *FURTHER_PARTS)
        found = [path for name in names for path in [folder / name, *sorted((folder / name).rglob("*"))]]
        files = [path for path in found if path.is_file()]
        if not files:
            raise ValueError(f"{folder} holds none of {', '.join(names)}: not a diffusers pipeline folder")
        identity["files"] = {path.relative_to(folder).as_posix(): _content_sha256(path) for path in files}
        settings = {} if parts else settings_of(folder)
        identity |= {"settings": settings} if settings else {}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def load_backbone(
    spec: BackboneSpec, device: str | Any = "cpu", placement: ReferencePlacement | None = None
) -> Backbone:
    """The backbone of ``spec``; its parts load on first use. ``placement`` stands in for the spec's own."""
    spec.check()
    import torch

    from models.compat import prepare

    prepare()
    from models.backbones.base import ReferencePlacement
    from models.backbones.components import Components, FolderComponents
    from models.backbones.tiny import RandomComponents

    family = family_class(spec.family)
    digest = backbone_digest(spec)
    components: Components
    if spec.is_tiny:
        components = RandomComponents(tiny_config(spec.family, spec.variant), family.part_classes, spec.seed)
        note = f"random weights, seed {spec.seed}"
    else:
        folder = spec.folder
        components = FolderComponents(folder, family.part_classes, _which_family(folder))
        note = f"{embedded.NAME if spec.weights == embedded.NAME else folder} sha256:{digest[:16]}"
    return family(
        components,
        device=torch.device(device),
        dtype=getattr(torch, spec.dtype),
        config_digest=digest,
        weights_note=note,
        placement=placement or ReferencePlacement(spec.references, spec.reference_gap),
    )


def family_class(name: str) -> type[Family]:
    """The class of a family by its name."""
    module, cls = FAMILIES[name]
    found: type[Family] = getattr(importlib.import_module(module), cls)
    return found


def _which_family(folder: Path) -> str:
    """What to add to the message that a folder is of another family."""
    found = class_of(folder, "transformer") if (folder / "transformer").is_dir() else None
    fits = next((name for name in FAMILIES if found in family_class(name).part_classes["transformer"]), None)
    return f"; set family: {fits}" if fits else f"; known families are {', '.join(FAMILIES)}"


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(value.lower(), allowed, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown backbone {field} {value!r}{hint} (known: {', '.join(allowed)})")


_REMEMBER_ABOVE = 1 << 20  # bytes: below, hashing is cheaper than looking the hash up


SAVED_FROM = ("_name_or_path", "_diffusers_version", "transformers_version")
"""Keys by which diffusers and transformers tell where a configuration came from; the model does not depend on them."""


def _content_sha256(path: Path) -> str:
    if path.name != "config.json":
        return _file_sha256(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    told = {key: value for key, value in config.items() if key not in SAVED_FROM}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


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

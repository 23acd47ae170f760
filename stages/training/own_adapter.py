"""A user's own adapter, whichever tool wrote it, as an adapter of the pipelines; and the ways back out."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.contract import Context, Files, Params, StageError, World, stage
from stages.training.adapters import write_adapter
from stages.training.params import BackboneParams

if TYPE_CHECKING:
    from models.training.adapter import AdapterState
    from models.training.formats import Format
    from models.training.fuse import BaseWeights, FuseReport


class OwnAdapterParams(Params):
    path: str = Field(description="a LoRA file, or the folder it lies in: diffusers, PEFT or kohya")
    backbone: BackboneParams | None = Field(
        None, description="what it was trained on; needed for kohya's names and for DoRA, else a check that it fits"
    )
    dora_energy: float = Field(
        0.9999, gt=0, le=1, description="share of a DoRA's squared delta that its low-rank form keeps"
    )


def _world(params: OwnAdapterParams, world: World) -> Mapping[str, str]:
    path = Path(params.path).expanduser()
    files = sorted(p for p in path.glob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        if file.suffix in (".safetensors", ".json") and file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return {"adapter": digest.hexdigest()}


@stage(name="own_adapter", version="1", params=OwnAdapterParams, outputs={"adapter": Files("adapter")}, world=_world)
def own_adapter(ctx: Context, params: OwnAdapterParams) -> None:
    """One adapter from another tool's file."""
    adapter, facts = import_adapter(Path(params.path).expanduser(), params.backbone, params.dora_energy)
    for name in ("dora_error", "dora_rank"):
        if name in facts:
            ctx.metric(name, facts[name])
    ctx.event("imported", **facts)
    write_adapter(adapter, ctx.folder("adapter"), {**adapter.metadata, "imported": facts})


def import_adapter(
    path: Path, backbone: BackboneParams | None, dora_energy: float
) -> tuple[AdapterState, dict[str, Any]]:
    """The adapter and what was found: its format, modules, and what materialising a DoRA lost. ``StageError`` otherwise."""
    from models.training.dora import materialise
    from models.training.formats import read_adapter_file

    extra: dict[str, Any] = {}
    try:
        if backbone is None:
            found = read_adapter_file(path)
            if found.magnitude:
                raise ValueError(f"{path} is a DoRA adapter: its delta depends on the base weights; give its backbone")
            adapter = found.adapter
        else:
            with base_weights(backbone) as base:
                found = read_adapter_file(path, base.modules())
                adapter = found.adapter
                if found.magnitude:
                    adapter, report = materialise(adapter, found.magnitude, base.weight, energy=dora_energy)
                    extra = {"dora_error": report.relative_error, "dora_rank": max(report.ranks.values())}
    except ValueError as error:
        raise StageError(str(error)) from error
    facts = {
        "format": found.format,
        "dora": bool(found.magnitude),
        "modules": len(adapter.modules),
        "rank": max(adapter.rank.values()),
        **extra,
    }
    return adapter, facts


@contextmanager
def base_weights(backbone: BackboneParams) -> Iterator[BaseWeights]:
    """The transformer's weights, read from its folder; random ones are written to a temporary one first."""
    from models.training.fuse import BaseWeights

    with transformer_folder(backbone) as folder:
        yield BaseWeights(folder)


@contextmanager
def transformer_folder(backbone: BackboneParams) -> Iterator[Path]:
    from models.backbones.load import TINY, load_backbone

    spec = backbone.spec()
    spec.check()
    if spec.weights != TINY:
        yield spec.folder / "transformer"
        return
    with tempfile.TemporaryDirectory() as folder:
        transformer: Any = load_backbone(spec).transformer
        transformer.save_pretrained(folder)
        yield Path(folder)


def export_adapter(source: Path, target: Path, form: Format) -> Path:
    """Write an adapter in another tool's format; returns the file."""
    from models.training.adapter import load_adapter
    from models.training.formats import write_adapter_file

    try:
        return write_adapter_file(load_adapter(source), target, form)
    except ValueError as error:
        raise StageError(str(error)) from error


def fuse_adapter(source: Path, backbone: BackboneParams, target: Path) -> FuseReport:
    """Write the backbone's transformer with the adapter in its weights; see ``models.training.fuse``."""
    from models.training.adapter import load_adapter
    from models.training.fuse import fuse

    try:
        with transformer_folder(backbone) as folder:
            return fuse(load_adapter(source), folder, target)
    except ValueError as error:
        raise StageError(str(error)) from error

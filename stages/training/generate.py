"""Samples videos on a loaded backbone, for preference pairs and for evaluation: one worker, many systems."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.contract import Context, StageError
from stages.training.params import BackboneParams, SamplingParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from models.training.cache import CacheReader, Entry


def entries_of(rows: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Cache manifest rows as entries of the reader."""
    from models.training.cache import Entry

    names = ("sample_id", "shard", "bucket", "references", "views", "text_key")
    return [Entry(**{name: row[name] for name in names}) for row in rows]


def check_cache(ctx: Context, backbone: BackboneParams) -> str:
    """The backbone's digest; refused when the cache was encoded by another one, for its latents would mean nothing."""
    import json

    from models.backbones.load import backbone_digest

    digest = backbone_digest(backbone.spec())
    note = json.loads((ctx.path("latents") / "cache.json").read_text())
    if note["backbone_digest"] != digest:
        raise StageError(
            f"the cache was encoded with another backbone ({note['backbone_digest'][:12]}, this is {digest[:12]}). "
            "Give encode and this stage the same backbone."
        )
    return digest


@dataclass(frozen=True)
class System:
    """A model to sample from: the base with these adapters, (name, folder) each, all at weight 1."""

    name: str
    adapters: tuple[tuple[str, str], ...] = ()


class Studio:
    """A loaded backbone with adapters attached, the cache to condition on, and a way to see what comes out."""

    def __init__(
        self,
        backbone: BackboneParams,
        sampling: SamplingParams,
        systems: Sequence[System],
        cache: str,
        entries: Sequence[Entry],
    ) -> None:
        from models.backbones.load import load_backbone
        from models.training.adapter import load_adapter
        from models.training.cache import CacheReader
        from models.training.lora import attach_adapter, set_adapters

        self.sampling = sampling
        self.guidance = sampling.guidance.build()
        self.backbone = load_backbone(backbone.spec(), device="cuda" if sampling.workers_gpus else "cpu")
        self.systems = {system.name: [name for name, _ in system.adapters] for system in systems}
        for name, folder in sorted({adapter for system in systems for adapter in system.adapters}):
            attach_adapter(self.backbone, load_adapter(Path(folder)), name)
        set_adapters(self.backbone, [])
        self.reader: CacheReader = CacheReader(Path(cache), entries)
        self.null_text = self.reader.null_text[None]

    def sample(
        self, system: str, sample_id: str, seed: int, rope_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> Tensor:
        """Latents (C, F, H, W) for a cached sample's prompt and references (view 0 of each)."""
        from models.training.bucket import Bucket
        from models.training.lora import only_adapters
        from models.training.sampling import sample

        bucket = Bucket.parse(self.reader.entries[sample_id].bucket)
        references = self.reader.references(sample_id)
        with only_adapters(self.backbone, self.systems[system]):
            latents = sample(
                self.backbone,
                self.reader.text(sample_id)[None],
                self.null_text,
                references[None] if references is not None else None,
                shape=self.backbone.latent_shape(bucket.frames, bucket.height, bucket.width),
                seed=seed,
                steps=self.sampling.steps,
                guidance=self.guidance,
                rope_offset=rope_offset,
            )[0]
        if not bool(latents.isfinite().all()):
            raise ValueError(f"sampling {sample_id} with {system} gave latents that are not finite")
        return latents

    def video(self, latents_CFHW: Tensor) -> bytes:
        """The latents as a VP9 WebM file, which every browser plays."""
        from models.training.views import from_unit
        from models.video.encode import write_video

        frames = from_unit(self.backbone.decode_video(latents_CFHW[None])[0])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.webm"
            write_video(frames, self.sampling.fps, path, codec="libvpx-vp9")
            return path.read_bytes()

    def read_back(self, video: bytes, frames: int) -> NDArray[np.uint8]:
        """The frames of a written video, (F, H, W, 3) RGB."""
        from stages.training.media import decode_frames

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.webm"
            path.write_bytes(video)
            return decode_frames(path, frames, of=frames)

    def through_file(self, video: bytes, frames: int) -> Tensor:
        """Latents of a written video: read back and encoded, the path that any real clip takes."""
        from models.training.views import video_to_unit

        return self.backbone.encode_video(video_to_unit(self.read_back(video, frames))[None])[0]


def put_file(folder: Path, blob: bytes, suffix: str) -> str:
    """Write bytes under their digest, so that no file name tells a reviewer what it holds; returns the name."""
    name = f"{hashlib.sha256(blob).hexdigest()[:24]}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(blob)
    return name


def reference_picture(latents: Path, sample_id: str) -> bytes | None:
    """The first reference of a cached sample, PNG, as encode saw it; None without references."""
    path = latents / "references" / f"{sample_id}.png"
    return path.read_bytes() if path.exists() else None


def png(picture: Any) -> bytes:
    """(H, W, 3) uint8 as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()

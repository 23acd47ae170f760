"""What a worker does to make the training cache: clips to latents, references to views, prompts to embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from models.training.bucket import Bucket
from stages.contract import Params
from stages.training.params import BackboneParams

if TYPE_CHECKING:
    from torch import Tensor


class ViewParams(Params):
    """How reference views differ from the crop; see ``models.training.views.ViewSpec``."""

    jitter: float = Field(0.08, ge=0, lt=0.5, description="share by which each side of the crop may move inwards")
    turn: float = Field(8.0, ge=0, le=180, description="largest rotation, degrees")
    shrink: float = Field(0.8, gt=0, le=1, description="smallest scale on the canvas")
    flip: float = Field(0.0, ge=0, le=1, description="probability of mirroring; mirrored text is other text")
    colour: float = Field(
        0.0, ge=0, lt=1, description="largest change of brightness, contrast and saturation, as a share"
    )
    background: Literal["white", "keep"] = Field("white", description="masked subject on white, or the crop as cut")


@dataclass(frozen=True)
class ClipPayload:
    """A clip to encode: its file of ``frames`` frames, its bucket, how many of that bucket's frames it has, and the rate
    at which it is read (None spreads them over the clip)."""

    media: str
    frames: int
    bucket: str
    there: int
    fps: float | None


@dataclass(frozen=True)
class SamplePayload:
    """One sample's references, (crop, mask) as encoded pictures, to encode at the size of its bucket."""

    sample_id: str
    bucket: str
    references: tuple[tuple[bytes, bytes], ...]


class EncodeClip:
    """Encodes one clip after another on one loaded codec."""

    def __init__(self, backbone: BackboneParams, dtype: str, device: str) -> None:
        from models.backbones.load import load_backbone
        from models.training.cache import DTYPES

        self.backbone, self.dtype = load_backbone(backbone.spec(), device=device), DTYPES[dtype]

    def __call__(self, clip: ClipPayload) -> Mapping[str, Any]:
        import numpy as np

        from models.training.views import fit_video, video_to_unit
        from stages.training.media import decode_frames

        bucket = Bucket.parse(clip.bucket)
        frames = decode_frames(Path(clip.media), clip.there, of=clip.frames, fps=clip.fps)
        # A clip that is too short and may be padded holds its last frame.
        held = np.repeat(frames[-1:], bucket.frames - clip.there, axis=0)
        whole = fit_video(np.concatenate([frames, held]), height=bucket.height, width=bucket.width)
        latents = self.backbone.encode_video(video_to_unit(whole)[None])[0].to(self.dtype).cpu()
        return {"payload": _saved({"latents": latents}, clip.media)}


class EncodeSample:
    """Encodes the reference views of one sample after another on one loaded codec."""

    def __init__(
        self, backbone: BackboneParams, views: int, view: ViewParams, dtype: str, seed: int, device: str
    ) -> None:
        from models.backbones.load import load_backbone
        from models.training.cache import DTYPES
        from models.training.views import ViewSpec

        self.backbone = load_backbone(backbone.spec(), device=device)
        self.views, self.view, self.seed, self.dtype = views, ViewSpec(**view.model_dump()), seed, DTYPES[dtype]

    def __call__(self, sample: SamplePayload) -> Mapping[str, Any]:
        return {"payload": _saved(self.reference_tensors(sample), f"the references of {sample.sample_id}")}

    def reference_tensors(self, sample: SamplePayload) -> dict[str, Tensor]:
        """``references`` (reference, view, channel, row, column) and ``picture``, the first one as it was encoded."""
        import torch

        from models.training.views import from_unit

        pictures = self._references(sample, Bucket.parse(sample.bucket))
        encoded = torch.stack([self.backbone.encode_reference(views) for views in pictures])
        picture = torch.from_numpy(from_unit(pictures[0][:1].transpose(0, 1))[0])
        return {"references": encoded.to(self.dtype).cpu(), "picture": picture}

    def _references(self, sample: SamplePayload, bucket: Bucket) -> list[Tensor]:
        import torch

        from models.training.views import make_view, open_reference, to_unit

        pictures = []
        for number, (crop, mask) in enumerate(sample.references):
            picture = open_reference(crop, mask, self.view.background)
            views = [
                make_view(
                    picture,
                    height=bucket.height,
                    width=bucket.width,
                    spec=self.view,
                    seed=self.seed,
                    sample_id=sample.sample_id,
                    reference=number,
                    view=view,
                )
                for view in range(self.views)
            ]
            pictures.append(torch.stack([to_unit(view) for view in views]))
        return pictures


class Prepare:
    """Embeds prompts and states latent shapes: everything a cache needs beside its samples."""

    def __init__(self, backbone: BackboneParams, dtype: str, device: str) -> None:
        from models.backbones.load import load_backbone
        from models.training.cache import DTYPES

        self.backbone, self.dtype = load_backbone(backbone.spec(), device=device), DTYPES[dtype]

    def __call__(self, payload: tuple[Literal["prompt", "bucket"], str]) -> Mapping[str, Any]:
        from safetensors.torch import save

        from models.training.cache import pack_text

        kind, value = payload
        if kind == "bucket":
            bucket = Bucket.parse(value)
            shape = self.backbone.latent_shape(bucket.frames, bucket.height, bucket.width)
            self._comes_back(bucket, shape)
            return {"payload": json.dumps({"shape": shape, "max_references": self.backbone.max_references}).encode()}
        embedding = self.backbone.encode_text([value])[0].to(self.dtype).cpu()
        return {"payload": save(pack_text(embedding))}

    def _comes_back(self, bucket: Bucket, shape: tuple[int, int, int, int]) -> None:
        """Refuse a length that the codec takes and does not give back: CogVideoX turns 5 frames into 8."""
        import torch

        side = self.backbone.spatial_multiple // self.backbone.spatial_factor  # the smallest picture is enough to see
        frames = self.backbone.decode_video(torch.zeros(1, *shape[:2], side, side)).shape[2]
        if frames != bucket.frames:
            raise ValueError(
                f"the codec gives {frames} frames back for {bucket.frames}; choose another length (CogVideoX keeps "
                "lengths of 8k + 1: 9, 17, 49, 81)"
            )


def _saved(tensors: Mapping[str, Tensor], what: str) -> bytes:
    from safetensors.torch import save

    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ValueError(f"the encoder gave latents that are not finite for {what}")
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})

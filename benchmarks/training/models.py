"""The large models that are measured, by their published configurations; random weights, since speed does not read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from models.backbones.base import ReferencePlacement
from models.backbones.family import Family
from models.backbones.load import family_class
from models.backbones.tiny import Config, RandomComponents, merged, tiny_config

COGVIDEOX_5B: Config = {
    "transformer": {
        "num_attention_heads": 48,
        "attention_head_dim": 64,
        "in_channels": 16,
        "out_channels": 16,
        "time_embed_dim": 512,
        "text_embed_dim": 4096,
        "num_layers": 42,
        "sample_width": 90,
        "sample_height": 60,
        "sample_frames": 49,
    },
    # Only a peer that encodes by itself runs these; their weights are few, their outputs of the real shape.
    "vae": {"latent_channels": 16},
    "text_encoder": {"d_model": 4096, "num_layers": 1},
}
WAN_1_3B: Config = {
    "transformer": {
        "num_attention_heads": 12,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 8960,
        "num_layers": 30,
        "rope_max_seq_len": 1024,
    },
}
WAN_14B: Config = merged(WAN_1_3B, {"transformer": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}})


@dataclass(frozen=True)
class Measured:
    """A model and the clip length and size that its users train at: ``size`` in frames, height and width, ``latents`` (C, F, H, W)."""

    name: str
    family: str
    changes: Config
    size: tuple[int, int, int]
    latents: tuple[int, int, int, int]

    @property
    def video(self) -> str:
        """Frames x height x width."""
        return "x".join(map(str, self.size))

    def build(self, device: str, dtype: torch.dtype) -> Family:
        """On a real device the weights are drawn there, so a 14B model needs no room beside it."""
        family = family_class(self.family)
        components = _DrawnInPlace(
            merged(tiny_config(self.family), self.changes), family.part_classes, torch.device(device)
        )
        return family(
            components,
            device=torch.device(device),
            dtype=dtype,
            config_digest="random",
            weights_note="random weights",
            placement=ReferencePlacement(),
        )


class _DrawnInPlace(RandomComponents):
    """Random parts made on the device and in the dtype that they will have."""

    def __init__(self, config: Config, classes: Any, device: torch.device) -> None:
        super().__init__(config, classes, 0)
        self._device = device

    def load(self, part: str, dtype: torch.dtype) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with self._device:
                return super().load(part, dtype)
        finally:
            torch.set_default_dtype(before)


MODELS: dict[str, Measured] = {
    model.name: model
    for model in (
        Measured("tiny-cogvideox", "cogvideox", {}, (9, 64, 64), (4, 3, 8, 8)),
        Measured("tiny-wan", "wan", {}, (9, 64, 64), (4, 3, 8, 8)),
        Measured("cogvideox-5b", "cogvideox", COGVIDEOX_5B, (49, 480, 720), (16, 13, 60, 90)),
        Measured("wan-1.3b", "wan", WAN_1_3B, (81, 480, 832), (16, 21, 60, 104)),
        Measured("wan-14b", "wan", WAN_14B, (81, 480, 832), (16, 21, 60, 104)),
    )
}

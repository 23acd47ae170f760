"""Tiny configurations of the real classes with random weights: every code path of training on a laptop's CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Native size 64x64 pixels, 9 frames. The text length is that of the real model: prompts name their references first and
# the tokenizer counts bytes, so a shorter one would cut the sentence about the video off.
COGVIDEOX: dict[str, dict[str, Any]] = {
    "transformer": {
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 32,
        "text_embed_dim": 32,
        "num_layers": 2,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 9,
        "patch_size": 2,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": 226,
        "use_rotary_positional_embeddings": True,
    },
    "vae": {
        "down_block_types": ["CogVideoXDownBlock3D"] * 4,
        "up_block_types": ["CogVideoXUpBlock3D"] * 4,
        "block_out_channels": [8, 8, 8, 8],
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "temporal_compression_ratio": 4,
        "sample_height": 64,
        "sample_width": 64,
    },
    "text_encoder": {  # vocabulary: 256 bytes + pad 0, eos 1, unknown 2
        "vocab_size": 259,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 37,
        "num_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
    },
    "scheduler": {  # the schedule of CogVideoX-5B's model card: v-prediction, zero terminal SNR
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "snr_shift_scale": 1.0,
        "timestep_spacing": "trailing",
    },
}


class TinyCogVideoX:
    """Random parts after ``COGVIDEOX``; the same seed gives the same weights and leaves the global generator alone."""

    def __init__(self, seed: int, overrides: dict[str, dict[str, Any]] | None = None) -> None:
        self._seed = seed
        self._config = {part: {**values, **(overrides or {}).get(part, {})} for part, values in COGVIDEOX.items()}

    def transformer(self) -> Any:
        from diffusers import CogVideoXTransformer3DModel

        with seeded(self._seed):
            return CogVideoXTransformer3DModel(**self._config["transformer"])

    def vae(self) -> Any:
        from diffusers import AutoencoderKLCogVideoX

        with seeded(self._seed + 1):
            return AutoencoderKLCogVideoX(**self._config["vae"])

    def text_encoder(self) -> Any:
        from transformers import T5Config, T5EncoderModel

        with seeded(self._seed + 2):
            return T5EncoderModel(T5Config(**self._config["text_encoder"]))

    def tokenizer(self) -> Any:
        from transformers import ByT5Tokenizer

        return ByT5Tokenizer(extra_ids=0)

    def scheduler_config(self) -> dict[str, Any]:
        return dict(self._config["scheduler"])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the CPU generator starts from ``seed``; outside, nothing has happened to it."""
    import torch

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would reseed the accelerators too, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(seed)
        yield

"""Tiny configurations of the real classes with random weights: every code path of training on a laptop's CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Config = dict[str, dict[str, Any]]

# Vocabulary: 256 bytes + pad 0, eos 1, unknown 2.
_T5: dict[str, Any] = {
    "vocab_size": 259,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 37,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
}

# Native size 64x64 pixels, 9 frames. The text length is that of the real model: prompts name their references first and
# the tokenizer counts bytes, so a shorter one would cut the sentence about the video off.
COGVIDEOX: Config = {
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
    "text_encoder": _T5,
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

WAN: Config = {
    "transformer": {
        "patch_size": [1, 2, 2],
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 2,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 64,
    },
    "vae": {
        "base_dim": 3,
        "z_dim": 4,
        "dim_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
        "latents_mean": [-0.7571, -0.7089, -0.9113, 0.1075],
        "latents_std": [2.8184, 1.4541, 2.3275, 2.6558],
    },
    "text_encoder": _T5,
    "scheduler": {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 3.0,
    },
}

HUNYUAN: Config = {
    "transformer": {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "patch_size": 2,
        "patch_size_t": 1,
        "guidance_embeds": True,
        "text_embed_dim": 32,
        "pooled_projection_dim": 16,
        "rope_axes_dim": [2, 4, 4],
    },
    "vae": {
        "latent_channels": 4,
        "down_block_types": ["HunyuanVideoDownBlock3D"] * 4,
        "up_block_types": ["HunyuanVideoUpBlock3D"] * 4,
        "block_out_channels": [8, 8, 8, 8],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "scaling_factor": 0.476986,
        "spatial_compression_ratio": 8,
        "temporal_compression_ratio": 4,
    },
    "text_encoder": {
        "vocab_size": 259 + 1,  # and the end of the prompt template
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    },
    "text_encoder_2": {
        "vocab_size": 259,
        "hidden_size": 16,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    },
    "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 7.0},
}

LTX: Config = {
    "transformer": {
        "in_channels": 8,
        "out_channels": 8,
        "patch_size": 1,
        "patch_size_t": 1,
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "cross_attention_dim": 32,
        "num_layers": 2,
        "caption_channels": 32,
    },
    "vae": {
        "latent_channels": 8,
        "block_out_channels": [8, 8, 8, 8],
        "decoder_block_out_channels": [8, 8, 8, 8],
        "layers_per_block": [1, 1, 1, 1, 1],
        "decoder_layers_per_block": [1, 1, 1, 1, 1],
        "spatio_temporal_scaling": [True, True, False, False],
        "decoder_spatio_temporal_scaling": [True, True, False, False],
        "decoder_inject_noise": [False] * 5,
        "upsample_residual": [False] * 4,
        "upsample_factor": [1] * 4,
        "timestep_conditioning": False,
        "patch_size": 1,
        "patch_size_t": 1,
        "encoder_causal": True,
        "decoder_causal": False,
        "scaling_factor": 0.7,
    },
    "text_encoder": _T5,
    "scheduler": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "use_dynamic_shifting": True,
        "base_shift": 0.95,
        "max_shift": 2.05,
        "base_image_seq_len": 1024,
        "max_image_seq_len": 4096,
        "shift_terminal": 0.1,
    },
}

FAMILIES: dict[str, Config] = {"cogvideox": COGVIDEOX, "wan": WAN, "hunyuan": HUNYUAN, "ltx": LTX}

VARIANTS: dict[str, Config] = {
    "cogvideox:1.5": {"transformer": {"patch_size_t": 2, "patch_bias": False}},
    "cogvideox:2b": {"transformer": {"use_rotary_positional_embeddings": False}},
    "wan:ti2v": {
        "vae": {
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "decoder_base_dim": 4,
        },
        "settings": {"expand_timesteps": True},
    },
}
"""What a variant changes in its family's configuration; ``tiny-random:1.5`` is the variant 1.5."""

_CONFIG_CLASSES = {
    "T5EncoderModel": "T5Config",
    "UMT5EncoderModel": "UMT5Config",
    "LlamaModel": "LlamaConfig",
    "CLIPTextModel": "CLIPTextConfig",
}


def tiny_config(family: str, variant: str = "") -> Config:
    """The configuration of a family's tiny model, or of a variant of it."""
    return merged(FAMILIES[family], VARIANTS[f"{family}:{variant}"] if variant else {})


def merged(config: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """``config`` with the values of ``changes`` put over it, part by part."""
    return {part: {**config.get(part, {}), **changes.get(part, {})} for part in {**config, **changes}}


class RandomComponents:
    """Random parts after ``config``; the same seed gives the same weights and leaves the global generator alone.

    ``classes`` names each part's class, as a family's ``part_classes`` does.
    """

    def __init__(self, config: Config, classes: Mapping[str, tuple[str, ...]], seed: int) -> None:
        self._config, self._classes, self._seed = config, classes, seed

    def load(self, part: str, dtype: torch.dtype) -> Any:
        from models.backbones.components import cast_as_loaded

        if part.startswith("tokenizer"):
            return _byte_tokenizer(self._classes[part.replace("tokenizer", "text_encoder")][0])
        return cast_as_loaded(self.skeleton(part), dtype)

    def skeleton(self, part: str) -> Any:
        from models.backbones.components import part_class

        name = self._classes[part][0]
        values = {key: value for key, value in self._config[part].items() if key != "_class_name"}
        # A weight's seed is its part's place among all parts, so one part's size does not change another's weights.
        with seeded(self._seed + ("transformer", "vae", "text_encoder", "text_encoder_2").index(part)):
            if name in _CONFIG_CLASSES:
                return part_class(name)(part_class(_CONFIG_CLASSES[name])(**values))
            return part_class(name)(**values)

    def scheduler_config(self) -> dict[str, Any]:
        return dict(self._config["scheduler"])

    def settings(self) -> dict[str, Any]:
        return dict(self._config.get("settings", {}))


def _byte_tokenizer(encoder: str) -> Any:
    """A tokenizer of bytes. Llama's reads what HunyuanVideo puts before each prompt as the 95 tokens that it cuts off."""
    from transformers import AddedToken, ByT5Tokenizer

    if encoder != "LlamaModel":
        return ByT5Tokenizer(extra_ids=0)
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

    prefix, tokens = DEFAULT_PROMPT_TEMPLATE["template"].split("{}")[0], DEFAULT_PROMPT_TEMPLATE["crop_start"]
    rest = AddedToken(prefix[tokens - 1 :], normalized=False)  # all but the last are bytes
    return ByT5Tokenizer(extra_ids=0, additional_special_tokens=[rest])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the CPU generator starts from ``seed``; outside, nothing has happened to it."""
    import torch

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would reseed the accelerators too, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(seed)
        yield

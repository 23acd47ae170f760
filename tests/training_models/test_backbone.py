"""What is CogVideoX's own, and the messages that all families share; test_families.py holds what each must do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone, ReferencePlacement
from models.backbones.cogvideox import CogVideoX
from models.backbones.tiny import RandomComponents, merged, tiny_config

Randn = Callable[..., Tensor]
T = torch.tensor([20, 900])


def variant(part: str = "transformer", placement: ReferencePlacement | None = None, **changes: Any) -> CogVideoX:
    return CogVideoX(
        RandomComponents(merged(tiny_config("cogvideox"), {part: changes}), CogVideoX.part_classes, 0),
        device=torch.device("cpu"),
        dtype=torch.float32,
        config_digest="variant",
        weights_note="random weights, seed 0",
        placement=placement or ReferencePlacement(),
    )


def own_forward(backbone: Backbone, x: Tensor, text: Tensor) -> Tensor:
    """What a plain diffusers pipeline computes for one step, without any code of ours."""
    pipe = backbone.pipeline()
    rotary = None
    if pipe.transformer.config.use_rotary_positional_embeddings:
        pixels = (x.shape[3] * 8, x.shape[4] * 8)
        rotary = pipe._prepare_rotary_positional_embeddings(*pixels, x.shape[2], torch.device("cpu"))
    out = pipe.transformer(
        hidden_states=x.transpose(1, 2),
        encoder_hidden_states=text,
        timestep=T,
        image_rotary_emb=rotary,
        return_dict=False,
    )
    return out[0].transpose(1, 2)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (2, 6, 10), (2, 12, 8), (13, 4, 4)])
def test_without_references_it_is_the_base_bit_for_bit(
    backbone: Backbone, randn: Randn, text: Tensor, shape: tuple[int, int, int]
) -> None:
    x = randn(0, 2, 4, *shape)
    assert torch.equal(backbone.predict(x, T, text), own_forward(backbone, x, text))


def test_an_image_to_video_transformer_is_refused() -> None:
    with pytest.raises(ValueError, match="image-to-video"):
        _ = variant(in_channels=8).transformer


def test_references_continue_the_videos_time_axis(backbone: CogVideoX) -> None:
    # "after" places reference i at F + i on the video's own grid: the table of a longer video.
    for with_references, longer in zip(
        backbone.rope_table(3, 8, 8, 2) or (), backbone.rope_table(5, 8, 8) or (), strict=True
    ):
        assert torch.equal(with_references, longer)


def test_references_may_sit_before_the_video_or_behind_a_gap() -> None:
    assert [ReferencePlacement("before").time(i, 13) for i in (0, 1)] == [-1.0, -2.0]
    assert [ReferencePlacement("after", gap=2.5).time(i, 13) for i in (0, 1)] == [15.5, 16.5]


def test_inverted_scaling_of_image_to_video_conditions_does_not_touch_video_latents(randn: Randn) -> None:
    video = randn(0, 1, 3, 1, 16, 16)
    usual, inverted = variant("vae"), variant("vae", invert_scale_latents=True)
    assert torch.equal(usual.encode_video(video), inverted.encode_video(video))


def test_text_is_embedded_as_the_plain_pipeline_does(backbone: Backbone) -> None:
    texts = ["Ref 1: a red cup", ""]
    theirs = backbone.pipeline()._get_t5_prompt_embeds(texts, max_sequence_length=backbone.text_length)
    assert torch.equal(backbone.encode_text(texts), theirs)


def test_a_text_that_does_not_fit_is_cut_with_a_warning(backbone: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert backbone.encode_text(["x" * 300]).shape[1] == backbone.text_length
    assert "cut from 301 to 226 tokens" in caplog.text


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (2, 3, 2, 8, 8)}, r"latents should be \(B, 4"),
        ({"x": (2, 4, 2, 7, 8)}, "multiples"),
        ({"references": (2, 1, 4, 8, 6)}, "video's own height and width"),
        ({"references": (2, 5, 4, 8, 8)}, "at most 4"),
        ({"t": (1,)}, "integer timesteps"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    backbone: Backbone, randn: Randn, text: Tensor, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    x = randn(0, *shapes.get("x", (2, 4, 2, 8, 8)))
    references = randn(1, *shapes.get("references", (2, 1, 4, 8, 8)))
    with pytest.raises(ValueError, match=message):
        backbone.predict(x, torch.zeros(shapes.get("t", (2,)), dtype=torch.int64), text, references)


@pytest.mark.parametrize(
    ("size", "message"), [((9, 60, 64), "64x64"), ((8, 64, 64), "for example 9"), ((0, 64, 64), "for example 1")]
)
def test_sizes_that_do_not_fit_name_ones_that_do(backbone: Backbone, size: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone.latent_shape(*size)

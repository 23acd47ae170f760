"""The CogVideoX backbone: it is diffusers' own model, plus references that only the rotary table sets apart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone, ReferencePlacement
from models.backbones.cogvideox import CogVideoX
from models.backbones.tiny import TinyCogVideoX
from models.training.objective import denoising_error_B

Randn = Callable[..., Tensor]
T = torch.tensor([20, 900])


def variant(part: str = "transformer", placement: ReferencePlacement | None = None, **changes: Any) -> CogVideoX:
    return CogVideoX(
        TinyCogVideoX(0, {part: changes}),
        device=torch.device("cpu"),
        dtype=torch.float32,
        config_digest="variant",
        weights_note="random weights, seed 0",
        placement=placement,
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


def test_the_1_5_variant_is_its_base_too_and_takes_references(randn: Randn, text: Tensor) -> None:
    # CogVideoX 1.5 patches two latent frames at once and slices its rotary positions instead of rescaling them.
    newer = variant(patch_size_t=2, patch_bias=False)
    x = randn(0, 2, 4, 4, 6, 8)
    assert torch.equal(newer.predict(x, T, text), own_forward(newer, x, text))
    with_reference = newer.predict(x, T, text, randn(1, 2, 1, 4, 6, 8))
    assert with_reference.shape == x.shape
    assert not torch.equal(with_reference, newer.predict(x, T, text))


def test_the_2b_variant_takes_references_and_refuses_offsets_with_the_reason(backbone: Backbone, randn: Randn) -> None:
    older = variant(use_rotary_positional_embeddings=False)
    text = older.encode_text(["a dog", "a cat"])
    x, references = randn(0, 2, 4, 2, 8, 8), randn(1, 2, 2, 4, 8, 8)
    assert torch.equal(older.predict(x, T, text), own_forward(older, x, text))
    assert older.predict(x, T, text, references).shape == x.shape
    assert not older.supports_rope_offset
    with pytest.raises(ValueError, match="no RoPE"):
        older.predict(x, T, text, references, (1.0, 0.0, 0.0))


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


@pytest.mark.parametrize("offset", [(3.0, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, -2.0), (1.25, 2.0, 2.0)])
def test_an_offset_moves_reference_positions_and_no_others(
    backbone: CogVideoX, offset: tuple[float, float, float]
) -> None:
    video_tokens = 3 * 4 * 4
    for still, moved in zip(
        backbone.rope_table(3, 8, 8, 2) or (), backbone.rope_table(3, 8, 8, 2, offset) or (), strict=True
    ):
        assert torch.equal(still[:video_tokens], moved[:video_tokens])
        assert not torch.equal(still[video_tokens:], moved[video_tokens:])


def test_an_offset_of_whole_positions_lands_on_the_next_positions(backbone: CogVideoX) -> None:
    # Reference 0 moved by one frame stands where reference 1 stood.
    per_frame = 4 * 4
    still, moved = backbone.rope_table(3, 8, 8, 2), backbone.rope_table(3, 8, 8, 1, (1.0, 0.0, 0.0))
    assert still is not None
    assert moved is not None
    assert torch.equal(moved[0][3 * per_frame :], still[0][4 * per_frame :])


def test_an_offset_changes_the_prediction_only_through_references(
    backbone: Backbone, randn: Randn, text: Tensor
) -> None:
    x, references = randn(0, 2, 4, 2, 8, 8), randn(1, 2, 1, 4, 8, 8)
    plain = backbone.predict(x, T, text, references)
    assert torch.equal(backbone.predict(x, T, text, references, (0.0, 0.0, 0.0)), plain)
    assert not torch.equal(backbone.predict(x, T, text, references, (2.0, 0.0, 0.0)), plain)
    assert torch.equal(backbone.predict(x, T, text, None, (2.0, 0.0, 0.0)), backbone.predict(x, T, text))


def test_references_condition_the_video_but_are_excluded_from_the_loss(
    backbone: Backbone, randn: Randn, text: Tensor
) -> None:
    transformer: Any = backbone.transformer
    outputs: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> Tensor:
        outputs.append(output.detach().requires_grad_(True))
        return outputs[-1]

    hook = transformer.proj_out.register_forward_hook(keep)
    try:
        x0, noise = randn(0, 2, 4, 2, 8, 8), randn(1, 2, 4, 2, 8, 8)
        denoising_error_B(backbone, x0, noise, T, text, randn(2, 2, 2, 4, 8, 8)).sum().backward()
    finally:
        hook.remove()
    gradient = outputs[0].grad
    assert gradient is not None
    assert gradient.shape[1] == 4 * 16  # tokens of 2 video frames, then of 2 references
    assert (gradient[:, : 2 * 16] != 0).all()
    assert (gradient[:, 2 * 16 :] == 0).all()


def test_latents_are_scaled_by_the_vae_factor_and_back(backbone: Backbone, randn: Randn) -> None:
    video = randn(0, 1, 3, 5, 32, 48).clamp(-1, 1)
    vae: Any = backbone.vae
    with torch.no_grad():
        mode = vae.encode(video).latent_dist.mode()
        decoded = vae.decode(mode).sample
    latents = backbone.encode_video(video)
    assert latents.shape == (1, *backbone.latent_shape(5, 32, 48)) == (1, 4, 2, 4, 6)
    assert torch.equal(latents, mode * vae.config.scaling_factor)
    torch.testing.assert_close(backbone.decode_video(latents), decoded, rtol=0, atol=1e-5)


def test_inverted_scaling_of_image_to_video_conditions_does_not_touch_video_latents(randn: Randn) -> None:
    video = randn(0, 1, 3, 1, 16, 16)
    usual, inverted = variant("vae"), variant("vae", invert_scale_latents=True)
    assert torch.equal(usual.encode_video(video), inverted.encode_video(video))


def test_a_reference_is_one_latent_frame(backbone: Backbone, randn: Randn) -> None:
    picture = randn(0, 2, 3, 32, 48)
    assert torch.equal(backbone.encode_reference(picture), backbone.encode_video(picture[:, :, None])[:, :, 0])


def test_text_is_embedded_as_the_plain_pipeline_does(backbone: Backbone) -> None:
    texts = ["Ref 1: a red cup", ""]
    theirs = backbone.pipeline()._get_t5_prompt_embeds(texts, max_sequence_length=backbone.text_length)
    assert torch.equal(backbone.encode_text(texts), theirs)


def test_a_text_that_does_not_fit_is_cut_with_a_warning(backbone: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert backbone.encode_text(["x" * 300]).shape[1] == backbone.text_length
    assert "cut from 301 to 226 tokens" in caplog.text


def test_activation_checkpointing_gives_the_same_gradients(randn: Randn, text: Tensor) -> None:
    model = variant()
    parameter = model.transformer.transformer_blocks[0].attn1.to_q.weight.requires_grad_(True)
    gradients = []
    for on in (False, True):
        (model.transformer.enable_gradient_checkpointing if on else model.transformer.disable_gradient_checkpointing)()
        parameter.grad = None
        model.predict(randn(0, 2, 4, 2, 8, 8), T, text, randn(1, 2, 1, 4, 8, 8)).square().mean().backward()
        gradients.append(parameter.grad)
    assert torch.equal(*gradients)


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

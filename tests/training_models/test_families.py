"""Each family against the one suite, and against diffusers' own pipeline of that family."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone, ReferencePlacement
from models.backbones.load import BackboneSpec, load_backbone
from models.backbones.rope import Layout
from models.backbones.tiny import RandomComponents, merged, tiny_config
from models.backbones.wan import Wan
from models.training.guidance import Guidance
from models.training.sampling import sample
from tests.training_models.conftest import draw
from tests.training_models.family_suite import TEXTS, FamilySuite, RotarySuite


class CogVideoXCalls:
    def own_forward(self, backbone: Backbone, x: Tensor, t: Tensor, texts: list[str]) -> Tensor:
        pipe = backbone.pipeline()
        rotary = None
        if pipe.transformer.config.use_rotary_positional_embeddings:
            pixels = (x.shape[3] * 8, x.shape[4] * 8)
            rotary = pipe._prepare_rotary_positional_embeddings(*pixels, x.shape[2], torch.device("cpu"))
        out = pipe.transformer(
            hidden_states=x.transpose(1, 2),
            encoder_hidden_states=pipe._get_t5_prompt_embeds(texts, max_sequence_length=226),
            timestep=t,
            image_rotary_emb=rotary,
            return_dict=False,
        )
        return out[0].transpose(1, 2)

    def own_sample(self, backbone: Backbone, noise: Tensor, text: str, steps: int, scale: float) -> Tensor:
        return backbone.pipeline()(
            prompt=text,
            height=64,
            width=64,
            num_frames=9,
            num_inference_steps=steps,
            guidance_scale=scale,
            latents=noise.transpose(1, 2),
            output_type="latent",
        ).frames.transpose(1, 2)

    def own_latents(self, backbone: Backbone, mode: Tensor) -> Tensor:
        return mode * backbone.vae.config.scaling_factor


class TestCogVideoX(CogVideoXCalls, RotarySuite):
    spec = BackboneSpec("cogvideox")
    shape = (4, 3, 8, 8)

    def positions(self, model: Any, count: int, offset: tuple[float, float, float]) -> Tensor:
        return torch.cat(model.rope_table(*self.shape[1:], count, offset), dim=1)


class TestCogVideoX15(TestCogVideoX):
    spec = BackboneSpec("cogvideox", "tiny-random:1.5")
    shape = (4, 4, 8, 8)

    def test_a_video_of_any_length_fills_whole_patches_and_comes_back(self, model: Backbone) -> None:
        # 9 frames are 3 latent frames, and this model patches two at a time: the first one is repeated.
        latents = model.encode_video(draw(0, 1, 3, 9, 64, 64))
        assert torch.equal(latents[:, :, 0], latents[:, :, 1])
        assert model.decode_video(latents).shape[2] == 9
        still = model.encode_video(draw(0, 1, 3, 1, 64, 64))  # one frame, as image steps have it
        assert still.shape == (1, *model.latent_shape(1, 64, 64)) == (1, 4, 2, 8, 8)
        assert torch.equal(still[:, :, 0], still[:, :, 1])
        assert model.decode_video(still).shape[2] == 1

    def own_sample(self, backbone: Backbone, noise: Tensor, text: str, steps: int, scale: float) -> Tensor:
        # diffusers drops the repeated frame itself, and returns the rest.
        pipe, kept = backbone.pipeline(), []
        pipe(
            prompt=text,
            height=64,
            width=64,
            num_frames=9,
            num_inference_steps=steps,
            guidance_scale=scale,
            latents=noise.transpose(1, 2),
            output_type="latent",
            callback_on_step_end=lambda _pipe, _step, _t, tensors: kept.append(tensors["latents"]) or {},
        )
        return kept[-1].transpose(1, 2)


class TestCogVideoX2B(CogVideoXCalls, FamilySuite):
    spec = BackboneSpec("cogvideox", "tiny-random:2b")
    shape = (4, 3, 8, 8)

    def test_offsets_are_refused_with_the_reason(self, model: Backbone) -> None:
        text = model.encode_text(TEXTS)
        assert not model.supports_rope_offset
        with pytest.raises(ValueError, match="no RoPE to offset and Consis-DPO cannot make its losers"):
            model.predict(self.x(), self.times, text, self.references(), (1.0, 0.0, 0.0))


class TestWan(RotarySuite):
    spec = BackboneSpec("wan")
    shape = (4, 3, 8, 8)

    def own_forward(self, backbone: Backbone, x: Tensor, t: Tensor, texts: list[str]) -> Tensor:
        pipe = backbone.pipeline()
        embeddings, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False, max_sequence_length=512)
        if pipe.config.expand_timesteps:
            t = t[:, None].expand(-1, x.shape[2] * (x.shape[3] // 2) * (x.shape[4] // 2))
        return pipe.transformer(hidden_states=x, timestep=t, encoder_hidden_states=embeddings, return_dict=False)[0]

    def own_sample(self, backbone: Backbone, noise: Tensor, text: str, steps: int, scale: float) -> Tensor:
        return backbone.pipeline()(
            prompt=text,
            height=noise.shape[3] * backbone.spatial_factor,
            width=noise.shape[4] * backbone.spatial_factor,
            num_frames=9,
            num_inference_steps=steps,
            guidance_scale=scale,
            latents=noise,
            output_type="latent",
        ).frames

    def own_latents(self, backbone: Backbone, mode: Tensor) -> Tensor:
        config = backbone.vae.config
        mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
        return (mode - mean) / torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)

    def positions(self, model: Any, count: int, offset: tuple[float, float, float]) -> Tensor:
        layout = Layout(self.shape[1], count, offset, model.placement)
        rope = model.transformer.rope
        with rope.at(layout):
            cos, sin = rope(torch.zeros(1, self.shape[0], self.shape[1] + count, *self.shape[2:]))
        return torch.cat([cos, sin], dim=-1)[0, :, 0]

    def test_references_continue_the_videos_own_table(self, model: Any) -> None:
        longer = model.transformer.rope(torch.zeros(1, 4, 5, 8, 8))
        assert torch.equal(self.positions(model, 2, (0.0, 0.0, 0.0)), torch.cat(longer, dim=-1)[0, :, 0])


class TestWanTi2v(TestWan):
    spec = BackboneSpec("wan", "tiny-random:ti2v")

    def test_clean_references_have_timestep_0_and_the_video_its_own(self, model: Any) -> None:
        seen: list[Tensor] = []
        hook = model.transformer.register_forward_pre_hook(
            lambda _module, _args, kwargs: seen.append(kwargs["timestep"]), with_kwargs=True
        )
        try:
            model.predict(self.x(), self.times, model.encode_text(TEXTS), self.references(2))
        finally:
            hook.remove()
        video = 3 * 16
        assert seen[0].shape == (2, video + 2 * 16)
        assert torch.equal(seen[0][:, :video], self.times[:, None].expand(-1, video))
        assert (seen[0][:, video:] == 0).all()


class TestHunyuan(RotarySuite):
    spec = BackboneSpec("hunyuan")
    shape = (4, 3, 8, 8)
    embedded: ClassVar[float] = 1.0

    def own_forward(self, backbone: Backbone, x: Tensor, t: Tensor, texts: list[str]) -> Tensor:
        pipe = backbone.pipeline()
        embeddings, pooled, mask = pipe.encode_prompt(texts)
        return pipe.transformer(
            hidden_states=x,
            timestep=t.float(),
            encoder_hidden_states=embeddings,
            encoder_attention_mask=mask.float(),
            pooled_projections=pooled,
            guidance=torch.full((len(x),), 1000.0),
            return_dict=False,
        )[0]

    def own_sample(self, backbone: Backbone, noise: Tensor, text: str, steps: int, scale: float) -> Tensor:
        return backbone.pipeline()(
            prompt=text,
            negative_prompt="",
            height=64,
            width=64,
            num_frames=9,
            num_inference_steps=steps,
            true_cfg_scale=scale,
            latents=noise,
            output_type="latent",
        ).frames  # diffusers' default tells the model a guidance of 6, and so does ours

    def own_latents(self, backbone: Backbone, mode: Tensor) -> Tensor:
        return mode * 0.476986

    def positions(self, model: Any, count: int, offset: tuple[float, float, float]) -> Tensor:
        rope = model.transformer.rope
        with rope.at(Layout(3, count, offset, model.placement)):
            return torch.cat(rope(torch.zeros(1, 4, 3 + count, 8, 8)), dim=-1)

    def test_it_is_told_its_guidance_and_that_changes_what_it_predicts(self, model: Backbone, text: Tensor) -> None:
        assert model.guidance_distilled
        trained, sampled = (
            model.predict(self.x(), self.times, text, embedded_guidance=scale)
            for scale in (1.0, model.embedded_guidance)
        )
        assert not torch.equal(trained, sampled)
        assert torch.equal(trained, model.predict(self.x(), self.times, text))

    def test_the_prompt_begins_where_the_template_ends_and_is_heard_to_its_last_token(self, model: Backbone) -> None:
        first, other, long = model.encode_text(["ab", "cb", "a" * 300])
        assert not torch.equal(first[1], other[1])  # row 0 is CLIP's
        assert long.ne(0).any(dim=1).all()
        left, right = model.encode_text(["a" * 255 + "b", "a" * 255 + "c"])
        assert torch.equal(left[1:-1], right[1:-1])  # Llama looks back only
        assert not torch.equal(left[-1], right[-1])


class TestLtx(RotarySuite):
    spec = BackboneSpec("ltx")
    shape = (8, 3, 8, 8)

    def own_forward(self, backbone: Backbone, x: Tensor, t: Tensor, texts: list[str]) -> Tensor:
        pipe = backbone.pipeline()
        embeddings, mask, _, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
        out = pipe.transformer(
            hidden_states=pipe._pack_latents(x),
            encoder_hidden_states=embeddings,
            timestep=t,
            encoder_attention_mask=mask,
            num_frames=x.shape[2],
            height=x.shape[3],
            width=x.shape[4],
            rope_interpolation_scale=(4 / 25, 4, 4),
            return_dict=False,
        )[0]
        return pipe._unpack_latents(out, *x.shape[2:])

    def own_sample(self, backbone: Backbone, noise: Tensor, text: str, steps: int, scale: float) -> Tensor:
        pipe = backbone.pipeline()
        packed = pipe(
            prompt=text,
            height=32,
            width=32,
            num_frames=9,
            num_inference_steps=steps,
            guidance_scale=scale,
            latents=pipe._pack_latents(noise),
            output_type="latent",
        ).frames
        return pipe._unpack_latents(packed, *noise.shape[2:])

    def own_latents(self, backbone: Backbone, mode: Tensor) -> Tensor:
        vae = backbone.vae
        return backbone.pipeline()._normalize_latents(mode, vae.latents_mean, vae.latents_std, 0.7)

    def positions(self, model: Any, count: int, offset: tuple[float, float, float]) -> Tensor:
        return model.coordinates(Layout(3, count, offset, model.placement), 8, 8).T


def test_models_that_take_images_or_two_transformers_are_refused_by_reason() -> None:
    for changes, reason in (
        ({"transformer": {"in_channels": 9}}, "image-to-video or VACE"),
        ({"settings": {"boundary_ratio": 0.875}}, "two transformers"),
    ):
        model = Wan(
            RandomComponents(merged(tiny_config("wan"), changes), Wan.part_classes, 0),
            device=torch.device("cpu"),
            dtype=torch.float32,
            config_digest="",
            weights_note="variant",
            placement=ReferencePlacement(),
        )
        with pytest.raises(ValueError, match=reason):
            _ = model.transformer


def test_a_distilled_model_is_guided_by_its_embedding_alone_unless_true_cfg_is_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load_backbone(BackboneSpec("hunyuan"))
    text, shape = model.encode_text([TEXTS[0], ""]), (4, 2, 8, 8)
    told: list[tuple[int, float]] = []
    predict = type(model).predict

    def spy(self: Backbone, x: Tensor, *rest: Any, embedded_guidance: float = 1.0) -> Tensor:
        told.append((len(x), embedded_guidance))
        return predict(self, x, *rest, embedded_guidance=embedded_guidance)

    monkeypatch.setattr(type(model), "predict", spy)
    references = draw(1, 1, 1, 4, 8, 8)
    sample(model, text[:1], text[1:], references, shape, 3, 1, Guidance.dynamic())
    assert told == [(1, 6.0)]
    told.clear()
    guidance = Guidance(text=Guidance.dynamic().text, reference=Guidance.dynamic().reference, true_cfg=True)
    sample(model, text[:1], text[1:], references, shape, 3, 1, guidance)
    assert told == [(2, 6.0)]

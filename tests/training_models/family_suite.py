"""What every backbone family must hold, as one mixin: a family's test class names its model and its diffusers calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone, pad_text, trim_text
from models.backbones.load import BackboneSpec, family_class, load_backbone
from models.training.batch import Batch
from models.training.guidance import Guidance, Schedule
from models.training.loop import TrainSpec, train
from models.training.lora import (
    LoraSpec,
    adapter_names,
    adapter_parameters,
    adapter_state,
    add_lora,
    only_adapters,
    remove_adapter,
    save_adapter,
)
from models.training.methods import Sft
from models.training.objective import denoising_error_B
from models.training.sampling import initial_noise, sample
from tests.training_models.conftest import draw

TEXTS = ["Ref 1: a red cup. Video: Ref 1[a red cup] falls", "a dog runs"]


class FamilySuite:
    """Subclasses say ``spec``, the latent ``shape`` (C, F, H, W) of two samples, and how diffusers itself is called."""

    spec: ClassVar[BackboneSpec]
    shape: ClassVar[tuple[int, int, int, int]]
    frames: ClassVar[int] = 9
    """Pixel frames that the codec takes and gives back."""
    times: ClassVar[Tensor] = torch.tensor([20, 900])

    # What a family's class fills in

    def own_forward(self, backbone: Backbone, x: Tensor, t: Tensor, texts: list[str]) -> Tensor:
        """One forward of a plain diffusers pipeline, without any code of ours."""
        raise NotImplementedError

    def own_sample(self, backbone: Backbone, noise: Tensor, text: str, steps: int, scale: float) -> Tensor:
        """Latents of the plain diffusers pipeline from this noise, guided by ``scale``."""
        raise NotImplementedError

    def own_latents(self, backbone: Backbone, mode: Tensor) -> Tensor:
        """The codec's latents normalised as the diffusers pipeline normalises them."""
        raise NotImplementedError

    # Fixtures

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls) -> Backbone:
        return load_backbone(cls.spec)

    @pytest.fixture
    def model(self, loaded: Backbone) -> Iterator[Backbone]:
        yield loaded
        for name in sorted(adapter_names(loaded)):
            remove_adapter(loaded, name)

    @pytest.fixture(scope="class")
    @classmethod
    def text(cls, loaded: Backbone) -> Tensor:
        return loaded.encode_text(TEXTS)

    def x(self, seed: int = 0) -> Tensor:
        return draw(seed, 2, *self.shape)

    def references(self, count: int = 1, seed: int = 1) -> Tensor:
        channels, _, height, width = self.shape
        return draw(seed, 2, count, channels, height, width)

    # Load

    def test_it_says_what_it_is(self, model: Backbone) -> None:
        assert isinstance(model, family_class(self.spec.family))
        height, width = (size * model.spatial_factor for size in self.shape[2:])
        assert model.latent_shape(self.frames, height, width) == self.shape
        fresh = load_backbone(self.spec)
        fresh.latent_shape(self.frames, height, width)
        assert "transformer" not in fresh.__dict__  # a worker that encodes holds no transformer
        with pytest.raises(ValueError, match="do not fit"):
            model.latent_shape(self.frames, height + 1, width)
        with pytest.raises(ValueError, match="do not fit"):
            model.latent_shape(self.frames + 1, height, width)

    # Codec and text

    def test_latents_are_normalised_as_diffusers_does_and_back(self, model: Backbone) -> None:
        height, width = (size * model.spatial_factor for size in self.shape[2:])
        video = draw(0, 1, 3, self.frames, height, width).clamp(-1, 1)
        vae: Any = model.vae
        with torch.no_grad():
            mode = vae.encode(video).latent_dist.mode()
            decoded = vae.decode(mode).sample
        latents = model.encode_video(video)
        assert tuple(latents.shape[1:]) == self.shape
        torch.testing.assert_close(latents[:, :, -mode.shape[2] :], self.own_latents(model, mode), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model.decode_video(latents), decoded, rtol=0, atol=1e-4)

    def test_a_reference_is_one_latent_frame_of_the_same_scale(self, model: Backbone) -> None:
        height, width = (size * model.spatial_factor for size in self.shape[2:])
        picture = draw(0, 2, 3, height, width)
        reference = model.encode_reference(picture)
        assert reference.shape == (2, self.shape[0], *self.shape[2:])
        assert torch.equal(reference, model.encode_video(picture[:, :, None])[:, :, -1])

    def test_text_without_its_padding_is_the_same_text(self, model: Backbone, text: Tensor) -> None:
        assert text.shape[:2] == (2, model.text_length)
        trimmed = [trim_text(row) for row in text]
        assert all(len(row) <= model.text_length for row in trimmed)
        again = torch.stack([pad_text(row, model.text_length) for row in trimmed])
        assert torch.equal(again, text)
        assert not torch.equal(text[0], text[1])

    # Denoising

    def test_without_references_it_is_the_base_bit_for_bit(self, model: Backbone, text: Tensor) -> None:
        with torch.no_grad():
            ours = model.predict(self.x(), self.times, text)
            assert torch.equal(ours, self.own_forward(model, self.x(), self.times, TEXTS))
        assert not torch.equal(ours, model.predict(self.x(), self.times, text.flip(0)))  # the text is heard

    @pytest.mark.parametrize("count", [1, 2, 3, 4])
    def test_references_condition_the_video(self, model: Backbone, text: Tensor, count: int) -> None:
        with torch.no_grad():
            plain = model.predict(self.x(), self.times, text)
            seen = model.predict(self.x(), self.times, text, self.references(count))
            other = model.predict(self.x(), self.times, text, self.references(count, seed=2))
        assert seen.shape == plain.shape == self.x().shape
        assert seen.isfinite().all()
        assert not torch.equal(seen, plain)
        assert not torch.equal(seen, other)

    def test_references_are_not_scored(self, model: Backbone, text: Tensor) -> None:
        outputs: list[Tensor] = []

        def keep(_module: object, _inputs: object, output: Tensor) -> Tensor:
            outputs.append(output.detach().requires_grad_(True))
            return outputs[-1]

        transformer: Any = model.transformer
        hook = transformer.proj_out.register_forward_hook(keep)
        try:
            denoising_error_B(model, self.x(), self.x(3), self.times, text, self.references(2)).sum().backward()
        finally:
            hook.remove()
        gradient = outputs[0].grad
        assert gradient is not None
        frame = self.tokens_per_frame(model)
        assert gradient.shape[1] >= 2 * frame
        assert (gradient[:, : -2 * frame] != 0).any(dim=2).all()
        assert (gradient[:, -2 * frame :] == 0).all()

    def tokens_per_frame(self, model: Any) -> int:
        _, rows, columns = model.patch
        return (self.shape[2] // rows) * (self.shape[3] // columns)

    def test_alpha_and_sigma_make_the_noised_latents_and_the_target(self, model: Backbone) -> None:
        x0, noise = self.x(), self.x(5)
        alpha, sigma = (part.view(-1, 1, 1, 1, 1) for part in model.signal_and_noise(self.times))
        x_t = model.add_noise(x0, noise, self.times)
        torch.testing.assert_close(x_t, alpha * x0 + sigma * noise)
        wanted = noise - x0 if model.prediction == "flow" else alpha * noise - sigma * x0
        torch.testing.assert_close(model.target(x0, noise, self.times), wanted)

    # Adapters and training

    def test_with_its_adapters_off_it_is_the_base_bit_for_bit(self, model: Backbone, text: Tensor) -> None:
        with torch.no_grad():
            before = model.predict(self.x(), self.times, text, self.references())
            self.grown_adapter(model)
            on = model.predict(self.x(), self.times, text, self.references())
            with only_adapters(model, []):
                off = model.predict(self.x(), self.times, text, self.references())
        assert torch.equal(off, before)
        assert not torch.equal(on, before)

    def grown_adapter(self, model: Backbone, name: str = "one") -> None:
        add_lora(model, LoraSpec(rank=2, alpha=4.0), name, seed=1)
        for number, parameter in enumerate(adapter_parameters(model, name).values()):
            parameter.data = draw(100 + number, *parameter.shape) * 0.3

    def test_activation_checkpointing_gives_the_same_gradients(self, model: Backbone, text: Tensor) -> None:
        self.grown_adapter(model)
        parameter = next(iter(adapter_parameters(model, "one").values()))
        transformer: Any = model.transformer
        gradients = []
        for on in (False, True):
            (transformer.enable_gradient_checkpointing if on else transformer.disable_gradient_checkpointing)()
            parameter.grad = None
            model.predict(self.x(), self.times, text, self.references()).square().mean().backward()
            gradients.append(parameter.grad)
        transformer.disable_gradient_checkpointing()
        assert torch.equal(*gradients)

    def test_bfloat16_runs_and_stays_close(self, model: Backbone, text: Tensor) -> None:
        half = load_backbone(BackboneSpec(self.spec.family, self.spec.weights, dtype="bfloat16"))
        with torch.no_grad():
            whole = model.predict(self.x(), self.times, text, self.references())
            prediction = half.predict(self.x(), self.times, text, self.references())
        assert prediction.dtype == torch.bfloat16
        # bfloat16 keeps 8 bits: an error of a few 2^-8 after two blocks of these sizes
        assert (prediction.float() - whole).abs().max() < 0.05 * whole.abs().max()

    def test_an_adapter_is_active_in_a_plain_diffusers_pipeline(self, model: Backbone, tmp_path: Path) -> None:
        text = model.encode_text(TEXTS)
        model.pipeline().save_pretrained(tmp_path / "base")
        self.grown_adapter(model)
        save_adapter(adapter_state(model, "one"), tmp_path / "adapter")
        with torch.no_grad():
            ours = model.predict(self.x(), self.times, text)
        import diffusers

        pipe = getattr(diffusers, type(model.pipeline()).__name__).from_pretrained(tmp_path / "base")
        fresh = load_backbone(BackboneSpec(self.spec.family, str(tmp_path / "base")))
        with torch.no_grad():
            bare = fresh.predict(self.x(), self.times, text)
        pipe.load_lora_weights(tmp_path / "adapter", adapter_name="one")
        assert pipe.get_list_adapters() == {"transformer": ["one"]}  # diffusers can load nothing and say nothing
        fresh.__dict__["transformer"] = pipe.transformer
        with torch.no_grad():
            theirs = self.own_forward(fresh, self.x(), self.times, TEXTS)
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(theirs, bare, rtol=1e-4, atol=1e-5)

    def test_one_batch_can_be_learnt(self, text: Tensor) -> None:
        model = load_backbone(self.spec)
        batch = Batch(
            sample_ids=("a", "b"),
            text_BLD=text,
            noise_BCFHW=self.x(7),
            t_B=torch.tensor([300, 700]),
            references_BRCHW=self.references(),
            latents_BCFHW=self.x(8),
        )
        losses: list[float] = []
        train(
            model,
            Sft(LoraSpec(rank=8, alpha=16.0, targets=self.targets)),
            lambda _: batch,
            TrainSpec(steps=60, learning_rate=2e-2, weight_decay=0.0),
            None,
            lambda _, metrics: losses.append(metrics["loss"]),
        )
        # Adapters on a random base: its frozen read-out limits how far they get.
        assert losses[-1] < 0.85 * losses[0]

    targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")

    # Sampling

    @pytest.mark.parametrize("scale", [1.0, 4.0])
    def test_plain_guidance_is_diffusers_own_sampler(self, model: Backbone, scale: float) -> None:
        text, null = model.encode_text(TEXTS[:1]), model.encode_text([""])
        guidance = Guidance(text=Schedule.constant(scale), true_cfg=True)
        ours = sample(model, text, null, None, self.shape, seed=3, steps=4, guidance=guidance)
        theirs = self.own_sample(model, initial_noise([3], self.shape), TEXTS[0], 4, scale)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        if scale == 1.0:
            assert torch.equal(ours, theirs)


class RotarySuite(FamilySuite):
    """What a family with rotary positions must hold beside the rest."""

    def positions(self, model: Any, count: int, offset: tuple[float, float, float]) -> Tensor:
        """(tokens, ...) positions or rotary tables of the video's tokens and then the references', one to a row."""
        raise NotImplementedError

    @pytest.mark.parametrize("offset", [(3.0, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, -2.0), (1.25, 2.0, 2.0)])
    def test_an_offset_moves_reference_positions_and_no_others(
        self, model: Backbone, offset: tuple[float, float, float]
    ) -> None:
        still, moved = self.positions(model, 2, (0.0, 0.0, 0.0)), self.positions(model, 2, offset)
        video = len(still) - 2 * self.tokens_per_frame(model)
        assert torch.equal(still[:video], moved[:video])
        assert (still[video:] != moved[video:]).flatten(1).any(dim=1).any()

    def test_references_stand_where_the_video_would_go_on(self, model: Backbone) -> None:
        # Reference 1 at F + 1 is reference 0 moved by one frame.
        frame = self.tokens_per_frame(model)
        two, moved = self.positions(model, 2, (0.0, 0.0, 0.0)), self.positions(model, 1, (1.0, 0.0, 0.0))
        torch.testing.assert_close(two[-frame:], moved[-frame:], rtol=0, atol=1e-6)

    def test_an_offset_changes_the_prediction_only_through_references(self, model: Backbone, text: Tensor) -> None:
        with torch.no_grad():
            plain = model.predict(self.x(), self.times, text, self.references())
            still = model.predict(self.x(), self.times, text, self.references(), (0.0, 0.0, 0.0))
            moved = model.predict(self.x(), self.times, text, self.references(), (2.0, 0.0, 0.0))
            alone = model.predict(self.x(), self.times, text, None, (2.0, 0.0, 0.0))
            bare = model.predict(self.x(), self.times, text)
        assert torch.equal(still, plain)
        assert not torch.equal(moved, plain)
        assert torch.equal(alone, bare)

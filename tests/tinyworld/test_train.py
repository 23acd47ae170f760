"""The trainers: resumed runs equal unbroken ones, data are pure functions, the codec and the tokenizer keep their word."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tinyworld.train  # noqa: F401  makes diffusers importable
from models.backbones.linear_codec import LinearVideoCodec
from tinyworld.train import base, codec, text
from tinyworld.train.encoder import close_up
from tinyworld.train.pictures import DEFECTS, Pool, cut, picture_of
from tinyworld.train.scenes import any_scene, render
from tinyworld.train.stock import Stock
from tinyworld.world import generator


@pytest.fixture(scope="module")
def small_codec() -> LinearVideoCodec:
    return codec.fit(clips=60, channels=48)


def test_the_codec_has_the_geometry_of_cogvideox(small_codec: LinearVideoCodec) -> None:
    video = torch.rand(2, 3, 9, 24, 16) * 2 - 1
    latents = small_codec.encode(video).latent_dist.mode()
    assert latents.shape == (2, 48, 3, 6, 4)
    assert small_codec.decode(latents).sample.shape == video.shape
    assert small_codec.encode(video[:, :, :1]).latent_dist.mode().shape == (2, 48, 1, 6, 4)
    with pytest.raises(ValueError, match="multiples of 4"):
        small_codec.encode(torch.zeros(1, 3, 8, 24, 24))


def test_what_lies_in_the_codecs_span_comes_back_exactly(small_codec: LinearVideoCodec) -> None:
    once = small_codec.decode(small_codec.encode(torch.rand(2, 3, 9, 8, 8)).latent_dist.mode())
    latents = small_codec.encode(once.sample).latent_dist.mode()
    # The first frame is averaged from four copies, which need not be alike; the rest is a projection.
    twice = small_codec.decode(latents).sample
    assert torch.allclose(twice[:, :, 1:], once.sample[:, :, 1:], atol=1e-4)


def test_a_fitted_codec_beats_fewer_channels_and_survives_the_disk(
    small_codec: LinearVideoCodec, tmp_path: Path
) -> None:
    video = codec.to_unit(render(any_scene(seed, None, "test")).video for seed in range(40))

    def error(one: LinearVideoCodec) -> float:
        return float((one.decode(one.encode(video).latent_dist.mode()).sample - video).square().mean())

    assert error(small_codec) < error(codec.fit(clips=60, channels=24)) < float(video.var())
    small_codec.save_pretrained(tmp_path)
    again = LinearVideoCodec.from_pretrained(tmp_path)
    assert torch.equal(again.encode(video).latent_dist.mode(), small_codec.encode(video).latent_dist.mode())


def test_every_prompt_of_the_layout_fits_and_every_word_of_captions_is_known() -> None:
    tokenizer = text.make_tokenizer()
    longest = (
        "Ref 1: a toy crescent, mostly red and white. "
        "Video: Ref 1[a toy crescent] moves left over grass, the camera pans left"
    )
    ids = tokenizer(longest).input_ids
    assert len(ids) <= text.LENGTH
    assert ids[-1] == tokenizer.eos_token_id
    for seed in range(60):
        scene = any_scene(seed, None, "words")
        assert tokenizer.unk_token_id not in tokenizer(scene.caption).input_ids
        assert tokenizer.unk_token_id not in tokenizer(scene.actors[0].identity.appearance).input_ids
    assert tokenizer.unk_token_id in tokenizer("a zebra").input_ids


def test_words_that_captions_never_use_start_without_meaning() -> None:
    encoder, words = text.make_text_encoder(), text.vocabulary()
    weights = encoder.shared.weight
    assert float(weights[words.index("striped")].detach().abs().max()) == 0.0
    assert float(weights[words.index("star")].detach().abs().max()) > 0.0


def test_a_taught_reader_says_the_motion_at_every_token_of_a_prompt() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer, encoder = text.make_tokenizer(), text.make_text_encoder()
    captions = [f"a toy star {said} over grass" for said in ("moves left", "spins around")]
    tokens = tokenizer(captions, padding="max_length", max_length=text.LENGTH, return_tensors="pt").input_ids

    def apart() -> float:
        with torch.no_grad():
            one, two = torch.nn.functional.normalize(encoder(tokens)[0], dim=-1)
        return float((one - two).norm(dim=-1).min())

    before = apart()
    losses = text.teach(encoder, tokenizer, seed=0, steps=60)
    assert losses[-1] < losses[0] / 2
    assert apart() > max(0.2, 2 * before)


@given(box=st.tuples(*[st.floats(0, 1)] * 4), nearness=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_a_close_up_holds_the_subject(box: tuple[float, ...], nearness: float, seed: int) -> None:
    left, right = sorted((box[0], box[2]))
    top, bottom = sorted((box[1], box[3]))
    hypothesis.assume(right - left > 0.05)
    hypothesis.assume(bottom - top > 0.05)
    picture = np.zeros((128, 128, 3), np.uint8)
    inside = np.s_[round(top * 128) : round(bottom * 128), round(left * 128) : round(right * 128)]
    picture[inside] = 255
    shown, seen = close_up(picture, np.array([left, top, right, bottom]), nearness, np.random.default_rng(seed))
    assert shown.shape == (64, 64, 3)
    scale = shown.astype(float).sum() / picture.astype(float).sum()
    assert (seen >= 0).all()
    assert (seen <= 1).all()
    assert (seen[2:] - seen[:2]).prod() == pytest.approx((shown > 127).mean(), abs=0.08)
    window = 64 / np.sqrt(scale)  # the subject is whole when nothing of its area is lost
    expected = 128 ** (1 - nearness) * min(128, 1.2 * 128 * max(right - left, bottom - top)) ** nearness
    assert window == pytest.approx(max(8, expected), rel=0.2)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("stock") / "clips.npz", 12)


def recipe(steps: int) -> base.BaseRecipe:
    return base.BaseRecipe(steps=steps, batch=2, warmup=2, taught=2)


def test_a_resumed_run_equals_an_unbroken_one(small_codec: LinearVideoCodec, stock: Stock, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = base.Trainer(tmp_path / "whole", recipe(4), small_codec, stock)
    list(whole.run())
    broken = base.Trainer(tmp_path / "broken", recipe(4), small_codec, stock)
    list(broken.run(until=2))
    resumed = base.Trainer(tmp_path / "broken", recipe(4), small_codec, stock)
    assert resumed.step == 2
    list(resumed.run())
    assert resumed.losses == whole.losses
    assert all(torch.equal(a, b) for a, b in zip(resumed.average, whole.average, strict=True))
    with pytest.raises(ValueError, match="another recipe"):
        base.Trainer(tmp_path / "broken", base.BaseRecipe(steps=4, batch=3, warmup=2, taught=2), small_codec, stock)


def test_an_exported_base_loads_like_any_diffusers_folder(
    small_codec: LinearVideoCodec, stock: Stock, tmp_path: Path
) -> None:
    trainer = base.Trainer(tmp_path / "work", recipe(1), small_codec, stock)
    list(trainer.run())
    trainer.export(tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "transformer" / "config.json").read_text()
    backbone = base.open_base(tmp_path / "out")
    assert backbone.latent_shape(9, 24, 24) == (48, 3, 6, 6)
    assert backbone.encode_text(["a toy star moves left over grass"]).shape == (1, text.LENGTH, 64)
    loaded = [p for module in (backbone.transformer, backbone.text_encoder) for p in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(loaded, trainer.average, strict=True))


def test_a_batch_depends_on_its_step_alone(small_codec: LinearVideoCodec, stock: Stock, tmp_path: Path) -> None:
    base.initialise(tmp_path, small_codec, recipe(9))
    backbone = base.open_base(tmp_path)
    first, other, again = (base.make_batch(step, recipe(9), backbone, stock) for step in (3, 4, 3))
    assert torch.equal(first.latents, again.latents)
    assert first.prompts == again.prompts
    assert not torch.equal(first.latents, other.latents)
    assert 0.0 <= float(first.share.min()) < float(first.share.max()) <= 1.0


def test_training_shows_no_held_out_identity() -> None:
    assert not any(any_scene(seed).actors[0].identity.held_out for seed in range(200))


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_spoilt_picture_differs_from_its_clean_one(kind: str) -> None:
    scene = any_scene(5, None, "spoilt")
    clean, box = picture_of(scene, None, generator("spoilt"))
    spoilt, whole = picture_of(scene, kind, generator("spoilt"))
    assert spoilt.shape == clean.shape == (64, 64, 3)
    assert whole == (0, 0, 1, 1)
    assert 0 <= box[0] < box[2] <= 1
    assert 0 <= box[1] < box[3] <= 1
    assert np.abs(spoilt.astype(int) - clean.astype(int)).mean() > 2


def test_a_crop_shows_the_subject_on_white_and_nothing_else() -> None:
    clip = render(any_scene(8, None, "cut"), side=64)
    picture = cut(clip.video[4], clip.mask[4])
    assert picture.shape == (64, 64, 3)
    assert (picture[0, 0] == 255).all() or (picture[-1, -1] == 255).all()
    empty = cut(clip.video[4], np.zeros_like(clip.mask[4]))
    assert (empty == 255).all()


def test_the_stock_of_pictures_is_made_once(tmp_path: Path) -> None:
    first = Pool(tmp_path / "pool.npz", frames=4, subjects=3)
    stamp = (tmp_path / "pool.npz").stat().st_mtime_ns
    again = Pool(tmp_path / "pool.npz", frames=4, subjects=3)
    assert (tmp_path / "pool.npz").stat().st_mtime_ns == stamp
    assert np.array_equal(first.frames, again.frames)
    assert first.crops.shape == (3, 2, 64, 64, 3)

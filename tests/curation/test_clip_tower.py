"""The encoder is open_clip's, its batches change nothing, and it is never random unless its name says so."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.scorers.clip_tower import (
    ClipTower,
    EncoderError,
    EncoderSpec,
    encoder_digests,
    encoder_name,
    load_head,
)


def picture(seed: int, size: tuple[int, int] = (90, 160)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(cv_smooth(pixels)).save(buffer, "JPEG")
    return buffer.getvalue()


def cv_smooth(pixels: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.resize(cv2.resize(pixels, (4, 3)), (pixels.shape[1], pixels.shape[0]))


@pytest.fixture(scope="module")
def tower() -> ClipTower:
    return ClipTower(EncoderSpec())


def test_it_is_the_clip_class_of_open_clip(tower: ClipTower) -> None:
    import open_clip

    assert isinstance(tower.model, open_clip.CLIP)
    assert not tower.model.training


def test_embeddings_are_unit_and_tell_pictures_apart(tower: ClipTower) -> None:
    vectors = tower.images([picture(1), picture(2), picture(1)])
    assert vectors.shape == (3, tower.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(tower: ClipTower) -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = ClipTower(EncoderSpec())
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(again.images([picture(3)]), tower.images([picture(3)]))
    other = ClipTower(EncoderSpec(seed=1)).images([picture(3)])
    assert not np.allclose(other, tower.images([picture(3)]), atol=1e-3)


def test_the_size_of_a_batch_does_not_change_a_score(tower: ClipTower) -> None:
    pictures = [picture(seed, (60 + seed, 100)) for seed in range(7)]
    alone = ClipTower(EncoderSpec(), batch=1).images(pictures)
    # float32 sums in another order: a few units in the last place
    np.testing.assert_allclose(tower.images(pictures), alone, atol=2e-6)


def test_captions_are_cut_at_the_context_length_and_unicode_passes(tower: ClipTower) -> None:
    vectors = tower.texts(["a cat", "кошка на ковре 🐈", "word " * 500, ""])
    assert vectors.shape == (4, tower.dim)
    assert np.isfinite(vectors).all()


def test_nothing_to_encode_gives_nothing(tower: ClipTower) -> None:
    assert tower.images([]).shape == (0, tower.dim)
    assert tower.texts([]).shape == (0, tower.dim)


def test_missing_weights_are_an_error_that_names_the_file() -> None:
    with pytest.raises(EncoderError, match=r"/nowhere/clip.safetensors does not exist"):
        encoder_digests(EncoderSpec(model="ViT-B-32", weights="/nowhere/clip.safetensors"))
    with pytest.raises(EncoderError, match="ViT-B-32 has no weights"):
        encoder_digests(EncoderSpec(model="ViT-B-32"))
    with pytest.raises(EncoderError, match="takes no weights"):
        encoder_digests(EncoderSpec(weights="x.safetensors"))


def test_a_wrong_checksum_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    with pytest.raises(EncoderError, match="has sha256"):
        encoder_digests(EncoderSpec(model="ViT-B-32", weights=str(file), sha256="0" * 64))
    right = hashlib.sha256(b"weights").hexdigest()
    assert encoder_digests(EncoderSpec(model="ViT-B-32", weights=str(file), sha256=right)) == {"encoder": right}


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match="open_clip cannot load it"):
        ClipTower(EncoderSpec(model="ViT-B-32", weights=str(tmp_path / "w.safetensors")))


def test_a_folder_in_open_clips_layout_loads_with_its_own_weights(tower: ClipTower, tmp_path: Path) -> None:
    import json

    from safetensors.torch import save_file

    config = {
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 64},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
        },
        "preprocess_cfg": {"size": [64, 64]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    spec = EncoderSpec(model=f"local-dir:{tmp_path}")
    with pytest.raises(EncoderError, match=r"holds no open_clip_model.safetensors"):
        encoder_digests(spec)
    save_file(tower.model.state_dict(), tmp_path / "open_clip_model.safetensors")
    loaded = ClipTower(spec)
    np.testing.assert_array_equal(loaded.images([picture(1)]), tower.images([picture(1)]))
    np.testing.assert_array_equal(loaded.texts(["a dog"]), tower.texts(["a dog"]))
    assert encoder_name(spec).startswith(tmp_path.name)


def test_bf16_weights_give_nearly_the_same_direction(tower: ClipTower) -> None:
    half = ClipTower(EncoderSpec(precision="bf16")).images([picture(1)])
    assert float((half * tower.images([picture(1)])).sum()) > 0.99
    assert "bf16" in encoder_name(EncoderSpec(precision="bf16"))


def test_the_name_says_that_weights_are_random() -> None:
    assert encoder_name(EncoderSpec(seed=3)) == "tiny-random (random weights, seed 3)"


def test_a_stack_of_linear_layers_is_read_as_the_one_map_it_is(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    layers = {
        "layers.0.weight": rng.normal(size=(5, 8)), "layers.0.bias": rng.normal(size=5),
        "layers.2.weight": rng.normal(size=(3, 5)), "layers.2.bias": rng.normal(size=3),
        "layers.10.weight": rng.normal(size=(1, 3)), "layers.10.bias": rng.normal(size=1),
    }  # fmt: skip
    save_file({k: v.astype(np.float32) for k, v in layers.items()}, tmp_path / "head.safetensors")
    x = rng.normal(size=(4, 8))
    expected = x
    for index in (0, 2, 10):
        expected = expected @ layers[f"layers.{index}.weight"].T + layers[f"layers.{index}.bias"]
    np.testing.assert_allclose(load_head(tmp_path / "head.safetensors")(x), expected[:, 0], rtol=1e-5)


def test_a_head_that_is_no_linear_map_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros((2, 8), np.float32), "bias": np.zeros(2, np.float32)}, tmp_path / "head.safetensors")
    with pytest.raises(EncoderError, match="not a stack of linear layers to one score"):
        load_head(tmp_path / "head.safetensors")
    with pytest.raises(EncoderError, match="cannot be read"):
        load_head(tmp_path / "nothing.safetensors")

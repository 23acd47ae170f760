"""The adapters over transformers' real classes, at tiny size with random weights: shapes, batches, devices and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.captioners.local import LocalWriter
from models.captioners.protocols import Writer, WriterUnavailable
from models.compat import prepare
from models.subjects.frames import png
from models.subjects.grounding_dino import GroundingDino
from models.subjects.load import Choice, Models
from models.subjects.protocols import Grounder, IdentityEncoder, Proposal, Segmenter, Tracker
from models.subjects.sam2 import Sam2Segmenter, Sam2Tracker, box_of
from models.subjects.vision_encoders import ClipEncoder, Dinov2Encoder
from models.subjects.weights import Weights, WeightsError
from tests.subjects import tiny

torch.set_num_threads(1)
prepare()

FRAMES = np.random.default_rng(0).integers(0, 255, (4, 60, 80, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Weights]:
    root = tmp_path_factory.mktemp("weights")

    def made(name: str) -> Weights:
        if not (root / name).exists():
            getattr(tiny, name)(root / name)
        return Weights(str(root / name))

    return made


def test_the_grounder_gives_boxes_of_each_phrase_and_the_batch_changes_nothing(
    folders: Callable[[str], Weights],
) -> None:
    one = GroundingDino(folders("grounding_dino"), box=0.0, text=0.0, batch=1)
    many = GroundingDino(folders("grounding_dino"), box=0.0, text=0.0, batch=8)
    assert isinstance(one, Grounder)
    phrases = ["a brown dog", "The red car"]
    found, again = one.ground(FRAMES, [0, 2], phrases), many.ground(FRAMES, [0, 2], phrases)
    assert [len(f) for f in found] == [len(f) for f in again]
    assert {p.phrase for p in found[0]} == set(phrases)
    for mine, other in zip(found, again, strict=True):
        assert [p.confidence for p in mine] == sorted((p.confidence for p in mine), reverse=True)
        for a, b in zip(mine, other, strict=True):
            assert a.confidence == pytest.approx(b.confidence, abs=1e-3)
            x0, y0, x1, y1 = a.box
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1
    assert one.ground(FRAMES, [0, 1], []) == [[], []]
    assert GroundingDino(folders("grounding_dino"), box=0.999).ground(FRAMES, [0], phrases) == [[]]


def test_the_segmenter_gives_a_mask_of_the_picture_and_its_box(folders: Callable[[str], Weights]) -> None:
    segmenter = Sam2Segmenter(folders("sam2"))
    assert isinstance(segmenter, Segmenter)
    region = segmenter.segment(FRAMES[0], Proposal((0.2, 0.2, 0.8, 0.9), 0.5, "a dog"))
    assert region is not None
    assert region.mask.shape == (60, 80)
    assert set(np.unique(region.mask)) <= {0, 255}
    assert region.box == box_of(region.mask)
    assert region.phrase == "a dog"
    assert 0 <= region.confidence <= 0.5


def test_the_tracker_gives_a_mask_for_every_frame_and_keeps_the_one_it_was_given(
    folders: Callable[[str], Weights],
) -> None:
    tracker = Sam2Tracker(folders("sam2_video"))
    assert isinstance(tracker, Tracker)
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 30:60] = 255
    masks = tracker.track(FRAMES, 1, mask)
    assert [m.shape for m in masks] == [(60, 80)] * 4
    assert np.array_equal(masks[1], mask)
    assert all(set(np.unique(m)) <= {0, 255} for m in masks)
    with pytest.raises(ValueError, match="one size"):
        tracker.track(FRAMES, 0, mask[:10])


@pytest.mark.parametrize(("name", "make", "width"), [("dinov2", Dinov2Encoder, 32), ("clip", ClipEncoder, 24)])
def test_encoders_give_unit_vectors_that_do_not_see_the_background(
    folders: Callable[[str], Weights], name: str, make: Callable[..., IdentityEncoder], width: int
) -> None:
    encoder, small = make(folders(name), batch=8), make(folders(name), batch=1)
    assert isinstance(encoder, IdentityEncoder)
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 20:70] = 255
    other_ground = np.where(mask[..., None] > 0, FRAMES[0], 7).astype(np.uint8)
    pictures = [FRAMES[0], other_ground, FRAMES[1]]
    vectors = encoder.encode(pictures, [mask] * 3)
    assert vectors.shape == (3, width) == (3, encoder.width)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2])
    assert np.allclose(vectors, small.encode(pictures, [mask] * 3), atol=1e-5)
    assert encoder.encode([], []).shape == (0, width)
    with pytest.raises(ValueError, match="empty"):
        encoder.encode([FRAMES[0]], [np.zeros_like(mask)])
    with pytest.raises(ValueError, match="one size"):
        encoder.encode([FRAMES[0]], [mask[:9]])


def test_weights_are_named_by_their_content(folders: Callable[[str], Weights], tmp_path: Path) -> None:
    weights = folders("dinov2")
    same = tiny.dinov2(tmp_path / "same")
    assert Weights(str(same)).digest() == weights.digest()
    config = same / "preprocessor_config.json"
    config.write_text(config.read_text().replace("28", "14"))
    assert Weights(str(same)).digest() != weights.digest()
    assert weights.digest()[:16] in Dinov2Encoder(weights).name


def test_weights_that_cannot_be_trusted_are_refused(folders: Callable[[str], Weights], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no folder"):
        Weights("/nowhere/at/all").digest()
    with pytest.raises(WeightsError, match="needs revision"):
        Weights("facebook/dinov2-base", revision="main").digest()
    assert Weights("facebook/dinov2-base", revision="a" * 40).digest() == f"facebook/dinov2-base@{'a' * 40}"
    with pytest.raises(WeightsError, match=r"no config\.json"):
        Weights(str(tmp_path)).digest()
    with pytest.raises(WeightsError, match="no weights file has sha256"):
        Weights(folders("dinov2").source, sha256="0" * 64).digest()
    with pytest.raises(WeightsError, match="it is another model"):
        ClipEncoder(Weights(_disguised(folders("dinov2"), tmp_path / "other")))


def test_a_configuration_names_its_models_or_says_what_is_wrong(folders: Callable[[str], Weights]) -> None:
    weights = folders("dinov2")
    names = Models(encoder=Choice("dinov2", weights)).names()
    assert names == {
        "grounder": "motion-saliency/1",
        "segmenter": "grabcut/2",
        "tracker": "none",
        "encoder": f"dinov2 (sha256 {weights.digest()[:16]})",
        "faces": "none",
    }
    assert isinstance(Models(encoder=Choice("dinov2", weights)).load_encoder(), Dinov2Encoder)
    for wrong, why in (
        (Choice("embedded", weights), "takes no weights"),
        (Choice("dinov2"), "needs encoder.weights"),
        (Choice("vgg", weights), "there are embedded, dinov2, clip, open_clip"),
    ):
        with pytest.raises(WeightsError, match=why):
            Models(encoder=wrong).names()


def _disguised(weights: Weights, folder: Path) -> str:
    """Another model's weights under CLIP's configuration."""
    import shutil

    tiny.clip(folder)
    assert weights.folder is not None
    shutil.copy(weights.folder / "model.safetensors", folder / "model.safetensors")
    return str(folder)


def test_a_local_writer_answers_about_several_pictures_the_same_every_time(folders: Callable[[str], Weights]) -> None:
    writer = LocalWriter(folders("llava"), max_tokens=6)
    assert isinstance(writer, Writer)
    pictures = [png(FRAMES[0]), png(FRAMES[1])]
    answer = writer.ask("describe", pictures)
    assert answer.text
    assert 1 <= answer.tokens_out <= 6
    # USER, four tokens for each picture, describe, ASSISTANT
    assert answer.tokens_in == 1 + 2 * 4 + 1 + 1
    assert writer.ask("describe", pictures) == answer
    assert writer.ask("describe").tokens_in == 3


def test_a_local_writer_that_writes_nothing_is_no_caption(folders: Callable[[str], Weights]) -> None:
    writer = LocalWriter(folders("llava"), max_tokens=1)
    writer.processor.decode = lambda *args, **how: " "
    with pytest.raises(WriterUnavailable, match="wrote nothing"):
        writer.ask("describe")


def test_an_open_clip_tower_sees_the_subject_alone_on_a_white_square(tmp_path: Path) -> None:
    import json

    from safetensors.torch import save_file

    from models.scorers.clip_tower import ClipTower, EncoderSpec
    from models.subjects.open_clip_encoder import OpenClipEncoder, squared

    sizes = {"layers": 2, "width": 64}
    vision = {**sizes, "head_width": 32, "patch_size": 16, "image_size": 64}
    text = {**sizes, "context_length": 77, "vocab_size": 49408, "heads": 2}
    config = {
        "model_cfg": {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {"size": [64, 64]}
    }  # fmt: skip
    with pytest.raises(WeightsError, match=r"holds no open_clip_config\.json"):
        Models(encoder=Choice("open_clip", Weights(str(tmp_path)))).names()
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(ClipTower(EncoderSpec()).model.state_dict(), tmp_path / "open_clip_model.safetensors")
    models = Models(encoder=Choice("open_clip", Weights(str(tmp_path))))
    encoder = models.load_encoder()
    assert isinstance(encoder, OpenClipEncoder)
    assert isinstance(encoder, IdentityEncoder)
    assert models.names()["encoder"] == encoder.name
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:60] = 255
    vectors = encoder.encode(list(FRAMES[:2]), [mask, mask])
    assert vectors.shape == (2, encoder.width)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    other = FRAMES[0].copy()
    other[mask == 0] = 7  # another background
    assert np.array_equal(encoder.encode([other], [mask])[0], vectors[0])
    shown = squared(FRAMES[0], mask)
    assert shown.shape == (40, 40, 3)
    assert np.array_equal(shown[10:30], FRAMES[0][10:30, 20:60])
    assert (shown[:10] == 255).all()
    with pytest.raises(ValueError, match="empty"):
        encoder.encode([FRAMES[0]], [np.zeros((60, 80), np.uint8)])

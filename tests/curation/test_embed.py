"""Embedding works on content: what was encoded once is not encoded again, and a broken picture costs only its clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from data_schemas.tables import CANDIDATES, CAPTIONS, KEYFRAMES
from models.scorers.clip_tower import ClipTower, EncoderSpec
from stages.contract import StageError
from stages.curation.embed import EmbedParams, EncoderParams, embed
from tests.context import LocalContext


def jpeg(seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(small, (96, 72)))[1].tobytes()


def inputs(
    pictures: dict[str, list[bytes]], captions: dict[str, str], dropped: tuple[str, ...] = ()
) -> dict[str, pa.Table]:
    frames = [
        {"clip_id": clip, "position": i / len(found), "time_s": float(i), "jpeg": raw}
        for clip, found in pictures.items()
        for i, raw in enumerate(found)
    ]
    return {
        "candidates": CANDIDATES.table(
            [
                {"clip_id": c, "kept": c not in dropped, "first_failing_rule": "r" if c in dropped else None}
                for c in pictures
            ]
        ),
        "keyframes": KEYFRAMES.table(frames),
        "captions": CAPTIONS.table([{"clip_id": c, "caption": captions.get(c)} for c in pictures]),
    }


PICTURES = {"a": [jpeg(1), jpeg(2)], "b": [jpeg(3)], "c": [jpeg(4)], "d": [jpeg(5)]}


class Counter:
    """Counts pictures and captions that go through the towers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = self.texts = 0
        for name in ("images", "texts"):
            original = getattr(ClipTower, name)

            def counted(tower: ClipTower, items: Any, name: str = name, original: Any = original) -> np.ndarray:
                setattr(self, name, getattr(self, name) + len(items))
                return original(tower, items)  # type: ignore[no-any-return]

            monkeypatch.setattr(ClipTower, name, counted)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def rows_of(context: LocalContext) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in context.outputs["embeddings"].to_pylist()}


def test_each_candidate_gets_the_mean_of_its_key_frames_and_its_agreement_with_the_caption(tmp_path: Path) -> None:
    context = LocalContext(tmp_path, embed, inputs(PICTURES, {"a": "a cat", "c": "a dog"}, dropped=("d",)))
    context.run(EmbedParams(clips_per_batch=2, images_per_forward=3))
    rows = rows_of(context)
    assert sorted(rows) == ["a", "b", "c"]
    tower = ClipTower(EncoderSpec())
    mean = tower.images(PICTURES["a"]).mean(axis=0)
    unit = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(rows["a"]["vector"], unit, atol=2e-6)
    assert rows["a"]["clip_text"] == pytest.approx(float(unit @ tower.texts(["a cat"])[0]), abs=2e-6)
    assert rows["b"]["clip_text"] is None
    assert rows["a"]["aesthetic"] is None
    assert rows["a"]["encoder"] == "tiny-random (random weights, seed 0)"
    assert {row["record_id"]: row["status"] for row in context.ledger_rows} == dict.fromkeys("abc", "accepted")


def test_work_is_done_once_and_a_changed_caption_costs_a_text_only(tmp_path: Path, counter: Counter) -> None:
    LocalContext(tmp_path, embed, inputs(PICTURES, {"a": "a cat", "b": "a cat"})).run()
    assert (counter.images, counter.texts) == (5, 1)
    LocalContext(tmp_path, embed, inputs(PICTURES, {"a": "a cat", "b": "a tree"})).run()
    assert (counter.images, counter.texts) == (5, 2)
    more = {**PICTURES, "a": [jpeg(1), jpeg(9)], "e": [jpeg(3)]}  # a's picture changed; e shows what b shows
    context = LocalContext(tmp_path, embed, inputs(more, {}))
    context.run()
    assert (counter.images, counter.texts) == (7, 2)
    rows = rows_of(context)
    assert rows["e"]["vector"] == rows["b"]["vector"]
    LocalContext(tmp_path, embed, inputs(PICTURES, {})).run(EmbedParams(encoder=EncoderParams(seed=1)))
    assert counter.images == 12


def test_a_broken_picture_fails_its_clip_and_no_other(tmp_path: Path) -> None:
    pictures = {**PICTURES, "b": [jpeg(3), b"not a picture"], "e": []}
    context = LocalContext(tmp_path, embed, inputs(pictures, {}))
    context.run()
    assert sorted(rows_of(context)) == ["a", "c", "d"]
    failed = {row["record_id"]: row["error_type"] for row in context.ledger_rows if row["status"] == "failed"}
    assert failed == {"b": "UnidentifiedImageError", "e": "NoKeyFrames"}


def test_the_aesthetic_head_is_the_mean_over_key_frames_and_a_new_head_encodes_nothing(
    tmp_path: Path, counter: Counter
) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    for number in (1, 2):
        head = {"weight": rng.normal(size=(1, 64)).astype(np.float32), "bias": np.full(1, 5, np.float32)}
        save_file(head, tmp_path / f"head{number}.safetensors")
    seen = []
    for number in (1, 2):
        encoder = EncoderParams(aesthetic_head=str(tmp_path / f"head{number}.safetensors"))
        context = LocalContext(tmp_path, embed, inputs(PICTURES, {}))
        context.run(EmbedParams(encoder=encoder))
        seen.append(rows_of(context)["a"]["aesthetic"])
    assert counter.images == 5
    expected = (ClipTower(EncoderSpec()).images(PICTURES["a"]) @ head["weight"][0] + 5).mean()
    assert seen[1] == pytest.approx(float(expected), abs=1e-5)
    assert seen[0] != seen[1]


def test_a_head_of_another_encoder_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros((1, 768), np.float32), "bias": np.zeros(1, np.float32)}, tmp_path / "h.safetensors")
    context = LocalContext(tmp_path, embed, inputs(PICTURES, {}))
    with pytest.raises(StageError, match="takes 768 numbers"):
        context.run(EmbedParams(encoder=EncoderParams(aesthetic_head=str(tmp_path / "h.safetensors"))))


def test_a_missing_weights_file_stops_the_plan(tmp_path: Path) -> None:
    assert embed.models is not None
    params = EmbedParams(encoder=EncoderParams(model="ViT-B-32", weights=str(tmp_path / "none.pt")))
    with pytest.raises(StageError, match="does not exist"):
        embed.models(params)


def test_no_candidates_give_an_empty_table(tmp_path: Path) -> None:
    context = LocalContext(tmp_path, embed, inputs({"a": [jpeg(1)]}, {}, dropped=("a",)))
    context.run()
    assert context.outputs["embeddings"].num_rows == 0


def test_one_forward_holds_pictures_of_several_clips_and_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    sizes: list[int] = []
    original = open_clip.CLIP.encode_image

    def counted(model: Any, pixels_BCHW: Any, *rest: Any, **named: Any) -> Any:
        sizes.append(len(pixels_BCHW))
        return original(model, pixels_BCHW, *rest, **named)

    monkeypatch.setattr(open_clip.CLIP, "encode_image", counted)
    # nine videos of one clip each, with one to three key frames: 18 pictures
    pictures = {f"clip of video {v}": [jpeg(10 * v + n) for n in range(1 + v % 3)] for v in range(9)}
    LocalContext(tmp_path, embed, inputs(pictures, {})).run(EmbedParams(images_per_forward=8))
    assert sizes == [8, 8, 2]

"""Scorers of key frames: real classes at toy size, never random by accident, each with work of its own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa
import pytest

from data_schemas.schema import Field
from data_schemas.tables import CLIPS
from models.scorers.clip_tower import file_sha256
from models.scorers.dear.base import DearSpec, dear_digests, per_picture
from models.scorers.dear.classifier import Classifier
from models.scorers.dear.network import Network
from models.scorers.dear.text_boxes import TextBoxes, covered
from models.scorers.errors import ScorerError
from stages.contract import StageError
from stages.curation.clips import clips
from stages.curation.score_keyframes import DearParams, KeyframeActor, ScoreKeyframesParams, score_keyframes
from tests.context import LocalContext
from tests.curation.test_embed import inputs, jpeg

PICTURES = {"a": [jpeg(1), jpeg(2)], "b": [jpeg(3)], "c": [jpeg(4), jpeg(5)], "d": [jpeg(6)]}


def rgb(seed: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(small, shape[::-1])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer with three labels, as transformers writes it, with random weights."""
    from models.compat import prepare

    prepare()
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        id2label={0: "safe", 1: "nsfw", 2: "gore"}, label2id={"safe": 0, "nsfw": 1, "gore": 2}, initializer_range=0.5,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TorchScript, mean and maximum over each picture."""
    import torch

    class MeanAndMax(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.flatten(1)
            return torch.stack([flat.mean(dim=1), flat.amax(dim=1)], dim=1)

    path = tmp_path_factory.mktemp("network") / "quality.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(MeanAndMax()).save(str(path))
    return path


# -- adapters --------------------------------------------------------------------------------------------------------


def test_a_classifier_adds_up_the_probabilities_of_its_labels(classifier: Path) -> None:
    clips_ = [[rgb(1), rgb(2)], [rgb(3)], []]
    spec = DearSpec("unsafe", "classifier", str(classifier), labels=("nsfw", "gore"), reduce="max")
    scores = Classifier(spec, "cpu", 2)(clips_)
    safe = Classifier(DearSpec("safe", "classifier", str(classifier), labels=("safe",), reduce="min"), "cpu", 8)(clips_)
    assert scores.shape == (3, 1)
    np.testing.assert_allclose(scores[:2], 1 - safe[:2], atol=1e-5)
    assert np.isnan(scores[2, 0])
    assert 0 < scores[0, 0] < 1
    assert scores[0, 0] != scores[1, 0]
    assert Classifier.columns(spec)[0].name == "model_unsafe"


def test_a_classifier_without_its_head_is_refused_and_not_random(classifier: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    shutil.copytree(classifier, tmp_path / "headless")
    weights = load_file(classifier / "model.safetensors")
    backbone = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    save_file(backbone, tmp_path / "headless/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ScorerError, match=r"lack classifier.bias, classifier.weight; without them its scores would be random"
    ):
        Classifier(DearSpec("x", "classifier", str(tmp_path / "headless"), labels=("nsfw",)), "cpu", 2)
    with pytest.raises(ScorerError, match="must be among the model's: safe, nsfw, gore"):
        Classifier(DearSpec("x", "classifier", str(classifier), labels=("porn",)), "cpu", 2)


def test_text_boxes_come_from_a_real_text_detector(tmp_path: Path) -> None:
    from models.compat import prepare

    prepare()
    import torch
    from transformers import AutoModelForObjectDetection, PPOCRV5MobileDetConfig, PPOCRV5ServerDetImageProcessor

    torch.manual_seed(0)
    AutoModelForObjectDetection.from_config(PPOCRV5MobileDetConfig(neck_out_channels=16)).save_pretrained(tmp_path)
    PPOCRV5ServerDetImageProcessor(limit_side_len=64).save_pretrained(tmp_path)
    spec = DearSpec("ocr_area", "text_boxes", str(tmp_path), options={"threshold": 0.3})
    scores = TextBoxes(spec, "cpu", 4)([[rgb(1), rgb(2, (64, 48))], [rgb(3)]])
    assert scores.shape == (2, 1)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_boxes_cover_an_area_once() -> None:
    square = np.array([[0, 0], [9, 0], [9, 9], [0, 9]], float)
    assert covered(np.stack([square, square]), (20, 20)) == pytest.approx(0.25)
    assert covered(np.array([[10.0, 10.0, 19.0, 19.0]]), (20, 20)) == pytest.approx(0.25)
    assert covered(np.zeros((0, 4, 2)), (20, 20)) == 0.0


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_network_scores_pictures_or_whole_clips(network: Path, tmp_path: Path) -> None:
    import torch

    options = {"size": 16, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    spec = DearSpec("q", "network", str(network), labels=("mean", "peak"), options=options)
    white, black = np.full((20, 30, 3), 255, np.uint8), np.zeros((20, 30, 3), np.uint8)
    scorer = Network(spec, "cpu", 3)
    assert [c.name for c in scorer.columns(spec)] == ["model_q_mean", "model_q_peak"]
    np.testing.assert_allclose(scorer([[white, black], [white]]), [[0.5, 0.5], [1, 1]])
    whole = DearSpec("q", "network", str(network), labels=("mean", "peak"), options={**options, "input": "clip"})
    np.testing.assert_allclose(
        Network(whole, "cpu", 3)([[white, black], [], [white], [black, black]]),
        [[0.5, 1], [np.nan, np.nan], [1, 1], [0, 0]],
    )
    with pytest.raises(ScorerError, match=r"returned \(1, 2\) for 1 inputs; 1 number"):
        Network(DearSpec("q", "network", str(network), options=options), "cpu", 3)([[white]])
    (tmp_path / "bad.pt").write_bytes(b"no network")
    with pytest.raises(ScorerError, match="torch cannot load"):
        Network(DearSpec("q", "network", str(tmp_path / "bad.pt")), "cpu", 1)

    class Peak(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).amax(dim=1)

    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Peak(), (torch.zeros(2, 3, 16, 16),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, tmp_path / "peak.pt2")
    exported = Network(DearSpec("peak", "network", str(tmp_path / "peak.pt2"), options=options), "cpu", 4)
    np.testing.assert_allclose(exported([[white], [black, black, black]]), [[1], [0]])


def test_pictures_of_many_clips_share_a_forward_and_each_clip_is_reduced_alone() -> None:
    sizes = []

    def score(pictures: Sequence[np.ndarray]) -> np.ndarray:
        sizes.append(len(pictures))
        return np.array([picture.mean() for picture in pictures])

    flat = [[np.full((2, 2, 3), n, np.uint8) for n in values] for values in ([1, 3], [], [5], [2, 4, 9])]
    assert per_picture(flat, 4, "max", score, 1)[:, 0] == pytest.approx([3, np.nan, 5, 9], nan_ok=True)
    assert per_picture(flat, 4, "mean", score, 1)[:, 0] == pytest.approx([2, np.nan, 5, 5], nan_ok=True)
    assert sizes == [4, 2, 4, 2]


# -- weights ---------------------------------------------------------------------------------------------------------


def test_absent_weights_are_an_error_that_names_the_remedy(classifier: Path, tmp_path: Path) -> None:
    def digests(model: str, **rest: Any) -> dict[str, str]:
        return dear_digests(DearSpec("nsfw", "classifier", model, **rest))

    with pytest.raises(ScorerError, match=r"the model /nowhere/nsfw does not exist. Check the path"):
        digests("/nowhere/nsfw")
    with pytest.raises(ScorerError, match=r"revision main can move. Give the commit"):
        digests("someone/nsfw", revision="main")
    with pytest.raises(ScorerError, match=f"hf download someone/nsfw --revision {'0' * 40}"):
        digests("someone/nsfw", revision="0" * 40)
    with pytest.raises(ScorerError, match="holds no safetensors file"):
        digests(str(tmp_path))
    with pytest.raises(ScorerError, match="but 0000 was asked for"):
        digests(str(classifier), sha256="0000")
    right = file_sha256(classifier / "model.safetensors")
    found = digests(str(classifier), sha256=right)
    assert found["weights"] == right
    assert set(found) == {"weights", "config"}


def test_the_plan_stops_at_absent_weights_and_unknown_kinds(tmp_path: Path) -> None:
    assert score_keyframes.models is not None
    for kind, model, says in (
        ("classifier", "/nowhere", "score_keyframes: scorer nsfw: the model /nowhere does not exist"),
        ("clasifier", "/nowhere", "there is no kind clasifier. Known: classifier, text_boxes, network"),
        ("no.such:Thing", "/nowhere", "cannot be imported"),
    ):
        with pytest.raises(StageError, match=says):
            score_keyframes.models(ScoreKeyframesParams(scorers=(DearParams(name="nsfw", kind=kind, model=model),)))
    with pytest.raises(ValueError, match="two scorers are named x"):
        ScoreKeyframesParams(
            scorers=(DearParams(name="x", kind="a", model="m"), DearParams(name="x", kind="b", model="m"))
        )


# -- the stage -------------------------------------------------------------------------------------------------------


class Brightness:
    """A scorer as a user brings it: the model file holds a factor."""

    version: ClassVar[str] = "1"
    calls: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, spec: DearSpec, device: str, batch: int) -> None:
        self.spec, self.factor = spec, float(Path(spec.model).read_text())

    @staticmethod
    def columns(spec: DearSpec) -> tuple[Field, ...]:
        return (Field(spec.column, pa.float64(), "brightness times a factor", "0..255"),)

    def __call__(self, clips: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        self.calls.append((self.spec.name, len(clips)))
        return np.array([[self.factor * float(np.mean([p.mean() for p in clip]))] for clip in clips])


def bright(tmp_path: Path, name: str, factor: float = 1.0) -> DearParams:
    path = tmp_path / f"{name}.txt"
    path.write_text(str(factor))
    return DearParams(name=name, kind=f"{__name__}:Brightness", model=str(path))


def run(tmp_path: Path, *scorers: DearParams, pictures: dict[str, list[bytes]] = PICTURES, **rest: Any) -> LocalContext:
    given = inputs(pictures, {}, dropped=("d",))
    context = LocalContext(tmp_path, score_keyframes, {n: given[n] for n in ("candidates", "keyframes")})
    context.run(ScoreKeyframesParams(scorers=scorers, **rest))
    return context


def test_scorers_are_named_by_a_list_or_by_a_mapping() -> None:
    listed = ScoreKeyframesParams.model_validate({"scorers": [{"name": "nsfw", "kind": "classifier", "model": "a"}]})
    mapped = {"nsfw": {"kind": "classifier", "model": "a"}, "gone": None}
    assert ScoreKeyframesParams.model_validate({"scorers": mapped}) == listed


def test_without_scorers_nothing_is_read_and_the_clips_are_the_shots(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("stages.curation.score_keyframes.index_frames", None)
    context = run(tmp_path)
    assert context.outputs["scores"].column_names == ["clip_id"]
    assert (context.outputs["scores"].num_rows, context.ledger_rows) == (0, [])


def test_candidates_get_their_columns_and_a_broken_picture_fails_its_clip_alone(tmp_path: Path) -> None:
    pictures = {**PICTURES, "b": [b"not a picture"], "e": []}
    context = run(tmp_path, bright(tmp_path, "light"), pictures=pictures)
    rows = {row["clip_id"]: row["model_light"] for row in context.outputs["scores"].to_pylist()}
    expected = np.mean([cv2.imdecode(np.frombuffer(raw, np.uint8), 1).mean() for raw in PICTURES["a"]])
    assert rows["a"] == pytest.approx(expected)
    assert rows["b"] is None
    assert set(rows) == {"a", "b", "c"}
    status = {row["record_id"]: (row["status"], row["error_type"]) for row in context.ledger_rows}
    assert status == {
        "a": ("accepted", None), "c": ("accepted", None), "b": ("failed", "UnreadablePicture"), "e": ("failed", "NoKeyFrames"),
    }  # fmt: skip


def test_each_scorer_has_work_of_its_own_and_a_batch_spans_clips(tmp_path: Path) -> None:
    def calls(*scorers: DearParams) -> list[tuple[str, int]]:
        Brightness.calls.clear()
        run(tmp_path, *scorers)
        return list(Brightness.calls)

    one, two = bright(tmp_path, "one"), bright(tmp_path, "two")
    assert calls(one, two) == [("one", 3), ("two", 3)]
    assert calls(one, two) == []
    assert calls(one, bright(tmp_path, "two", 2.0)) == [("two", 3)]  # other weights
    assert calls(one.model_copy(update={"options": {"x": 1}}), two) == [("one", 3)]
    moved = tmp_path / "moved.txt"
    moved.write_text("1.0")
    assert calls(one.model_copy(update={"model": str(moved)}), two) == []  # the same weights elsewhere


def test_the_columns_end_in_the_clips_table(tmp_path: Path) -> None:
    scores = run(tmp_path, bright(tmp_path, "light")).outputs["scores"]
    shot = {"video_id": "v", "video_uri": "v", "start_s": 0.0, "end_s": 1.0, "start_frame": 0, "end_frame": 9, "boundary_in": "start",
            "boundary_out": "end", "duration_s": 1.0, "width": 8, "height": 8, "fps": 9.0}  # fmt: skip
    shots = CLIPS.table([{"clip_id": c, "motion": 1.0, **shot} for c in ("a", "b", "c", "d")])
    context = LocalContext(tmp_path / "clips", clips, {"shots": shots, "scores": scores})
    context.run()
    found = {row["clip_id"]: row["model_light"] for row in context.outputs["clips"].to_pylist()}
    assert found["a"] > 0
    assert found["d"] is None
    assert context.outputs["clips"].schema.field("model_light").metadata[b"unit"] == b"0..255"
    named_alike = shots.rename_columns([*shots.column_names[:-1], "model_light"])
    twice = LocalContext(tmp_path / "twice", clips, {"shots": named_alike, "scores": scores})
    with pytest.raises(StageError, match="two scorers write a column model_light"):
        twice.run()


def test_the_real_classifier_runs_in_the_stage(tmp_path: Path, classifier: Path) -> None:
    nsfw = DearParams(name="nsfw", kind="classifier", model=str(classifier), labels=("nsfw",), reduce="max")
    rows = {row["clip_id"]: row["model_nsfw"] for row in run(tmp_path, nsfw).outputs["scores"].to_pylist()}
    assert all(0 < value < 1 for value in rows.values())
    with pytest.raises(StageError, match="must be among the model's"):
        KeyframeActor(DearSpec("x", "classifier", str(classifier), labels=("?",)), 1, 0.0, None, "g")  # type: ignore[arg-type]

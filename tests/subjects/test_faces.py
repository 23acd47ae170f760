"""Faces are found by OpenCV's own class, are rows of their own, and never stand for the whole subject."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_schemas.tables import SUBJECTS, SUBSET, VIDEOS
from models.subjects.frames import png
from models.subjects.load import Choice, Models
from models.subjects.protocols import FaceDetector
from models.subjects.weights import Weights, WeightsError
from models.subjects.yunet import YuNet
from stages.contract import StageError
from stages.subjects.pairs import PairParams, pairs
from stages.subjects.subjects import ModelParams, SubjectParams, subjects
from tests.context import LocalContext
from tests.subjects import tiny
from tests.subjects.test_pairs import clip, crop


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return Weights(str(tiny.yunet(tmp_path_factory.mktemp("yunet") / "yunet.onnx")))


def person() -> np.ndarray:
    """A blue figure of 256 x 192 on grey, its head red over exactly one cell of 32 px."""
    picture = np.full((320, 320, 3), 128, np.uint8)
    picture[32:288, 64:256] = (20, 20, 220)
    picture[96:128, 128:160] = (255, 0, 0)
    return picture


def test_a_face_is_a_box_in_shares_of_the_picture(weights: Weights) -> None:
    detector = YuNet(weights)
    assert isinstance(detector, FaceDetector)
    [face] = detector.faces(person())
    # the cell's middle (144, 112) and 64 px: sigmoid(0.1 x 255 - 5) is 1 to nine digits
    assert face.box == pytest.approx((112 / 320, 80 / 320, 176 / 320, 144 / 320), abs=1e-5)
    assert face.confidence == pytest.approx(1.0, abs=1e-3)
    assert detector.faces(np.full((97, 211, 3), 128, np.uint8)) == []


def test_what_is_no_yunet_is_named(tmp_path: Path, weights: Weights) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing of the kind")
    for source, sha256, why in (
        ("/nowhere/yunet.onnx", None, "is no ONNX file"),
        (str(tmp_path), None, "is no ONNX file"),
        (weights.source, "0" * 64, "has sha256"),
        (str(tmp_path / "broken.onnx"), None, "cannot be read as an ONNX model"),
    ):
        with pytest.raises(WeightsError, match=why):
            YuNet(Weights(source, None, sha256))
    with pytest.raises(WeightsError, match=r"needs faces\.weights, its ONNX file"):
        Models(faces=Choice("yunet")).names()
    ctx = LocalContext(tmp_path, subjects, {"subset": SUBSET.empty(), "media": tmp_path, "videos": VIDEOS.empty()})
    with pytest.raises(StageError, match="is no ONNX file"):
        ctx.run(SubjectParams(faces=ModelParams(kind="yunet", weights="/nowhere.onnx")))


def test_a_face_is_a_row_of_its_own_beside_its_subject(tmp_path: Path, weights: Weights) -> None:
    (tmp_path / "person.png").write_bytes(png(person()))
    photo = {
        "video_id": "p", "uri": f"file://{tmp_path}/person.png", "path": "person.png", "media_type": "image", "bytes": 1,
        "sha256": "0" * 64, "status": "ok", "caption": "a woman",
    }  # fmt: skip
    ctx = LocalContext(
        tmp_path, subjects, {"subset": SUBSET.empty(), "media": tmp_path, "videos": VIDEOS.table([photo])}
    )
    ctx.run(SubjectParams(faces=ModelParams(kind="yunet", weights=weights.source)))
    rows = {row["part"]: row for row in ctx.outputs["subjects"].to_pylist()}
    assert set(rows) == {None, "face"}
    whole, face = rows[None], rows["face"]
    assert (face["phrase"], face["appearance"], face["subject"]) == ("a woman", "the face of a woman", whole["subject"])
    assert whole["subject_id"] != face["subject_id"]
    x0, y0, x1, y1 = face["box"]
    assert x0 < 144 / 320 < x1
    assert y0 < 112 / 320 < y1
    assert face["area"] < 0.25 * whole["area"]
    assert face["mask_area"] <= face["area"] + 1e-6


def test_a_face_is_no_reference_and_no_candidate(tmp_path: Path) -> None:
    def face(clip_id: str) -> dict[str, object]:
        return {**crop(clip_id, "a woman", 0, 1.0, "woman"), "subject_id": f"{clip_id}/face", "part": "face"}

    crops = [crop(c, "a woman", 0, t, "woman") for c in "ab" for t in (0.0, 1.0)]
    inputs = {
        "subset": SUBSET.table([clip(c, "a woman walks") for c in "ab"]),
        "subjects": SUBJECTS.table([*crops, face("a"), face("b")]),
    }
    ctx = LocalContext(tmp_path, pairs, inputs)
    ctx.run(PairParams(held_out=0.0, upper=0.999, in_pair_per_clip=3, min_cross_pair=0))
    used = {x["subject_id"] for row in ctx.outputs["pairs"].to_pylist() for x in row["references"]}
    told = {row[side] for row in ctx.outputs["candidates"].to_pylist() for side in ("target_id", "candidate_id")}
    assert used
    assert not {i for i in used | told if i.endswith("/face")}
    ledger = {r["record_id"]: (r["status"], r["reason"]) for r in ctx.ledger_rows}
    assert ledger["a/face"] == ledger["b/face"] == ("rejected", "face")

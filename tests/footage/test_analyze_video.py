"""One pass over a video: everything from one decode, in bounded memory, and reusable in parts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import ClassVar

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest

import models.video.reader as reader_module
from data_schemas.schema import Field
from models.scorers.base import Picture
from models.scorers.catalog import built_in, scorer_class
from models.video import keyframes
from models.video.analyze import ShotsChangedError, analyze_video, file_sha256
from models.video.keyframes import KeyFramePicker
from models.video.reader import Frame, UndecodableError
from tests.footage.media import pan, still, write


def scorers() -> list:
    return [scorer_class(name)() for name in built_in()]


@pytest.fixture(scope="module")
def three_shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pan of 2 px a frame, a still picture, a pan of 4 px a frame: 50 frames each at 25 per second."""
    frames = np.concatenate([pan(2, 0, 50, seed=1), still(22, 50), pan(4, 0, 50, seed=5)])
    return write(tmp_path_factory.mktemp("videos") / "three.mp4", frames)


def test_facts_shots_scores_and_key_frames_come_from_one_decode(
    three_shots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = reader_module.open_container
    monkeypatch.setattr(reader_module, "open_container", lambda *a, **k: opened.append(a) or real(*a, **k))
    found = analyze_video(three_shots, "video", scorers())
    assert len(opened) == 1
    assert (found.facts.frames, found.facts.width, found.facts.height, found.facts.codec) == (150, 320, 180, "h264")
    assert found.facts.duration_s == pytest.approx(6.0, abs=1e-3)
    assert [(s.start_frame, s.end_frame) for s in found.shots] == [(0, 50), (50, 100), (100, 150)]
    assert [t for s in found.shots for t in (s.start_s, s.end_s)] == pytest.approx([0, 2, 2, 4, 4, 6], abs=1e-3)
    assert [(s.boundary_in, s.boundary_out) for s in found.shots] == [("start", "cut"), ("cut", "cut"), ("cut", "end")]
    assert set(found.scores) == set(built_in())
    assert all(len(rows) == 3 for rows in found.scores.values())
    diagonal = np.hypot(320, 180)
    motion = [row["motion"] for row in found.scores["motion"]]
    assert motion == pytest.approx([2 * 25 / diagonal, 0, 4 * 25 / diagonal], rel=0.15, abs=0.002)
    assert [row["static_share"] for row in found.scores["static"]] == [0.0, 1.0, 0.0]


def test_key_frames_are_pictures_of_their_own_shot_near_their_place(three_shots: Path) -> None:
    found = analyze_video(three_shots, "video")
    for shot, frames in zip(found.shots, found.keyframes, strict=True):
        assert [k.position for k in frames] == [0.1, 0.5, 0.9]
        for k in frames:
            wanted = shot.start_s + k.position * (shot.end_s - shot.start_s)
            assert shot.start_s <= k.time_s < shot.end_s
            assert abs(k.time_s - wanted) <= 0.2
            picture = cv2.imdecode(np.frombuffer(k.jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert picture.shape == (180, 320, 3)  # short side 180: never enlarged to 256
    middle = cv2.imdecode(np.frombuffer(found.keyframes[1][1].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(middle.astype(int) - still(22, 1)[0][..., ::-1]).mean() < 12


def test_large_pictures_have_key_frames_of_256_pixels(footage: Path) -> None:
    found = analyze_video(footage / "androidx-media/portrait_4k60.mp4", "video")
    picture = cv2.imdecode(np.frombuffer(found.keyframes[0][0].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (455, 256, 3)


def test_a_shot_too_short_for_a_candidate_still_has_key_frames(tmp_path: Path) -> None:
    frames = np.concatenate([still(1, 33), still(2, 5), still(3, 30)])
    found = analyze_video(write(tmp_path / "short.mp4", frames), "video")
    assert [(s.start_frame, s.end_frame) for s in found.shots] == [(0, 33), (33, 38), (38, 68)]
    assert [len(k) for k in found.keyframes] == [3, 3, 3]
    for frames_of_shot, seed in zip(found.keyframes, (1, 2, 3), strict=True):
        picture = cv2.imdecode(np.frombuffer(frames_of_shot[1].jpeg, np.uint8), cv2.IMREAD_COLOR)
        expected = cv2.resize(still(seed, 1)[0][..., ::-1], picture.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(picture.astype(int) - expected).mean() < 12


def test_the_candidates_of_an_hour_are_as_few_as_those_of_a_minute() -> None:
    picture = Picture(Frame(0, 0.0, av.VideoFrame.from_ndarray(np.zeros((36, 64, 3), np.uint8), format="bgr24")))
    picker = KeyFramePicker()
    most = 0
    for n in range(3600 * 5):
        picker.frame(picture, n, n / 5)
        most = max(most, len(picker._old) + len(picker._recent) + len(picker._tiny))
    assert most <= keyframes._KEEP + 1 + 6 * 3 + 2 + 6 * 12 + 2
    # the clip's end is announced 2 s late, and its key frames are still within 1/16 of their places
    for k in picker.clip(0, 3598 * 5, 0.0, 3598.0):
        assert abs(k.time_s - k.position * 3598) < 3598 / 16


def test_with_recorded_shots_only_the_missing_scorer_runs_and_says_the_same(three_shots: Path) -> None:
    whole = analyze_video(three_shots, "video", scorers())
    again = analyze_video(three_shots, "video", [scorer_class("motion")()], shots=whole.shots, keyframes=False)
    assert again.scores == {"motion": whole.scores["motion"]}
    assert again.keyframes == []
    assert again.shots == whole.shots
    with pytest.raises(ShotsChangedError, match="end at frame 100, the video at frame 150"):
        analyze_video(three_shots, "video", scorers(), shots=whole.shots[:2])
    longer = [*whole.shots[:2], whole.shots[2].__class__(100, 170, 4.0, 6.8, "cut", "end")]
    with pytest.raises(ShotsChangedError, match="end at frame 170"):
        analyze_video(three_shots, "video", scorers(), shots=longer)


class Raising:
    """A scorer of a user that fails at a frame."""

    name: ClassVar[str] = "raising"
    version: ClassVar[str] = "1"
    columns: ClassVar[tuple[Field, ...]] = (Field("raising", pa.float64(), "never filled", "0..1"),)

    def start(self, info: object) -> None:
        pass

    def frame(self, picture: object, index: int, time_s: float) -> None:
        if index == 7:
            raise ZeroDivisionError("a mistake in it")

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        return {"raising": None}


def test_a_scorer_that_raises_is_given_up_and_harms_no_other(three_shots: Path) -> None:
    found = analyze_video(three_shots, "video", [Raising(), scorer_class("exposure")()])
    assert found.score_errors == {"raising": "ZeroDivisionError: a mistake in it"}
    assert set(found.scores) == {"exposure"}


def test_an_image_has_facts_and_no_shots(footage: Path) -> None:
    found = analyze_video(footage / "dreambooth/cat/00.jpg", "image", scorers())
    assert (found.facts.frames, found.facts.codec, found.shots, found.keyframes) == (1, "mjpeg", [], [])
    with pytest.raises(UndecodableError):
        analyze_video(footage / "made/zero_byte.mp4", "image")


def test_the_content_key_is_the_sha256_of_the_file(footage: Path) -> None:
    entries = {e["file"]: e for e in json.loads((footage / "manifest.json").read_text())}
    for name in ("small/webm.webm", "vace/test.jpg"):
        assert file_sha256(footage / name) == entries[name]["sha256"]
    assert file_sha256(footage / "made/zero_byte.mp4") == hashlib.sha256(b"").hexdigest()

"""Each metric's golden values and invariances: on stills, on black, on shuffled frames, on known motion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from models.metrics.catalogue import METRICS
from models.metrics.copy_paste import copy_paste
from models.metrics.dynamic_degree_dis import dynamic_degree_dis, pair_magnitudes
from models.metrics.motion_smoothness_dis import motion_smoothness_dis
from models.metrics.sharpness_crete import sharpness_crete
from models.metrics.subject_similarity import subject_similarity
from models.metrics.temporal_flicker import temporal_flicker
from models.metrics.tools import CachedTower, Reference, Tools
from models.subjects.descriptor import ClosedFormEncoder
from models.subjects.propose import EmbeddedGrounder, GrabCutSegmenter

TOOLS = Tools(identity=ClosedFormEncoder(), grounder=EmbeddedGrounder(), segmenter=GrabCutSegmenter())


@pytest.fixture(autouse=True)
def one_thread() -> None:
    cv2.setNumThreads(1)


def texture(height: int = 128, width: int = 400, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def pan(step: int, frames: int = 9, side: int = 128) -> np.ndarray:
    wide = texture()
    return np.stack([wide[:side, 4 + i * step : 4 + i * step + side] for i in range(frames)])


STILL = np.repeat(texture()[None, :, :128], 9, 0)
BLACK = np.zeros((9, 64, 64, 3), np.uint8)


def disc(colour: tuple[int, int, int], background: np.ndarray, frames: int = 6) -> np.ndarray:
    """A disc that drifts right over a background."""
    video = []
    for i in range(frames):
        frame = background.copy()
        cv2.circle(frame, (45 + 6 * i, 64), 26, colour, -1)
        video.append(frame)
    return np.stack(video)


@pytest.mark.parametrize("key", list(METRICS))
@pytest.mark.parametrize("video", [STILL, BLACK, BLACK[:1], pan(3)], ids=["still", "black", "one frame", "pan"])
def test_every_metric_is_a_finite_number_or_none(key: str, video: np.ndarray) -> None:
    value = METRICS[key].run(video, "Ref 1: a toy. Video: Ref 1[a toy] moves", [Reference(STILL[0])], TOOLS)
    assert value is None or (isinstance(value, float) and np.isfinite(value))


@pytest.mark.parametrize("key", list(METRICS))
def test_every_metric_refuses_what_is_not_a_video_and_leaves_it_unchanged(key: str) -> None:
    with pytest.raises(ValueError, match="uint8"):
        METRICS[key].run(STILL[0], "", [], TOOLS)
    with pytest.raises(ValueError, match="uint8"):
        METRICS[key].run(STILL.astype(np.float32), "", [], TOOLS)  # type: ignore[arg-type]
    before = STILL.copy()
    METRICS[key].run(STILL, "a toy", [Reference(STILL[0])], TOOLS)
    assert np.array_equal(before, STILL)


def test_a_still_video_neither_flickers_nor_moves() -> None:
    assert temporal_flicker(STILL, "", [], TOOLS) == 1.0
    assert motion_smoothness_dis(STILL, "", [], TOOLS) == 1.0
    assert dynamic_degree_dis(STILL, "", [], TOOLS) == 0.0


def test_flicker_is_the_mean_absolute_difference() -> None:
    # Frames of 100 and 151 in turn: |difference| = 51 = 0.2 * 255 everywhere, so the score is 0.8.
    video = np.full((4, 8, 8, 3), 100, np.uint8)
    video[1::2] = 151
    assert temporal_flicker(video, "", [], TOOLS) == pytest.approx(0.8)
    assert temporal_flicker(video[:1], "", [], TOOLS) is None


def test_flow_measures_a_known_pan() -> None:
    # 8 frames a second: every frame is used; a pan of 4 px on 128 px is 4 / 128 of the shorter side for each pair.
    magnitudes = pair_magnitudes(pan(4), 8.0)
    assert len(magnitudes) == 8
    assert np.median(magnitudes) == pytest.approx(4 / 128, rel=0.1)
    # VBench's 6 px at 256 are 3 px at 128.
    assert dynamic_degree_dis(pan(4), "", [], TOOLS) == 1.0
    assert dynamic_degree_dis(pan(1), "", [], TOOLS) == 0.0


def test_dynamic_degree_looks_at_eight_frames_a_second() -> None:
    # 1 px a frame is still at 8 frames a second and moves 4 px between the frames kept of 32 a second.
    fast = pan(1, frames=41)
    assert dynamic_degree_dis(fast, "", [], Tools(fps=8.0)) == 0.0
    assert dynamic_degree_dis(fast, "", [], Tools(fps=32.0)) == 1.0


def test_shuffling_hurts_smoothness_and_flicker_but_not_single_frames() -> None:
    smooth = pan(3)
    shuffled = smooth[np.random.default_rng(1).permutation(len(smooth))]
    for metric in (motion_smoothness_dis, temporal_flicker):
        ordered, mixed = metric(smooth, "", [], TOOLS), metric(shuffled, "", [], TOOLS)
        assert ordered is not None
        assert mixed is not None
        assert mixed < ordered - 0.01
    assert sharpness_crete(shuffled, "", [], TOOLS) == pytest.approx(sharpness_crete(smooth, "", [], TOOLS))


def test_playing_backwards_changes_no_metric_of_motion() -> None:
    video = pan(3)
    for metric in (temporal_flicker, dynamic_degree_dis):
        assert metric(video[::-1], "", [], TOOLS) == pytest.approx(metric(video, "", [], TOOLS))
    assert motion_smoothness_dis(video[::-1], "", [], TOOLS) == pytest.approx(
        motion_smoothness_dis(video, "", [], TOOLS) or 0.0, abs=0.002
    )


def test_blur_lowers_sharpness_step_by_step() -> None:
    values = [
        sharpness_crete(np.stack([cv2.GaussianBlur(f, (0, 0), s) for f in STILL[:2]]), "", [], TOOLS)
        for s in (0.1, 2, 5)
    ]
    assert all(v is not None for v in values)
    assert values[0] > values[1] > values[2]  # type: ignore[operator]
    assert sharpness_crete(BLACK, "", [], TOOLS) == 0.0


def test_the_right_subject_scores_above_a_wrong_one_and_a_missing_one_scores_zero() -> None:
    grey = np.full((128, 160, 3), 180, np.uint8)
    red, blue = disc((200, 30, 30), grey), disc((30, 30, 200), grey)
    reference = [Reference(disc((200, 30, 30), np.full((128, 160, 3), 240, np.uint8))[2])]
    right, wrong = (subject_similarity(v, "", reference, TOOLS) for v in (red, blue))
    assert right is not None
    assert wrong is not None
    assert right > 0.8
    assert wrong < 0.5
    assert subject_similarity(np.repeat(grey[None], 6, 0), "", reference, TOOLS) == 0.0
    assert subject_similarity(red, "", [], TOOLS) is None


def test_copying_the_background_is_told_from_keeping_the_subject() -> None:
    grass = np.clip(texture(128, 160, 3) // 3 + np.array([20, 120, 20]), 0, 255).astype(np.uint8)
    sand = np.clip(texture(128, 160, 4) // 4 + np.array([170, 130, 60]), 0, 255).astype(np.uint8)
    mask = np.zeros((128, 160), np.uint8)
    reference_picture = disc((200, 30, 30), grass)[2]
    cv2.circle(mask, (57, 64), 26, 255, -1)
    reference = [Reference(reference_picture, mask)]
    pasted = copy_paste(np.repeat(reference_picture[None], 6, 0), "", reference, TOOLS)
    honest = copy_paste(disc((200, 30, 30), sand), "", reference, TOOLS)
    assert pasted is not None
    assert honest is not None
    assert pasted > 0.7
    assert honest < 0.4
    cut_out = np.full_like(reference_picture, 255)
    cut_out[mask > 0] = reference_picture[mask > 0]
    assert copy_paste(disc((200, 30, 30), sand), "", [Reference(cut_out, mask)], TOOLS) is None


class CountingTower:
    """Embeds a picture as the direction of its mean colour; counts what it was asked."""

    def __init__(self) -> None:
        self.pictures = 0

    def images(self, pictures: list[bytes]) -> np.ndarray:
        self.pictures += len(pictures)
        means = [cv2.imdecode(np.frombuffer(p, np.uint8), 1).mean((0, 1)) + 1 for p in pictures]
        return np.stack([m / np.linalg.norm(m) for m in means]).astype(np.float32)

    def texts(self, captions: list[str]) -> np.ndarray:
        return np.repeat(np.array([[0, 0, 1]], np.float32), len(captions), 0)  # BGR: every text says red


def test_clip_metrics_are_cosines_and_frames_are_encoded_once() -> None:
    tower = CountingTower()
    tools = Tools(clip=CachedTower(tower))
    red = np.zeros((3, 8, 8, 3), np.uint8)
    red[..., 0] = 254
    # Mean BGR + 1 = (1, 1, 255): cosine with (0, 0, 1) is 255 / sqrt(255^2 + 2).
    assert METRICS["clip_t"].run(red, "a red thing", [], tools) == pytest.approx(255 / np.sqrt(255**2 + 2), abs=1e-6)
    assert METRICS["clip_i"].run(red, "", [Reference(red[0])], tools) == pytest.approx(1.0, abs=1e-6)
    assert METRICS["background_consistency"].run(red, "", [], tools) == pytest.approx(1.0, abs=1e-6)
    assert METRICS["clip_t"].run(red, "", [], tools) is None
    assert tower.pictures == 1  # three equal frames and the reference are one picture


def test_the_head_gives_the_aesthetic_as_a_tenth() -> None:
    tools = Tools(clip=CountingTower(), aesthetic=lambda rows: np.full(len(rows), 6.5))
    assert METRICS["aesthetic"].run(STILL, "", [], tools) == pytest.approx(0.65)
    assert METRICS["aesthetic"].run(STILL, "", [], Tools(clip=CountingTower())) is None

"""Frame scorers against pictures whose truth is known by construction."""

from __future__ import annotations

import itertools
from fractions import Fraction

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest

from models.scorers.base import MAX_LATENESS, Every, Picture, Scorer, Series, VideoInfo
from models.scorers.catalog import built_in, scorer_class, scorer_classes
from models.scorers.errors import ScorerError
from models.scorers.sharpness import sharpness
from models.scorers.text_area import covered, stroke_mask, text_lines
from models.video.reader import Frame
from tests.footage.media import pan, still, texture


def feed(scorer: Scorer, frames: np.ndarray, fps: float = 25.0, first: int = 0) -> None:
    """Show RGB frames to a scorer without any encoding in between."""
    for n, picture in enumerate(frames, first):
        raw = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        raw.pts, raw.time_base = n, Fraction(1, 1000)
        scorer.frame(Picture(Frame(n, n / fps, raw)), n, n / fps)


def score(name: str, frames: np.ndarray, fps: float = 25.0) -> dict[str, float | None]:
    """One built-in scorer over RGB frames as one clip."""
    scorer: Scorer = scorer_class(name)()
    height, width = frames.shape[1:3]
    scorer.start(VideoInfo(width, height, fps))
    feed(scorer, frames, fps)
    return scorer.clip(0, len(frames))


@pytest.mark.parametrize("name", built_in())
def test_a_scorer_declares_its_columns_with_unit_and_meaning_and_fills_them_all(name: str) -> None:
    scorer = scorer_class(name)
    assert scorer.name == name
    assert scorer.version
    assert all(c.doc and c.unit and c.type == pa.float64() and c.nullable for c in scorer.columns)
    values = score(name, pan(2, 0, 50))
    assert set(values) == {c.name for c in scorer.columns}
    assert [n for n, v in values.items() if v is None or not np.isfinite(v)] == (
        ["slide_s"] if name == "static" else []
    )


@pytest.mark.parametrize("name", built_in())
def test_a_scorer_gives_null_where_it_saw_nothing(name: str) -> None:
    values = score(name, pan(1, 0, 1)[:, :8, :8])
    scorer = scorer_class(name)()
    scorer.start(VideoInfo(320, 180, None))
    assert scorer.clip(0, 10) == dict.fromkeys(values)


# -- motion ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dx", "dy", "fps"), [(1, 0, 25), (2, 1, 25), (4, 0, 25), (0, 3, 30), (8, 0, 12), (1, 0, 60)])
def test_motion_of_a_pan_is_its_speed_in_diagonals_a_second(dx: float, dy: float, fps: float) -> None:
    values = score("motion", pan(dx, dy, int(2 * fps)), fps)
    true = np.hypot(dx, dy) * fps / np.hypot(320, 180)
    assert values["motion"] == pytest.approx(true, rel=0.15)
    assert values["motion_camera"] == pytest.approx(true, rel=0.15)
    assert values["motion_residual"] < 0.15 * true


def test_motion_is_the_same_at_another_size_and_rate() -> None:
    small = score("motion", pan(2, 0, 50, 180, 320), 25)["motion"]
    large = score("motion", pan(4, 0, 100, 360, 640), 50)["motion"]
    # twice the pixels a frame and twice the frames a second on twice the diagonal: twice the speed
    assert large == pytest.approx(2 * small, rel=0.15)


@pytest.mark.parametrize("hold", [2, 3, 4])
def test_motion_is_the_same_where_every_frame_is_held(hold: int) -> None:
    # the same pan at 24 frames a second and drawn at 24 / hold: each picture stays while the camera would have moved on
    moving = pan(2, 0, 144)
    held = moving[np.arange(144) // hold * hold]
    true = 2 * 24 / np.hypot(320, 180)
    assert score("motion", held, 24)["motion"] == pytest.approx(true, rel=0.25)


def test_a_zoom_is_the_cameras_motion() -> None:
    ground = texture(360, 640, 3)
    frames = []
    for n in range(40):
        scale = 1.0 + 0.01 * n
        turn = np.float32([[scale, 0, 160 - 320 * scale], [0, scale, 90 - 180 * scale]])
        frames.append(cv2.warpAffine(ground, turn, (320, 180)))
    values = score("motion", np.stack(frames))
    assert values["motion_residual"] < 0.25 * values["motion_camera"]


def test_a_subject_before_a_still_ground_is_residual_and_not_camera() -> None:
    frames = still(4, 50)
    subject = texture(60, 60, 9)
    for n, frame in enumerate(frames):
        frame[60:120, 40 + 3 * n : 100 + 3 * n] = subject
    values = score("motion", frames)
    speed = 3 * 25 / np.hypot(320, 180)  # of the subject, which covers 6.25 % of the frame
    assert values["motion_camera"] < 0.02 * speed
    assert 0.03 * speed < values["motion_residual"] < 0.15 * speed
    assert values["motion_top"] > 0.4 * speed


def test_nothing_moves_in_a_still_or_black_clip() -> None:
    assert score("motion", still(5, 50))["motion"] < 1e-4
    assert score("motion", np.zeros((50, 180, 320, 3), np.uint8))["motion"] < 1e-4


# -- pictures --------------------------------------------------------------------------------------------------------


def test_sharpness_falls_with_blur_and_is_null_without_an_edge() -> None:
    rng = np.random.default_rng(0)
    sharp = cv2.resize(rng.integers(0, 255, (22, 40), dtype=np.uint8), (480, 270), interpolation=cv2.INTER_NEAREST)
    for of, sigmas in ((0, (0, 1, 2, 4, 8)), (1, (0, 1, 2, 4))):  # the whole picture, and its sharpest blocks
        values = [sharpness(cv2.GaussianBlur(sharp, (0, 0), s) if s else sharp)[of] for s in sigmas]
        assert all(a > b for a, b in itertools.pairwise(values))
        assert values[0] > 0.7 > 0.25 > values[-1]
    assert sharpness(np.full((270, 480), 90, np.uint8)) == (None, None)


def test_shallow_focus_is_sharp_somewhere_and_blur_nowhere() -> None:
    rng = np.random.default_rng(4)
    sharp = cv2.resize(rng.integers(0, 255, (54, 96), dtype=np.uint8), (480, 270), interpolation=cv2.INTER_NEAREST)
    soft = cv2.GaussianBlur(sharp, (0, 0), 5)
    shallow = soft.copy()
    shallow[80:200, 180:300] = sharp[80:200, 180:300]  # a subject in focus on 11 % of the picture
    assert sharpness(shallow)[0] < 0.6
    assert sharpness(shallow)[1] > 0.7 > 0.4 > sharpness(soft)[1]


def test_sharpness_is_the_published_blur_effect() -> None:
    gray = cv2.cvtColor(texture(120, 160, 7), cv2.COLOR_RGB2GRAY)
    g = gray.astype(float)
    blurs = []
    for axis in (0, 1):
        # the paper's steps in plain numpy: 9-tap mean, neighbour differences, what the mean takes away of them
        padded = np.pad(g, [(4, 4) if a == axis else (0, 0) for a in (0, 1)], mode="reflect")
        blurred = np.apply_along_axis(lambda line: np.convolve(line, np.ones(9) / 9, mode="valid"), axis, padded)
        d_sharp, d_blurred = np.abs(np.diff(g, axis=axis)), np.abs(np.diff(blurred, axis=axis))
        blurs.append((d_sharp.sum() - np.maximum(0, d_sharp - d_blurred).sum()) / d_sharp.sum())
    assert sharpness(gray)[0] == pytest.approx(1 - max(blurs), abs=0.01)


def test_exposure_of_known_pictures() -> None:
    half = np.zeros((10, 180, 320, 3), np.uint8)
    half[:, :, 160:] = 255
    values = score("exposure", half)
    assert values["brightness"] == pytest.approx(0.5, abs=0.01)
    assert values["dark_share"] == pytest.approx(0.5, abs=0.01)
    assert values["bright_share"] == pytest.approx(0.5, abs=0.01)
    assert values["contrast"] == pytest.approx(0.5, abs=0.01)  # two equal halves at 0 and 1
    black = score("exposure", np.zeros((10, 180, 320, 3), np.uint8))
    assert (black["brightness"], black["dark_share"], black["contrast"]) == pytest.approx((0, 1, 0), abs=0.01)


@pytest.mark.parametrize(
    ("bar", "side", "share"), [(24, 0, 48 / 180), (0, 40, 80 / 320), (18, 32, 1 - 0.8 * 0.8), (0, 0, 0)]
)
def test_letterbox_is_the_share_of_the_borders(bar: int, side: int, share: float) -> None:
    frames = pan(2, 1, 30).copy()
    frames[:, :bar] = frames[:, 180 - bar :] = 0
    frames[:, :, :side] = frames[:, :, 320 - side :] = 0
    values = score("letterbox", frames)
    assert values["letterbox"] == pytest.approx(share, abs=0.015)
    assert values["bars_above_below"] == pytest.approx(2 * bar / 180, abs=0.015)
    assert values["bars_beside"] == pytest.approx(2 * side / 320, abs=0.015)


def test_dark_scenes_are_no_letterbox_and_black_clips_say_nothing() -> None:
    frames = pan(2, 1, 50).copy()
    frames[10:20] = 0  # a moment of black in a full picture
    frames[20:30, :60] = 0
    assert score("letterbox", frames)["letterbox"] == pytest.approx(0, abs=0.01)
    assert score("letterbox", np.zeros((20, 180, 320, 3), np.uint8))["letterbox"] is None


def test_static_share_tells_slides_from_films() -> None:
    slides = np.concatenate([still(1, 50), still(2, 50)])
    noisy = np.clip(slides + np.random.default_rng(0).normal(0, 2, slides.shape), 0, 255).astype(np.uint8)
    assert score("static", slides)["static_share"] > 0.9
    assert score("static", noisy)["static_share"] > 0.9
    assert score("static", pan(1, 0, 50))["static_share"] == 0.0
    moving = still(3, 50).copy()
    for n, frame in enumerate(moving):
        frame[80:92, 40 + 4 * n : 56 + 4 * n] = 255  # a small thing crosses a still picture
    assert score("static", moving)["static_share"] == 0.0
    assert score("static", noisy)["slides"] == 2.0


def test_flicker_is_the_jump_from_frame_to_frame_and_a_fade_has_none() -> None:
    flicker = np.full((40, 90, 160, 3), 100, np.uint8)
    flicker[::2] = 120  # alternates by 20 of 255
    assert score("flicker", flicker)["flicker"] == pytest.approx(20 / 255, rel=0.03)
    fade = np.stack([np.full((90, 160, 3), 50 + 3 * n, np.uint8) for n in range(40)])
    assert score("flicker", fade)["flicker"] < 0.002


# -- text ------------------------------------------------------------------------------------------------------------


def caption(
    ground: np.ndarray, scale: float, thickness: int, text: str = "The quick brown fox"
) -> tuple[np.ndarray, float]:
    """The picture with white, dark-edged text on it, and the share of it under the text's box."""
    picture = ground.copy()
    (width, above), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    for colour, pen in ((0, thickness + 2), (255, thickness)):
        cv2.putText(picture, text, (20, 220), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, pen, cv2.LINE_AA)
    return picture, min(width, 460) * (above + below / 2) / picture.size


def text_of(gray: np.ndarray) -> float:
    return covered(text_lines(gray, stroke_mask(gray)), gray.shape)


@pytest.mark.parametrize(("scale", "thickness"), [(0.6, 1), (0.8, 2), (1.2, 3)])
@pytest.mark.parametrize("ground", ["flat", "ramp", "scene"])
def test_captions_are_found_and_their_area_is_about_right(scale: float, thickness: int, ground: str) -> None:
    grounds = {
        "flat": np.full((270, 480), 90, np.uint8),
        "ramp": np.tile(np.linspace(30, 220, 480), (270, 1)).astype(np.uint8),
        "scene": cv2.cvtColor(texture(270, 480, 11, 24), cv2.COLOR_RGB2GRAY),
    }
    picture, share = caption(grounds[ground], scale, thickness)
    assert text_of(grounds[ground]) == 0.0
    assert 0.4 * share < text_of(picture) < 1.8 * share


@pytest.mark.parametrize(("at", "subtitle"), [(40, False), (240, True)])
def test_text_in_the_lowest_third_is_a_subtitle(at: int, subtitle: bool) -> None:
    picture = np.full((270, 480, 3), 90, np.uint8)
    cv2.putText(
        picture, "The quick brown fox", (60, at), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2, cv2.LINE_AA
    )
    values = score("text_area", np.stack([picture] * 50))
    assert values["text_area"] > 0.02
    assert values["subtitle_area"] == (values["text_area"] if subtitle else 0.0)


def test_foliage_and_fences_are_no_text() -> None:
    rng = np.random.default_rng(3)
    leaves = np.full((270, 480), 60, np.uint8)
    for _ in range(2500):
        x, y = int(rng.integers(480)), int(rng.integers(270))
        cv2.ellipse(leaves, (x, y), (5, 3), int(rng.integers(180)), 0, 360, int(rng.integers(20, 230)), -1)
    fence = np.full((270, 480), 60, np.uint8)
    fence[:, ::12] = fence[:, 1::12] = fence[:, 2::12] = 200
    assert text_of(leaves) < 0.01
    assert text_of(fence) == 0.0


def test_text_that_stays_counts_and_a_scene_that_moves_does_not() -> None:
    rng = np.random.default_rng(1)
    blocks = cv2.resize(rng.integers(0, 255, (60, 160), dtype=np.uint8), (960, 360), interpolation=cv2.INTER_NEAREST)
    moving = [cv2.cvtColor(blocks[20:290, 8 * n : 480 + 8 * n], cv2.COLOR_GRAY2RGB) for n in range(50)]
    plain = score("text_area", np.stack(moving))["text_area"]
    written = score("text_area", np.stack([cv2.cvtColor(caption(np.full((270, 480), 90, np.uint8), 0.8, 2)[0],
                                                         cv2.COLOR_GRAY2RGB)] * 50))["text_area"]  # fmt: skip
    assert plain < 0.005
    assert written > 0.02


# -- parts -----------------------------------------------------------------------------------------------------------


def test_samples_that_reach_over_a_clips_edge_belong_to_no_clip() -> None:
    series = Series(1)
    for n in range(10):
        series.add(n, n + 1, 1.0 if n < 4 else 100.0 if n == 4 else 3.0)
    assert series.take(0, 5) == [1.0]  # pairs 0-1 to 3-4; the pair 4-5 lies across the cut
    assert series.take(5, 11) == [3.0]
    assert series.take(11, 12) == [None]


def test_a_series_keeps_bounded_memory_and_the_right_mean_over_a_long_clip() -> None:
    mean, least = Series(2), Series(1, "min")
    for n in range(100_000):
        mean.add(n, n, float(n), None if n % 2 else 1.0)
        least.add(n, n, float(abs(n - 500)))
    assert len(mean._recent) <= MAX_LATENESS + 1
    # the clip ends 100 frames ago, and the next one takes the rest
    assert mean.take(0, 99_900) == pytest.approx([99_899 / 2, 1.0])
    assert mean.take(99_900, 100_000) == pytest.approx([99_949.5, 1.0])
    assert least.take(0, 100_000) == [0.0]


def test_sampling_keeps_its_rate_over_any_frame_rate() -> None:
    for fps in (7.0, 24.0, 29.97, 60.0):
        due = Every(4.0)
        assert sum(due(n / fps) for n in range(int(10 * fps))) == pytest.approx(40, abs=1)


def test_scorers_are_found_by_name_or_path_and_refused_by_name() -> None:
    assert tuple(scorer_classes(built_in())) == built_in()
    assert scorer_class("models.scorers.motion:Motion").name == "motion"
    for spec, says in (
        ("motoin", "there is no scorer motoin. Built in are colourfulness, exposure"),
        ("no.such:Thing", "cannot import no.such"),
        ("models.scorers.motion:Nothing", "has no class Nothing"),
        ("models.scorers.base:Series", "lacks name, version"),
    ):
        with pytest.raises(ScorerError, match=says):
            scorer_class(spec)
    with pytest.raises(ScorerError, match="two scorers are named motion"):
        scorer_classes(["motion", "models.scorers.motion:Motion"])


def test_the_stages_default_scorers_are_the_catalogs() -> None:
    from stages.curation.analyze import DEFAULT_SCORERS

    assert sorted(DEFAULT_SCORERS) == sorted(built_in())


@pytest.mark.parametrize("name", built_in())
def test_equal_work_gives_equal_scores_wherever_its_arrays_lie(name: str) -> None:
    rng = np.random.default_rng(5)
    frames = np.clip(pan(3, 1, 40) + rng.normal(0, 4, (40, 180, 320, 3)), 0, 255).astype(np.uint8)
    first = score(name, frames)
    for size in (3, 1001, 77_777):
        kept = [bytearray(size) for _ in range(5)]  # moves what is allocated next
        assert score(name, frames) == first
        del kept

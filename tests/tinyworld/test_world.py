"""Short clips: a pure function of their seed, with a truth that the pixels bear out."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tinyworld import difficulty as d
from tinyworld.draw import render_clip, render_photo
from tinyworld.speed import measure_clip_speed
from tinyworld.world import Identity, draw_scene, generator, identities, identity_of, stage_actor


def _without_mask(truth: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in truth.items() if key != "mask"})


def test_the_same_seed_gives_the_same_pixels_and_the_same_truth() -> None:
    first, first_truth = render_clip(5, 32, 9)
    again, again_truth = render_clip(5, 32, 9)
    assert first.shape == (9, 32, 32, 3)
    assert first.dtype == np.uint8
    assert first.tobytes() == again.tobytes()
    assert _without_mask(first_truth) == _without_mask(again_truth)
    assert not np.array_equal(first, render_clip(6, 32, 9)[0])


def test_a_clip_does_not_depend_on_what_was_rendered_before_it() -> None:
    alone = (
        "from tinyworld.draw import render_clip; import hashlib; print(hashlib.sha256(render_clip({})[0]).hexdigest())"
    )
    fresh = subprocess.run([sys.executable, "-c", alone.format(5)], capture_output=True, text=True, check=True)
    after = alone.replace("; import", "; [render_clip(seed) for seed in range(12)]; import").format(5)
    warm = subprocess.run([sys.executable, "-c", after], capture_output=True, text=True, check=True)
    assert fresh.stdout == warm.stdout


def test_rendering_imports_neither_torch_nor_ray() -> None:
    code = "import sys, tinyworld.render, tinyworld.sheet, tinyworld.judge; print({'torch', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_there_are_thousands_of_identities_and_a_fifth_is_held_out() -> None:
    everyone = identities()
    assert len({identity.id for identity in everyone}) == 10 * 8 * 10 * 9 == 7200
    share = sum(identity.held_out for identity in everyone) / 7200
    # A binomial share of 0.2 among 7,200 has a standard deviation of 0.0047; the hash is fixed, so this never flickers.
    assert share == pytest.approx(0.2, abs=0.015)


def test_an_identity_is_found_again_by_its_id() -> None:
    assert all(identity_of(identity.id) == identity for identity in identities()[::97])
    for wrong in ("star-striped-red", "star-striped-red-red", "fish-striped-red-white"):
        with pytest.raises(ValueError, match=f"there is no identity '{wrong}'"):
            identity_of(wrong)


def test_the_split_is_obeyed() -> None:
    assert all(render_clip(seed, 16, 1, held_out=True)[1]["subjects"][0]["held_out"] for seed in range(20))
    assert not any(render_clip(seed, 16, 1, held_out=False)[1]["subjects"][0]["held_out"] for seed in range(20))


def test_a_caption_tells_shape_motion_and_background_but_neither_pattern_nor_colour() -> None:
    for seed in range(200):
        scene = draw_scene(seed)
        told = scene.caption
        identity = scene.actors[0].identity
        assert told.startswith(f"a toy {identity.shape} ")
        assert f" over {scene.backdrop.kind}" in told
        words = set(told.replace(",", "").split())
        assert not words & {*d.PATTERNS, *d.COLOURS}
        assert ("camera" in words) == (scene.camera.kind != "fixed")


def test_identities_of_one_phrase_look_different() -> None:
    one = render_photo(Identity("star", "striped", "red", "white"), 1, 64)
    other_colour = render_photo(Identity("star", "striped", "white", "red"), 1, 64)
    other_shape = render_photo(Identity("heart", "striped", "red", "white"), 1, 64)
    for other in (other_colour, other_shape):
        assert np.abs(one.astype(int) - other).mean() > 5


def test_a_pinned_attribute_changes_and_nothing_else_does() -> None:
    plain, pinned = draw_scene(3), draw_scene(3, background="snow" if draw_scene(3).backdrop.kind != "snow" else "sand")
    assert plain.backdrop.kind != pinned.backdrop.kind
    assert (plain.actors, plain.camera, plain.light) == (pinned.actors, pinned.camera, pinned.light)
    with pytest.raises(ValueError, match="cannot pin colour"):
        draw_scene(3, colour="red")


@pytest.mark.parametrize(("motion", "index", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_a_moving_subject_moves_where_its_caption_says(motion: str, index: int, sign: int) -> None:
    for seed in range(12):
        _, truth = render_clip(seed, 48, 9, motion=motion)
        rows, columns = (np.arange(48), np.arange(48))
        mask = truth["mask"].astype(float)
        weight = columns if index == 0 else rows[:, None]
        centre = (mask * weight).sum((1, 2)) / mask.sum((1, 2))
        steps = np.diff(centre) * sign
        assert (steps > 0).all()
        assert steps.sum() > 0.15 * 48


def test_growing_shrinking_spinning_and_standing_still_show_in_the_mask() -> None:
    for seed in range(8):
        areas = {m: render_clip(seed, 48, 9, motion=m)[1]["mask"].astype(float).sum((1, 2)) for m in d.MOTIONS}
        assert areas["grow"][-1] > 1.8 * areas["grow"][0]
        assert areas["shrink"][0] > 1.8 * areas["shrink"][-1]
        assert areas["spin"][-1] == pytest.approx(areas["spin"][0], rel=0.03)
        still = render_clip(seed, 48, 9, motion="still", camera="fixed")[0]
        assert (still == still[0]).all()
        spun = render_clip(seed, 48, 9, motion="spin", camera="fixed")[0]
        assert not (spun == spun[0]).all()


def test_boxes_enclose_the_drawn_subject() -> None:
    for seed in range(40):
        _, truth = render_clip(seed, 64, 5)
        for mask, box in zip(truth["mask"], truth["subjects"][0]["boxes"], strict=True):
            rows, columns = np.where(mask.max(1) > 96)[0], np.where(mask.max(0) > 96)[0]
            drawn = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            # Sharp corners are drawn rounded, so a box may be wider by a few pixels, never narrower by more than one.
            slack = (drawn - np.array(box) * 64) * np.array([1, 1, -1, -1])
            assert slack.min() > -1.1
            assert slack.max() < 5


def test_subjects_stay_whole_inside_the_frame() -> None:
    for seed in range(60):
        for aspect in (1.0, 1.6):
            scene = draw_scene(seed, aspect)
            for u in (0.0, 0.5, 1.0):
                x0, y0, x1, y1 = scene.actors[0].box(u, aspect)
                assert x0 > 0
                assert y0 > 0
                assert x1 < 1
                assert y1 < 1


def test_the_camera_moves_the_backdrop_and_not_the_subject() -> None:
    video, truth = render_clip(9, 48, 2, motion="still", camera="pan_right", background="bricks")
    mask = truth["mask"]
    assert np.array_equal(mask[0], mask[1])
    away = mask[0] == 0
    assert np.abs(video[0].astype(int) - video[1])[away].mean() > 2


def test_unknown_names_and_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no background 'lava'; choose one of grass"):
        render_clip(1, background="lava")
    with pytest.raises(ValueError, match="there is no motion 'jump'"):
        stage_actor(generator(1), identities()[0], "jump", 1.0, 1.0, "clip")
    with pytest.raises(ValueError, match="at least 8 pixels"):
        render_clip(1, 4)


def test_the_speed_measurement_counts_clips_and_seconds() -> None:
    speed = measure_clip_speed(0.05, 24, 3)
    assert speed.clips > 0
    assert speed.clips_per_minute == pytest.approx(60 * speed.clips / speed.cpu_seconds)

"""Which regions become subjects: phrases of a caption, box rules, tracks and quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.subjects.descriptor import ClosedFormEncoder, surroundings
from models.subjects.phrases import noun_phrases
from models.subjects.protocols import U8, Box, Proposal, Region
from models.subjects.quality import completeness, sharpness
from models.subjects.rules import Rules, judge, unambiguous
from models.video.encode import write_video
from stages.subjects.find import Finder, Payload, unpacked

RULES = Rules(0.04, 0.9, 16, 0.8, 4, 0.2, 0.0)


def mask_of(box: Box, height: int = 100, width: int = 100) -> U8:
    mask = np.zeros((height, width), np.uint8)
    x0, y0, x1, y1 = box
    mask[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = 255
    return mask


def region(box: Box, confidence: float = 0.9, phrase: str | None = None) -> Region:
    return Region(box, mask_of(box), confidence, phrase)


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("A woman walks a brown dog in a park", ["a woman", "a brown dog"]),
        ("A woman and a man are cooking in the kitchen.", ["a woman", "a man"]),
        ("Two cats chase a toy mouse under the table", ["two cats", "a toy mouse"]),
        ("A dog runs on the beach. The dog barks.", ["a dog"]),
        ("A beach at night", ["a beach"]),  # nothing else is there to look for
        ("", []),
        (None, []),
    ],
)
def test_the_subjects_of_a_caption_in_its_order(caption: str | None, phrases: list[str]) -> None:
    found = noun_phrases(caption)
    assert found == phrases
    assert noun_phrases(caption, 1) == phrases[:1]


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((0.1, 0.1, 0.5, 0.5), None),
        ((0.1, 0.1, 0.25, 0.3), "box_too_small"),  # 3% of the frame
        ((0.0, 0.0, 1.0, 0.95), "box_too_large"),
        ((0.1, 0.1, 0.25, 0.9), "side_too_short"),  # 15 px wide
    ],
)
def test_boxes_too_small_too_large_or_too_thin_are_named(box: Box, reason: str | None) -> None:
    kept, stopped = judge([region(box)], (100, 100), RULES)
    assert (len(kept), stopped) == ((1, []) if reason is None else (0, [reason]))


def test_of_two_boxes_that_are_nearly_one_the_surer_stays() -> None:
    # Overlap 0.4 x 0.4 of 0.4 x 0.42: IoU 0.95
    kept, stopped = judge([region((0.1, 0.1, 0.5, 0.5), 0.5), region((0.1, 0.1, 0.5, 0.52), 0.8)], (100, 100), RULES)
    assert [k.confidence for k in kept] == [0.8]
    assert stopped == ["same_box"]


def test_a_subject_that_the_frame_cuts_off_is_named_where_that_is_asked() -> None:
    strict = Rules(0.04, 0.9, 16, 0.8, 4, 0.2, 0.8)
    # A square of 40 px at the left border: 40 of its 156 outline pixels lie on the border, so 74% are its own.
    assert completeness(mask_of((0.0, 0.3, 0.4, 0.7))) == pytest.approx(1 - 40 / 156)
    assert judge([region((0.0, 0.3, 0.4, 0.7))], (100, 100), strict)[1] == ["cut_off"]
    assert completeness(mask_of((0.2, 0.3, 0.6, 0.7))) == 1.0


def test_a_phrase_with_several_regions_is_dropped_and_one_seen_twice_is_not() -> None:
    left, right, same = (0.1, 0.1, 0.4, 0.4), (0.6, 0.1, 0.9, 0.4), (0.1, 0.1, 0.4, 0.41)
    cat, dog = Proposal(left, 0.9, "a cat"), Proposal(right, 0.8, "a dog")
    assert unambiguous([cat, dog, Proposal(same, 0.5, "a cat")], RULES) == ([cat, dog], [])
    kept, dropped = unambiguous([cat, dog, Proposal(right, 0.5, "a cat")], RULES)
    assert (kept, dropped) == ([dog], ["ambiguous_phrase"] * 2)
    assert unambiguous([cat, dog, Proposal(right, 0.1, "a cat")], RULES)[0] == [cat, dog]  # too unsure to count
    nameless = [Proposal(left, 0.9), Proposal(right, 0.8)]
    assert unambiguous(nameless, RULES) == (nameless, [])


def test_a_blurred_crop_is_less_sharp() -> None:
    import cv2

    picture = np.random.default_rng(0).integers(0, 255, (60, 60, 3)).astype(np.uint8)
    mask = mask_of((0.1, 0.1, 0.9, 0.9), 60, 60)
    assert sharpness(picture, mask) > sharpness(cv2.GaussianBlur(picture, (0, 0), 2.0), mask) + 1
    assert sharpness(picture, np.zeros_like(mask)) == 0.0


def test_one_background_scores_high_and_two_do_not() -> None:
    import cv2

    rng = np.random.default_rng(1)
    palettes = ((0, 0, 0), (90, 120, 90)), ((150, 60, 0), (255, 160, 60))  # dark greens, oranges
    grounds = [cv2.resize(rng.integers(*p, (6, 6, 3)).astype(np.uint8), (120, 90)) for p in palettes]
    left, right = mask_of((0.1, 0.2, 0.4, 0.7), 90, 120), mask_of((0.6, 0.3, 0.9, 0.8), 90, 120)

    def shown(ground: U8, mask: U8) -> np.ndarray:
        return surroundings(np.where(mask[..., None] > 0, np.uint8(200), ground).astype(np.uint8), mask)

    same = float(shown(grounds[0], left) @ shown(grounds[0], right))
    other = float(shown(grounds[0], left) @ shown(grounds[1], left))
    assert same > 0.9 > other + 0.2
    assert not surroundings(grounds[0], np.full((90, 120), 255, np.uint8)).any()


class Scene:
    """Two boxes over a film of 17 frames: a grounder that knows them by name, and a tracker that follows their colours."""

    name = "scene"
    BOXES = {"a red box": (0.1, 0.2, 0.35, 0.6), "a blue box": (0.6, 0.3, 0.9, 0.8)}
    COLOURS = {"a red box": (220, 20, 20), "a blue box": (20, 20, 220)}

    def __init__(self, lies_at: int | None = None, misses_at: int | None = None, tracks: bool = True) -> None:
        self.lies_at, self.misses_at, self.tracks = lies_at, misses_at, tracks

    def load_grounder(self) -> Scene:
        return self

    def load_segmenter(self) -> Scene:
        return self

    def load_tracker(self) -> Scene | None:
        return self if self.tracks else None

    def load_faces(self) -> None:
        return None

    def load_encoder(self) -> ClosedFormEncoder:
        return ClosedFormEncoder()

    def ground(self, frames: U8, at: list[int], phrases: tuple[str, ...]) -> list[list[Proposal]]:
        found = []
        for n, _ in enumerate(at):
            named = {p: self.BOXES[p] for p in phrases}
            if n == self.lies_at:
                named["a red box"] = (0.4, 0.0, 0.6, 0.25)
            if n == self.misses_at:
                del named["a red box"]
            found.append([Proposal(b, 0.4 if n == self.lies_at else 0.9, p) for p, b in named.items()])
        return found

    def segment(self, frame: U8, proposal: Proposal) -> Region:
        return Region(proposal.box, mask_of(proposal.box, *frame.shape[:2]), proposal.confidence, proposal.phrase)

    def track(self, frames: U8, at: int, mask: U8) -> list[U8]:
        colour = np.median(frames[at][mask > 0], axis=0)
        return [np.where(np.abs(f - colour).max(-1) < 60, 255, 0).astype(np.uint8) for f in frames]


def look(tmp_path: Path, scene: Scene) -> list[dict[str, object]]:
    return unpacked(finding(tmp_path, scene, RULES)["found"]).to_pylist()


def finding(tmp_path: Path, scene: Scene, rules: Rules) -> Mapping[str, Any]:
    frame = np.full((96, 128, 3), 120, np.uint8)
    for name, (x0, y0, x1, y1) in Scene.BOXES.items():
        frame[round(y0 * 96) : round(y1 * 96), round(x0 * 128) : round(x1 * 128)] = Scene.COLOURS[name]
    path = tmp_path / "film.mp4"
    write_video(np.stack([frame] * 17), 8.0, path)
    finder = Finder(rules, scene)  # type: ignore[arg-type]
    return finder(Payload("clip", str(path), tuple(Scene.BOXES), (0.05, 0.5, 0.95), 2.0))


def test_what_is_not_taken_is_counted_by_its_reason(tmp_path: Path) -> None:
    found = finding(tmp_path, Scene(tracks=False), replace(RULES, most=1))
    assert found["dropped"] == "3 not_the_main_subject"
    assert len(unpacked(found["found"])) == 3


def test_each_phrase_is_one_track_by_its_place_in_the_caption(tmp_path: Path) -> None:
    rows = look(tmp_path, Scene(tracks=False))
    assert {(r["subject"], r["phrase"]) for r in rows} == {(0, "a red box"), (1, "a blue box")}
    assert len(rows) == 6
    assert rows[0]["appearance"] == "a red box"


@pytest.mark.parametrize("scene", [Scene(lies_at=1), Scene(misses_at=1)])
def test_the_tracker_mends_what_the_grounder_took_for_something_else_or_missed(tmp_path: Path, scene: Scene) -> None:
    rows = [r for r in look(tmp_path, scene) if r["phrase"] == "a red box"]
    assert len(rows) == 3
    for row in rows:
        assert row["box"] == pytest.approx(Scene.BOXES["a red box"], abs=0.05)


def test_without_a_tracker_the_mistake_stays(tmp_path: Path) -> None:
    rows = [r for r in look(tmp_path, Scene(lies_at=1, tracks=False)) if r["phrase"] == "a red box"]
    assert any(r["box"][1] < 0.1 for r in rows)  # type: ignore[index]

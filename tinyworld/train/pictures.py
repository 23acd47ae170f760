"""Pictures that the dual encoder trains on: whole frames with and without defects, and masked crops of subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from tinyworld import difficulty as d
from tinyworld.compose import draw_shot
from tinyworld.draw import draw, render_photo
from tinyworld.films import TEXTS, Defect, Shot
from tinyworld.train.scenes import any_scene, film_scene
from tinyworld.world import Identity, Scene, choose, draw_scene, generator, identities, uniform

U8 = npt.NDArray[np.uint8]
SIDE = 64
STORED = 128
"""Side of the frames in a pool: twice what the encoder sees, so that it can be shown a part of them."""
DEFECTS = (*d.SHOT_DEFECTS, "letterbox")
ASPECTS = (1.0, 1.0, 1.4, 1.6, 1.8)


def defect(kind: str, rng: np.random.Generator) -> Defect:
    """A defect of ``kind`` of a strength that films have."""
    strength = {"dark": d.DARK_GAIN, "blur": d.BLUR_SIGMA, "letterbox": d.LETTERBOX_BAR}
    return Defect(
        kind, uniform(rng, strength[kind]) if kind in strength else 0.0, choose(rng, TEXTS) if kind == "text" else ""
    )


def frame_scene(seed: int, held_out: bool | None, purpose: str) -> Scene:
    """A scene of one of the aspects that videos have."""
    rng = generator(seed, purpose, "aspect")
    aspect = choose(rng, ASPECTS)
    if rng.random() < 0.5:
        return film_scene((seed, purpose), held_out, aspect)
    return draw_scene(int(rng.integers(2**62)), aspect, held_out)


Box: TypeAlias = tuple[float, float, float, float]


def picture_of(
    scene: Scene, kind: str | None, rng: np.random.Generator, height: int = 160, side: int = SIDE
) -> tuple[U8, Box]:
    """One frame of ``scene`` with the defect ``kind`` (None: without), squashed to ``side`` x ``side``, and its subject's box.

    A letterboxed picture is the same scene pressed between its bars. The box is left, top, right and bottom in shares of the
    picture, all of it where there is a defect.
    """
    width = round(height * scene.aspect)
    wrong = defect(kind, rng) if kind else None
    if kind == "letterbox":
        assert wrong is not None
        scene = replace(scene, aspect=width / (height - 2 * round(wrong.strength * height)))
    if wrong is not None:
        return squash(draw_shot(Shot(scene, 1, wrong), width, height)[0], side), (0.0, 0.0, 1.0, 1.0)
    u = int(rng.integers(3))
    frames, masks = draw(scene, width, height, 3)
    rows, columns = np.flatnonzero((masks[u] > 127).any(1)), np.flatnonzero((masks[u] > 127).any(0))
    box = (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)
    return squash(frames[u], side), box


def squash(picture: U8, side: int = SIDE) -> U8:
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def crop_of(identity: Identity, key: tuple[int | str, ...]) -> U8:
    """A subject as references show it: cut from a frame by its mask onto white, or a portrait on a studio sweep."""
    rng = generator(*key, identity.id)
    if rng.random() < 0.25:
        return render_photo(identity, int(rng.integers(2**40)), SIDE)
    scene = any_scene(int(rng.integers(2**40)), None, "crop")
    actor = replace(scene.actors[0], identity=identity)
    side = int(rng.choice((40, 64, 112, 160)))
    frames, masks = draw(replace(scene, actors=(actor,)), side, side, 2)
    return cut(frames[0], masks[0], rng)


def cut(frame: U8, mask: U8, rng: np.random.Generator | None = None) -> U8:
    """The masked subject on white, letterboxed to 64 x 64; ``rng`` moves the box a little."""
    rows, columns = np.flatnonzero((mask > 127).any(1)), np.flatnonzero((mask > 127).any(0))
    if not len(rows) or not len(columns):
        return np.full((SIDE, SIDE, 3), 255, np.uint8)
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    alpha = (mask[top:bottom, left:right, None] > 127).astype(np.float32)
    shown = (frame[top:bottom, left:right] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    share = 1.0 if rng is None else uniform(rng, (0.8, 1.0))
    scale = SIDE * share / max(shown.shape[:2])
    size = (max(1, round(shown.shape[1] * scale)), max(1, round(shown.shape[0] * scale)))
    small = cv2.resize(shown, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    canvas = np.full((SIDE, SIDE, 3), 255, np.uint8)
    y, x = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    canvas[y : y + size[1], x : x + size[0]] = small
    return canvas


class Pool:
    """A rendered stock of pictures, kept as one file: ``frames`` with their scenes' labels and ``crops`` in two views.

    ``frames`` are uint8 (N, 128, 128, 3), ``boxes`` float32 (N, 4): left, top, right and bottom of the subject as shares of the
    frame, the whole frame where it has a defect. ``frame_labels`` columns: background, shape, defect (0 none, else 1 +
    index of ``DEFECTS``). ``crop_labels`` columns: shape, pattern, base, accent.
    """

    def __init__(self, file: Path, frames: int, subjects: int, purpose: str = "encoder") -> None:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            parts = _render(frames, subjects, purpose)
            aside = file.with_suffix(".new.npz")
            np.savez(aside, allow_pickle=False, **parts)
            aside.replace(file)
        with np.load(file) as stored:
            self.frames, self.frame_labels, self.boxes = stored["frames"], stored["frame_labels"], stored["boxes"]
            self.crops, self.crop_labels = stored["crops"], stored["crop_labels"]
        self.index = {tuple(row): i for i, row in enumerate(self.crop_labels.tolist())}


def labels_of(identity: Identity) -> tuple[int, int, int, int]:
    colours = tuple(d.COLOURS)
    return (
        d.SHAPES.index(identity.shape),
        d.PATTERNS.index(identity.pattern),
        colours.index(identity.base),
        colours.index(identity.accent),
    )


def _render(frames: int, subjects: int, purpose: str) -> dict[str, npt.NDArray[np.integer]]:
    pictures, boxes, frame_labels = [], [], []
    for seed in range(frames):
        rng = generator(seed, purpose, "frame")
        scene = frame_scene(seed, False, purpose)
        which = int(rng.integers(len(DEFECTS))) + 1 if rng.random() < 0.4 else 0
        picture, box = picture_of(scene, DEFECTS[which - 1] if which else None, rng, int(rng.choice((96, 160))), STORED)
        pictures.append(picture)
        boxes.append(box)
        shape = d.SHAPES.index(scene.actors[0].identity.shape)
        frame_labels.append((d.BACKGROUNDS.index(scene.backdrop.kind), shape, which))
    known = [identity for identity in identities() if not identity.held_out]
    order = generator(purpose, "subjects").permutation(len(known))[:subjects]
    chosen: Sequence[Identity] = [known[int(i)] for i in order]
    crops = [np.stack([crop_of(identity, (purpose, view)) for view in range(2)]) for identity in chosen]
    return {
        "frames": np.stack(pictures),
        "boxes": np.array(boxes, np.float32),
        "frame_labels": np.array(frame_labels, np.int64),
        "crops": np.stack(crops),
        "crop_labels": np.array([labels_of(identity) for identity in chosen], np.int64),
    }

"""An exam for subject-to-video models: subjects of the world that no training may show, judged by the oracles.

Each question is a reference cut from a render by its true mask, and a prompt in the training layout that asks for a motion
and a background. The answer is a clip; the oracles say what it shows. The text tells the shape and, roughly, the colours;
pattern and place of the colours come from the reference alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from models.subjects.prompts import appearance, compose
from tinyworld import difficulty as d
from tinyworld.draw import draw
from tinyworld.oracles import CANDIDATES, UNTOLD_CHANCE, Seen, distractors, retrieved, untold_right
from tinyworld.world import MOTION_WORDS, Identity, choose, draw_identity, draw_scene, generator

U8 = npt.NDArray[np.uint8]
PHOTO_SIDE = 160


@dataclass(frozen=True)
class Question:
    """What is asked for, the prompt in the layout, and the reference: its crop RGB (H, W, 3) and mask (H, W)."""

    identity: Identity
    motion: str
    background: str
    prompt: str
    crop: U8
    mask: U8


def question(index: int, purpose: str = "exam", held_out: bool = True, token: str = "") -> Question:
    """Question ``index``: motions and backgrounds come in turn, the subject and its picture by chance; ``token`` as in ``compose``."""
    rng = generator(purpose, "question", index)
    identity = draw_identity(rng, held_out)
    motion = d.MOTIONS[index % len(d.MOTIONS)]
    background = d.BACKGROUNDS[(index // len(d.MOTIONS) + index) % len(d.BACKGROUNDS)]
    elsewhere = choose(rng, tuple(kind for kind in d.BACKGROUNDS if kind != background))
    crop, mask = portrait(identity, elsewhere, int(rng.integers(2**40)))
    caption = f"{identity.phrase} {MOTION_WORDS[motion]} over {background}"
    prompt = compose(caption, [identity.phrase], [appearance(identity.phrase, crop, mask)], token=token)
    return Question(identity, motion, background, prompt, crop, mask)


def portrait(identity: Identity, background: str, seed: int) -> tuple[U8, U8]:
    """The subject cut out of one frame of a rendered scene: crop and mask, as the subjects stage stores references."""
    from dataclasses import replace

    scene = draw_scene(seed, background=background, motion="still", camera="fixed")
    actor = replace(scene.actors[0], identity=identity)
    frames, masks = draw(replace(scene, actors=(actor,)), PHOTO_SIDE, PHOTO_SIDE, 1)
    inside = masks[0] > 127
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.ascontiguousarray(frames[0][box]), np.ascontiguousarray(np.where(inside[box], 255, 0).astype(np.uint8))


@dataclass(frozen=True)
class Mark:
    """What one answer is worth; each field is one number per clip."""

    identity: float
    identity_first: float
    background: float
    motion: float
    travel: float
    cleanness: float


MEANINGS = {
    "identity": (
        "Oracle: pattern and colours of unseen subjects",
        "higher",
        f"share of pattern, base and accent colour that is the reference's; by chance {UNTOLD_CHANCE}",
    ),
    "identity_first": (
        "Oracle: unseen subject found among 50",
        "higher",
        f"whether the subject scores above {CANDIDATES - 1} other unseen ones of its shape; by chance 0.02",
    ),
    "background": ("Oracle: background as told", "higher", "by chance 0.125"),
    "motion": ("Oracle: motion as told", "higher", "by chance 0.125"),
    "travel": ("Oracle: way of the subject", "neither", "from first to last frame, in frame heights"),
    "cleanness": ("Oracle: cleanness", "higher", "1 is an undisturbed render, 0 noise"),
}


def mark(seen: Seen, asked: Question, index: int, purpose: str = "exam") -> Mark:
    """The answer to ``asked`` as the oracles see it."""
    return Mark(
        identity=untold_right(seen, asked.identity),
        identity_first=float(retrieved(seen, asked.identity, distractors(asked.identity, purpose, index))),
        background=float(seen.background == asked.background),
        motion=float(seen.motion == asked.motion),
        travel=seen.travel,
        cleanness=seen.cleanness,
    )


def sheet(questions: Sequence[Question], answers: dict[str, Sequence[U8]], cell: int = 72) -> U8:
    """A picture of answers: a row per question with its reference, then first, middle and last frame per system."""
    rows: list[Any] = []
    for index, asked in enumerate(questions):
        picture = asked.crop.copy()
        picture[asked.mask < 128] = 255
        cells = [_square(picture, cell)]
        for videos in answers.values():
            video = videos[index]
            cells.append(np.full((cell, 6, 3), 255, np.uint8))
            cells += [
                np.asarray(cv2.resize(video[at], (cell, cell), interpolation=cv2.INTER_NEAREST), np.uint8)
                for at in (0, len(video) // 2, len(video) - 1)
            ]
        rows.append(np.hstack(cells))
        rows.append(np.full((4, rows[0].shape[1], 3), 255, np.uint8))
    return np.vstack(rows[:-1])


def _square(picture: U8, side: int) -> U8:
    scale = side / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    canvas = np.full((side, side, 3), 255, np.uint8)
    y, x = (side - size[1]) // 2, (side - size[0]) // 2
    canvas[y : y + size[1], x : x + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return canvas

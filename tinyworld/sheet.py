"""The world at a glance: one picture of its subjects, backgrounds, motions, joins and defects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tinyworld import difficulty as d
from tinyworld.compose import compose, draw_shot
from tinyworld.draw import draw, render_clip, render_photo
from tinyworld.films import Film, Shot, plan_world
from tinyworld.plates import plate
from tinyworld.world import (
    Identity,
    Scene,
    draw_identity,
    draw_scene,
    generator,
    identity_of,
    stage_actor,
)

Picture = npt.NDArray[np.uint8]

WIDTH = 1640
MARGIN = 40
GAP = 10
PAPER = (250, 248, 243)
INK = (38, 36, 44)
FAINT = (126, 122, 128)


def _font() -> Any:
    return cv2.FontFace("sans")


class _Page:
    """A growing page that is filled from top to bottom."""

    def __init__(self) -> None:
        self.canvas: Picture = np.full((200, WIDTH, 3), PAPER, np.uint8)
        self.y = MARGIN

    def _grow(self, bottom: int) -> None:
        short = bottom + MARGIN - len(self.canvas)
        if short > 0:
            more = np.full((short, WIDTH, 3), PAPER, np.uint8)
            self.canvas = np.concatenate([self.canvas, more])

    def write(
        self, text: str, x: int, y: int, size: int, weight: int = 400, colour: tuple[int, int, int] = INK
    ) -> None:
        self._grow(y + size)
        cv2.putText(self.canvas, text, (x, y + size), colour, _font(), size, weight)

    def heading(self, text: str, note: str) -> None:
        self.y += 22
        self.write(text, MARGIN, self.y, 22, 700)
        self.y += 30
        self.write(note, MARGIN, self.y, 15, 400, FAINT)
        self.y += 32

    def place(self, picture: Picture, x: int, y: int) -> None:
        """Paste with rounded corners."""
        height, width = picture.shape[:2]
        self._grow(y + height)
        mask = np.zeros((height, width), np.uint8)
        r = 7
        cv2.rectangle(mask, (r, 0), (width - r - 1, height - 1), 255, -1)
        cv2.rectangle(mask, (0, r), (width - 1, height - r - 1), 255, -1)
        for corner in ((r, r), (width - r - 1, r), (r, height - r - 1), (width - r - 1, height - r - 1)):
            cv2.circle(mask, corner, r, 255, -1, cv2.LINE_AA)
        alpha = (mask / 255.0)[..., None]
        part = self.canvas[y : y + height, x : x + width]
        self.canvas[y : y + height, x : x + width] = (part * (1 - alpha) + picture * alpha).astype(np.uint8)

    def grid(self, cells: Sequence[tuple[Picture, str]], columns: int, label: int = 14) -> None:
        """Cells of one size in rows, each with its label underneath."""
        wide = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
        for start in range(0, len(cells), columns):
            row = cells[start : start + columns]
            tall = 0
            for index, (picture, text) in enumerate(row):
                height = round(picture.shape[0] * wide / picture.shape[1])
                scale = cv2.INTER_AREA if wide < picture.shape[1] else cv2.INTER_CUBIC
                x = MARGIN + index * (wide + GAP)
                self.place(np.asarray(cv2.resize(picture, (wide, height), interpolation=scale), np.uint8), x, self.y)
                if text:
                    self.write(text, x + 2, self.y + height + 5, label)
                tall = max(tall, height)
            self.y += tall + (label + 14 if any(text for _, text in row) else GAP)


def _strip(pictures: Sequence[Picture], gap: int = 3) -> Picture:
    """Frames side by side on paper."""
    bar = np.full((pictures[0].shape[0], gap, 3), PAPER, np.uint8)
    cells: list[Picture] = []
    for picture in pictures:
        cells += [picture, bar]
    return np.hstack(cells[:-1])


def _blocks(picture: Picture, times: int) -> Picture:
    """Enlarged without smoothing, so that pixels show."""
    return np.asarray(np.repeat(np.repeat(picture, times, axis=0), times, axis=1), np.uint8)


def _subjects(seed: int) -> list[tuple[Picture, str]]:
    rng = generator(seed, "sheet", "subjects")
    cells: list[tuple[Picture, str]] = []
    for row, pattern in enumerate(d.PATTERNS):
        for column, shape in enumerate(d.SHAPES):
            drawn = draw_identity(rng)
            base = tuple(d.COLOURS)[(row * 3 + column) % len(d.COLOURS)]
            accent = drawn.accent if drawn.accent != base else drawn.base
            cells.append((render_photo(Identity(shape, pattern, base, accent), seed, 144), ""))
    return cells


def _backgrounds() -> list[tuple[Picture, str]]:
    cells: list[tuple[Picture, str]] = []
    for kind in d.BACKGROUNDS:
        whole = plate(kind, 0, 288)
        cells.append((np.ascontiguousarray(whole[150:430, 150:598]), kind))
    return cells


def _motions(seed: int) -> list[tuple[Picture, str]]:
    cells = []
    for index, motion in enumerate(d.MOTIONS):
        rng = generator(seed, "sheet", motion)
        background = d.BACKGROUNDS[(index * 3 + 1) % len(d.BACKGROUNDS)]
        identity = draw_identity(rng)
        while identity.base in d.CLASHES[background]:
            identity = draw_identity(rng)
        camera = "pan_left" if motion == "still" else "fixed"
        scene = draw_scene(seed + index, background=background, motion=motion, camera=camera)
        actor = stage_actor(rng, identity, motion, 1.0, d.CLIP_SECONDS, "clip")
        shown = Scene((actor,), scene.backdrop, scene.camera, "noon", 1.0, 1.0)
        video, _ = draw(shown, 144, 144, 5)
        cells.append((_strip(list(video)), shown.caption))
    return cells


def _pairs(seed: int) -> list[tuple[Picture, str]]:
    """Clips as models see them, at 24 pixels, each after the reference that its caption needs."""
    cells = []
    for index in range(6):
        video, truth = render_clip(seed + 100 + index, 24, 9)
        identity = identity_of(truth["subjects"][0]["id"])
        photo = render_photo(identity, seed, 168)
        cells.append((_strip([photo, *(_blocks(frame, 7) for frame in video[::2][:4])]), truth["caption"]))
    return cells


def _first_with(films: Sequence[Film], kind: str) -> tuple[Film, Shot]:
    """The first shot with this defect, of a film of the commonest width where there is one."""
    for film in sorted(films, key=lambda film: film.width != d.FILM_SIZES[0][0]):
        for shot in film.shots:
            if shot.defect is not None and shot.defect.kind == kind:
                return film, shot
    raise ValueError(f"no film has a shot with {kind}")


def _defects(films: Sequence[Film]) -> list[tuple[Picture, str]]:
    labels = {
        "static": "static slide",
        "text": "text overlay",
        "blur": "out of focus",
        "dark": "darkness",
        "letterbox": "letterbox",
    }
    cells = []
    for kind, label in labels.items():
        film, shot = _first_with(films, kind)
        video = draw_shot(shot, film.width, film.height)
        cells.append((video[len(video) // 2], label))
    return cells


def _joins(films: Sequence[Film]) -> list[tuple[Picture, str]]:
    cells = []
    for kind in ("cut", "dissolve", "fade"):
        film, number = next(
            (film, number)
            for film in films
            for number, join in enumerate(film.joins)
            if join.kind == kind and all(shot.defect is None for shot in film.shots[number : number + 2])
        )
        span = film.transitions()[number]
        middle, join_length = (span.start + span.end) // 2, span.end - span.start
        if kind == "cut":
            wanted = [middle - 4, middle - 2, middle - 1, middle, middle + 1, middle + 3]
        else:
            quarter = join_length // 4
            wanted = [span.start - 1, span.start + quarter, middle - 1, middle, span.end - 1 - quarter, span.end]
        frames = [frame for index, frame in enumerate(compose(film)) if index in wanted]
        left = (film.width - 224) // 2
        label = f"{kind}: the new shot begins at frame {middle}"
        if kind != "cut":
            label = f"{kind}: frames {span.start} to {span.end - 1}, the boundary at {middle}"
        strip = _strip([np.ascontiguousarray(frame[:, left : left + 224]) for frame in frames])
        cells.append((strip, label))
    return cells


def contact_sheet(seed: int, out_png: Path) -> Path:
    """Draw the sheet of the world with ``seed`` into ``out_png`` and return its path."""
    films = plan_world(seed, d.SMALLEST_WHOLE_WORLD).films
    page = _Page()
    count = len(d.SHAPES) * len(d.PATTERNS) * len(d.COLOURS) * (len(d.COLOURS) - 1)
    page.write("tinyworld", MARGIN, page.y, 46, 800)
    page.y += 62
    page.write(
        f"{count:,} subjects over {len(d.BACKGROUNDS)} backgrounds in {len(d.MOTIONS)} motions. "
        f"World version {d.WORLD_VERSION}, seed {seed}.",
        MARGIN, page.y, 17, 400, FAINT,
    )  # fmt: skip
    page.y += 26
    page.heading(
        "Subjects",
        "Ten shapes, eight patterns, ninety pairs of colours. A caption tells the shape; the rest needs a reference.",
    )
    page.grid(_subjects(seed), 20)
    page.heading("Backgrounds", "Painted plates; framing, flip and light vary with the seed.")
    page.grid(_backgrounds(), 4)
    page.heading("Motions", "Each with the caption that goes with it.")
    page.grid(_motions(seed), 2)
    page.heading(
        "Clips as models see them", "A reference photograph, then frames of a 24-pixel clip of the same subject."
    )
    page.grid(_pairs(seed), 2)
    page.heading("Defects of raw videos", "What a good curator throws out; copies and broken files come on top.")
    page.grid(_defects(films), 5)
    page.heading("Boundaries of shots", "Cuts, dissolves and fades, with the frames that the truth names.")
    page.grid(_joins(films), 1)
    page.y += 10
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(out), page.canvas[: page.y + MARGIN // 2, :, ::-1]):
        raise OSError(f"could not write the contact sheet to {out}; give a path that ends in .png in a writable folder")
    return out


def samples_sheet(samples: Sequence[tuple[Picture, str]], note: str, out: Path) -> Path:
    """Generated clips (uint8 FHWC) with the captions that asked for them, pixels enlarged, into ``out`` (png or jpg)."""
    page = _Page()
    page.write("samples of the embedded base", MARGIN, page.y, 38, 800)
    page.y += 52
    page.write(note, MARGIN, page.y, 16, 400, FAINT)
    page.y += 38
    cells = [(_strip([_blocks(frame, 6) for frame in video[::2]]), text) for video, text in samples]
    page.grid(cells, 2)
    if not cv2.imwrite(str(out), page.canvas[: page.y + MARGIN // 2, :, ::-1]):
        raise OSError(
            f"could not write the samples to {out}; give a path that ends in .png or .jpg in a writable folder"
        )
    return out

"""What a world of raw videos holds: films of several shots, their joins and defects, copies and broken files, as data.

Nothing is drawn here. A plan is a pure function of (seed, count); ``shot_starts`` and ``Span`` say on which frames its
shots and joins lie, and ``compose.py`` draws exactly that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, pairwise

import numpy as np

from tinyworld import difficulty as d
from tinyworld.world import (
    Identity,
    Option,
    Scene,
    caption,
    choose,
    draw_identity,
    generator,
    stage_actor,
    stage_backdrop,
    stage_camera,
    uniform,
)

TEXTS = (
    "SUBSCRIBE NOW",
    "NEW EPISODE TONIGHT",
    "ONLY 9.99 TODAY",
    "CHAPTER TWO",
    "TOYS OF THE WEEK",
    "LIVE FROM THE FAIR",
)
COPY_KINDS = ("reencoded", "rescaled", "cropped")
BROKEN_KINDS = ("truncated", "empty", "garbage")


@dataclass(frozen=True)
class Span:
    """Frames [start, end), counted from the film's first."""

    start: int
    end: int


@dataclass(frozen=True)
class Defect:
    """What is wrong with a shot. ``strength``: gain (dark), sigma (blur) or bar height (letterbox) in frame heights."""

    kind: str
    strength: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class Shot:
    """One shot: its scene, its length in frames with the parts shared in dissolves, and its defect."""

    scene: Scene
    frames: int
    defect: Defect | None = None


@dataclass(frozen=True)
class Join:
    """How a shot passes into the next: ``frames`` is 0 for a cut, else the even length of the transition."""

    kind: str
    frames: int = 0


@dataclass(frozen=True)
class Film:
    """One raw video. All its shots show the same subject, motion and background, so its caption is true of each."""

    number: int
    width: int
    height: int
    fps: int
    codec: str
    identity: Identity
    motion: str
    background: str
    shots: tuple[Shot, ...]
    joins: tuple[Join, ...]

    @property
    def caption(self) -> str:
        return caption(self.shots[0].scene.actors, self.background)

    def starts(self) -> list[int]:
        """The frame at which each shot begins to be seen: two shots share the frames of a dissolve."""
        starts = [0]
        for shot, join in zip(self.shots, self.joins, strict=False):
            starts.append(starts[-1] + shot.frames - (join.frames if join.kind == "dissolve" else 0))
        return starts

    @property
    def frames(self) -> int:
        return self.starts()[-1] + self.shots[-1].frames

    def transitions(self) -> list[Span]:
        """The frames of each join that show a transition; empty, at the new shot's first frame, for a cut."""
        spans = []
        for start, join in zip(self.starts()[1:], self.joins, strict=True):
            half = join.frames // 2 if join.kind == "fade" else 0
            spans.append(Span(start - half, start - half + join.frames))
        return spans

    def shot_spans(self) -> list[Span]:
        """The shots as a partition of the film: the boundary of a gradual join lies at its middle."""
        middles = [(span.start + span.end) // 2 for span in self.transitions()]
        return [Span(a, b) for a, b in zip([0, *middles], [*middles, self.frames], strict=True)]

    def clean_spans(self) -> list[Span]:
        """Each shot without the frames that belong to a transition."""
        joins = self.transitions()
        firsts, lasts = [0, *(span.end for span in joins)], [*(span.start for span in joins), self.frames]
        return [Span(a, b) for a, b in zip(firsts, lasts, strict=True)]


@dataclass(frozen=True)
class Copy:
    """A file that repeats a film: re-encoded by another codec, rescaled, or slightly cropped."""

    number: int
    film: Film
    how: str
    amount: float


@dataclass(frozen=True)
class Broken:
    """A file that no decoder opens; a truncated one is the head of a real film's mp4."""

    number: int
    film: Film
    how: str


@dataclass(frozen=True)
class Plan:
    """Everything a world of files holds; ``number`` gives each its file name."""

    seed: int
    count: int
    films: tuple[Film, ...]
    copies: tuple[Copy, ...]
    broken: tuple[Broken, ...]
    photos: tuple[Identity, ...]


def _dealt(rng: np.random.Generator, cards: Sequence[Option]) -> Iterator[Option]:
    """Deal ``cards`` for ever, shuffled anew each round: every card comes once a round."""
    while True:
        for index in rng.permutation(len(cards)):
            yield cards[int(index)]


def _cast(rng: np.random.Generator, films: int, clean: int) -> list[tuple[Identity, str]]:
    """An identity and a background for each of ``films``.

    Every identity plays in at least two of the first ``clean`` films (where there are two), each time over another
    background, and none that swallows its base colour.
    """
    identities: list[Identity] = []
    shapes, patterns, bases = _dealt(rng, d.SHAPES), _dealt(rng, d.PATTERNS), _dealt(rng, tuple(d.COLOURS))
    while len(identities) < max(1, clean // 2):
        # Dealt rather than drawn, so that a small world is varied too.
        candidate = Identity(next(shapes), next(patterns), next(bases), draw_identity(rng).accent)
        if candidate.base != candidate.accent and not candidate.held_out and candidate not in identities:
            identities.append(candidate)
    cast: list[tuple[Identity, str]] = []
    used: dict[Identity, list[str]] = {}
    backgrounds = _dealt(rng, d.BACKGROUNDS)
    for _, identity in zip(range(films), cycle(identities), strict=False):
        seen = used.setdefault(identity, [])
        fits = (kind for kind in backgrounds if identity.base not in d.CLASHES[kind] and kind not in seen)
        seen.append(next(fits))
        cast.append((identity, seen[-1]))
    return cast


def _defect(rng: np.random.Generator, kind: str) -> Defect:
    match kind:
        case "dark":
            return Defect(kind, uniform(rng, d.DARK_GAIN))
        case "blur":
            return Defect(kind, uniform(rng, d.BLUR_SIGMA))
        case "text":
            return Defect(kind, text=choose(rng, TEXTS))
        case "letterbox":
            return Defect(kind, uniform(rng, d.LETTERBOX_BAR))
        case _:
            return Defect(kind)


def _even(value: float) -> int:
    return 2 * max(1, round(value / 2))


def bar_px(film_height: int, defect: Defect | None) -> int:
    """Height of each black bar, even, 0 without letterbox."""
    return _even(defect.strength * film_height) if defect is not None and defect.kind == "letterbox" else 0


def _plan_film(
    rng: np.random.Generator,
    number: int,
    codec: str,
    cast: tuple[Identity, str],
    motion: str,
    defects: list[str],
    joins: Iterator[str],
    letterbox: bool,
    sizes: tuple[tuple[int, int], ...],
) -> Film:
    identity, background = cast
    (width, height), fps = choose(rng, sizes), choose(rng, d.FILM_FPS)
    low, high = d.SHOTS_PER_FILM
    count = low + int(rng.integers(high - low + 1))
    bars = _defect(rng, "letterbox") if letterbox else None
    slots = dict(zip((int(i) for i in rng.permutation(count)), defects, strict=False))
    wrong = [bars or (_defect(rng, slots[index]) if index in slots else None) for index in range(count)]
    passes: list[Join] = []
    for neighbours in pairwise(wrong):
        kind = next(joins)
        # A slide must stay still to its last frame, and a fade of darkness could not be seen.
        if kind == "cut" or any(defect is not None and defect.kind in ("static", "dark") for defect in neighbours):
            passes.append(Join("cut"))
        else:
            seconds = uniform(rng, d.DISSOLVE_SECONDS if kind == "dissolve" else d.FADE_SECONDS)
            passes.append(Join(kind, _even(seconds * fps)))
    lights, variants = _dealt(rng, tuple(d.LIGHTS)), _dealt(rng, tuple(range(d.PLATE_VARIANTS)))
    shots: list[Shot] = []
    for index, defect in enumerate(wrong):
        # What is seen of the shot alone, and its part in the joins on either side.
        around = passes[max(0, index - 1) : index + 1]
        shared = sum(join.frames if join.kind == "dissolve" else join.frames // 2 for join in around)
        frames = round(uniform(rng, d.SHOT_SECONDS) * fps) + shared
        aspect = width / (height - 2 * bar_px(height, defect))
        moving = rng.random() < d.MOVING_CAMERA_SHARE_OF_FILMS.get(motion, d.MOVING_CAMERA_SHARE_OF_FILMS["any"])
        light = next(name for name in lights if not shots or name != shots[-1].scene.light)
        scene = Scene(
            actors=(stage_actor(rng, identity, motion, aspect, frames / fps, "film"),),
            backdrop=replace(stage_backdrop(rng, background, "film"), variant=next(variants)),
            camera=stage_camera(rng, choose(rng, d.CAMERAS[1:]) if moving else "fixed", frames / fps),
            light=light,
            light_strength=1.0,
            aspect=aspect,
        )
        shots.append(Shot(scene, frames, defect))
    return Film(number, width, height, fps, codec, identity, motion, background, tuple(shots), tuple(passes))


def plan_world(seed: int, count: int, square: bool = False) -> Plan:
    """Plan ``count`` video files, wide or ``square``.

    From ``SMALLEST_WHOLE_WORLD`` files on, every kind of defect and join occurs.

    Raises ValueError when ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"a world needs at least one video, not {count}")
    least = 3 if count >= d.SMALLEST_WHOLE_WORLD else 0
    broken_count, copy_count = max(least, count // d.BROKEN_ONE_IN), max(least, count // d.COPY_ONE_IN)
    film_count = count - broken_count - copy_count
    boxed = max(1 if least else 0, film_count // d.LETTERBOX_ONE_IN)
    rng = generator(seed, "world", count)
    numbers = [int(i) for i in rng.permutation(count)]
    cast = _cast(rng, film_count, film_count - boxed)
    motions, defects, joins = _dealt(rng, d.MOTIONS), _dealt(rng, d.SHOT_DEFECTS), _dealt(rng, d.JOINS)
    films = []
    for index in range(film_count):
        # The last films are the letterboxed ones: every identity has played in two clean films by then.
        letterbox = index >= film_count - boxed
        wrong: list[str] = []
        while not letterbox and len(wrong) < 1 + index % 2:
            wrong.append(next(kind for kind in defects if kind not in wrong))
        codec = "vp9" if index % d.WEBM_ONE_IN == d.WEBM_ONE_IN - 1 else "h264"
        own = generator(seed, "film", count, index)
        sizes = d.SQUARE_FILM_SIZES if square else d.FILM_SIZES
        films.append(_plan_film(own, numbers[index], codec, cast[index], next(motions), wrong, joins, letterbox, sizes))
    clean = films[: film_count - boxed]
    copies = []
    for index, number in enumerate(numbers[film_count : film_count + copy_count]):
        film = clean[index * len(clean) // copy_count]
        copies.append(Copy(number, film, COPY_KINDS[index % len(COPY_KINDS)], uniform(rng, d.CROP)))
    whole = [film for film in clean if film.codec == "h264"]
    broken = []
    for index, number in enumerate(numbers[film_count + copy_count :]):
        broken.append(Broken(number, choose(rng, tuple(whole)), BROKEN_KINDS[index % len(BROKEN_KINDS)]))
    faces = tuple(dict.fromkeys(identity for identity, _ in cast))[: d.PHOTOS_AT_MOST]
    return Plan(seed, count, tuple(films), tuple(copies), tuple(broken), faces)

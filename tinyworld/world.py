"""What there is in the world and what happens in it: identities, backdrops, motions, cameras and captions, all from a seed.

Lengths are in frame heights, positions relative to the frame's centre with y pointing down, angles in degrees
clockwise. A subject's motion is told in the frame, as it is seen; the camera moves what lies behind it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from tinyworld import difficulty as d
from tinyworld.shapes import extent

Setting = Literal["clip", "film"]
Box = tuple[float, float, float, float]
Option = TypeVar("Option")

MOTION_WORDS = {
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "still": "stays still",
    "grow": "gets bigger",
    "shrink": "gets smaller",
    "spin": "spins around",
}
CAMERA_WORDS = {
    "fixed": "",
    "pan_left": ", the camera pans left",
    "pan_right": ", the camera pans right",
    "push_in": ", the camera pushes in",
}


def generator(*key: int | str) -> np.random.Generator:
    """A Philox generator keyed by sha256 of ``key``: equal keys give equal streams, nearby keys unrelated ones."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8")))


def uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * float(rng.random())


def choose(rng: np.random.Generator, options: tuple[Option, ...]) -> Option:
    return options[int(rng.integers(len(options)))]


def phrase(shape: str) -> str:
    """What captions call a toy."""
    return f"a toy {shape}"


@dataclass(frozen=True, order=True)
class Identity:
    """One toy. Its caption phrase names the shape alone, as "a dog" names a dog: pattern and colours need a reference picture."""

    shape: str
    pattern: str
    base: str
    accent: str

    @property
    def id(self) -> str:
        return f"{self.shape}-{self.pattern}-{self.base}-{self.accent}"

    @property
    def phrase(self) -> str:
        return phrase(self.shape)

    @property
    def appearance(self) -> str:
        """What a person who sees the reference would write; never part of a clip's caption."""
        return f"a {self.pattern} {self.base} and {self.accent} {self.shape}"

    @property
    def held_out(self) -> bool:
        """Whether no training data may show it."""
        word = int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:8], "little")
        return word < d.HELD_OUT_SHARE * 2**64

    def truth(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "shape": self.shape,
            "pattern": self.pattern,
            "base": self.base,
            "accent": self.accent,
            "phrase": self.phrase,
            "held_out": self.held_out,
        }


def identity_of(identity_id: str) -> Identity:
    """The identity that a truth names by its ``id``. Raises ValueError when there is none of that name."""
    parts = identity_id.split("-")
    kinds = (d.SHAPES, d.PATTERNS, d.COLOURS, d.COLOURS)
    if (
        len(parts) != 4
        or any(part not in kind for part, kind in zip(parts, kinds, strict=True))
        or parts[2] == parts[3]
    ):
        raise ValueError(f"there is no identity {identity_id!r}; one reads like 'star-striped-red-white'")
    return Identity(*parts)


def identities() -> list[Identity]:
    """All of them, in a fixed order: shapes x patterns x ordered pairs of different colours."""
    return [
        Identity(shape, pattern, base, accent)
        for shape in d.SHAPES
        for pattern in d.PATTERNS
        for base in d.COLOURS
        for accent in d.COLOURS
        if base != accent
    ]


def draw_identity(rng: np.random.Generator, held_out: bool | None = None) -> Identity:
    """A random identity; ``held_out`` restricts it to one side of the split."""
    colours = tuple(d.COLOURS)
    while True:
        base = int(rng.integers(len(colours)))
        accent = (base + 1 + int(rng.integers(len(colours) - 1))) % len(colours)
        identity = Identity(choose(rng, d.SHAPES), choose(rng, d.PATTERNS), colours[base], colours[accent])
        if held_out is None or identity.held_out == held_out:
            return identity


@dataclass(frozen=True)
class Pose:
    """Centre, side and turn of a subject at an instant."""

    x: float
    y: float
    side: float
    angle: float


@dataclass(frozen=True)
class Actor:
    """A subject and its motion program from the first to the last frame of a scene."""

    identity: Identity
    motion: str
    start: Pose
    end: Pose

    def pose(self, u: float) -> Pose:
        """Where it is at ``u`` in [0, 1]. Moves are steady, so that every part of a shot shows the motion told."""
        a, b = self.start, self.end
        side = a.side * (b.side / a.side) ** u
        return Pose(a.x + (b.x - a.x) * u, a.y + (b.y - a.y) * u, side, a.angle + (b.angle - a.angle) * u)

    def box(self, u: float, aspect: float) -> Box:
        """x0, y0, x1, y1 as shares of the frame's width and height, cut at its border."""
        pose = self.pose(u)
        x0, y0, x1, y1 = (v * pose.side / 2 for v in extent(self.identity.shape, pose.angle))
        shares = ((pose.x + x0) / aspect, pose.y + y0, (pose.x + x1) / aspect, pose.y + y1)
        left, top, right, bottom = (min(1.0, max(0.0, v + 0.5)) for v in shares)
        return left, top, right, bottom


@dataclass(frozen=True)
class Backdrop:
    """Which painted plate lies behind and how it is framed: flip, centre of the view on the plate, and zoom."""

    kind: str
    variant: int
    flip: bool
    x: float
    y: float
    zoom: float


@dataclass(frozen=True)
class Camera:
    """How the view moves over the backdrop during the scene: ``amount`` in frame heights (pans) or as growth (push)."""

    kind: str
    amount: float


@dataclass(frozen=True)
class Scene:
    """Everything that is to be seen in one shot. ``actors`` are drawn in order, the last on top."""

    actors: tuple[Actor, ...]
    backdrop: Backdrop
    camera: Camera
    light: str
    light_strength: float
    aspect: float

    @property
    def caption(self) -> str:
        return caption(self.actors, self.backdrop.kind, self.camera.kind)


def caption(actors: tuple[Actor, ...], background: str, camera: str = "fixed") -> str:
    """The grammar: ``a toy <shape> <motion> [and ...] over <background>[, the camera <move>]``."""
    told = " and ".join(f"{actor.identity.phrase} {MOTION_WORDS[actor.motion]}" for actor in actors)
    return f"{told} over {background}{CAMERA_WORDS[camera]}"


def stage_actor(
    rng: np.random.Generator, identity: Identity, motion: str, aspect: float, seconds: float, setting: Setting
) -> Actor:
    """Draw a motion program whose subject stays whole inside the frame.

    Raises ValueError for an unknown motion.
    """
    side = uniform(rng, d.CLIP_SIDE if setting == "clip" else d.FILM_SIDE)
    first, last = side, side
    if motion in ("grow", "shrink"):
        low, high = d.GROW_SIDES[setting]
        ratio = uniform(rng, d.GROWTH)
        first = uniform(rng, (low, high / ratio))
        last = first * ratio
        if motion == "shrink":
            first, last = last, first
    reach = max(first, last) * 0.56
    room_x, room_y = max(0.0, aspect / 2 - reach), max(0.0, 0.5 - reach)
    x, y = uniform(rng, (-room_x, room_x)), uniform(rng, (-room_y, room_y))
    angle = uniform(rng, (-d.TILT, d.TILT))
    start, end = [x, y], [x, y]  # positions of the centre
    turn = 0.0
    match motion:
        case "left" | "right" | "up" | "down":
            axis, room = (0, room_x) if motion in ("left", "right") else (1, room_y)
            sign = -1.0 if motion in ("left", "up") else 1.0
            way = 2 * room * uniform(rng, d.TRAVEL)
            offset = uniform(rng, (-1.0, 1.0)) * (room - way / 2)
            start[axis], end[axis] = offset - sign * way / 2, offset + sign * way / 2
        case "spin":
            turn = (1.0 if rng.random() < 0.5 else -1.0) * uniform(rng, d.SPIN_RATE) * seconds
        case "still" | "grow" | "shrink":
            pass
        case _:
            raise ValueError(f"there is no motion {motion!r}; choose one of {', '.join(d.MOTIONS)}")
    return Actor(identity, motion, Pose(start[0], start[1], first, angle), Pose(end[0], end[1], last, angle + turn))


def stage_backdrop(rng: np.random.Generator, kind: str, setting: Setting) -> Backdrop:
    """Draw a plate of ``kind`` and a framing of it."""
    return Backdrop(
        kind=kind,
        variant=int(rng.integers(d.PLATE_VARIANTS)),
        flip=bool(rng.random() < 0.5),
        x=uniform(rng, (-0.35, 0.35)),
        y=uniform(rng, (-0.35, 0.35)),
        zoom=uniform(rng, d.BACKDROP_ZOOM[setting]),
    )


def stage_camera(rng: np.random.Generator, kind: str, seconds: float) -> Camera:
    """Draw how far a camera of ``kind`` moves in ``seconds``."""
    if kind == "fixed":
        return Camera(kind, 0.0)
    rate = uniform(rng, d.PUSH_RATE if kind == "push_in" else d.PAN_RATE)
    return Camera(kind, rate * seconds)


def draw_scene(seed: int, aspect: float = 1.0, held_out: bool | None = None, **fixed: str) -> Scene:
    """A short clip's scene, a pure function of its arguments.

    ``fixed`` pins any of ``background``, ``motion``, ``camera``; the rest of the scene stays what the seed says, so
    two calls that differ in one pinned attribute differ in that attribute alone.
    """
    unknown = set(fixed) - {"background", "motion", "camera"}
    if unknown:
        raise ValueError(f"cannot pin {', '.join(sorted(unknown))}; only background, motion and camera")
    identity = draw_identity(generator(seed, "identity"), held_out)
    rng = generator(seed, "scene")
    background, motion, light = choose(rng, d.BACKGROUNDS), choose(rng, d.MOTIONS), choose(rng, tuple(d.LIGHTS))
    moving = rng.random() >= d.FIXED_CAMERA_SHARE_OF_CLIPS
    camera = choose(rng, d.CAMERAS[1:])
    kind = fixed.get("camera", camera if moving else "fixed")
    actor = stage_actor(generator(seed, "actor"), identity, fixed.get("motion", motion), aspect, d.CLIP_SECONDS, "clip")
    return Scene(
        actors=(actor,),
        backdrop=stage_backdrop(generator(seed, "backdrop"), fixed.get("background", background), "clip"),
        camera=stage_camera(generator(seed, "camera"), kind, d.CLIP_SECONDS),
        light=light,
        light_strength=d.CLIP_LIGHT_STRENGTH,
        aspect=aspect,
    )

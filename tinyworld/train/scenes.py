"""What the embedded models train on: scenes of training identities, half as short clips and half as films show them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyworld import difficulty as d
from tinyworld.draw import draw
from tinyworld.oracles import FRAMES, SIDE
from tinyworld.world import (
    Scene,
    choose,
    draw_identity,
    draw_scene,
    generator,
    stage_actor,
    stage_backdrop,
    stage_camera,
    uniform,
)

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """A rendered scene: ``video`` uint8 FHWC RGB, ``mask`` uint8 FHW, and its scene as the truth about it."""

    scene: Scene
    video: U8
    mask: U8


def film_scene(key: tuple[int | str, ...], held_out: bool | None, aspect: float = 1.0) -> Scene:
    """A scene as films stage them: smaller subjects, full light, longer shots; drawn independently of any film."""
    rng = generator(*key, "film-like")
    seconds = uniform(rng, d.SHOT_SECONDS)
    identity = draw_identity(rng, held_out)
    kind = choose(rng, d.CAMERAS[1:]) if rng.random() < d.MOVING_CAMERA_SHARE_OF_FILMS["any"] else "fixed"
    return Scene(
        actors=(stage_actor(rng, identity, choose(rng, d.MOTIONS), aspect, seconds, "film"),),
        backdrop=stage_backdrop(rng, choose(rng, d.BACKGROUNDS), "film"),
        camera=stage_camera(rng, kind, seconds),
        light=choose(rng, tuple(d.LIGHTS)),
        light_strength=1.0,
        aspect=aspect,
    )


def any_scene(seed: int, held_out: bool | None = False, purpose: str = "train") -> Scene:
    """The scene of ``seed``: even seeds stage a short clip, odd ones a film's shot."""
    if seed % 2:
        return film_scene((seed, purpose), held_out)
    return draw_scene(int(generator(seed, purpose, "clip").integers(2**62)), 1.0, held_out)


def render(scene: Scene, side: int = SIDE, frames: int = FRAMES) -> Clip:
    video, mask = draw(scene, side, side, frames)
    return Clip(scene, video, mask)

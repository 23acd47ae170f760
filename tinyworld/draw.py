"""Drawing a scene: the camera's view of a plate, shadows and toys over it, antialiased by drawing at twice the size."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tinyworld import difficulty as d
from tinyworld.plates import MASTER, PLATE_EXTENT, plate
from tinyworld.toys import REACH, SHADOW_REACH, SIZES, shade, sprite
from tinyworld.world import Actor, Identity, Pose, Scene, draw_scene, generator, uniform

Frames = npt.NDArray[np.uint8]
Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SUPERSAMPLE = 2
SHADOW = 0.42
"""How much of the light a shadow takes."""
SHADOW_OFFSET = (0.07, 0.11)
"""Where it falls, in sides."""


def _view(scene: Scene, u: float, width: int, height: int) -> Picture:
    """The backdrop as the camera sees it at ``u``."""
    backdrop, camera = scene.backdrop, scene.camera
    zoom, x, y = backdrop.zoom, backdrop.x, backdrop.y
    match camera.kind:
        case "pan_left":
            x -= camera.amount * (u - 0.5)
        case "pan_right":
            x += camera.amount * (u - 0.5)
        case "push_in":
            zoom *= 1 + camera.amount * u
    scale = min(MASTER, 1 << (int(height * zoom * 1.15).bit_length() - 1))
    if scale * 1.45 < height * zoom:
        scale = min(MASTER, round(scale * 1.5))
    picture = plate(backdrop.kind, backdrop.variant, scale)
    step = scale / (height * zoom)  # plate pixels a frame pixel
    centre_x, centre_y = (PLATE_EXTENT[0] / 2 + x) * scale - 0.5, (PLATE_EXTENT[1] / 2 + y) * scale - 0.5
    across = -step if backdrop.flip else step
    # Inverse map: where in the plate each pixel of the frame lies.
    matrix = np.array(
        [[across, 0, centre_x - across * (width - 1) / 2], [0, step, centre_y - step * (height - 1) / 2]], np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(picture, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT), np.uint8
    )


def _place(pose: Pose, size: int, extent: float, frame: Picture) -> tuple[slice, slice, npt.NDArray[np.float64]] | None:
    """The part of the frame that a sprite of ``size`` covers at ``pose`` and the map from there into the sprite.

    ``extent`` is what the sprite shows of the toy, in half sides. None when it lies outside.
    """
    height, width = frame.shape[:2]
    side = pose.side * height
    centre_x, centre_y = width / 2 + pose.x * height - 0.5, height / 2 + pose.y * height - 0.5
    reach = side / 2 * extent * 1.4143 + 1
    left, right = max(0, int(centre_x - reach)), min(width, int(centre_x + reach) + 2)
    top, bottom = max(0, int(centre_y - reach)), min(height, int(centre_y + reach) + 2)
    if left >= right or top >= bottom:
        return None
    step = size / (side * extent)
    c, s = np.cos(np.radians(pose.angle)) * step, np.sin(np.radians(pose.angle)) * step
    x, y, middle = left - centre_x, top - centre_y, (size - 1) / 2
    matrix = np.array([[c, s, c * x + s * y + middle], [-s, c, -s * x + c * y + middle]])
    return slice(top, bottom), slice(left, right), matrix


def _warp(picture: Floats, matrix: npt.NDArray[np.float64], rows: slice, columns: slice) -> Floats:
    size = (columns.stop - columns.start, rows.stop - rows.start)
    return np.asarray(cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP), np.float32)


def _stamp(frame: Picture, actor: Actor, u: float, light: Floats, mask: Floats | None) -> None:
    """Draw the actor's shadow and the actor into ``frame`` (uint8 HWC, changed in place) and its coverage into ``mask``."""
    height, width = frame.shape[:2]
    pose = actor.pose(u)
    size = next((s for s in SIZES if s >= 0.8 * pose.side * height * REACH), SIZES[-1])
    dropped = Pose(pose.x + SHADOW_OFFSET[0] * pose.side, pose.y + SHADOW_OFFSET[1] * pose.side, pose.side, pose.angle)
    fallen = _place(dropped, size, SHADOW_REACH, frame)
    if fallen is not None:
        rows, columns, matrix = fallen
        cover = _warp(shade(actor.identity.shape, size), matrix, rows, columns)
        lit = cv2.merge([1 - SHADOW * cover] * 3)
        frame[rows, columns] = cv2.multiply(frame[rows, columns], lit, dtype=cv2.CV_8U)
    placed = _place(pose, size, REACH, frame)
    if placed is None:
        return
    rows, columns, matrix = placed
    toy = _warp(sprite(actor.identity, size), matrix, rows, columns)
    alpha = toy[..., 3]
    # Light falls from the upper left of the frame, however the toy is turned.
    side = pose.side * height
    across = (np.arange(columns.start, columns.stop, dtype=np.float32) - (width / 2 + pose.x * height)) / side
    along = (np.arange(rows.start, rows.stop, dtype=np.float32) - (height / 2 + pose.y * height)) / side
    gain = 1.04 - 0.22 * (across[None, :] + 1.3 * along[:, None])
    colour = toy[..., :3]
    colour *= light
    colour *= gain[..., None]
    through = cv2.merge([1 - alpha] * 3)
    behind = cv2.multiply(frame[rows, columns], through, dtype=cv2.CV_32F)
    frame[rows, columns] = np.minimum(behind + colour, 255.0)
    if mask is not None:
        mask[rows, columns] = np.maximum(mask[rows, columns], alpha)


def draw(scene: Scene, width: int, height: int, frames: int) -> tuple[Frames, Frames]:
    """Draw ``frames`` frames of ``scene``, the first at its start and the last at its end.

    Returns (video, mask): uint8 FHWC, RGB; uint8 FHW, the subjects' coverage in 0..255.
    """
    # Plates and sprites are smooth at their own scale; only a small picture gains from being drawn larger.
    times = SUPERSAMPLE if height < 128 else 1
    wide, high = width * times, height * times
    gain = np.array(d.LIGHTS[scene.light], np.float32)
    light = 1 + (gain - 1) * scene.light_strength
    on_subject = (1 + (light - 1) * d.SUBJECT_LIGHT_SHARE).astype(np.float32)
    steps = np.arange(256, dtype=np.float32)[:, None] * light
    table = np.clip(np.round(steps), 0, 255).astype(np.uint8)[None]
    video = np.empty((frames, height, width, 3), np.uint8)
    masks = np.empty((frames, height, width), np.uint8)
    behind: Picture | None = None
    for index in range(frames):
        u = index / (frames - 1) if frames > 1 else 0.5
        if behind is None or scene.camera.kind != "fixed":
            behind = np.asarray(cv2.LUT(_view(scene, u, wide, high), table), np.uint8)
        frame = behind.copy()
        mask = np.zeros((high, wide), np.float32)
        for actor in scene.actors:
            _stamp(frame, actor, u, on_subject, mask)
        cv2.resize(frame, (width, height), dst=video[index], interpolation=cv2.INTER_AREA)
        cv2.resize((mask * 255).astype(np.uint8), (width, height), dst=masks[index], interpolation=cv2.INTER_AREA)
    return video, masks


def scene_truth(scene: Scene, frames: int) -> dict[str, Any]:
    """What is in the scene, as JSON-able data; boxes are shares of width and height, one a frame."""
    return {
        "caption": scene.caption,
        "background": scene.backdrop.kind,
        "camera": scene.camera.kind,
        "light": scene.light,
        "subjects": [
            {
                **actor.identity.truth(),
                "motion": actor.motion,
                "boxes": [
                    [round(v, 4) for v in actor.box(i / (frames - 1) if frames > 1 else 0.5, scene.aspect)]
                    for i in range(frames)
                ],
            }
            for actor in scene.actors
        ],
    }


def render_clip(
    seed: int, size: int = 32, frames: int = 9, held_out: bool | None = None, **fixed: str
) -> tuple[Frames, dict[str, Any]]:
    """A short square clip and its truth, a pure function of the arguments.

    Returns (uint8 FHWC, RGB; truth as in ``scene_truth``, with ``mask`` added: uint8 FHW, the subject's coverage).
    ``held_out`` picks the side of the identity split; ``fixed`` pins background, motion or camera (``draw_scene``).
    """
    if size < 8 or frames < 1:
        raise ValueError(f"a clip needs a size of at least 8 pixels and one frame, not {size} and {frames}")
    scene = draw_scene(seed, 1.0, held_out, **fixed)
    video, mask = draw(scene, size, size, frames)
    return video, {**scene_truth(scene, frames), "mask": mask}


def render_photo(identity: Identity, seed: int, size: int = d.PHOTO_SIDE_PX, background: str | None = None) -> Picture:
    """A portrait of ``identity``: uint8 HWC, RGB. On a plain studio sweep, or over ``background`` when one is named."""
    rng = generator(seed, "photo", identity.id)
    pose = Pose(
        uniform(rng, (-0.04, 0.04)), uniform(rng, (-0.04, 0.04)), uniform(rng, (0.62, 0.74)), uniform(rng, (-22, 22))
    )
    actor = Actor(identity, "still", pose, pose)
    if background is not None:
        scene = draw_scene(seed, background=background, camera="fixed")
        portrait = Scene((actor,), scene.backdrop, scene.camera, scene.light, scene.light_strength, 1.0)
        return np.asarray(draw(portrait, size, size, 1)[0][0], np.uint8)
    wide = size * SUPERSAMPLE
    tone = np.array([uniform(rng, (150, 232)) for _ in range(3)], np.float32)
    y, x = np.mgrid[0:wide, 0:wide].astype(np.float32) / wide - 0.5
    glow = 1.08 - 0.9 * (x * x + (y + 0.12) ** 2)
    frame = np.clip(tone * glow[..., None], 0, 255).astype(np.uint8)
    _stamp(frame, actor, 0.5, np.ones(3, np.float32), None)
    return np.asarray(cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA), np.uint8)

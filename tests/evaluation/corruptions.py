"""What can be wrong with a video, and what each metric must make of it: the declared matrix and the clips it is checked on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from benchmarks.metric_agreement import DisFlow
from models.metrics.interpolation import DisInterpolator
from models.metrics.tools import Reference, Tools
from models.subjects.descriptor import ClosedFormEncoder
from models.subjects.frames import picture
from models.subjects.prompts import plain
from models.subjects.propose import EmbeddedGrounder, GrabCutSegmenter
from models.subjects.protocols import F32, U8

FPS = 8.0


@dataclass(frozen=True)
class Clip:
    """A video of 8 frames a second, what it was asked by, and the picture of its subject."""

    video: U8
    reference: U8
    prompt: str


def rendered(seed: int, side: int = 112, frames: int = 9) -> Clip:
    """A scene of the rendered world, its subject seen alone as the reference."""
    from tinyworld.train.pictures import crop_of
    from tinyworld.train.scenes import any_scene, render

    scene = any_scene(seed, None, "corruptions")
    subject, rest = scene.actors[0].identity.phrase, f"on {scene.backdrop.kind} {seed}"
    video, crop = render(scene, side, frames).video, crop_of(scene.actors[0].identity, (seed, "reference"))
    return Clip(video, crop, f"Ref 1: {subject}. Video: Ref 1[{subject}] {rest}")


Spoil = Callable[[Clip, Clip], Clip]
"""From a clip and another one: the clip with something wrong."""


def _video(change: Callable[[Clip, Clip], U8]) -> Spoil:
    return lambda clip, other: replace(clip, video=change(clip, other))


def _each(change: Callable[[U8], object]) -> Spoil:
    return _video(lambda clip, other: np.stack([np.asarray(change(frame), np.uint8) for frame in clip.video]))


def _noise(clip: Clip, other: Clip) -> U8:
    rng = np.random.default_rng(0)
    return np.clip(clip.video + rng.normal(0, 20, clip.video.shape), 0, 255).astype(np.uint8)


def _strobe(clip: Clip, other: Clip) -> U8:
    video = clip.video.astype(np.float32)
    video[1::2] *= 0.6
    return video.astype(np.uint8)


def _shuffle(clip: Clip, other: Clip) -> U8:
    return clip.video[np.random.default_rng(1).permutation(len(clip.video))]


def _half(clip: Clip, other: Clip) -> U8:
    size = (clip.video.shape[2] // 2, clip.video.shape[1] // 2)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in clip.video])


def _pasted(clip: Clip, other: Clip) -> U8:
    """The reference itself, standing still."""
    size = clip.video.shape[2], clip.video.shape[1]
    return np.repeat(cv2.resize(clip.reference, size, interpolation=cv2.INTER_AREA)[None], len(clip.video), 0)


def _compressed(frame: U8) -> U8:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 5])[1], cv2.IMREAD_COLOR))


CORRUPTIONS: Mapping[str, Spoil] = {
    "blur": _each(lambda f: cv2.GaussianBlur(f, (0, 0), 3)),
    "noise": _video(_noise),
    "jpeg": _each(_compressed),
    "dark": _each(lambda f: f * 0.04),
    "freeze": _video(lambda clip, other: np.repeat(clip.video[:1], len(clip.video), 0)),
    "shuffle": _video(_shuffle),
    "strobe": _video(_strobe),
    "reverse": _video(lambda clip, other: clip.video[::-1].copy()),
    "mirror": _video(lambda clip, other: np.ascontiguousarray(clip.video[:, :, ::-1])),
    "half": _video(_half),
    "other": _video(lambda clip, other: other.video),
    "pasted": _video(_pasted),
    "wrong prompt": lambda clip, other: replace(clip, prompt=other.prompt),
    "wrong reference": lambda clip, other: replace(clip, reference=other.reference),
}


class Layout:
    """A picture encoder that looks at colours in an 8 x 8 grid: weights would say more, the formulas are the same."""

    name = "layout/1"

    def encode(self, pictures: Sequence[U8]) -> F32:
        rows = [cv2.resize(p, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32).ravel() for p in pictures]
        centred = np.stack([r - r.mean() + 1e-3 for r in rows])
        return (centred / np.linalg.norm(centred, axis=1, keepdims=True)).astype(np.float32)


class LayoutClip:
    """The same as an image tower; it has read ``said``, the texts of some clips, and every other text says the same."""

    def __init__(self, said: Mapping[str, U8] | None = None) -> None:
        self.said = said or {}

    def images(self, pictures: Sequence[bytes]) -> F32:
        return Layout().encode([picture(p, "frame") for p in pictures])

    def texts(self, captions: Sequence[str]) -> F32:
        unknown = np.full(192, 192**-0.5, np.float32)
        return np.stack([Layout().encode([self.said[c]])[0] if c in self.said else unknown for c in captions])


class LayoutFaces:
    """Every picture that is not dark is a face, and its colours say whose."""

    name = "layout/1"

    def largest(self, picture_HWC: U8) -> F32 | None:
        return Layout().encode([picture_HWC])[0] if picture_HWC.mean() > 16 else None


class Contrast:
    """A quality model: the contrast of the Laplacian, up to 100."""

    name, longest, best = "contrast/1", 512, 100.0

    def score(self, picture_HWC: U8) -> float:
        return min(100.0, float(cv2.Laplacian(cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2GRAY), cv2.CV_32F).std()))


def tools(clips: Sequence[Clip] = ()) -> Tools:
    """All tools, with stand-ins that need no weights where weights would be; CLIP's has read these clips' prompts."""
    return Tools(
        fps=FPS,
        clip=LayoutClip({plain(clip.prompt): clip.video[0] for clip in clips}),
        aesthetic=lambda rows: 5.0 + rows[:, :1].ravel(),
        identity=ClosedFormEncoder(),
        grounder=EmbeddedGrounder(),
        segmenter=GrabCutSegmenter(),
        dino=Layout(),
        flow=DisFlow(),
        interpolator=DisInterpolator(),
        quality=Contrast(),
        faces=LayoutFaces(),
        seen={},
    )


def reference_of(clip: Clip) -> list[Reference]:
    return [Reference(clip.reference)]


# What each metric makes of each corruption: - must fall, + must rise, = must hold within the number, . may move,
# ? may move or not be tellable at all.
# A + where something got worse is a known failure, and declared so that a reader of the table knows it.
MATRIX = """
                        within blur noise jpeg dark freeze shuffle strobe reverse mirror half other pasted wrong_prompt wrong_reference
subject_similarity      0.01   -    -     -    -    .      .       -      =       .      .    -     +      =            -
dino_i                  0.01   .    .     .    .    .      .       .      =       .      .    .     +      =            .
dino_i_masked           0.01   .    .     .    -    .      .       .      =       .      .    -     +      =            -
clip_i                  0.01   .    .     .    .    .      .       .      =       .      .    .     +      =            .
face_similarity         0.01   .    .     .    -    .      =       .      =       .      .    .     +      =            .
face_rate               0      =    =     =    -    =      =       =      =       =      =    =     =      =            =
copy_paste              0.02   =    =     .    ?    =      =       =      =       =      =    .     +      =            ?
clip_t                  0.01   .    .     .    .    .      .       .      =       .      .    .     .      -            =
dynamic_degree          0      .    .     .    .    -      =       .      =       =      .    .     -      =            =
dynamic_degree_dis      0      .    .     .    .    -      =       .      =       =      .    .     -      =            =
motion_smoothness       0.002  +    -     -    +    +      -       -      =       =      .    .     +      =            =
motion_smoothness_dis   0.002  +    -     -    +    +      -       -      =       =      .    .     +      =            =
temporal_flicker        0.005  +    -     .    +    +      -       -      =       =      =    .     +      =            =
subject_consistency     0.01   .    .     .    .    +      -       .      =       =      .    .     +      =            =
background_consistency  0.01   .    .     .    .    +      -       .      =       =      .    .     +      =            =
aesthetic               0.01   .    .     .    .    .      .       .      =       .      .    .     .      =            =
imaging_quality         0.002  -    .     .    -    .      =       -      =       =      .    .     .      =            =
technical_quality       0.02   -    -     -    -    =      =       .      =       =      .    .     .      =            =
sharpness_crete         0.002  -    +     .    .    .      =       .      =       =      .    .     .      =            =
exposure                0.01   =    =     =    -    =      =       =      =       =      =    .     .      =            =
"""


def declared() -> dict[str, tuple[float, dict[str, str]]]:
    """By metric the number within which it must hold, and its sign by corruption."""
    head, *rows = (line.split() for line in MATRIX.strip().splitlines())
    names = [name.replace("_", " ") for name in head[1:]]
    return {row[0]: (float(row[1]), dict(zip(names, row[2:], strict=True))) for row in rows}

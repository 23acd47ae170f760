"""A stock of rendered clips of training identities, kept as one file: rendering anew would cost as much as training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyworld.oracles import HEADS
from tinyworld.train.scenes import any_scene, render
from tinyworld.world import Scene, caption

CLIPS = 6000
PURPOSE = "oracles-0"
"""What the scenes are drawn under; another name would be another stock."""


def labels(scene: Scene) -> dict[str, int]:
    """The scene's truth as indices into the options of the oracles' ``HEADS``."""
    actor = scene.actors[0]
    identity = actor.identity
    told = {
        "background": scene.backdrop.kind,
        "motion": actor.motion,
        "shape": identity.shape,
        "pattern": identity.pattern,
        "base": identity.base,
        "accent": identity.accent,
    }
    return {name: HEADS[name].index(value) for name, value in told.items()}


class Stock:
    """``videos`` uint8 (N, 9, 24, 24, 3), ``masks`` uint8 (N, 9, 24, 24), ``labels`` (N, 6) in the order of ``HEADS``.

    ``captions`` tells each scene as its kind is told: short clips with their camera, films without. ``phrases`` is what
    the caption calls the subject.
    """

    def __init__(self, file: Path, clips: int = CLIPS) -> None:
        scenes = [any_scene(seed, False, PURPOSE) for seed in range(clips)]
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            shown = [render(scene) for scene in scenes]
            aside = file.with_suffix(".new.npz")
            np.savez(
                aside,
                videos=np.stack([clip.video for clip in shown]),
                masks=np.stack([clip.mask for clip in shown]),
                labels=np.array([list(labels(scene).values()) for scene in scenes]),
            )
            aside.replace(file)
        with np.load(file) as stored:
            self.videos, self.masks, self.labels = stored["videos"], stored["masks"], stored["labels"]
        if len(self.videos) != clips:
            raise ValueError(f"{file} holds {len(self.videos)} clips, not {clips}; remove it")
        self.captions = [s.caption if n % 2 == 0 else caption(s.actors, s.backdrop.kind) for n, s in enumerate(scenes)]
        self.phrases = [scene.actors[0].identity.phrase for scene in scenes]

"""Measures one sample: reads video and reference, runs every metric, and gives a row for the store's records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.scorers.clip_tower import EncoderSpec


@dataclass(frozen=True)
class Sample:
    """A video's path, its prompt, and the path or URI of its reference picture."""

    video: str
    prompt: str
    reference: str | None


class Measurer:
    """``measurer(sample)`` gives ``{"values": JSON of metric -> number or null}``. Any metric's exception is the sample's."""

    def __init__(self, metrics: Sequence[str], encoder: EncoderSpec | None) -> None:
        import cv2

        from models.metrics.tools import CachedTower, Tools
        from models.subjects.descriptor import ClosedFormEncoder
        from models.subjects.propose import EmbeddedGrounder, GrabCutSegmenter

        cv2.setNumThreads(1)
        tower, head = None, None
        if encoder is not None:
            from models.scorers.clip_tower import ClipTower, load_head

            tower = CachedTower(ClipTower(encoder))
            head = load_head(encoder.aesthetic_head) if encoder.aesthetic_head else None
        self.metrics = tuple(metrics)
        self.tools = Tools(
            clip=tower,
            aesthetic=head,
            identity=ClosedFormEncoder(),
            grounder=EmbeddedGrounder(),
            segmenter=GrabCutSegmenter(),
        )

    def __call__(self, sample: Sample) -> Mapping[str, Any]:
        from dataclasses import replace

        from models.metrics.catalogue import METRICS
        from models.metrics.tools import Reference
        from models.subjects.frames import clip_frames, frames_per_second, picture
        from stages.subjects.locate import read_uri

        video, times = clip_frames(sample.video)
        tools = replace(self.tools, fps=frames_per_second(times))
        references = []
        if sample.reference:
            name = sample.reference.rsplit("/", 1)[-1]
            references = [Reference(picture(read_uri(sample.reference), name))]
        values = {key: METRICS[key].run(video, sample.prompt, references, tools) for key in self.metrics}
        return {"values": json.dumps(values)}

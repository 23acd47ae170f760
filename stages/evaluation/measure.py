"""Measures one sample: reads video and references, runs every metric, and gives a row for the store's records."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.metrics.toolbox import ToolSpec


@dataclass(frozen=True)
class Sample:
    """A video's path, its prompt, and the paths or URIs of its reference pictures."""

    video: str
    prompt: str
    references: tuple[str, ...] = ()


class Measurer:
    """Metrics on samples by models that are loaded once. Any metric's exception is the sample's."""

    def __init__(self, metrics: Sequence[str], tools: ToolSpec) -> None:
        from models.metrics.toolbox import Toolbox

        self.toolbox = Toolbox(tools)
        self.metrics = {key: self.toolbox.metric(key) for key in metrics}

    def __call__(self, sample: Sample) -> Mapping[str, Any]:
        """``{"values": JSON of metric -> number or null}`` of all metrics."""
        return {"values": json.dumps(self.measure(sample, tuple(self.metrics)))}

    def measure(self, sample: Sample, metrics: Sequence[str]) -> dict[str, float | None]:
        from models.metrics.toolbox import one_thread
        from models.metrics.tools import Reference
        from models.subjects.frames import clip_frames, frames_per_second, picture
        from stages.subjects.locate import read_uri

        video, times = clip_frames(sample.video)
        tools = self.toolbox.for_video(frames_per_second(times))
        references = [Reference(picture(read_uri(uri), uri.rsplit("/", 1)[-1])) for uri in sample.references]
        with one_thread():
            values = {key: self.metrics[key].run(video, sample.prompt, references, tools) for key in metrics}
        endless = [key for key, value in values.items() if value is not None and not math.isfinite(value)]
        if endless:
            raise ValueError(f"{', '.join(endless)} came out as no finite number")
        return values

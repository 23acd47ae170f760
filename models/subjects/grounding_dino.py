"""Grounding DINO (arXiv 2303.05499) as a grounder, by transformers' own classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.subjects.protocols import U8, Proposal
from models.subjects.weights import Weights

KIND = "grounding-dino"


class GroundingDino:
    """Boxes for each phrase; phrases are asked one by one, so that each box belongs to the phrase that found it.

    ``box`` and ``text`` are the model's two thresholds; OpenS2V-5M has 0.25 for both (papers: arXiv 2505.20292, code). ``batch`` counts
    pairs of picture and phrase.
    """

    def __init__(
        self, weights: Weights, *, device: str = "cpu", box: float = 0.25, text: float = 0.25, batch: int = 4
    ) -> None:
        from models.compat import prepare

        prepare()
        from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

        self.name = weights.name(KIND)
        self.device, self.box, self.text, self.batch = device, box, text, batch
        self.model = weights.load(GroundingDinoForObjectDetection, device)
        self.processor = weights.processor(GroundingDinoProcessor)

    def ground(self, frames_FHWC: U8, at: Sequence[int], phrases: Sequence[str] = ()) -> list[list[Proposal]]:
        """See ``Grounder.ground``. Without phrases there is nothing to look for: no proposals."""
        import torch

        asked = [(n, frame, phrase) for n, frame in enumerate(at) for phrase in phrases]
        found: list[list[Proposal]] = [[] for _ in at]
        for start in range(0, len(asked), self.batch):
            part = asked[start : start + self.batch]
            inputs = self.processor(
                images=[frames_FHWC[frame] for _, frame, _ in part],
                text=[f"{phrase.lower().rstrip('. ')}." for _, _, phrase in part],
                padding=True,
                return_tensors="pt",
            ).to(self.device)
            with torch.inference_mode():
                outputs = self.model(**inputs)
            boxes = self.processor.post_process_grounded_object_detection(
                outputs, inputs["input_ids"], threshold=self.box, text_threshold=self.text
            )
            for (n, _, phrase), result in zip(part, boxes, strict=True):
                for box, score in zip(result["boxes"].tolist(), result["scores"].tolist(), strict=True):
                    x0, y0, x1, y1 = (float(np.clip(v, 0.0, 1.0)) for v in box)
                    if x1 > x0 and y1 > y0:
                        found[n].append(Proposal((x0, y0, x1, y1), float(score), phrase))
        return [sorted(mine, key=lambda p: -p.confidence) for mine in found]

"""Probability that a key frame shows something: NSFW content, a watermark, whatever an image classifier was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.dear.base import DearSpec, Pictures, checked, model_path, per_picture
from models.scorers.errors import ScorerError


class Classifier:
    """A checkpoint of transformers' ``AutoModelForImageClassification``; the probabilities of ``labels`` are added up.

    Probabilities are the softmax of the logits, or their sigmoid where the checkpoint's ``problem_type`` says several labels
    may hold at once (then the largest counts).
    """

    version: ClassVar[str] = "1"

    def __init__(self, spec: DearSpec, device: str, batch: int) -> None:
        from models.compat import prepare

        prepare()
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        path = model_path(spec)
        self.spec, self.device, self.batch = spec, device, batch
        try:
            self.prepare = AutoImageProcessor.from_pretrained(path, local_files_only=True)
            loaded = AutoModelForImageClassification.from_pretrained(
                path, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise ScorerError(f"scorer {spec.name}: transformers cannot load {path}: {error}") from error
        self.model = checked(spec, loaded).to(device).eval().requires_grad_(False)
        known = {str(label): index for index, label in self.model.config.id2label.items()}
        unknown = [label for label in spec.labels if label not in known]
        if unknown or not spec.labels:
            raise ScorerError(
                f"scorer {spec.name}: labels {', '.join(spec.labels) or '(none)'} must be among the model's: {', '.join(known)}"
            )
        self.wanted = [known[label] for label in spec.labels]

    @staticmethod
    def columns(spec: DearSpec) -> tuple[Field, ...]:
        doc = f"probability of {' or '.join(spec.labels)} by {spec.model}, {spec.reduce} over key frames"
        return (Field(spec.column, pa.float64(), doc, "0..1"),)

    def __call__(self, clips: Sequence[Pictures]) -> np.ndarray:
        return per_picture(clips, self.batch, self.spec.reduce, self._score, 1)

    def _score(self, pictures: Pictures) -> np.ndarray:
        import torch

        inputs = self.prepare(images=list(pictures), return_tensors="pt").to(self.device)
        with torch.inference_mode():
            logits_NL = self.model(**inputs).logits.float()
        if self.model.config.problem_type == "multi_label_classification":
            return np.asarray(logits_NL.sigmoid()[:, self.wanted].amax(dim=1).cpu().numpy())
        return np.asarray(logits_NL.softmax(dim=1)[:, self.wanted].sum(dim=1).cpu().numpy())

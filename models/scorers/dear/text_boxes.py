"""Area under text by a trained text detector, where the cheap estimate of ``text_area`` is not enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.dear.base import DearSpec, Pictures, checked, model_path, per_picture
from models.scorers.errors import ScorerError


class TextBoxes:
    """A checkpoint of transformers' ``AutoModelForObjectDetection`` that finds text, e.g. PP-OCRv5's detectors.

    Boxes may be quadrangles or upright; what they cover together counts once. Options: ``threshold``, the detector's own
    (default 0.3). Key frames have a short side of 256 px, so letters under some 8 px are not found.
    """

    version: ClassVar[str] = "1"

    def __init__(self, spec: DearSpec, device: str, batch: int) -> None:
        from models.compat import prepare

        prepare()
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        path = model_path(spec)
        self.spec, self.device, self.batch = spec, device, batch
        self.threshold = float(spec.options.get("threshold", 0.3))
        try:
            self.prepare = AutoImageProcessor.from_pretrained(path, local_files_only=True)
            loaded = AutoModelForObjectDetection.from_pretrained(
                path, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise ScorerError(f"scorer {spec.name}: transformers cannot load {path}: {error}") from error
        self.model = checked(spec, loaded).to(device).eval().requires_grad_(False)

    @staticmethod
    def columns(spec: DearSpec) -> tuple[Field, ...]:
        doc = f"share of the frame inside boxes of text found by {spec.model}, {spec.reduce} over key frames"
        return (Field(spec.column, pa.float64(), doc, "0..1"),)

    def __call__(self, clips: Sequence[Pictures]) -> np.ndarray:
        return per_picture(clips, self.batch, self.spec.reduce, self._score, 1)

    def _score(self, pictures: Pictures) -> np.ndarray:
        import torch

        areas = np.zeros(len(pictures))
        shapes = [picture.shape[:2] for picture in pictures]
        for shape in sorted(set(shapes)):  # pictures of one size go through together
            places = [n for n, other in enumerate(shapes) if other == shape]
            inputs = self.prepare(images=[pictures[n] for n in places], return_tensors="pt").to(self.device)
            with torch.inference_mode():
                outputs = self.model(pixel_values=inputs["pixel_values"])
            found = self.prepare.post_process_object_detection(
                outputs, threshold=self.threshold, target_sizes=torch.tensor([shape] * len(places))
            )
            for n, boxes in zip(places, found, strict=True):
                areas[n] = covered(boxes["boxes"].double().cpu().numpy(), shape)
        return areas


def covered(boxes: np.ndarray, shape: tuple[int, int]) -> float:
    """Share of a picture (height, width) under boxes: quadrangles [N, 4, 2] or upright ones [N, 4] (x0, y0, x1, y1), in px."""
    mask = np.zeros(shape, np.uint8)
    for box in boxes:
        x0, y0, x1, y1 = box if box.ndim == 1 else (0, 0, 0, 0)
        corners = box if box.ndim == 2 else np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        cv2.fillPoly(mask, [corners.round().astype(np.int32)], 1)
    return float(mask.mean())

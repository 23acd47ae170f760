"""Faces by YuNet (Wu et al., Machine Intelligence Research 2023) through OpenCV's own class, from a user's ONNX file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from models.subjects.protocols import U8, Proposal
from models.subjects.weights import Weights, WeightsError

NMS_IOU = 0.3  # OpenCV's default
SIDE = 640  # long side in px at which faces are looked for: YuNet was trained on faces of 10 to 300 px in such pictures


def digest(weights: Weights) -> str:
    """What identifies the file, for the fingerprint. Raises ``WeightsError``; imports neither torch nor OpenCV."""
    path = Path(weights.source).expanduser()
    if not path.is_file() or path.suffix != ".onnx":
        raise WeightsError(f"{weights.source} is no ONNX file; give YuNet's, e.g. face_detection_yunet_2023mar.onnx")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if weights.sha256 is not None and weights.sha256.lower() != found:
        raise WeightsError(f"{path} has sha256 {found}, not {weights.sha256}")
    return f"yunet (sha256 {found[:16]})"


class YuNet:
    """A ``FaceDetector``; ``min_confidence`` in 0..1."""

    def __init__(self, weights: Weights, min_confidence: float = 0.8) -> None:
        import cv2

        self.name = digest(weights)
        try:
            self._net = cv2.FaceDetectorYN.create(
                str(Path(weights.source).expanduser()), "", (320, 320), min_confidence, NMS_IOU
            )
        except cv2.error as error:
            raise WeightsError(f"{weights.source} cannot be read as an ONNX model: {error.err}") from error

    def faces(self, picture_HWC: U8) -> list[Proposal]:
        """See ``FaceDetector.faces``."""
        import cv2

        from models.subjects.propose import fit

        shown = fit(picture_HWC, SIDE)
        height, width = shown.shape[:2]
        self._net.setInputSize((width, height))
        try:
            _, rows = self._net.detect(np.ascontiguousarray(shown[..., ::-1]))
        except cv2.error as error:
            raise WeightsError(f"{self.name} does not answer as YuNet does: {error.err}") from error
        found = []
        for left, top, w, h, *_, confidence in rows if rows is not None else ():
            x0, y0 = max(0.0, left / width), max(0.0, top / height)
            x1, y1 = min(1.0, (left + w) / width), min(1.0, (top + h) / height)
            if x1 > x0 and y1 > y0:
                found.append(Proposal((float(x0), float(y0), float(x1), float(y1)), float(min(1.0, confidence))))
        return sorted(found, key=lambda p: (-p.confidence, p.box))

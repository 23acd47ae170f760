"""The grounder, segmenter, tracker and identity encoder that a configuration names."""

from __future__ import annotations

from dataclasses import dataclass

from models.subjects.protocols import FaceDetector, Grounder, IdentityEncoder, Segmenter, Tracker
from models.subjects.weights import Weights, WeightsError

EMBEDDED = "embedded"
# Names of the embedded models, repeated here so that planning imports none of them; a test compares them.
GROUNDER, SEGMENTER, ENCODER = "motion-saliency/1", "grabcut/2", "closed-form/1"
KINDS = {
    "grounder": (EMBEDDED, "grounding-dino"),
    "segmenter": (EMBEDDED, "sam2"),
    "tracker": ("none", "sam2"),
    "encoder": (EMBEDDED, "dinov2", "clip", "open_clip"),
    "faces": ("none", "yunet"),
}
_WITHOUT = {"grounder": GROUNDER, "segmenter": SEGMENTER, "tracker": "none", "encoder": ENCODER, "faces": "none"}


@dataclass(frozen=True)
class Choice:
    """One model: ``kind`` out of ``KINDS`` and, but for the embedded ones, its weights."""

    kind: str
    weights: Weights | None = None


@dataclass(frozen=True)
class Models:
    """What finds subjects. ``device`` is where models with weights run."""

    grounder: Choice = Choice(EMBEDDED)
    segmenter: Choice = Choice(EMBEDDED)
    tracker: Choice = Choice("none")
    encoder: Choice = Choice(EMBEDDED)
    faces: Choice = Choice("none")
    device: str = "cpu"

    def names(self) -> dict[str, str]:
        """Name and weights of each, for the fingerprint. Raises ``WeightsError``; imports no torch."""
        return {role: self._name(role) for role in KINDS}

    def _name(self, role: str) -> str:
        choice: Choice = getattr(self, role)
        if choice.kind not in KINDS[role]:
            raise WeightsError(f"{role}.kind is {choice.kind}; there are {', '.join(KINDS[role])}")
        if choice.kind == KINDS[role][0]:
            if choice.weights is not None:
                raise WeightsError(
                    f"{role}.kind {choice.kind} takes no weights; name the model in {role}.kind, or leave them out"
                )
            return _WITHOUT[role]
        if choice.weights is None:
            raise WeightsError(
                f"{role}.kind {choice.kind} needs {role}.weights, "
                + ("its ONNX file" if role == "faces" else "a folder or a repository with its commit")
            )
        if role == "faces":
            from models.subjects.yunet import digest

            return digest(choice.weights)
        if choice.kind == "open_clip":
            from models.subjects.open_clip_encoder import name_of

            return name_of(choice.weights)
        return choice.weights.name("sam2-video" if role == "tracker" else choice.kind)

    def load_grounder(self) -> Grounder:
        if self.grounder.weights is None:
            from models.subjects.propose import EmbeddedGrounder

            return EmbeddedGrounder()
        from models.subjects.grounding_dino import GroundingDino

        return GroundingDino(self.grounder.weights, device=self.device)

    def load_segmenter(self) -> Segmenter:
        if self.segmenter.weights is None:
            from models.subjects.propose import GrabCutSegmenter

            return GrabCutSegmenter()
        from models.subjects.sam2 import Sam2Segmenter

        return Sam2Segmenter(self.segmenter.weights, device=self.device)

    def load_tracker(self) -> Tracker | None:
        if self.tracker.weights is None:
            return None
        from models.subjects.sam2 import Sam2Tracker

        return Sam2Tracker(self.tracker.weights, device=self.device)

    def load_faces(self) -> FaceDetector | None:
        if self.faces.weights is None:
            return None
        from models.subjects.yunet import YuNet

        return YuNet(self.faces.weights)

    def load_encoder(self) -> IdentityEncoder:
        if self.encoder.weights is None:
            from models.subjects.descriptor import ClosedFormEncoder

            return ClosedFormEncoder()
        if self.encoder.kind == "open_clip":
            from models.subjects.open_clip_encoder import OpenClipEncoder

            return OpenClipEncoder(self.encoder.weights, device=self.device)
        from models.subjects.vision_encoders import ClipEncoder, Dinov2Encoder

        made = {"dinov2": Dinov2Encoder, "clip": ClipEncoder}[self.encoder.kind]
        return made(self.encoder.weights, device=self.device)

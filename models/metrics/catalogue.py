"""The metrics there are, in the order in which tables show them."""

from __future__ import annotations

from models.metrics.aesthetic import aesthetic
from models.metrics.background_consistency import background_consistency
from models.metrics.clip_i import clip_i
from models.metrics.clip_t import clip_t
from models.metrics.copy_paste import copy_paste
from models.metrics.dino_i import dino_i
from models.metrics.dino_i_masked import dino_i_masked
from models.metrics.dynamic_degree import dynamic_degree
from models.metrics.dynamic_degree_dis import dynamic_degree_dis
from models.metrics.exposure import exposure
from models.metrics.face_rate import face_rate
from models.metrics.face_similarity import face_similarity
from models.metrics.imaging_quality import imaging_quality
from models.metrics.motion_smoothness import motion_smoothness
from models.metrics.motion_smoothness_dis import motion_smoothness_dis
from models.metrics.sharpness_crete import sharpness_crete
from models.metrics.subject_consistency import subject_consistency
from models.metrics.subject_similarity import subject_similarity
from models.metrics.technical_quality import technical_quality
from models.metrics.temporal_flicker import temporal_flicker
from models.metrics.tools import MetricInfo

_MASKS = frozenset({"grounder", "segmenter"})
_SUBJECT = _MASKS | {"identity"}
_CLIP = frozenset({"clip"})
_DINO = frozenset({"dino"})
_FACES = frozenset({"faces"})
_MIDDLE = frozenset({"interpolator"})

METRICS: dict[str, MetricInfo] = {
    m.key: m
    for m in (
        MetricInfo("subject_similarity", "Subject similarity", subject_similarity, "higher", "1", _SUBJECT, "identity"),
        MetricInfo("dino_i", "DINO-I", dino_i, "higher", "1", _DINO, "identity"),
        MetricInfo("dino_i_masked", "DINO-I, masked", dino_i_masked, "higher", "1", _DINO | _MASKS, "identity"),
        MetricInfo("clip_i", "CLIP-I", clip_i, "higher", "1", _CLIP, "identity"),
        MetricInfo("face_similarity", "Face similarity", face_similarity, "higher", "1", _FACES, "identity"),
        MetricInfo("face_rate", "Face rate", face_rate, "higher", "1", _FACES, "identity"),
        MetricInfo("copy_paste", "Copy-paste", copy_paste, "lower", "3", _SUBJECT, "identity"),
        MetricInfo("clip_t", "CLIP-T", clip_t, "higher", "1", _CLIP, "prompt"),
        MetricInfo("dynamic_degree", "Dynamic degree", dynamic_degree, "higher", "1", frozenset({"flow"}), "motion"),
        MetricInfo("dynamic_degree_dis", "Dynamic degree (DIS)", dynamic_degree_dis, "higher", "1", group="motion"),
        MetricInfo("motion_smoothness", "Motion smoothness", motion_smoothness, "higher", "1", _MIDDLE, "steadiness"),
        MetricInfo(
            "motion_smoothness_dis", "Motion smoothness (DIS)", motion_smoothness_dis, "higher", "1", group="steadiness"
        ),
        MetricInfo("temporal_flicker", "Temporal flicker", temporal_flicker, "higher", "1", group="steadiness"),
        MetricInfo(
            "subject_consistency", "Subject consistency", subject_consistency, "higher", "1", _DINO, "steadiness"
        ),
        MetricInfo(
            "background_consistency",
            "Background consistency",
            background_consistency,
            "higher",
            "1",
            _CLIP,
            "steadiness",
        ),
        MetricInfo("aesthetic", "Aesthetic", aesthetic, "higher", "1", _CLIP | {"aesthetic"}, "looks"),
        MetricInfo(
            "imaging_quality", "Imaging quality", imaging_quality, "higher", "1", frozenset({"quality"}), "looks"
        ),
        MetricInfo("technical_quality", "Technical quality (ours)", technical_quality, "higher", "1", group="looks"),
        MetricInfo("sharpness_crete", "Sharpness (Crete)", sharpness_crete, "higher", "1", group="looks"),
        MetricInfo("exposure", "Exposure", exposure, "higher", "1", group="looks"),
    )
}

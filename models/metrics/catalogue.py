"""The metrics there are, in the order in which tables show them."""

from __future__ import annotations

from models.metrics.aesthetic import aesthetic
from models.metrics.clip_i import clip_i
from models.metrics.clip_t import clip_t
from models.metrics.copy_paste import copy_paste
from models.metrics.dynamic_degree_dis import dynamic_degree_dis
from models.metrics.exposure import exposure
from models.metrics.frame_consistency import frame_consistency
from models.metrics.motion_smoothness_dis import motion_smoothness_dis
from models.metrics.sharpness_crete import sharpness_crete
from models.metrics.subject_similarity import subject_similarity
from models.metrics.temporal_flicker import temporal_flicker
from models.metrics.tools import MetricInfo

_SUBJECT = frozenset({"identity", "grounder"})
_CLIP = frozenset({"clip"})

METRICS: dict[str, MetricInfo] = {
    m.key: m
    for m in (
        MetricInfo("subject_similarity", "Subject similarity", subject_similarity, "higher", "1", _SUBJECT),
        MetricInfo("copy_paste", "Copy-paste", copy_paste, "lower", "1", _SUBJECT),
        MetricInfo("clip_t", "CLIP-T", clip_t, "higher", "1", _CLIP),
        MetricInfo("clip_i", "CLIP-I", clip_i, "higher", "1", _CLIP),
        MetricInfo("dynamic_degree_dis", "Dynamic degree (DIS)", dynamic_degree_dis, "higher", "1"),
        MetricInfo("motion_smoothness_dis", "Motion smoothness (DIS)", motion_smoothness_dis, "higher", "1"),
        MetricInfo("temporal_flicker", "Temporal flicker", temporal_flicker, "higher", "1"),
        MetricInfo("frame_consistency", "Frame consistency", frame_consistency, "higher", "1", _CLIP),
        MetricInfo("aesthetic", "Aesthetic", aesthetic, "higher", "1", frozenset({"clip", "aesthetic"})),
        MetricInfo("sharpness_crete", "Sharpness (Crete)", sharpness_crete, "higher", "1"),
        MetricInfo("exposure", "Exposure", exposure, "higher", "1"),
    )
}

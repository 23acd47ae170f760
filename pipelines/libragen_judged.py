"""LibraGen's road at whose end people judge: its systems are compared blind, on the prompts that the metrics were measured on."""

from __future__ import annotations

from pipelines.dag.graph import Pipeline, node
from pipelines.libragen import PIPELINE as LIBRAGEN
from stages.review.sample_gate import review_samples

PIPELINE = Pipeline(
    "libragen_judged",
    (
        *LIBRAGEN.nodes,
        node(
            "compare_systems",
            review_samples,
            samples="sample.samples",
            videos="sample.videos",
            params={"form": "compare", "systems": ("base", "sft", "final"), "overlap": 2},
        ),
    ),
    "libragen, its systems compared by people",
)

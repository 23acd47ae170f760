"""From raw footage to an adapter by switching: image pairs and unpaired videos in turns (arXiv 2504.17816)."""

from __future__ import annotations

from pipelines.curate import CURATION
from pipelines.dag.graph import Pipeline, node
from pipelines.libragen import PAIRED
from stages.evaluation.evaluate import evaluate
from stages.evaluation.report import report
from stages.training.disentangle import disentangle
from stages.training.encode import encode
from stages.training.sample import sample
from stages.training.switching import switching

CACHE = {"cache": "encode.cache", "latents": "encode.latents"}

PIPELINE = Pipeline(
    "disentangled",
    (
        *CURATION,
        *PAIRED,
        node(
            "disentangle",
            disentangle,
            subset="export.subset",
            media="export.media",
            pairs="review_training_pairs.reviewed",
            subjects="subjects.subjects",
        ),
        # Clips of one frame are image pairs; the longer bucket is for the videos and for what is sampled in the end.
        node(
            "encode",
            encode,
            params={"buckets": ("1x64x64", "9x64x64")},
            subset="disentangle.subset",
            media="disentangle.media",
            pairs="disentangle.pairs",
            subjects="disentangle.subjects",
        ),
        node("switching", switching, CACHE, names={"adapter": "adapter_switching"}),
        node("sample", sample, CACHE, final="switching.adapter_switching"),
        node("evaluate", evaluate, samples="sample.samples", videos="sample.videos"),
        node(
            "report",
            report,
            samples="sample.samples",
            sample_videos="sample.videos",
            metrics="evaluate.metrics",
            measurements="evaluate.measurements",
            comparisons="evaluate.comparisons",
            adapter_switching="switching.adapter_switching",
        ),
    ),
    "from raw footage to an adapter trained on image pairs and unpaired videos in turns",
)

"""Videos of any systems against a manifest: the stages that measure and show the road's own adapters, fed from folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.dag.graph import Pipeline, node
from stages.evaluation.collect import collect
from stages.evaluation.evaluate import evaluate
from stages.evaluation.report import report


def evaluate_folders(folders: Mapping[str, Any]) -> Pipeline:
    """``folders`` are the parameters of ``collect``: the manifest, and each system's folder."""
    return Pipeline(
        "evaluate",
        (
            node("collect", collect, params=dict(folders)),
            node("evaluate", evaluate, samples="collect.samples", videos="collect.videos"),
            node(
                "report",
                report,
                samples="collect.samples",
                sample_videos="collect.videos",
                metrics="evaluate.metrics",
                measurements="evaluate.measurements",
                comparisons="evaluate.comparisons",
            ),
        ),
        "videos of any systems, measured against a manifest",
    )

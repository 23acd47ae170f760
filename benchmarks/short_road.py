"""From footage to one small adapter: the part of the demo's road that ends at its first training, judged by a script."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.dag.graph import Pipeline
from pipelines.demo import PIPELINE as DEMO

PARAMS: Mapping[str, Mapping[str, object]] = {
    "review_clips": {"reviewer": "script:rules"},
    "sft_in": {"steps": 60, "checkpoint_every": 5},
}

PIPELINE = Pipeline(
    "short_road",
    tuple(item.with_params(PARAMS.get(item.name, {})) for item in DEMO.road_to("sft_in")),
    "from footage to one small adapter",
)

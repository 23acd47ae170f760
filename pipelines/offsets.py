"""LibraGen's road up to the cross-pair adapter, and the sweep that finds the RoPE offset of its Consis pairs.

    fulcrum run pipelines.offsets:PIPELINE --source ... --store ...

What it shares with ``libragen`` is cached for it: put the suggested offset into ``prefer_consis.rope_offset`` and run that.
"""

from __future__ import annotations

from pipelines.curate import CURATION
from pipelines.dag.graph import Pipeline, node
from pipelines.libragen import CACHE, SUBJECTS_AND_PAIRS, SUPERVISED
from stages.training.offsets import sweep_offsets

PIPELINE = Pipeline(
    "offsets",
    (
        *CURATION,
        *SUBJECTS_AND_PAIRS,
        *(item for item in SUPERVISED if item.name == "sft_cross"),
        node("sweep_offsets", sweep_offsets, CACHE, names={"sweep": "offset_sweep"}, adapter="sft_cross.adapter_cross"),
    ),
    "which RoPE offset loses the subject and keeps the scene",
)

"""From raw footage to a merged, preference-tuned adapter: LibraGen's road (arXiv 2603.13506), curation included.

Cross-pair and in-pair SFT are trained apart and merged; each branch makes its own preference pairs; people judge them;
two DPO adapters are trained on the merged model and merged into the final adapter.
"""

from __future__ import annotations

from pipelines.curate import CURATION
from pipelines.dag.graph import Node, Pipeline, node
from stages.evaluation.evaluate import evaluate
from stages.evaluation.report import report
from stages.review.gate import review_pairs
from stages.review.subject_gate import review_subjects, review_training_pairs
from stages.subjects.pairs import pairs
from stages.subjects.subjects import subjects
from stages.training.encode import encode
from stages.training.merge import merge_final, merge_sft
from stages.training.preferences import prefer_consis, prefer_real_fake
from stages.training.sample import sample
from stages.training.train import dpo, sft

CACHE = {"cache": "encode.cache", "latents": "encode.latents"}

PAIRED: tuple[Node, ...] = (
    node("subjects", subjects, subset="export.subset", media="export.media", videos="analyze.videos"),
    # Off until somebody asks: review_subjects.reviewer and review_training_pairs.reviewer are nobody by default.
    node(
        "review_subjects",
        review_subjects,
        subjects="subjects.subjects",
        subset="export.subset",
        media="export.media",
        videos="analyze.videos",
    ),
    node(
        "pairs",
        pairs,
        subset="export.subset",
        subjects="subjects.subjects",
        dedupe="dedupe.dedupe",
        captions="caption.captions",
        verdicts="review_subjects.verdicts",
    ),
    node(
        "review_training_pairs",
        review_training_pairs,
        pairs="pairs.pairs",
        subjects="subjects.subjects",
        subset="export.subset",
        media="export.media",
    ),
)

SUBJECTS_AND_PAIRS: tuple[Node, ...] = (
    *PAIRED,
    node(
        "encode",
        encode,
        subset="export.subset",
        media="export.media",
        pairs="review_training_pairs.reviewed",
        subjects="subjects.subjects",
    ),
)

SUPERVISED: tuple[Node, ...] = (
    node(
        "sft_cross",
        sft,
        CACHE,
        params={"kind": "cross_pair"},
        names={"adapter": "adapter_cross"},
    ),
    node(
        "sft_in",
        sft,
        CACHE,
        params={"kind": "in_pair"},
        names={"adapter": "adapter_in"},
    ),
    node(
        "merge_sft",
        merge_sft,
        names={"adapter": "adapter_sft"},
        cross="sft_cross.adapter_cross",
        in_pair="sft_in.adapter_in",
    ),
)

PREFERENCES: tuple[Node, ...] = (
    # Consis: the same noise with and without RoPE offsets on the references, so that only identity differs.
    node(
        "prefer_consis",
        prefer_consis,
        CACHE,
        names={"preferences": "preferences_consis"},
        adapter="sft_cross.adapter_cross",
    ),
    node(
        "review_consis",
        review_pairs,
        params={"kind": "consis"},
        preferences="prefer_consis.preferences_consis",
        shards="prefer_consis.shards",
    ),
    node(
        "dpo_consis",
        dpo,
        CACHE,
        params={"kind": "consis"},
        names={"adapter": "adapter_consis"},
        preferences="prefer_consis.preferences_consis",
        shards="prefer_consis.shards",
        verdicts="review_consis.verdicts",
        adapter="merge_sft.adapter_sft",
    ),
    # Real-Fake: the real clip of an SFT triplet against the model's own sample.
    node(
        "prefer_real_fake",
        prefer_real_fake,
        CACHE,
        names={"preferences": "preferences_real_fake"},
        adapter="sft_in.adapter_in",
    ),
    node(
        "review_real_fake",
        review_pairs,
        params={"kind": "real_fake"},
        preferences="prefer_real_fake.preferences_real_fake",
        shards="prefer_real_fake.shards",
    ),
    node(
        "dpo_real_fake",
        dpo,
        CACHE,
        params={"kind": "real_fake"},
        names={"adapter": "adapter_real_fake"},
        preferences="prefer_real_fake.preferences_real_fake",
        shards="prefer_real_fake.shards",
        verdicts="review_real_fake.verdicts",
        adapter="merge_sft.adapter_sft",
    ),
    node(
        "merge_final",
        merge_final,
        names={"adapter": "adapter_final"},
        sft="merge_sft.adapter_sft",
        consis="dpo_consis.adapter_consis",
        real_fake="dpo_real_fake.adapter_real_fake",
    ),
)

# Whoever compares the road's systems takes their adapters under these names.
SYSTEMS = {
    "cross": "sft_cross.adapter_cross",
    "in_pair": "sft_in.adapter_in",
    "sft": "merge_sft.adapter_sft",
    "consis": "dpo_consis.adapter_consis",
    "real_fake": "dpo_real_fake.adapter_real_fake",
    "final": "merge_final.adapter_final",
}

EVALUATION: tuple[Node, ...] = (
    node("sample", sample, {**CACHE, **SYSTEMS}),
    node("evaluate", evaluate, samples="sample.samples", videos="sample.videos"),
)

REPORT_INPUTS = {
    "clips": "clips.clips",
    "selection": "select.selection",
    "videos": "analyze.videos",
    "keyframes": "analyze.keyframes",
    "dedupe": "dedupe.dedupe",
    "balance": "balance.balance",
    "verdicts": "review_clips.verdicts",
    "decisions": "review_clips.decisions",
    "subset": "export.subset",
    "media": "export.media",
    "subjects": "subjects.subjects",
    "pairs": "pairs.pairs",
    "candidates": "pairs.candidates",
    "pair_verdicts": "review_training_pairs.verdicts",
    "samples": "sample.samples",
    "sample_videos": "sample.videos",
    "metrics": "evaluate.metrics",
    "measurements": "evaluate.measurements",
    "comparisons": "evaluate.comparisons",
    "adapter_cross": "sft_cross.adapter_cross",
    "adapter_in": "sft_in.adapter_in",
    "adapter_sft": "merge_sft.adapter_sft",
    "adapter_consis": "dpo_consis.adapter_consis",
    "adapter_real_fake": "dpo_real_fake.adapter_real_fake",
    "adapter_final": "merge_final.adapter_final",
}

ROAD: tuple[Node, ...] = (*CURATION, *SUBJECTS_AND_PAIRS, *SUPERVISED, *PREFERENCES, *EVALUATION)

PIPELINE = Pipeline(
    "libragen",
    (
        *ROAD,
        node(
            "report",
            report,
            REPORT_INPUTS,
            follow={"rules": "select"},
        ),
    ),
    "from raw footage to a merged, preference-tuned adapter",
)

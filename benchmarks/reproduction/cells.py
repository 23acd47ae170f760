"""The cells: each trains a few adapters on one rendered world and examines them, as a pipeline that ``fulcrum run`` knows.

All that is chosen stands here, and was chosen on worlds of other seeds. Every cell of a seed works on
the same footage and in the same store, so that curation, pairs and common trainings are made once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pipelines.dag.graph import Node, Pipeline, node
from pipelines.demo import PIPELINE as DEMO
from pipelines.exam import EXAM_FRAMES, EXAM_SIDE, TEXT_ALONE, exam_of
from stages.training.disentangle import disentangle
from stages.training.encode import encode
from stages.training.switching import switching

FILMS = 80
WORLD = 3000
"""Cells of seed n film the world of seed 3000 + n."""
CLIPS = 220
"""About as many as curation keeps of them."""
QUESTIONS = 96
STEPS = 300

# Rates, ranks and guidance are the demo's.
TRAINING: dict[str, object] = {
    "steps": STEPS,
    "engine": "inline",
    "checkpoint_every": 100,
    "held_out_every": 0,
    "histogram_every": 0,
}
SCRIPT = {"reviewer": "script:rules"}
PARAMS: Mapping[str, Mapping[str, object]] = {
    "review_clips": SCRIPT,
    "review_consis": SCRIPT,
    "review_real_fake": SCRIPT,
    "sft_cross": TRAINING,
    "sft_in": TRAINING,
    "dpo_consis": {"engine": "inline"},
    "dpo_real_fake": {"engine": "inline"},
}
SUPERVISED = DEMO["sft_cross"].params
SWITCHED: Mapping[str, object] = {
    **{name: SUPERVISED[name] for name in ("backbone", "lora", "learning_rate")},
    **TRAINING,
    "batch": 8,
    "image_batch": 32,
    "warmup": 15,
    "schedule": "cosine",
    "gradients_every": 20,
}
SAMPLING = DEMO["exam"].params["sampling"]
STATIC = {"text": {"kind": "constant", "start": 3.0}, "reference": {"kind": "constant", "start": 3.0}}
"""What the dynamic guidance ends with, from the start."""


@dataclass(frozen=True)
class Cell:
    """One row's trainings. ``exams``: the systems by exam; ``switched`` when gradients of images and videos are compared."""

    name: str
    seeds: tuple[int, ...]
    pipeline: Pipeline
    exams: Mapping[str, tuple[str, ...]]
    switched: bool = False


def _road(*names: str) -> tuple[Node, ...]:
    """The demo's road to these nodes, judged by a script."""
    return tuple(item.with_params(PARAMS.get(item.name, {})) for item in DEMO.road_to(*names))


def _exam(systems: Mapping[str, tuple[str, ...]], name: str = "exam", token: str = "", **sampling: object) -> Node:
    """An exam; each system is the outputs, ``node.adapter``, that it stacks on the base."""
    wired = {output.replace(".", "_"): output for stack in systems.values() for output in stack}
    stacks = tuple((name, tuple(o.replace(".", "_") for o in stack)) for name, stack in systems.items())
    params = {
        "backbone": DEMO["exam"].params["backbone"],
        "questions": QUESTIONS,
        "sampling": {**cast(dict[str, object], SAMPLING), **sampling},
        "reference_token": token,
    }
    return node(name, exam_of(stacks), wired, params=params, names={"exam": name})


CROSS, IN, SFT = "sft_cross.adapter_cross", "sft_in.adapter_in", "merge_sft.adapter_sft"
CONSIS, REAL_FAKE, FINAL = "dpo_consis.adapter_consis", "dpo_real_fake.adapter_real_fake", "merge_final.adapter_final"


def _sft() -> Pipeline:
    systems = {TEXT_ALONE: (), "base": (), "cross": (CROSS,), "in": (IN,), "merged": (SFT,)}
    return Pipeline("reproduce_sft", (*_road("merge_sft"), _exam(systems)), "in-pair, cross-pair and merged SFT")


def _dpo() -> Pipeline:
    systems = {"sft": (SFT,), "consis": (SFT, CONSIS), "real_fake": (SFT, REAL_FAKE), "final": (FINAL,)}
    return Pipeline("reproduce_dpo", (*_road("merge_final"), _exam(systems)), "Consis-DPO, Real-Fake DPO and merged")


def _guidance() -> Pipeline:
    exams = (
        _exam({"dynamic": (SFT,)}, "exam_dynamic"),
        _exam({"static": (SFT,)}, "exam_static", guidance=STATIC),
    )
    return Pipeline(
        "reproduce_guidance", (*_road("merge_sft"), *exams), "guidance that changes against one that does not"
    )


def _quality() -> Pipeline:
    """The same footage with nothing thrown away, neither by rules nor as copies, and the same number of steps."""
    unfiltered: Mapping[str, Mapping[str, object]] = {
        "select": {"rules": ()},
        "dedupe": {"exact": False, "near": {"enabled": False}},
    }
    road = tuple(item.with_params(unfiltered.get(item.name, {})) for item in _road("sft_cross"))
    return Pipeline("reproduce_noisy", (*road, _exam({"noisy": (CROSS,)})), "a large noisy set at equal steps")


def _switching(
    name: str, *, pairs: Mapping[str, object] | None = None, rows: Mapping[str, object] | None = None, **params: object
) -> Pipeline:
    token = str((pairs or {}).get("reference_token", ""))
    road = tuple(
        item.with_params(pairs) if pairs and item.name == "pairs" else item for item in _road("review_training_pairs")
    )
    data = {"subset": "export.subset", "media": "export.media", "subjects": "subjects.subjects"}
    made = {what: f"disentangle.{what}" for what in ("subset", "media", "pairs", "subjects")}
    buckets = [f"{frames}x{EXAM_SIDE}x{EXAM_SIDE}" for frames in (1, EXAM_FRAMES)]
    cache = {"cache": "encode.cache", "latents": "encode.latents"}
    return Pipeline(
        f"reproduce_{name}",
        (
            *road,
            node("disentangle", disentangle, data, params=rows or {}, pairs="review_training_pairs.reviewed"),
            node("encode", encode, made, params={**DEMO["encode"].params, "buckets": buckets}),
            node("switching", switching, cache, params={**SWITCHED, **params}),
            _exam({name: ("switching.adapter",)}, token=token),
        ),
        f"images and videos in turns: {name}",
    )


THREE, ONE = (0, 1, 2), (0,)


def _switched(name: str, seeds: tuple[int, ...], **how: Any) -> Cell:
    return Cell(name, seeds, _switching(name, **how), {"exam": (name,)}, switched=True)


CELLS: tuple[Cell, ...] = (
    Cell("sft", THREE, _sft(), {"exam": (TEXT_ALONE, "base", "cross", "in", "merged")}),
    *(_switched(f"p{percent}", THREE, video_probability=percent / 100) for percent in (0, 20, 40, 60)),
    Cell("dpo", THREE, _dpo(), {"exam": ("sft", "consis", "real_fake", "final")}),
    _switched("two_stage", THREE, stage_two_at=STEPS // 2),
    Cell("noisy", ONE, _quality(), {"exam": ("noisy",)}),
    Cell("guidance", ONE, _guidance(), {"exam_dynamic": ("dynamic",), "exam_static": ("static",)}),
    _switched("joint", ONE, reference_dropout=1.0),
    _switched("token", ONE, pairs={"reference_token": "<cls>"}),
    _switched("no_token_drop", ONE, token_drop=0.0),
    _switched("first_frame", ONE, rows={"reference_frame": "first"}),
    *(_switched(f"videos{share}", ONE, rows={"videos": CLIPS * share // 100}) for share in (25, 50, 75)),
)
BY_NAME = {cell.name: cell for cell in CELLS}


def ordered() -> list[tuple[Cell, int]]:
    """The committed order: a seed of all rows before the next seed."""
    return [(cell, seed) for seed in THREE for cell in CELLS if seed in cell.seeds]


def __getattr__(name: str) -> Pipeline:
    """``benchmarks.reproduction.cells:p20`` is that cell's pipeline."""
    if name in BY_NAME:
        return BY_NAME[name].pipeline
    raise AttributeError(f"there is no cell {name}; they are {', '.join(BY_NAME)}")

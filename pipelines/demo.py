"""LibraGen's road on a rendered world, small enough for a laptop, judged by the renderer's truth and by the world's oracles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from data_schemas.tables import CLIPS, DEDUPE, METRICS, SELECTION, VIDEOS
from models import embedded
from pipelines.dag.graph import Node, Pipeline, node
from pipelines.libragen import REPORT_INPUTS, ROAD
from stages.contract import Context, Files, Group, Params, StageError, Table, World, stage
from stages.evaluation.report import report
from stages.training.adapters import adapter_digest, read_adapter
from stages.training.params import BackboneParams, SamplingParams, backbone_models
from stages.training.sample import ADAPTERS, STACKS
from stages.work import Item, content_key, run_items


class JudgeParams(Params):
    """Nothing to choose: the truth lies beside the rendered videos."""


def _truth(world: World) -> Path:
    path = Path(world.source or "") / "truth.json"
    if not path.is_file():
        raise StageError(
            f"the demo needs a rendered world, and {path} is not there. Render one with: "
            "fulcrum world render --out DIR, then run the demo with --source DIR"
        )
    return path


@stage(
    name="judge",
    version="1",
    params=JudgeParams,
    inputs={"videos": Table(VIDEOS), "clips": Table(CLIPS), "selection": Table(SELECTION), "dedupe": Table(DEDUPE)},
    outputs={"judgement": Files("judgement")},
    world=lambda params, world: {"truth": _sha256(_truth(world))},
)
def judge(ctx: Context, params: JudgeParams) -> None:
    """Compare the curation with what the renderer knows: shots, filters, duplicates, broken files."""
    from tinyworld.judge import judge_curation

    truth = json.loads(_truth(ctx.world).read_text(encoding="utf-8"))
    found = judge_curation(truth, ctx.table("videos"), ctx.table("clips"), ctx.table("selection"), ctx.table("dedupe"))
    text = json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True)
    (ctx.folder("judgement") / "curation.json").write_text(text + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


class ExamParams(Params):
    """The exam of ``tinyworld.exam``: unseen subjects, each with one prompt, the same questions and noise for all systems."""

    backbone: BackboneParams = BackboneParams()
    sampling: SamplingParams = SamplingParams()
    questions: int = Field(64, ge=2, description="unseen subjects, each asked for once")


@dataclass(frozen=True)
class ExamPayload:
    """Questions ``start`` to ``stop`` for one system."""

    system: str
    start: int
    stop: int


QUESTIONS_AT_ONCE = 16
EXAM_SIDE, EXAM_FRAMES = 24, 9


class Examinee:
    """Answers questions with one loaded base and all adapters; the clip that comes out and its marks make a row."""

    def __init__(
        self, backbone: BackboneParams, sampling: SamplingParams, stacks: Mapping[str, list[tuple[str, str]]]
    ) -> None:
        from models.backbones.load import load_backbone
        from models.training.adapter import load_adapter
        from models.training.lora import attach_adapter, set_adapters
        from tinyworld.oracles import Oracles

        self.backbone, self.sampling = load_backbone(backbone.spec()), sampling
        self.stacks = {system: [name for name, _ in stack] for system, stack in stacks.items()}
        for name, folder in sorted({adapter for stack in stacks.values() for adapter in stack}):
            attach_adapter(self.backbone, load_adapter(Path(folder)), name)
        set_adapters(self.backbone, [])
        self.oracles = Oracles()

    def __call__(self, part: ExamPayload) -> Mapping[str, Any]:
        import torch

        from models.subjects.frames import png
        from models.training.lora import only_adapters
        from models.training.randomness import seed_of
        from models.training.sampling import sample
        from models.training.views import ViewSpec, from_unit, make_view, open_reference, to_unit
        from tinyworld.exam import mark, question

        asked = [question(index) for index in range(part.start, part.stop)]
        views = []
        for q in asked:
            picture = open_reference(png(q.crop), png(q.mask), "white")
            # View 0 is the picture as it is, letterboxed: what sampling uses in the pipeline too.
            views.append(
                make_view(
                    picture,
                    height=EXAM_SIDE,
                    width=EXAM_SIDE,
                    spec=ViewSpec(),
                    seed=0,
                    sample_id="",
                    reference=0,
                    view=0,
                )
            )
        references = self.backbone.encode_reference(torch.stack([to_unit(v) for v in views])).unsqueeze(1)
        with only_adapters(self.backbone, self.stacks[part.system]):
            latents = sample(
                self.backbone,
                self.backbone.encode_text([q.prompt for q in asked]),
                self.backbone.encode_text([""]),
                references,
                self.backbone.latent_shape(EXAM_FRAMES, EXAM_SIDE, EXAM_SIDE),
                [seed_of(0, "exam", index) for index in range(part.start, part.stop)],
                self.sampling.steps,
                self.sampling.guidance.build(),
            )
        videos = [from_unit(video) for video in self.backbone.decode_video(latents)]
        marks = [
            mark(seen, q, index).__dict__
            for index, (seen, q) in enumerate(zip(self.oracles.look(videos), asked, strict=True), part.start)
        ]
        return {"marks": json.dumps(marks), "clips": b"".join(video.tobytes() for video in videos)}


@stage(
    name="exam",
    version="1",
    params=ExamParams,
    inputs={"metrics": Table(METRICS), **dict.fromkeys(ADAPTERS, Files("adapter"))},
    optional=ADAPTERS,
    outputs={"metrics": Table(METRICS), "exam": Files("exam")},
    models=lambda params: {
        **backbone_models(params.backbone),
        "oracles": _sha256(embedded.ORACLES / "model.safetensors"),
    },
)
def exam(ctx: Context, params: ExamParams) -> None:
    """Every system answers the same questions about unseen subjects; the oracles' marks join the table of metrics."""
    from models.backbones.load import backbone_digest

    digest = backbone_digest(params.backbone.spec())
    wired = {name for name in ADAPTERS if ctx.has(name)}
    systems = {name: stack for name, stack in STACKS.items() if wired.issuperset(stack)}
    for name in sorted(wired):
        read_adapter(ctx.path(name), name, digest)
    digests = {name: adapter_digest(ctx.path(name)) for name in wired}
    items = []
    for system, stack in systems.items():
        for start in range(0, params.questions, QUESTIONS_AT_ONCE):
            part = ExamPayload(system, start, min(start + QUESTIONS_AT_ONCE, params.questions))
            key = content_key(part.start, part.stop, [digests[name] for name in stack])
            items.append(Item(key, f"{system}/{start}", part))
    models = {"backbone": digest, "oracles": _sha256(embedded.ORACLES / "model.safetensors")}
    work = run_items(
        ctx,
        group=Group(
            "answers", ctx.recipe("answers", "1", {**models, "sampling": params.sampling.model_dump(mode="json")})
        ),
        items=items,
        make=Examinee,
        init={
            "backbone": params.backbone,
            "sampling": params.sampling,
            "stacks": {system: [(name, str(ctx.path(name))) for name in stack] for system, stack in systems.items()},
        },
        unit="questions",
        batch=1,
        cpus=params.sampling.workers_cpus,
        gpus=params.sampling.workers_gpus,
    )
    for outcome in work.failed.values():
        raise StageError(f"exam: {outcome.record_id} failed: {outcome.error_type}: {outcome.error_message}")
    answers = {
        item.record_id: row for item, row in zip(items, work.rows(ctx, [i.record_id for i in items]), strict=True)
    }
    marks = {
        system: [
            m for item in items if item.payload.system == system for m in json.loads(answers[item.record_id]["marks"])
        ]
        for system in systems
    }
    ctx.write("metrics", METRICS.table([*ctx.table("metrics").to_pylist(), *_exam_rows(marks)]))
    folder = ctx.folder("exam")
    (folder / "marks.json").write_text(json.dumps(marks, indent=1) + "\n")
    _write_sheet(folder / "answers.png", {s: answers[f"{s}/0"]["clips"] for s in systems})


def _exam_rows(marks: Mapping[str, list[dict[str, float]]]) -> list[dict[str, object]]:
    from models.metrics.bootstrap import bootstrap
    from tinyworld.exam import MEANINGS

    rows: list[dict[str, object]] = []
    for system, mine in marks.items():
        for key, (title, better, note) in MEANINGS.items():
            interval = bootstrap([m[key] for m in mine], [str(index) for index in range(len(mine))])
            rows.append(
                {
                    "system": system,
                    "metric": title,
                    "value": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "n": interval.n,
                    "coverage": interval.n / len(mine),
                    "better": better,
                    "note": note,
                }
            )
    return rows


def _write_sheet(path: Path, clips: Mapping[str, bytes]) -> None:
    import cv2
    import numpy as np

    from tinyworld.exam import question, sheet

    shape = (-1, EXAM_FRAMES, EXAM_SIDE, EXAM_SIDE, 3)
    videos = {system: np.frombuffer(raw, np.uint8).reshape(shape) for system, raw in clips.items()}
    count = min(8, *(len(v) for v in videos.values()))
    picture = sheet([question(index) for index in range(count)], {s: list(v[:count]) for s, v in videos.items()})
    cv2.imwrite(str(path), picture[..., ::-1])


# What fits a laptop: small pictures, few steps. Rates are higher than the published ones, for few steps of a tiny model.
BACKBONE = {"weights": embedded.NAME}
ENCODER = {"model": embedded.NAME, "aesthetic_head": embedded.NAME}
LORA = {"rank": 16, "alpha": 16.0}
SFT = {"backbone": BACKBONE, "lora": LORA, "steps": 300, "batch": 16, "learning_rate": 2e-3, "checkpoint_every": 50}
DPO = {"backbone": BACKBONE, "lora": LORA, "steps": 30, "batch": 8, "learning_rate": 1e-4, "checkpoint_every": 10}
SAMPLING = {"steps": 10}
SMALL: dict[str, dict[str, object]] = {
    # The embedded encoder knows rendered pictures, so here, and on no other source, its scores mean something.
    "embed": {"encoder": ENCODER},
    # A rendered subject is 30% to 42% as high as its frame of 160 x 160.
    "subjects": {"min_side_px": 24, "min_area": 0.015},
    "encode": {"backbone": BACKBONE, "buckets": [f"{EXAM_FRAMES}x{EXAM_SIDE}x{EXAM_SIDE}"], "views": 4},
    "sft_cross": SFT,
    "sft_in": SFT,
    "prefer_consis": {"backbone": BACKBONE, "pairs": 24, "sampling": SAMPLING, "rope_offset": (0.0, 3.0, 3.0)},
    "prefer_real_fake": {"backbone": BACKBONE, "pairs": 24, "sampling": SAMPLING},
    "dpo_consis": DPO,
    "dpo_real_fake": DPO,
    "sample": {"backbone": BACKBONE, "prompts": 6, "seeds": 1, "sampling": SAMPLING},
    "evaluate": {"clip": ENCODER},
}


def _sized(item: Node) -> Node:
    return Node(
        item.name, item.stage, item.inputs, {**item.params, **SMALL.get(item.name, {})}, item.follow, item.names
    )


PIPELINE = Pipeline(
    "demo",
    (
        *(_sized(item) for item in ROAD),
        node(
            "judge",
            judge,
            videos="analyze.videos",
            clips="clips.clips",
            selection="select.selection",
            dedupe="dedupe.dedupe",
        ),
        node(
            "exam",
            exam,
            params={"backbone": BACKBONE, "sampling": SAMPLING},
            names={"metrics": "metrics_and_marks"},
            metrics="evaluate.metrics",
            cross="sft_cross.adapter_cross",
            in_pair="sft_in.adapter_in",
            sft="merge_sft.adapter_sft",
            consis="dpo_consis.adapter_consis",
            real_fake="dpo_real_fake.adapter_real_fake",
            final="merge_final.adapter_final",
        ),
        node(
            "report",
            report,
            {**REPORT_INPUTS, "metrics": "exam.metrics_and_marks"},
            follow={"rules": "select"},
            judgement="judge.judgement",
        ),
    ),
    "libragen on a rendered world, judged by the renderer's truth",
)

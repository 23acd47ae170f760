"""The exam of ``tinyworld.exam`` as a stage: every system of a road answers the same questions, and its marks join the metrics."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from data_schemas.tables import METRICS
from models import embedded
from pipelines.dag.store import sha256_file
from stages.contract import Context, Files, Group, Params, Stage, StageError, Table, stage
from stages.training.adapters import adapter_digest, read_adapter
from stages.training.params import BackboneParams, SamplingParams, backbone_models
from stages.training.sample import ADAPTERS, STACKS
from stages.work import Item, content_key, run_items


class ExamParams(Params):
    """The exam of ``tinyworld.exam``: unseen subjects, each with one prompt, the same questions and noise for all systems."""

    backbone: BackboneParams = BackboneParams()
    sampling: SamplingParams = SamplingParams()
    questions: int = Field(64, ge=2, description="unseen subjects, each asked for once")
    reference_token: str = Field("", description="as the training's prompts had it before each bound phrase")


@dataclass(frozen=True)
class ExamPayload:
    """Questions ``start`` to ``stop`` for one system, which sees their references or the prompts alone."""

    system: str
    start: int
    stop: int
    references: bool = True


QUESTIONS_AT_ONCE = 16
EXAM_SIDE, EXAM_FRAMES = 24, 9
TEXT_ALONE = "base_text"
"""The base as it was trained, which knows no references: what it gets right of a subject is a guess."""


class Examinee:
    """Answers questions with one loaded base and all adapters; the clip that comes out and its marks make a row."""

    def __init__(
        self,
        backbone: BackboneParams,
        sampling: SamplingParams,
        token: str,
        stacks: Mapping[str, list[tuple[str, str]]],
    ) -> None:
        from models.backbones.load import load_backbone
        from models.training.adapter import load_adapter
        from models.training.lora import attach_adapter, set_adapters
        from tinyworld.oracles import Oracles

        self.backbone, self.sampling = load_backbone(backbone.spec()), sampling
        self.token = token
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

        asked = [question(index, token=self.token) for index in range(part.start, part.stop)]
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
                references if part.references else None,
                self.backbone.latent_shape(EXAM_FRAMES, EXAM_SIDE, EXAM_SIDE),
                [seed_of(0, "exam", index) for index in range(part.start, part.stop)],
                self.sampling.steps,
                self.sampling.guidance.build(),
            )
        videos = [from_unit(video) for video in self.backbone.decode_video(latents)]
        marks = [
            asdict(mark(seen, q, index))
            for index, (seen, q) in enumerate(zip(self.oracles.look(videos), asked, strict=True), part.start)
        ]
        return {"marks": json.dumps(marks), "clips": b"".join(video.tobytes() for video in videos)}


@dataclass(frozen=True)
class Answers:
    """By system: a mark per question, and the first clips, raw (N, 9, 24, 24, 3) uint8. ``recipe`` made them."""

    marks: Mapping[str, list[dict[str, float]]]
    clips: Mapping[str, bytes]
    recipe: str


def models_of(params: ExamParams) -> Mapping[str, str]:
    """Digests of the base and of the oracles."""
    return {**backbone_models(params.backbone), "oracles": sha256_file(embedded.ORACLES / "model.safetensors")}


def answer(ctx: Context, params: ExamParams, stacks: Mapping[str, Sequence[str]]) -> Answers:
    """Every system, told by the adapters it stacks on the base, answers the same questions from the same noise.

    ``TEXT_ALONE``, where it is asked, is the one that sees no references.
    """
    models = models_of(params)
    wired = sorted({name for stack in stacks.values() for name in stack})
    for name in wired:
        read_adapter(ctx.path(name), name, models["backbone"])
    digests = {name: adapter_digest(ctx.path(name)) for name in wired}
    items = []
    for system, stack in stacks.items():
        for start in range(0, params.questions, QUESTIONS_AT_ONCE):
            stop = min(start + QUESTIONS_AT_ONCE, params.questions)
            part = ExamPayload(system, start, stop, references=system != TEXT_ALONE)
            key = content_key(start, stop, [digests[name] for name in stack], *(() if part.references else ("text",)))
            items.append(Item(key, f"{system}/{start}", part))
    recipe = {**models, **params.model_dump(mode="json", include={"sampling", "reference_token"})}
    group = Group("answers", ctx.recipe("answers", "1", recipe))
    work = run_items(
        ctx,
        group=group,
        items=items,
        make=Examinee,
        init={
            "backbone": params.backbone,
            "sampling": params.sampling,
            "token": params.reference_token,
            "stacks": {system: [(name, str(ctx.path(name))) for name in stack] for system, stack in stacks.items()},
        },
        unit="questions",
        batch=1,
        cpus=params.sampling.workers_cpus,
        gpus=params.sampling.workers_gpus,
    )
    for outcome in work.failed.values():
        raise StageError(f"exam: {outcome.record_id} failed: {outcome.error_type}: {outcome.error_message}")
    names = [item.record_id for item in items]
    marks: dict[str, list[dict[str, float]]] = {system: [] for system in stacks}
    clips: dict[str, bytes] = {}
    for item, row in zip(items, work.rows(ctx, names), strict=True):
        marks[item.payload.system] += json.loads(row["marks"])
        clips.setdefault(item.payload.system, row["clips"])
    return Answers(marks, clips, group.recipe)


@stage(
    name="exam",
    version="2",
    params=ExamParams,
    inputs={"metrics": Table(METRICS), **dict.fromkeys(ADAPTERS, Files("adapter"))},
    optional=ADAPTERS,
    outputs={"metrics": Table(METRICS), "exam": Files("exam")},
    models=models_of,
)
def exam(ctx: Context, params: ExamParams) -> None:
    """The marks of the base, with references and without, and of all wired systems join the table of metrics."""
    stacks: dict[str, Sequence[str]] = {TEXT_ALONE: ()}
    stacks |= {name: stack for name, stack in STACKS.items() if all(ctx.has(part) for part in stack)}
    answers = answer(ctx, params, stacks)
    ctx.write("metrics", METRICS.table([*ctx.table("metrics").to_pylist(), *_exam_rows(answers, models_of(params))]))
    write_answers(ctx.folder("exam"), answers)


@functools.cache
def exam_of(stacks: tuple[tuple[str, tuple[str, ...]], ...]) -> Stage:
    """An exam of these systems, each told by the adapters that it stacks on the base."""

    def examine(ctx: Context, params: ExamParams) -> None:
        """Marks and clips of all systems."""
        write_answers(ctx.folder("exam"), answer(ctx, params, dict(stacks)))

    adapters = sorted({name for _, stack in stacks for name in stack})
    return Stage(
        name="exam_of",
        version="1",
        run=examine,
        params=ExamParams,
        inputs=dict.fromkeys(adapters, Files("adapter")),
        outputs={"exam": Files("exam")},
        models=models_of,
        doc="Marks and clips of all systems.",
    )


def write_answers(folder: Path, answers: Answers) -> None:
    """``marks.json``, and ``answers.png``: the first questions with every system's answer."""
    (folder / "marks.json").write_text(json.dumps(answers.marks, indent=1) + "\n")
    _write_sheet(folder / "answers.png", answers.clips)


def _exam_rows(answers: Answers, models: Mapping[str, str]) -> list[dict[str, object]]:
    """Rows of METRICS: each mark of each system, its interval bootstrapped by question."""
    from models.metrics.bootstrap import bootstrap
    from tinyworld.exam import MEANINGS

    rows: list[dict[str, object]] = []
    for system, mine in answers.marks.items():
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
                    "source": json.dumps({"metric": f"exam/{key}", "models": models, "recipe": answers.recipe}),
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

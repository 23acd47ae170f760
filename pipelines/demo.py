"""LibraGen's road on a rendered world, small enough for a laptop, judged by the renderer's truth and by the world's oracles."""

from __future__ import annotations

import json
from pathlib import Path

from data_schemas.tables import CLIPS, DEDUPE, SELECTION, VIDEOS
from models import embedded
from pipelines.dag.graph import Pipeline, node
from pipelines.dag.store import sha256_file
from pipelines.exam import EXAM_FRAMES, EXAM_SIDE, exam
from pipelines.libragen import REPORT_INPUTS, ROAD, SYSTEMS
from stages.contract import Context, Files, Params, StageError, Table, World, stage
from stages.evaluation.report import report


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
    world=lambda params, world: {"truth": sha256_file(_truth(world))},
)
def judge(ctx: Context, params: JudgeParams) -> None:
    """Compare the curation with what the renderer knows: shots, filters, duplicates, broken files."""
    from tinyworld.judge import judge_curation

    truth = json.loads(_truth(ctx.world).read_text(encoding="utf-8"))
    found = judge_curation(truth, ctx.table("videos"), ctx.table("clips"), ctx.table("selection"), ctx.table("dedupe"))
    text = json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True)
    (ctx.folder("judgement") / "curation.json").write_text(text + "\n", encoding="utf-8")


# What fits a laptop: small pictures, few steps. Rates are higher than the published ones, for few steps of a tiny model.
BACKBONE = {"weights": embedded.NAME}
ENCODER = {"model": embedded.NAME, "aesthetic_head": embedded.NAME}
# Beside attention also what scales and feeds it: a base of 1.5 million weights has little to turn.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear")
LORA = {"rank": 16, "alpha": 16.0, "targets": TARGETS}
SFT = {"backbone": BACKBONE, "lora": LORA, "steps": 200, "batch": 16, "learning_rate": 1e-3, "checkpoint_every": 50}
DPO = {"backbone": BACKBONE, "lora": LORA, "steps": 30, "batch": 8, "learning_rate": 1e-4, "checkpoint_every": 10}
SAMPLING = {"steps": 10}
SMALL: dict[str, dict[str, object]] = {
    # The embedded encoder knows rendered pictures, so here, and on no other source, its scores mean something.
    "embed": {"encoder": ENCODER},
    # A rendered subject is 32% to 58% as high as its frame of 160 x 160.
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


PIPELINE = Pipeline(
    "demo",
    (
        *(item.with_params(SMALL.get(item.name, {})) for item in ROAD),
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
            SYSTEMS,
            params={"backbone": BACKBONE, "sampling": SAMPLING},
            names={"metrics": "metrics_and_marks"},
            metrics="evaluate.metrics",
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

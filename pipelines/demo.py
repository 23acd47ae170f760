"""LibraGen's road on a rendered world, small enough for a laptop, and judged by the renderer's truth."""

from __future__ import annotations

import json
from pathlib import Path

from data_schemas.tables import CLIPS, DEDUPE, SELECTION, VIDEOS
from pipelines.dag.graph import Node, Pipeline, node
from pipelines.libragen import REPORT_INPUTS, ROAD
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


# What fits a laptop: small pictures, few steps. Rates are higher than the published ones, for few steps of a tiny model.
LORA = {"rank": 4, "alpha": 8.0}
SFT = {"lora": LORA, "steps": 40, "batch": 4, "learning_rate": 1e-3, "checkpoint_every": 20}
DPO = {"lora": LORA, "steps": 20, "batch": 4, "learning_rate": 2e-4, "checkpoint_every": 10}
SAMPLING = {"steps": 8}
SMALL: dict[str, dict[str, object]] = {
    # A rendered subject is 25% to 45% as high as its frame of 256 x 160.
    "subjects": {"min_side_px": 24, "min_area": 0.015},
    "encode": {"buckets": ["9x64x64"], "views": 2},
    "sft_cross": SFT,
    "sft_in": SFT,
    "prefer_consis": {"pairs": 8, "sampling": SAMPLING},
    "prefer_real_fake": {"pairs": 8, "sampling": SAMPLING},
    "dpo_consis": DPO,
    "dpo_real_fake": DPO,
    "sample": {"prompts": 4, "seeds": 1, "sampling": SAMPLING},
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
            "report",
            report,
            REPORT_INPUTS,
            follow={"rules": "select"},
            judgement="judge.judgement",
        ),
    ),
    "libragen on a rendered world, judged by the renderer's truth",
)

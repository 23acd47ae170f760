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


# What fits a laptop: small clips, few steps. The models are of the real classes, with random weights.
SMALL: dict[str, dict[str, object]] = {}


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
            params={
                "notice": "The video model's weights are random: this page shows that the road holds, not what a trained model can do."
            },
            follow={"rules": "select"},
            judgement="judge.judgement",
            **REPORT_INPUTS,
        ),
    ),
    "libragen on a rendered world, judged by the renderer's truth",
)

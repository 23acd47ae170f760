"""How long dynamic and static guidance take on the shipped base: python -m benchmarks.reproduction.latency

The exam's answers are kept by their content and shared between cells, so a cell's seconds do not tell this.
"""

from __future__ import annotations

import argparse
import json
from typing import cast

import torch

from benchmarks import measured
from benchmarks.reproduction.cells import BY_NAME
from benchmarks.training.guidance import compare
from models.compat import prepare
from pipelines.config import load
from pipelines.exam import EXAM_FRAMES, EXAM_SIDE, QUESTIONS_AT_ONCE, ExamParams

NAME = "reproduction_guidance"


def measure(repeats: int) -> dict[str, dict[str, float]]:
    """As ``compare`` tells them: static guidance, which is the first way, and dynamic guidance."""
    from models.backbones.load import load_backbone

    prepare()
    torch.set_num_threads(1)
    exams = load(BY_NAME["guidance"].pipeline, None, (), {}, elsewhere=True).params
    static, dynamic = (cast(ExamParams, exams[f"exam_{way}"]) for way in ("static", "dynamic"))
    backbone = load_backbone(static.backbone.spec())
    ways = {"static": static.sampling.guidance.build(), "dynamic": dynamic.sampling.guidance.build()}
    shape = backbone.latent_shape(EXAM_FRAMES, EXAM_SIDE, EXAM_SIDE)
    return compare(backbone, ways, shape, QUESTIONS_AT_ONCE, static.sampling.steps, repeats)


def told() -> str:
    """The committed figures as a paragraph; empty without them."""
    file = measured.FOLDER / f"{NAME}.json"
    if not file.is_file():
        return ""
    ways = json.loads(file.read_text(encoding="utf-8"))["ways"]
    static, dynamic = ways["static"], ways["dynamic"]
    return (
        f"**Latency of guidance.** A clip takes {dynamic['time_ratio']:.2f} times as long with dynamic as with static guidance: "
        f"{dynamic['forwards_per_step']:.1f} and {static['forwards_per_step']:.1f} forwards a step, in "
        f"{dynamic['calls_per_step']:.1f} and {static['calls_per_step']:.1f} calls of the model "
        f"({1000 * dynamic['sample_s']:.0f} and {1000 * static['sample_s']:.0f} ms on one core; "
        f"`python -m benchmarks.reproduction.latency`, [{NAME}.json](measured/{NAME}.json))."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats: int = parser.parse_args().repeats
    found = measure(repeats)
    print(measured.write(NAME, {"repeats": repeats, "ways": found}))
    print(told())


if __name__ == "__main__":
    main()

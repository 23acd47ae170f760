"""The gates of the subjects room, off until somebody asks for them: is a reference clean, and is it the subject of the target clip?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from data_schemas.tables import PAIRS, SUBJECTS, SUBSET, VIDEOS
from stages.contract import Context, Files, Table, Waiting, stage
from stages.review.gate import OUTPUTS, CampaignParams, Gate
from stages.review.verdict_rules import refused

if TYPE_CHECKING:
    from stages.review.media import MediaStore
    from stages.review.queue import Claimed
    from stages.review.spec import NewItem

CLEAN = "Is the reference clean?"
CLEAN_GUIDELINES = """Accept a crop that shows one whole subject, sharp enough to know it again, and whose mask keeps it and nothing else.

Reject it when a part is missing or another thing is in it, when it is blurred or too dark to tell what it looks like, when nothing in it \
is a subject, or when the words name something else. What the frame cuts off a little may stay."""
CLEAN_REASONS = (
    "part missing", "something else in it", "blurred or dark", "mask is wrong", "no subject", "wrong words", "unsafe", "other",
)  # fmt: skip
SAME = "Is each reference the subject of the clip?"
SAME_GUIDELINES = """Accept a pair when every reference shows the very subject that its words name in the clip: the same person, animal \
or thing, not another of its kind. Another pose, place or light is welcome.

Reject it when a reference shows another one, when the clip does not show the subject, when the words name something else, or when \
the reference is a frame of the clip again."""
SAME_REASONS = ("another subject", "not in the clip", "wrong words", "the same picture", "reference is bad", "other")


class AskParams(CampaignParams):
    """Settings of a gate that asks only where somebody wants it."""

    reviewer: Literal["nobody", "people", "script:rules"] = Field(
        "nobody",
        description="who answers: nobody passes everything on, people on the review page, script:rules accepts everything",
    )
    reasons: tuple[str, ...] = Field((), max_length=9, description="reason tags of a reject; empty for the gate's own")


class ReviewTrainingPairsParams(AskParams):
    """Settings of the gate for training pairs."""

    kinds: tuple[Literal["in_pair", "cross_pair", "image_pair"], ...] = Field(
        ("cross_pair",), min_length=1, description="kinds of pairs that are asked about; the others pass"
    )


@stage(
    name="review_subjects",
    version="1",
    params=AskParams,
    inputs={"subjects": Table(SUBJECTS), "subset": Table(SUBSET), "media": Files("media"), "videos": Table(VIDEOS)},
    outputs=OUTPUTS,
    gate=True,
)
def review_subjects(ctx: Context, params: AskParams) -> Waiting | None:
    """People accept or reject every crop that might become a reference; the stage ``pairs`` uses the accepted ones."""
    from stages.review.subject_items import subject_items
    from stages.subjects.faces import whole_subjects

    dataset = ctx.dataset("subjects")
    asked = {}
    if params.reviewer != "nobody":
        rows = dataset.to_table(columns=["subject_id", "video_id"], filter=whole_subjects(dataset))
        asked = dict(zip(*(rows[name].to_pylist() for name in ("subject_id", "video_id")), strict=True))
    gate = _gate(ctx, params, f"References ({ctx.name})", CLEAN, CLEAN_GUIDELINES, CLEAN_REASONS)
    return _ask(gate, asked, lambda media: subject_items(ctx, media, make=gate.by_people))


@stage(
    name="review_training_pairs",
    version="1",
    params=ReviewTrainingPairsParams,
    inputs={"pairs": Table(PAIRS), "subjects": Table(SUBJECTS), "subset": Table(SUBSET), "media": Files("media")},
    outputs={**OUTPUTS, "reviewed": Table(PAIRS)},
    gate=True,
)
def review_training_pairs(ctx: Context, params: ReviewTrainingPairsParams) -> Waiting | None:
    """People accept or reject pairs; ``reviewed`` holds the accepted ones and those nobody was asked about."""
    from stages.review.training_pair_items import training_pair_items

    asked = {}
    if params.reviewer != "nobody":
        of_kind = pc.field("kind").isin(list(params.kinds))
        rows = ctx.dataset("pairs").to_table(columns=["sample_id", "video_id"], filter=of_kind)
        asked = dict(zip(*(rows[name].to_pylist() for name in ("sample_id", "video_id")), strict=True))
    gate = _gate(ctx, params, f"Same subject ({ctx.name})", SAME, SAME_GUIDELINES, SAME_REASONS)
    waiting = _ask(gate, asked, lambda media: training_pair_items(ctx, params.kinds, media, make=gate.by_people))
    if waiting is None:
        _pass_on(ctx, refused(gate.verdicts))
    return waiting


def _gate(ctx: Context, params: AskParams, title: str, asks: str, guidelines: str, reasons: tuple[str, ...]) -> Gate:
    return Gate(ctx, params, "filter", title, params.guidelines or guidelines, params.reasons or reasons, asks)


def _ask(gate: Gate, asked: Mapping[str, str], build: Callable[[MediaStore], list[NewItem]]) -> Waiting | None:
    """``asked`` are the records with their videos; nothing asked is done at once."""
    waiting = gate.run(len(asked), build, lambda: _accept)
    if waiting is None:
        gate.account(asked, "accept")
    return waiting


def _accept(one: Claimed) -> Mapping[str, Any]:
    return {"choice": "accept"}


def _pass_on(ctx: Context, out: pa.Array) -> None:
    wrote = False
    for batch in ctx.dataset("pairs").to_batches(batch_size=16_384):
        table = PAIRS.complete(pa.Table.from_batches([batch]))
        ctx.write("reviewed", table.filter(pc.invert(pc.is_in(table["sample_id"], value_set=out))))
        wrote = True
    if not wrote:
        ctx.write("reviewed", PAIRS.empty())

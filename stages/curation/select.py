"""Applies the rule set to clips: once on the cheap scores to choose what the dear models see, once on all of them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.tables import CANDIDATES, CLIPS, SELECTION
from models.scorers.dear.base import PREFIX
from stages.contract import Context, Params, Table, stage
from stages.curation.default_rules import DEFAULT_RULES
from stages.curation.ledgers import ledger_table
from stages.curation.rules import Rule, evaluate

# What only embed and score_keyframes know; rules on these wait for select and are judged after all others.
DEAR = frozenset({"aesthetic", "clip_text"})


class SelectParams(Params):
    """The rules, in order; both stages take the same list, and ``preselect`` leaves out those on dear scores."""

    rules: tuple[Rule, ...] = DEFAULT_RULES


def rule_columns(rule: Rule) -> set[str]:
    """Names of the columns that a rule reads."""
    names = {rule.column} if rule.column is not None else set()
    if rule.where is not None:
        try:
            names |= {
                node.id for node in ast.walk(ast.parse(rule.where.strip(), mode="eval")) if isinstance(node, ast.Name)
            }
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass  # compiling the rule reports it, with its name
    return names


def dear_columns(rule: Rule) -> set[str]:
    """Those of them that the dear models write, whose scorers of key frames begin theirs with ``model_``."""
    return {name for name in rule_columns(rule) if name in DEAR or name.startswith(PREFIX)}


def cheap_rules(rules: Iterable[Rule]) -> list[Rule]:
    return [rule for rule in rules if not dear_columns(rule)]


def in_order(rules: Sequence[Rule]) -> list[Rule]:
    """Cheap rules first: a clip that they reject was never embedded, and a dear rule must not be blamed for that."""
    cheap = cheap_rules(rules)
    return cheap + [rule for rule in rules if rule not in cheap]


@stage(
    name="preselect",
    version="1",
    params=SelectParams,
    inputs={"shots": Table(CLIPS)},
    outputs={"candidates": Table(CANDIDATES)},
)
def preselect(ctx: Context, params: SelectParams) -> None:
    """Choose the clips worth embedding. Where a score is missing and its rule asks a person, the clip stays a candidate."""
    for table in evaluate(cheap_rules(params.rules), ctx.dataset("shots")):
        ctx.write("candidates", table.drop_columns(["review"]))


@stage(
    name="select",
    version="1",
    params=SelectParams,
    inputs={"clips": Table(CLIPS)},
    outputs={"selection": Table(SELECTION)},
)
def select(ctx: Context, params: SelectParams) -> None:
    """Judge every clip by all rules. A clip kept with ``review`` goes on, but only a person's accept exports it."""
    for table in evaluate(in_order(params.rules), ctx.dataset("clips"), carry=("clip_id", "video_id")):
        status = pc.if_else(
            table.column("review"), "in_review", pc.if_else(table.column("kept"), "accepted", "rejected")
        )
        reason = table.column("first_failing_rule")
        record, video = table.column("clip_id"), table.column("video_id")
        ctx.ledger(ledger_table(ctx.name, record, status.cast(pa.string()), video_id=video, reason=reason))
        ctx.write("selection", table.drop_columns(["video_id"]))

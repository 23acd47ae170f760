"""When answers decide an item: which conclusions count as one opinion, and how many of them are enough."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from stages.review.answers import HIGHEST, LOWEST, Form, sides
from stages.review.spec import Aggregation, CampaignSpec


def agreeing(form: Form) -> tuple[tuple[str, ...], ...]:
    """Sets of conclusions that count as one opinion: each by itself, but ratings that lie next to each other together."""
    if form == "likert":
        return (*((str(score), str(score + 1)) for score in range(LOWEST, HIGHEST)), ("skip",))
    said = ("accept", "reject") if form == "filter" else (*sides(form), "same", "both_bad", "rest_differs")
    return tuple((one,) for one in (*said, "skip"))


def enough(rule: Aggregation, agreed: int, answers: int) -> bool:
    """Whether ``agreed`` of ``answers`` decide."""
    return 2 * agreed > answers if rule == "majority" else agreed == answers


def decided(spec: CampaignSpec, said: Sequence[str]) -> tuple[str, ...] | None:
    """The conclusions that together decide among those ``said``, or None when the rule finds no decision."""
    best = max(agreeing(spec.form), key=lambda group: sum(one in group for one in said))
    return best if said and enough(spec.aggregation, sum(one in best for one in said), len(said)) else None


def refused(verdicts: pa.Table) -> pa.Array:
    """What a filter campaign asked about and did not accept, be it that people disagreed: it does not train. external_ids."""
    return verdicts.filter(pc.not_equal(verdicts["verdict"], "accept"))["external_id"].combine_chunks()

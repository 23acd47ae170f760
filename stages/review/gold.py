"""Gold items: items whose answer is known, mixed unmarked among the others to see how carefully people look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.review.answers import HIGHEST, LOWEST, sides
from stages.review.errors import ReviewError
from stages.review.spec import CampaignSpec

TOLERANCE = 1  # points by which a rating may differ from the known one


def check_gold(spec: CampaignSpec, gold: Mapping[str, Any]) -> dict[str, Any]:
    """The known answer in the words of a verdict, not of left and right: ``{"choice": "reject"}``, ``{"choice":
    "winner", "rest_same": True}``, ``{"scores": {"identity": 1}}`` with any of the rubric's dimensions.

    Raises ``ReviewError`` for one that no answer could meet.
    """
    known = {key: value for key, value in gold.items() if value not in (None, [], {}, ())}
    if spec.form == "likert":
        scores = known.get("scores")
        names = spec.question.dimensions
        if set(known) != {"scores"} or not isinstance(scores, Mapping) or not set(scores) <= set(names):
            raise ReviewError(f"A likert item's known answer is scores for some of {', '.join(names)}.")
        if not all(isinstance(score, int) and LOWEST <= score <= HIGHEST for score in scores.values()):
            raise ReviewError(f"A known score is a whole number from {LOWEST} to {HIGHEST}.")
        return known
    takes = ("accept", "reject") if spec.form == "filter" else (*sides(spec.form), "same", "both_bad")
    extra = {"rest_same"} if spec.form == "consis" else set()
    if known.get("choice") not in takes or not set(known) <= {"choice"} | extra:
        raise ReviewError(f"The known answer to an item of a {spec.form} campaign is a choice: {', '.join(takes)}.")
    return known


def meets(gold: Mapping[str, Any], verdict: str, values: Mapping[str, Any]) -> bool | None:
    """Whether an answer is the known one; None for a skip, which is no answer. Ratings may be one point off."""
    if verdict == "skip":
        return None
    if "scores" in gold:
        return all(abs(values["scores"][name] - score) <= TOLERANCE for name, score in gold["scores"].items())
    return verdict == gold["choice"] and gold.get("rest_same", values.get("rest_same")) == values.get("rest_same")

"""Regression gates: by how much a metric of an adapter may be worse than the base's before it is not promoted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.evaluation.systems import MEANINGLESS

Row = Mapping[str, Any]


def held_back(mine: Mapping[str, Row], base: Mapping[str, Row], gates: Mapping[str, float]) -> list[str]:
    """Why the gates hold an adapter back, as sentences; empty when they let it pass.

    ``mine`` and ``base`` are rows of METRICS by metric; ``gates`` the most by which each metric may be worse, in its own unit
    and its own direction. What cannot be told holds back too: a gate that nobody measured is no gate, and a mean over fewer of
    the videos asked for than the base's would be better for every bad one that failed.
    """
    found = []
    for metric, most in gates.items():
        new, old = mine.get(metric), base.get(metric)
        if not base:
            found.append(
                f"{metric} cannot be compared with the base, which was not sampled; let sample.systems hold base"
            )
        elif new is None or old is None or new["value"] is None or old["value"] is None:
            found.append(f"{metric} was not measured for both; add it to evaluate.metrics and set the models it needs")
        elif any(row["note"] and MEANINGLESS in row["note"] for row in (new, old)):
            found.append(f"{metric} was measured with random weights; set the models it needs")
        elif new["better"] not in ("higher", "lower"):
            found.append(f"{metric} has no better side, so no gate can hold it")
        elif new["coverage"] < old["coverage"]:
            found.append(
                f"{metric} could be measured for {new['coverage']:.0%} of the videos against the base's {old['coverage']:.0%}; "
                "make those that failed, and evaluate again"
            )
        else:
            worse = (old["value"] - new["value"]) * (1.0 if new["better"] == "higher" else -1.0)
            if worse > most:
                found.append(
                    f"{metric} is {new['value']:.3g} against the base's {old['value']:.3g}, worse by {worse:.3g} where {most:g} "
                    "is allowed"
                )
    return found

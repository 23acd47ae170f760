"""What a campaign's answers say as a whole: agreement, preference, ratings, each with an interval and its numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np

from models.statistics import agreement, preference
from models.statistics.resample import Array, Estimate, estimate, ratio
from stages.review.answers import HIGHEST, LOWEST, sides
from stages.review.labels import Label, Labels
from stages.review.quality import share_of

Table = list[dict[str, Any]]
COMMON = 10  # items that two people must share before their kappa means anything
_MEASURES = Literal["raw", "gwet_ac1", "fleiss", "krippendorff"]


def draws_for(items: int) -> int:
    """Bootstrap draws: a thousand while that is cheap, fewer for many items, whose intervals are narrow anyway."""
    return int(np.clip(2_000_000 // max(items, 1), 200, 1000))


def agreement_table(labels: Labels) -> Table:
    """Rows of measure, scale, value, interval, items, answers and note; for ratings each dimension by itself."""
    form = labels.campaign.spec.form
    said = labels.independent
    if form == "likert":
        scores = [str(score) for score in range(LOWEST, HIGHEST + 1)]
        return [
            {"dimension": name} | row
            for name in labels.campaign.spec.question.dimensions
            for row in _agreement(said, scores, _score_of(name), "ordinal")
        ]
    if form == "filter":
        return _agreement(said, ["accept", "reject"], lambda one: one.verdict, "nominal")
    first, second = sides(form)
    rows = _agreement(
        said, [first, "same", second, "both_bad", "rest_differs"][: 5 if form == "consis" else 4],
        lambda one: one.conclusion, "nominal",
    )  # fmt: skip
    leaning = [one for one in said if one.verdict in (second, "same", first)]
    counts, _ = _counts(leaning, [second, "same", first], lambda one: one.verdict)
    found = agreement.measure("krippendorff", counts, "ordinal", draws=draws_for(len(counts)))
    return [*rows, _row("krippendorff", "ordinal", found, "preference alone, both bad left out")]


def _score_of(name: str) -> Callable[[Label], str]:
    return lambda one: str(one.values["scores"][name])


def _agreement(
    said: Sequence[Label], categories: list[str], of: Callable[[Label], str], scale: agreement.Scale
) -> Table:
    counts, _ = _counts(said, categories, of)
    rows: Table = []
    for name in get_args(_MEASURES):
        used = scale if name == "krippendorff" else "nominal"
        found = agreement.measure(name, counts, used, draws=draws_for(len(counts)))
        note = "items with as many answers as most" if name == "fleiss" else "items with two answers or more"
        rows.append(_row(name, used, found, note))
    return [*rows, _cohen(said, categories, of)]


def _cohen(said: Sequence[Label], categories: list[str], of: Callable[[Label], str]) -> dict[str, Any]:
    """The mean kappa over pairs of people, weighted by the items they share, those drawn again together."""
    code = {name: index for index, name in enumerate(categories)}
    mine: dict[str, dict[str, int]] = defaultdict(dict)
    for one in said:
        mine[one.person.id][one.thing.id] = code[of(one)]
    items = sorted({name for given in mine.values() for name in given})
    place = {name: index for index, name in enumerate(items)}
    pairs = []
    for a, b in combinations(sorted(mine), 2):
        common = sorted(mine[a].keys() & mine[b].keys())
        if len(common) >= COMMON:
            columns = np.array([place[name] for name in common])
            pairs.append((columns, [mine[a][name] for name in common], [mine[b][name] for name in common]))

    def statistic(weights: Array) -> Array:
        total, parts = np.zeros(len(weights)), np.zeros(len(weights))
        for columns, first, second in pairs:
            shared = weights[:, columns]
            kappa = agreement.cohen_kappa(first, second, len(categories), shared)
            weight = shared.sum(1) * np.isfinite(kappa)
            total += np.where(weight > 0, kappa, 0) * weight
            parts += weight
        return ratio(total, parts)

    used = len(np.unique(np.concatenate([columns for columns, _, _ in pairs]))) if pairs else 0
    found = estimate(statistic, len(items) if pairs else 0, 0, draws=draws_for(len(items)))
    found = Estimate(found.value, found.low, found.high, used, sum(2 * len(columns) for columns, _, _ in pairs))
    return _row("cohen", "nominal", found, f"mean over {len(pairs)} pairs of people who share {COMMON} items or more")


def _counts(said: Sequence[Label], categories: list[str], of: Callable[[Label], str]) -> tuple[Array, list[str]]:
    items = sorted({one.thing.id for one in said})
    place = {name: index for index, name in enumerate(items)}
    code = {name: index for index, name in enumerate(categories)}
    counts = agreement.counts_of(
        [place[one.thing.id] for one in said], [code[of(one)] for one in said], (len(items), len(categories))
    )
    return counts, items


def _row(measure: str, scale: str, found: Estimate, note: str) -> dict[str, Any]:
    return {"measure": measure, "scale": scale} | asdict(found) | {"note": note}


def preference_table(labels: Labels) -> dict[str, Any] | None:
    """GSB of the first side over the second, with the sign test and the share of choices that fell on the left."""
    if labels.campaign.spec.kind != "pairwise":
        return None
    first, second = sides(labels.campaign.spec.form)
    said = labels.independent
    groups = sorted({one.thing.cluster for one in said})
    place = {name: index for index, name in enumerate(groups)}
    counts = {name: np.zeros(len(groups)) for name in (first, "same", second, "both_bad")}
    for one in said:
        counts[one.verdict][place[one.thing.cluster]] += 1
    found = preference.gsb(counts[first], counts["same"], counts[second], draws=draws_for(len(groups)))
    good, same, bad, both_bad = (int(counts[name].sum()) for name in (first, "same", second, "both_bad"))
    left = share_of([one.seen == "left" for one in said if one.seen in ("left", "right")])
    return {
        "first": first,
        "second": second,
        "good": good,
        "same": same,
        "bad": bad,
        "both_bad": both_bad,
        "n": good + same + bad,
        "gsb": found.value,
        "low": found.low,
        "high": found.high,
        "sign_test_p": preference.sign_test(good, bad),
        "left_share": asdict(left) if left else None,
    }


def systems_table(labels: Labels) -> Table | None:
    """Bradley-Terry strengths where items name the two systems they compare; None where they do not."""
    said = [one for one in labels.independent if "systems" in one.thing.hidden and one.verdict != "both_bad"]
    if labels.campaign.spec.form != "compare" or not said:
        return None
    names = sorted({name for one in said for name in one.thing.hidden["systems"]})
    groups = sorted({one.thing.cluster for one in said})
    outcome = {"a": 1.0, "same": 0.5, "b": 0.0}
    try:
        ranked = preference.rank_systems(
            names,
            np.array([names.index(one.thing.hidden["systems"][0]) for one in said]),
            np.array([names.index(one.thing.hidden["systems"][1]) for one in said]),
            np.array([outcome[one.verdict] for one in said]),
            np.array([groups.index(one.thing.cluster) for one in said]),
        )
    except ValueError:  # parts that were never compared: no scale joins them yet
        return None
    return [
        {"system": one.system, "strength": one.value} | {k: v for k, v in asdict(one).items() if k not in ("system", "value")}
        for one in ranked
    ]  # fmt: skip


def likert_table(labels: Labels) -> Table | None:
    """Per dimension and system: the mean with its interval, and how often each score was given."""
    spec = labels.campaign.spec
    if spec.form != "likert":
        return None
    said: dict[str | None, list[Label]] = defaultdict(list)
    for one in labels.independent:
        said[one.thing.hidden.get("system")].append(one)
    rows: Table = []
    for system in sorted(said, key=lambda name: name or ""):
        groups = sorted({one.thing.cluster for one in said[system]})
        place = {name: index for index, name in enumerate(groups)}
        for dimension in spec.question.dimensions:
            sums, times = np.zeros(len(groups)), np.zeros(len(groups))
            counts = [0] * (HIGHEST - LOWEST + 1)
            for one in said[system]:
                score = one.values["scores"][dimension]
                sums[place[one.thing.cluster]] += score
                times[place[one.thing.cluster]] += 1
                counts[score - LOWEST] += 1
            found = estimate(lambda w, s=sums, t=times: ratio(w @ s, w @ t), len(groups), sum(counts))  # type: ignore[misc]
            row: dict[str, Any] = {"dimension": dimension, "system": system, "n": sum(counts), "mean": found.value}
            rows.append(row | {"low": found.low, "high": found.high, "counts": counts})
    return rows

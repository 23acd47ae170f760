"""From numbers of samples to numbers of systems: means, intervals, coverage, notes, and paired tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.metrics.tools import MetricInfo
    from stages.evaluation.params import EvaluateParams

Values = Mapping[str, Mapping[str, float | None]]  # by record_id, by metric

# Metrics that a frozen video wins; the table says so where nothing beside them says whether it moves.
STILL_WINS = frozenset(
    {"temporal_flicker", "motion_smoothness", "motion_smoothness_dis", "subject_consistency", "background_consistency"}
)
DYNAMIC = ("dynamic_degree", "dynamic_degree_dis")


def summarise(
    samples: Sequence[Mapping[str, Any]],
    values: Values,
    params: EvaluateParams,
    source: Mapping[str, Any] | None = None,
) -> list[dict[str, object]]:
    """Rows of METRICS: per system and metric the mean over prompts, its interval, n, and coverage of what was asked for.

    ``source`` is told in each row, with the digests of those models alone that the metric needs.
    """
    from models.metrics.bootstrap import bootstrap

    infos, lacks = params.infos(), params.tools().lacks
    rows: list[dict[str, object]] = []
    for system in dict.fromkeys(s["system"] for s in samples):
        mine = [s for s in samples if s["system"] == system]
        prompts = [s["prompt_id"] for s in mine]
        for key, info in infos.items():
            measured = [values.get(s["record_id"], {}).get(key) for s in mine]
            interval = bootstrap(measured, prompts, seed=params.seed, draws=params.draws)
            rows.append(
                {
                    "system": system,
                    "metric": key,
                    "value": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "n": interval.n,
                    "coverage": interval.n / len(mine),
                    "better": info.better,
                    "note": _note(info, params, lacks, interval.prompts),
                    "source": None if source is None else json.dumps(_source(key, info, source), sort_keys=True),
                }
            )
    return rows


def compare(samples: Sequence[Mapping[str, Any]], values: Values, params: EvaluateParams) -> list[dict[str, object]]:
    """Rows of COMPARISONS: each system against the baseline, paired by prompt and seed, p adjusted over the systems of a metric."""
    import numpy as np

    from models.metrics.bootstrap import bootstrap
    from models.statistics.paired import holm, sign_flip_test

    systems = list(dict.fromkeys(s["system"] for s in samples))
    base = baseline(systems, params.baseline)
    by_system = {
        name: {(s["prompt_id"], s["seed"]): values.get(s["record_id"], {}) for s in samples if s["system"] == name}
        for name in systems
    }
    rows: list[dict[str, object]] = []
    for key in params.infos():
        found: list[dict[str, Any]] = []
        for system in systems:
            if system == base:
                continue
            pairs: dict[str, list[float]] = {}
            for (prompt, seed), mine in by_system[system].items():
                one, other = mine.get(key), by_system[base].get((prompt, seed), {}).get(key)
                if one is not None and other is not None:
                    pairs.setdefault(prompt, []).append(one - other)
            if not pairs:
                continue
            flat = [(d, p) for p, differences in sorted(pairs.items()) for d in differences]
            interval = bootstrap([d for d, _ in flat], [p for _, p in flat], seed=params.seed, draws=params.draws)
            means = np.array([np.mean(pairs[p]) for p in sorted(pairs)])
            found.append(
                {
                    "system": system,
                    "baseline": base,
                    "metric": key,
                    "difference": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "n": interval.n,
                    "prompts": interval.prompts,
                    "p": sign_flip_test(means, seed=params.seed),
                }
            )
        for row, adjusted in zip(found, holm([r["p"] for r in found]), strict=True):
            rows.append({**row, "p_holm": adjusted})
    return rows


def baseline(systems: Sequence[str], wanted: str | None) -> str:
    """Whom the others are compared with. ``StageError`` for a name that no system has."""
    from stages.contract import StageError

    if wanted is not None and wanted not in systems:
        raise StageError(f"evaluate.baseline is {wanted}, and no system is called so; there are {', '.join(systems)}")
    return wanted or ("base" if "base" in systems else systems[0])


def _note(info: MetricInfo, params: EvaluateParams, lacks: Mapping[str, str], prompts: int) -> str | None:
    notes = []
    empty = sorted({lacks[need] for need in info.needs if need in lacks})
    if empty:
        notes.append(f"not measured: evaluate.{' and evaluate.'.join(empty)} is not set")
    elif "clip" in info.needs and params.clip is not None and params.clip.random:
        notes.append("encoder weights are random: the number means nothing")
    if "identity" in info.needs:
        notes.append("embedded encoder: colour, texture and shape, no semantics")
    if info.key in STILL_WINS and not set(DYNAMIC) & set(params.metrics):
        notes.append("a frozen video scores best, and no dynamic degree was measured beside it")
    if prompts == 1:
        notes.append("one prompt: no interval")
    return "; ".join(notes) or None


def _source(key: str, info: MetricInfo, source: Mapping[str, Any]) -> dict[str, Any]:
    """``source`` as far as it is about this metric."""
    from stages.evaluation.params import models_behind

    rest = {name: value for name, value in source.items() if name not in ("recipes", "models")}
    models = models_behind(key, info, source.get("models", {}))
    return {
        **rest,
        "recipe": source.get("recipes", {}).get(key),
        "models": models,
        "metric": f"{info.key}/{info.version}",
    }

"""Mean and 95% interval over prompts: videos of one prompt are not independent, so prompts are what is drawn again.

Source: the cluster bootstrap (Field and Welsh, JRSS B 2007), percentile interval. Resampling single videos instead gives
intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """``value`` with ``low`` and ``high`` of its interval; all None when nothing was measured, and the ends with one prompt.

    ``n`` counts the values that went in, ``prompts`` the groups that they came from.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    prompts: int


def bootstrap(
    values: Sequence[float | None], prompts: Sequence[str], *, seed: int = 0, draws: int = DRAWS, level: float = 0.95
) -> Interval:
    """Mean of the prompts' means, and the percentile interval of that mean when prompts are drawn with replacement.

    ``values[i]`` belongs to ``prompts[i]``; None is left out (count it as coverage). Seeded by ``seed`` alone. One prompt
    says nothing about others: its interval is None.
    """
    if len(values) != len(prompts):
        raise ValueError(f"{len(values)} values for {len(prompts)} prompts: each value needs the prompt it came from")
    groups: dict[str, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        if value is not None:
            if not np.isfinite(value):
                raise ValueError(f"value {value} of prompt {prompt!r} is not finite")
            groups.setdefault(prompt, []).append(float(value))
    n = sum(map(len, groups.values()))
    if not groups:
        return Interval(None, None, None, 0, 0)
    means = np.array([np.mean(groups[p]) for p in sorted(groups)])
    centre = float(means.mean())
    if len(means) == 1:
        return Interval(centre, None, None, n, 1)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(means), (draws, len(means)))
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(means[picks].mean(axis=1), [tail, 100.0 - tail])
    return Interval(centre, float(low), float(high), n, len(means))

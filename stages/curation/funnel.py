"""Where the footage went: records and hours lost to each rule, how rules overlap, and what other rules would change.

One streaming scan over the columns that the rules name answers all of it, for one set of rules or for two side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from stages.curation.rules import Bound, CompiledRule, Rule, compile_rules, failed, outcomes


@dataclass(frozen=True)
class RuleStep:
    """One rule in the funnel. Hours are of footage.

    ``records_in`` reached the rule; ``lost`` of them failed here first. ``fails`` fail it wherever they stopped, ``only`` fail
    no other rule, ``missing`` have no value for it.
    """

    rule: str
    records_in: int
    lost: int
    hours_lost: float
    fails: int
    only: int
    missing: int
    bounds: tuple[Bound, ...]


@dataclass(frozen=True)
class Funnel:
    """A rule set applied to a table of clips. ``overlap[i][j]`` counts clips that fail both rule i and rule j."""

    records: int
    hours: float
    kept: int
    hours_kept: float
    review: int
    steps: tuple[RuleStep, ...]
    overlap: tuple[tuple[int, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Change:
    """Clips that a second rule set keeps and the first did not (``gained``), and the other way round (``dropped``)."""

    gained: int
    hours_gained: float
    dropped: int
    hours_dropped: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rule_funnel(rules: Sequence[Rule], clips: pa.Table | pads.Dataset) -> Funnel:
    """Apply the rules in order to a table of clips (schema ``clips``) and account for every record and hour.

    Raises ``RuleError`` where a rule does not fit the table.
    """
    tally = _Tally(compile_rules(rules, clips))
    for seconds, fails, missing in _scan([tally], clips):
        tally.add(seconds, fails, missing)
    return tally.funnel()


def compare_rules(
    before: Sequence[Rule], after: Sequence[Rule], clips: pa.Table | pads.Dataset
) -> tuple[Funnel, Funnel, Change]:
    """Both rule sets over the same clips in one scan; a rule that both have is computed once."""
    one, two = _Tally(compile_rules(before, clips)), _Tally(compile_rules(after, clips))
    counts, sums = np.zeros(2, np.int64), np.zeros(2)
    for seconds, fails, missing in _scan([one, two], clips):
        kept = [~tally.add(seconds, fails, missing) for tally in (one, two)]
        for index, moved in enumerate((kept[1] & ~kept[0], kept[0] & ~kept[1])):
            counts[index] += int(moved.sum())
            sums[index] += float(seconds[moved].sum())
    change = Change(int(counts[0]), float(sums[0] / 3600), int(counts[1]), float(sums[1] / 3600))
    return one.funnel(), two.funnel(), change


def _scan(
    tallies: Sequence[_Tally], clips: pa.Table | pads.Dataset
) -> Iterator[tuple[np.ndarray, dict[Rule, np.ndarray], dict[Rule, np.ndarray]]]:
    """Per batch: seconds float64 (N,), and for each distinct rule where it fails and where it has no value, bool (N,)."""
    distinct = {compiled.rule: compiled for tally in tallies for compiled in tally.compiled}
    compiled = list(distinct.values())
    for batch in outcomes(compiled, clips, carry=("duration_s",)):
        seconds = np.asarray(batch.column("duration_s").to_numpy(zero_copy_only=False), float)
        fails, missing = {}, {}
        for index, rule in enumerate(compiled):
            passes = batch.column(str(index))
            fails[rule.rule] = failed(rule, passes).to_numpy(zero_copy_only=False)
            missing[rule.rule] = pc.is_null(passes).to_numpy(zero_copy_only=False)
        yield seconds, fails, missing


class _Tally:
    """Sums of one rule set over the batches seen so far."""

    def __init__(self, compiled: Sequence[CompiledRule]) -> None:
        self.compiled = compiled
        count = len(compiled)
        self.records = self.kept = self.review = 0
        self.total_s = self.kept_s = 0.0
        self.first, self.only, self.missing = (np.zeros(count, np.int64) for _ in range(3))
        self.first_s = np.zeros(count)
        self.overlap = np.zeros((count, count), np.int64)

    def add(self, seconds: np.ndarray, fails: dict[Rule, np.ndarray], missing: dict[Rule, np.ndarray]) -> np.ndarray:
        """Count one batch; returns which of its clips are lost, bool (N,)."""
        rows, count = len(seconds), len(self.compiled)
        fails_RN = np.stack([fails[c.rule] for c in self.compiled]) if count else np.zeros((0, rows), bool)
        lost = np.asarray(fails_RN.any(axis=0))
        kept = ~lost
        if count:
            which = fails_RN.argmax(axis=0)[lost]
            self.first += np.bincount(which, minlength=count)
            self.first_s += np.bincount(which, weights=seconds[lost], minlength=count)
            some_RN = fails_RN[:, lost]  # clips that fail nothing overlap nowhere
            self.only += some_RN[:, some_RN.sum(axis=0) == 1].sum(axis=1)
            as_float = some_RN.astype(
                np.float32
            )  # a product of floats is many times faster; a batch counts exactly in it
            self.overlap += np.rint(as_float @ as_float.T).astype(np.int64)
            self.missing += [int(missing[c.rule].sum()) for c in self.compiled]
            asks = [missing[c.rule] for c in self.compiled if c.rule.missing == "review"]
            if asks:
                self.review += int((np.logical_or.reduce(asks) & kept).sum())
        self.records += rows
        self.total_s += float(seconds.sum())
        self.kept += int(kept.sum())
        self.kept_s += float(seconds[kept].sum())
        return lost

    def funnel(self) -> Funnel:
        before = self.records - np.concatenate([[0], np.cumsum(self.first)])
        steps = tuple(
            RuleStep(
                rule=compiled.rule.name,
                records_in=int(before[index]),
                lost=int(self.first[index]),
                hours_lost=float(self.first_s[index] / 3600),
                fails=int(self.overlap[index, index]),
                only=int(self.only[index]),
                missing=int(self.missing[index]),
                bounds=compiled.bounds,
            )
            for index, compiled in enumerate(self.compiled)
        )
        overlap = tuple(map(tuple, self.overlap.tolist()))
        hours, hours_kept = self.total_s / 3600, self.kept_s / 3600
        return Funnel(self.records, hours, self.kept, hours_kept, self.review, steps, overlap)

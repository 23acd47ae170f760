"""Merging LoRA adapters: the exact weighted sum of their deltas, its best low-rank form, and pruning, TIES and DARE on deltas.

A module's delta is dW = s B A with s = alpha / r (alpha / sqrt(r) for rsLoRA). All maths is in float32 on the CPU. Our
own, because PEFT's ``linear`` adds A's and B's separately (cross terms B_i A_j) and its rsLoRA merges are wrong up to
0.21.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor

from models.training.adapter import AdapterState
from models.training.randomness import seed_of

Method = Literal["cat", "svd", "ties", "dare", "magnitude_prune", "linear"]
SIGN_ROWS = 1024  # rows of a delta that are dense at once while signs are compared: 25 MB each at a width of 3072


@dataclass(frozen=True)
class Factor:
    """One module's low-rank delta ``scale * B @ A``; A is (rank, in), B is (out, rank).

    For a convolution ``kernel`` is its (height, width), and A is (rank, in * height * width).
    """

    A: Tensor
    B: Tensor
    scale: float
    kernel: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1]:
            raise ValueError(f"A {tuple(self.A.shape)} and B {tuple(self.B.shape)} are not (rank, in) and (out, rank)")

    @property
    def rank(self) -> int:
        return int(self.A.shape[0])

    def delta(self) -> Tensor:
        """The dense dW, (out, in), float32."""
        return self.scale * (self.B.float() @ self.A.float())


Factors = Mapping[str, Factor]  # by module name


def lora_scale(rank: int, alpha: float, rslora: bool = False) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023)."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def factors_of(adapter: AdapterState) -> dict[str, Factor]:
    """An adapter as factors by module."""
    factors = {}
    for module in adapter.modules:
        a, b = adapter.state[f"{module}.lora_A.weight"], adapter.state[f"{module}.lora_B.weight"]
        kernel = (int(a.shape[2]), int(a.shape[3])) if a.ndim == 4 else None
        factors[module] = Factor(a.flatten(1), b.flatten(1), adapter.scale(module), kernel)
    return factors


def adapter_of(factors: Factors, metadata: Mapping[str, Any]) -> AdapterState:
    """Factors as an adapter; alpha carries the scale, whatever its sign."""
    state: dict[str, Tensor] = {}
    for module, factor in factors.items():
        a, b = factor.A.float(), factor.B.float()
        if factor.kernel is not None:
            a, b = a.reshape(factor.rank, -1, *factor.kernel), b[:, :, None, None]
        state[f"{module}.lora_A.weight"], state[f"{module}.lora_B.weight"] = a.contiguous(), b.contiguous()
    rank = {m: f.rank for m, f in factors.items()}
    return AdapterState(state, rank, {m: f.scale * f.rank for m, f in factors.items()}, dict(metadata))


@dataclass(frozen=True)
class ModuleWeights:
    """Other weights for the modules whose whole name the regular expression ``match`` matches, by adapter name."""

    match: str
    weights: Mapping[str, float]


@dataclass(frozen=True)
class MergeSpec:
    """How to merge.

    ``cat`` is exact and its rank is the sum of ranks. ``svd`` keeps ``rank`` singular values, or as many as hold
    ``energy`` of the squared norm, and refuses an error above ``max_rel_err``. ``magnitude_prune``, ``ties`` (Yadav et al.
    2023) and ``dare`` (Yu et al. 2024) work on dense deltas, keep ``density`` of the entries, then recompress like ``svd``.
    The first of ``per_module`` that matches a module replaces the weights it names there.
    """

    method: Method = "cat"
    rank: int | None = None
    energy: float | None = None
    max_rel_err: float | None = None
    density: float = 0.5
    seed: int = 0
    allow_inexact: bool = False
    per_module: tuple[ModuleWeights, ...] = ()


@dataclass(frozen=True)
class Part:
    """What one adapter brings to one module."""

    adapter: str
    factor: Factor
    weight: float


@dataclass(frozen=True)
class MergeReport:
    """Per module: rank of the result and ||dW - merged|| / ||dW|| against the delta that the method asked for."""

    ranks: dict[str, int]
    errors: dict[str, float]
    relative_error: float  # over all modules together
    weighted_sum_error: float  # the same against the plain weighted sum of deltas: 0 for cat
    conflicts: dict[str, dict[str, float]] = field(default_factory=dict)

    def mean_conflicts(self) -> dict[str, float]:
        """Cosines and sign agreements of each two adapters, averaged over the modules that both have."""
        rows = self.conflicts.values()
        names = sorted({key for row in rows for key in row if key.startswith(("cosine_", "sign_agreement_"))})
        return {name: _mean([row[name] for row in rows if name in row]) for name in names}


def merge(
    adapters: Mapping[str, Factors], weights: Mapping[str, float], spec: MergeSpec | None = None
) -> tuple[dict[str, Factor], MergeReport]:
    """Merge named adapters with one weight each; weights may be negative and need not sum to 1.

    An adapter that lacks a module contributes nothing there. Raises ``ValueError`` for no adapters, weights of other
    names, shapes that do not fit, ``linear`` without ``allow_inexact``, or a truncation error above ``max_rel_err``.
    """
    spec = spec or MergeSpec()
    if not adapters or set(adapters) != set(weights):
        raise ValueError(f"adapters {sorted(adapters)} and weights {sorted(weights)}; give each adapter one weight")
    if spec.method == "linear" and not spec.allow_inexact:
        raise ValueError(
            "method linear adds A and B separately and is not the weighted sum of the adapters; use cat, which is "
            "exact, or set allow_inexact to have it all the same"
        )
    if not 0 < spec.density <= 1:
        raise ValueError(f"density is {spec.density}, must be above 0 and at most 1")
    by_module = _weights(adapters, weights, spec.per_module)
    merged: dict[str, Factor] = {}
    sums = {"wanted": 0.0, "lost": 0.0, "exact": 0.0, "off": 0.0}
    errors: dict[str, float] = {}
    for module, own in by_module.items():
        parts = [Part(name, a[module], own[name]) for name, a in adapters.items() if module in a]
        if len({(p.factor.B.shape[0], p.factor.A.shape[1], p.factor.kernel) for p in parts}) > 1:
            shapes = ", ".join(str((p.factor.B.shape[0], p.factor.A.shape[1])) for p in parts)
            raise ValueError(f"module {module}: deltas of different shapes {shapes}; the adapters' bases differ")
        exact = cat([(p.factor, p.weight) for p in parts])
        if spec.method == "cat":
            made, lost, wanted = exact, 0.0, _norm(exact)
        elif spec.method == "svd":
            made, lost, wanted = truncate(exact, rank=_rank_limit(spec, parts), energy=spec.energy)
        elif spec.method == "linear":
            made = linear([(p.factor, p.weight) for p in parts], module)
            lost, wanted = 0.0, _norm(exact)
        else:
            dense = _DENSE[spec.method](parts, spec, module)
            made, lost, wanted = compress(dense, rank=_rank_limit(spec, parts), energy=spec.energy)
        merged[module] = replace(made, kernel=parts[0].factor.kernel)
        errors[module] = lost / wanted if wanted else 0.0
        sums["lost"] += lost**2
        sums["wanted"] += wanted**2
        if spec.method != "cat":
            sums["off"] += _norm(cat([(made, 1.0), (exact, -1.0)])) ** 2
            sums["exact"] += _norm(exact) ** 2
    worst = max(errors, key=lambda m: errors[m], default=None)
    if spec.max_rel_err is not None and worst is not None and errors[worst] > spec.max_rel_err:
        raise ValueError(
            f"module {worst}: truncation loses {errors[worst]:.1%} of the delta, more than max_rel_err "
            f"{spec.max_rel_err:.1%}; raise rank or energy, or use cat"
        )
    report = MergeReport(
        ranks={m: f.rank for m, f in merged.items()},
        errors=errors,
        relative_error=_ratio(sums["lost"], sums["wanted"]),
        weighted_sum_error=_ratio(sums["off"], sums["exact"]),
        conflicts=conflicts(adapters) if len(adapters) > 1 else {},
    )
    return merged, report


def cat(parts: Sequence[tuple[Factor, float]]) -> Factor:
    """A' = [w_i s_i A_i], B' = [B_i]: exactly sum_i w_i s_i B_i A_i, rank sum r_i, scale 1."""
    return Factor(
        A=torch.cat([w * f.scale * f.A.float() for f, w in parts], dim=0),
        B=torch.cat([f.B.float() for f, _ in parts], dim=1),
        scale=1.0,
    )


def linear(parts: Sequence[tuple[Factor, float]], module: str = "") -> Factor:
    """PEFT's ``linear``: sqrt(w_i s_i) on A and on B, summed apart. Not the weighted sum: it has cross terms."""
    if len({f.rank for f, _ in parts}) > 1:
        raise ValueError(f"module {module}: linear needs equal ranks, has {[f.rank for f, _ in parts]}; use cat")
    roots = [math.copysign(math.sqrt(abs(w * f.scale)), w) for f, w in parts]
    terms_a = [root * f.A.float() for root, (f, _) in zip(roots, parts, strict=True)]
    terms_b = [abs(root) * f.B.float() for root, (f, _) in zip(roots, parts, strict=True)]
    return Factor(A=torch.stack(terms_a).sum(0), B=torch.stack(terms_b).sum(0), scale=1.0)


def truncate(factor: Factor, *, rank: int | None = None, energy: float | None = None) -> tuple[Factor, float, float]:
    """The best approximation of a factored delta by fewer ranks, without forming it.

    QR(B) = Qb Rb and QR(A^T) = Qa Ra; the SVD of the small Rb Ra^T has the delta's own singular values. Returns the
    factor, the Frobenius norm that was lost (from the singular values left out) and the norm that there was.
    """
    basis_b, core_b = torch.linalg.qr(factor.B.double())
    basis_a, core_a = torch.linalg.qr(factor.A.double().T)
    U, S, Vh = torch.linalg.svd(factor.scale * (core_b @ core_a.T), full_matrices=False)
    return _keep(basis_b @ U, S, Vh @ basis_a.T, rank, energy)


def compress(delta: Tensor, *, rank: int | None = None, energy: float | None = None) -> tuple[Factor, float, float]:
    """The best low-rank form of a dense delta; returns what ``truncate`` returns."""
    U, S, Vh = torch.linalg.svd(delta.double(), full_matrices=False)
    return _keep(U, S, Vh, rank, energy)


def conflicts(adapters: Mapping[str, Factors]) -> dict[str, dict[str, float]]:
    """Per module, the norm of each adapter's delta, and of each two their cosine and sign agreement: where they pull apart.

    <dW1, dW2> = s1 s2 sum((B1^T B2) * (A1 A2^T)), so no dense delta is formed for it. Sign agreement is the share (0..1) of
    the entries where neither delta is 0 whose signs are equal: a half when two deltas have nothing to do with each other.
    """
    table: dict[str, dict[str, float]] = {}
    for module in _modules(adapters):
        present = {name: adapter[module] for name, adapter in adapters.items() if module in adapter}
        norms = {name: _norm(factor) for name, factor in present.items()}
        row = {f"norm_{name}": norm for name, norm in norms.items()}
        for one, other in combinations(present, 2):
            if norms[one] and norms[other]:
                cosine = _inner(present[one], present[other]) / (norms[one] * norms[other])
                row[f"cosine_{one}_{other}"] = cosine
                row[f"sign_agreement_{one}_{other}"] = sign_agreement(present[one], present[other])
        table[module] = row
    return table


def sign_agreement(one: Factor, other: Factor) -> float:
    """Share (0..1) of the entries where neither delta is 0 whose signs are equal; 0 when there is no such entry."""
    equal = both = 0
    for start in range(0, one.B.shape[0], SIGN_ROWS):
        rows = slice(start, start + SIGN_ROWS)
        product = torch.sign(replace(one, B=one.B[rows]).delta()) * torch.sign(replace(other, B=other.B[rows]).delta())
        equal += int((product > 0).sum())
        both += int((product != 0).sum())
    return equal / both if both else 0.0


def _weights(
    adapters: Mapping[str, Factors], weights: Mapping[str, float], per_module: Sequence[ModuleWeights]
) -> dict[str, dict[str, float]]:
    """The adapters' weights by module; a rule that names a stranger or matches nothing is an error, not a no-op."""
    modules = _modules(adapters)
    for rule in per_module:
        strange = sorted(set(rule.weights) - set(weights))
        if strange:
            raise ValueError(f"per_module {rule.match!r} weighs {', '.join(strange)}; there are {', '.join(weights)}")
        try:
            matches = any(re.fullmatch(rule.match, module) for module in modules)
        except re.error as error:
            raise ValueError(f"per_module {rule.match!r} is not a regular expression: {error}") from error
        if not matches:
            raise ValueError(f"per_module {rule.match!r} matches no module; the adapters have for example {modules[0]}")
    by_module = {}
    for module in modules:
        rule_weights = next((rule.weights for rule in per_module if re.fullmatch(rule.match, module)), {})
        by_module[module] = {name: float(w) for name, w in {**weights, **rule_weights}.items()}
    return by_module


def _modules(adapters: Mapping[str, Factors]) -> list[str]:
    return sorted({module for adapter in adapters.values() for module in adapter})


def _keep(U: Tensor, S: Tensor, Vh: Tensor, rank: int | None, energy: float | None) -> tuple[Factor, float, float]:
    keep = len(S) if rank is None else min(rank, len(S))
    total = float((S**2).sum())
    if energy is not None:
        if not 0 < energy <= 1:
            raise ValueError(f"energy is {energy}, must be above 0 and at most 1")
        held = torch.cumsum(S**2, 0) >= energy * total * (1 - 1e-12)
        keep = min(keep, int(held.float().argmax()) + 1)
    root = S[:keep].sqrt()
    factor = Factor(A=(root[:, None] * Vh[:keep]).float(), B=(U[:, :keep] * root).float(), scale=1.0)
    return factor, math.sqrt(float((S[keep:] ** 2).sum())), math.sqrt(total)


def _ties(parts: Sequence[Part], spec: MergeSpec, module: str) -> Tensor:
    """Trim to the largest entries, elect a sign by the weighted sum, add the entries that agree with it.

    The paper averages the entries that agree and scales the result up again; weights that sum to 1 make the sum that
    average, and one adapter with weight 1 at density 1 is itself.
    """
    trimmed = torch.stack([p.weight * _top(p.factor.delta(), spec.density) for p in parts])
    elected = torch.sign(trimmed.sum(0))
    return torch.where(torch.sign(trimmed) == elected, trimmed, torch.zeros(())).sum(0)


def _magnitude_prune(parts: Sequence[Part], spec: MergeSpec, module: str) -> Tensor:
    """The weighted sum of the deltas, each trimmed to its largest entries."""
    return torch.stack([p.weight * _top(p.factor.delta(), spec.density) for p in parts]).sum(0)


def _top(delta: Tensor, density: float) -> Tensor:
    keep = max(1, round(density * delta.numel()))
    threshold = delta.abs().flatten().kthvalue(delta.numel() - keep + 1).values
    return torch.where(delta.abs() >= threshold, delta, torch.zeros(()))


def _dare(parts: Sequence[Part], spec: MergeSpec, module: str) -> Tensor:
    """Drop entries at random and rescale the rest by 1 / density; seeded by module and adapter name."""
    total = torch.zeros_like(parts[0].factor.delta())
    for part in parts:
        draws = torch.Generator().manual_seed(seed_of(spec.seed, "dare", module, part.adapter))
        delta = part.factor.delta()
        mask = torch.rand(delta.shape, generator=draws) < spec.density
        total += part.weight * delta * mask / spec.density
    return total


_DENSE: dict[str, Callable[[Sequence[Part], MergeSpec, str], Tensor]] = {
    "ties": _ties,
    "dare": _dare,
    "magnitude_prune": _magnitude_prune,
}


def _rank_limit(spec: MergeSpec, parts: Sequence[Part]) -> int | None:
    if spec.rank is not None:
        return spec.rank
    return None if spec.energy is not None else max(p.factor.rank for p in parts)


def _inner(first: Factor, second: Factor) -> float:
    left = first.B.double().T @ second.B.double()
    right = first.A.double() @ second.A.double().T
    return first.scale * second.scale * float((left * right).sum())


def _norm(factor: Factor) -> float:
    return math.sqrt(max(_inner(factor, factor), 0.0))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ratio(part: float, whole: float) -> float:
    return math.sqrt(part / whole) if whole else 0.0

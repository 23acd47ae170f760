"""Merges adapters: the two SFT adapters into one, that one with both DPO deltas into the final adapter, or any others."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.contract import Context, Files, Params, Stage, StageError, stage
from stages.training.adapters import adapter_digest, read_adapter, write_adapter

if TYPE_CHECKING:
    from models.training.adapter import AdapterState
    from models.training.merge import Factors, MergeReport

ADAPTER = Files("adapter")


class ModuleWeights(Params):
    """Other weights for some layers."""

    match: str = Field(description="regular expression of whole module names, e.g. transformer_blocks\\.[0-9]\\..*")
    weights: dict[str, float] = Field(description="weight by adapter name, in place of the one it has elsewhere")


class MergeParams(Params):
    """How to merge; see ``models.training.merge.MergeSpec``. ``cat`` is exact, so it is the default."""

    method: Literal["cat", "svd", "ties", "dare", "magnitude_prune", "linear"] = "cat"
    rank: int | None = Field(None, ge=1, description="rank of every method but cat; null keeps the largest parent's")
    energy: float | None = Field(None, gt=0, le=1, description="share of the squared norm to keep instead of a rank")
    max_rel_err: float | None = Field(None, gt=0, description="refuse a module that loses more than this")
    density: float = Field(0.5, gt=0, le=1, description="share of entries that ties, dare and pruning keep")
    per_module: tuple[ModuleWeights, ...] = Field((), description="weights by layer; the first that matches counts")
    allow_inexact: bool = Field(False, description="let method linear through, which is not the weighted sum")


class MergeSftParams(MergeParams):
    """LibraGen weighs cross-pair against in-pair and does not publish the weights: sweep them, start at a half."""

    cross: float = Field(0.5, description="weight of the cross-pair adapter")
    in_pair: float = Field(0.5, description="weight of the in-pair adapter")


class MergeFinalParams(MergeParams):
    """Final = SFT + mu x Consis + nu x Real-Fake, relative to the raw base; mu and nu need not sum to 1."""

    mu: float = Field(0.5, description="weight of the Consis-DPO delta")
    nu: float = Field(0.5, description="weight of the Real-Fake-DPO delta")


@stage(
    name="merge_sft",
    version="1",
    params=MergeSftParams,
    inputs={"cross": ADAPTER, "in_pair": ADAPTER},
    outputs={"adapter": ADAPTER},
)
def merge_sft(ctx: Context, params: MergeSftParams) -> None:
    """One SFT adapter from the cross-pair and the in-pair one."""
    _merge(ctx, params, {"cross": params.cross, "in_pair": params.in_pair}, "sft")


@stage(
    name="merge_final",
    version="1",
    params=MergeFinalParams,
    inputs={"sft": ADAPTER, "consis": ADAPTER, "real_fake": ADAPTER},
    outputs={"adapter": ADAPTER},
)
def merge_final(ctx: Context, params: MergeFinalParams) -> None:
    """The final adapter, relative to the raw base."""
    check_parent(ctx)
    _merge(ctx, params, {"sft": 1.0, "consis": params.mu, "real_fake": params.nu}, "final")


class MergeAnyParams(MergeParams):
    """Any adapters of one backbone."""

    weights: dict[str, float] = Field(description="weight by adapter name; they may be negative and need not sum to 1")


@functools.cache
def merge_of(names: tuple[str, ...]) -> Stage:
    """A stage that merges adapters of these names, for whoever has others than the road's."""

    def merge_any(ctx: Context, params: MergeAnyParams) -> None:
        """One adapter from several."""
        if set(params.weights) != set(names):
            raise StageError(
                f"weights are for {sorted(params.weights)}, the adapters are {sorted(names)}; give each one weight"
            )
        _merge(ctx, params, {name: params.weights[name] for name in names}, "merged")

    return Stage(
        name="merge_any",
        version="1",
        run=merge_any,
        params=MergeAnyParams,
        inputs=dict.fromkeys(names, ADAPTER),
        outputs={"adapter": ADAPTER},
        doc="One adapter from several.",
    )


def check_parent(ctx: Context) -> None:
    """Both DPO deltas must have been trained on the very SFT adapter they are added to."""
    parent = adapter_digest(ctx.path("sft"))
    for name in ("consis", "real_fake"):
        trained_on = read_adapter(ctx.path(name), name).metadata.get("parents", {}).get("sft")
        if trained_on is not None and trained_on != parent:
            raise StageError(
                f"adapter {name} was trained on another SFT adapter ({trained_on[:12]}, this is {parent[:12]}); "
                "its delta means nothing here. Wire the same merged SFT adapter to both."
            )


def read_parents(ctx: Context, names: Iterable[str]) -> dict[str, AdapterState]:
    """The wired adapters of these names; refused when they were trained on different backbones."""
    adapters = {name: read_adapter(ctx.path(name), name) for name in names}
    bases = {name: a.metadata.get("backbone_digest") for name, a in adapters.items()}
    if len({base for base in bases.values() if base}) > 1:
        said = ", ".join(f"{name}: {str(base)[:12]}" for name, base in bases.items())
        raise StageError(f"the adapters were trained on different backbones ({said}). Train them on one.")
    return adapters


def combine(
    adapters: Mapping[str, Factors], weights: Mapping[str, float], params: MergeParams, seed: int
) -> tuple[AdapterState, MergeReport]:
    """One adapter as ``params`` say, and what that lost."""
    from models.training.merge import MergeSpec, adapter_of, merge
    from models.training.merge import ModuleWeights as Rule

    names = set(MergeSpec.__dataclass_fields__) - {"per_module", "seed"}
    rules = tuple(Rule(rule.match, rule.weights) for rule in params.per_module)
    spec = MergeSpec(**params.model_dump(include=names), per_module=rules, seed=seed)
    try:
        merged, report = merge(adapters, weights, spec)
    except ValueError as error:
        raise StageError(str(error)) from error
    return adapter_of(merged, {}), report


def write_merged(
    ctx: Context, params: MergeParams, adapters: Mapping[str, AdapterState], weights: Mapping[str, float], kind: str
) -> None:
    """Merge, write the adapter with where it came from, and report what the merge lost and where the parents disagree."""
    from models.training.merge import factors_of

    merged, report = combine({n: factors_of(a) for n, a in adapters.items()}, weights, params, ctx.seed)
    _report(ctx, report)
    metadata: dict[str, Any] = {
        "kind": kind,
        "method": params.method,
        "weights": dict(weights),
        "per_module": [rule.model_dump(mode="json") for rule in params.per_module],
        "parents": {name: adapter_digest(ctx.path(name)) for name in weights},
        "backbone_digest": _first(adapters, "backbone_digest"),
        "weights_note": _first(adapters, "weights_note"),
        "truncation_error": report.relative_error,
        "weighted_sum_error": report.weighted_sum_error,
        "conflicts": report.conflicts,
    }
    write_adapter(merged, ctx.folder("adapter"), metadata)


def _merge(ctx: Context, params: MergeParams, weights: Mapping[str, float], kind: str) -> None:
    write_merged(ctx, params, read_parents(ctx, weights), weights, kind)


def _first(adapters: Mapping[str, AdapterState], key: str) -> Any:
    return next((a.metadata[key] for a in adapters.values() if a.metadata.get(key)), None)


def _report(ctx: Context, report: MergeReport) -> None:
    ctx.metric("truncation_error", report.relative_error)
    ctx.metric("weighted_sum_error", report.weighted_sum_error)
    ctx.metric("rank_max", max(report.ranks.values()))
    means = report.mean_conflicts()
    for name, value in means.items():
        ctx.metric(f"{name}_mean", value)
    ctx.event("merged", truncation_error=report.relative_error, weighted_sum_error=report.weighted_sum_error, **means)

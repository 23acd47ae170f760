"""Merges adapters: the two SFT adapters into one, and that one with both DPO deltas into the final adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.contract import Context, Files, Params, StageError, stage
from stages.training.adapters import adapter_digest, read_adapter, write_adapter

if TYPE_CHECKING:
    from models.training.merge import MergeReport

ADAPTER = Files("adapter")


class MergeParams(Params):
    """How to merge; see ``models.training.merge.MergeSpec``. ``cat`` is exact, so it is the default."""

    method: Literal["cat", "svd", "ties", "dare", "linear"] = "cat"
    rank: int | None = Field(None, ge=1, description="rank of svd, ties and dare; null keeps the largest parent's")
    energy: float | None = Field(None, gt=0, le=1, description="share of the squared norm to keep instead of a rank")
    max_rel_err: float | None = Field(None, gt=0, description="refuse a module that loses more than this")
    density: float = Field(0.5, gt=0, le=1, description="share of entries that ties and dare keep")
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
    _check_parent(ctx)
    _merge(ctx, params, {"sft": 1.0, "consis": params.mu, "real_fake": params.nu}, "final")


def _check_parent(ctx: Context) -> None:
    """Both DPO deltas must have been trained on the very SFT adapter they are added to."""
    parent = adapter_digest(ctx.path("sft"))
    for name in ("consis", "real_fake"):
        trained_on = read_adapter(ctx.path(name), name).metadata.get("parents", {}).get("sft")
        if trained_on is not None and trained_on != parent:
            raise StageError(
                f"adapter {name} was trained on another SFT adapter ({trained_on[:12]}, this is {parent[:12]}); "
                "its delta means nothing here. Wire the same merged SFT adapter to both."
            )


def _merge(ctx: Context, params: MergeParams, weights: Mapping[str, float], kind: str) -> None:
    from models.training.merge import MergeSpec, adapter_of, factors_of, merge

    adapters = {name: read_adapter(ctx.path(name), name) for name in weights}
    bases = {name: a.metadata.get("backbone_digest") for name, a in adapters.items()}
    if len({base for base in bases.values() if base}) > 1:
        said = ", ".join(f"{name}: {str(base)[:12]}" for name, base in bases.items())
        raise StageError(f"the adapters were trained on different backbones ({said}). Train them on one.")
    spec = MergeSpec(**params.model_dump(include=set(MergeSpec.__dataclass_fields__)), seed=ctx.seed)
    try:
        merged, report = merge({n: factors_of(a) for n, a in adapters.items()}, weights, spec)
    except ValueError as error:
        raise StageError(str(error)) from error
    _report(ctx, report)
    metadata: dict[str, Any] = {
        "kind": kind,
        "method": params.method,
        "weights": dict(weights),
        "parents": {name: adapter_digest(ctx.path(name)) for name in weights},
        "backbone_digest": next((base for base in bases.values() if base), None),
        "weights_note": next((a.metadata.get("weights_note") for a in adapters.values()), None),
        "truncation_error": report.relative_error,
        "weighted_sum_error": report.weighted_sum_error,
        "conflicts": report.conflicts,
    }
    write_adapter(adapter_of(merged, {}), ctx.folder("adapter"), metadata)


def _report(ctx: Context, report: MergeReport) -> None:
    ctx.metric("truncation_error", report.relative_error)
    ctx.metric("weighted_sum_error", report.weighted_sum_error)
    ctx.metric("rank_max", max(report.ranks.values()))
    for name in sorted({key for row in report.conflicts.values() for key in row if key.startswith("cosine")}):
        found = [row[name] for row in report.conflicts.values() if name in row]
        ctx.metric(f"{name}_mean", sum(found) / len(found))

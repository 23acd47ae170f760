"""Prints what `fulcrum plan --estimate` found."""

from __future__ import annotations

import json
import os
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from pipelines.config import Config
from pipelines.dag.graph import Pipeline
from pipelines.extrapolate import LEVEL, Estimate


def print_estimate(
    pipeline: Pipeline,
    config: Config,
    *,
    sample: int,
    core_price: float | None,
    gpu_price: float | None,
    as_json: bool,
) -> None:
    """Make the estimate and print it; progress goes to standard error."""
    from pipelines.estimate import estimate

    told = Console(stderr=True, highlight=False)
    plan = estimate(pipeline, config, sample, lambda text: told.print(f"[dim]{escape(text)}[/]") if text else None)
    if as_json:
        print(json.dumps(plan.as_dict(core_price, gpu_price), ensure_ascii=False))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(
        f"[bold]source[/]   {plan.videos:,} videos, {plan.images:,} photographs, {_bytes(plan.bytes)}\n"
        f"[bold]sample[/]   {plan.sampled} videos and {plan.sampled_images} photographs worked through in "
        f"{plan.sample_seconds:.0f} s, {plan.probed:,} headers read\n"
    )
    table = RichTable(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("estimate", justify="right", no_wrap=True)
    table.add_column(f"{LEVEL:.0%} interval", justify="right", no_wrap=True)
    table.add_row("[bold]hours of footage[/]", *_cells(plan.hours))
    table.add_row("clips", *_cells(plan.clips, whole=True))
    table.add_row("clips that pass the rules", *_cells(plan.kept, whole=True))
    for kind, parts in (("core", plan.cpu), ("GPU", plan.gpu)):
        for stage, value in parts.items():
            table.add_row(f"{kind} hours of {escape(stage)}", *_cells(value))
    cpu = _all(list(plan.cpu.values()))
    if cpu is not None:
        table.add_row("[bold]core hours[/]", *_cells(cpu))
        cores = os.cpu_count() or 1
        table.add_row(f"hours on this machine ({cores} cores)", *_cells(cpu.times(1 / cores)))
    gpu = _all(list(plan.gpu.values()))
    if gpu is not None:
        table.add_row("[bold]GPU hours[/]", *_cells(gpu))
    cost = plan.cost(core_price, gpu_price)
    if cost is not None:
        table.add_row(f"[bold]cost[/] at {_prices(core_price, gpu_price)}", *_cells(cost))
    console.print(table)
    if core_price is not None and cost is None:
        console.print("No cost: part of the work needs a GPU; give --price-per-gpu-hour too.")
    console.print("\n[bold]What it can be wrong about[/]")
    for note in plan.notes:
        console.print(f"[dim]- {escape(note)}[/]")


def _all(parts: list[Estimate]) -> Estimate | None:
    whole = parts[0] if parts else None
    for part in parts[1:]:
        assert whole is not None
        whole = whole.plus(part)
    return whole


def _cells(value: Estimate, whole: bool = False) -> tuple[str, str]:
    show = (lambda number: f"{number:,.0f}") if whole else _number
    return show(value.value), f"{show(value.low)} .. {show(value.high)}"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _prices(core_price: float | None, gpu_price: float | None) -> str:
    told = [f"{core_price:g} per core hour"]
    if gpu_price is not None:
        told.append(f"{gpu_price:g} per GPU hour")
    return ", ".join(told)


def _bytes(count: int) -> str:
    unit = next((unit for unit in ("TB", "GB", "MB", "kB") if count >= _UNITS[unit]), "B")
    return f"{count / _UNITS[unit]:,.1f} {unit}" if unit != "B" else f"{count} B"


_UNITS = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}

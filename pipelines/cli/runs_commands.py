"""``fulcrum runs``: every run of a store, and what differs between two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.cli.options import Json, StoreUri

if TYPE_CHECKING:
    from pipelines.compare_runs import Change, NodeDiff, RunsDiff
    from pipelines.dag.runs import RunRecord
    from pipelines.dag.store import Store

RunName = Annotated[
    str,
    typer.Argument(help="a run's id or the beginning of one; latest, or latest~1 for the one before", metavar="RUN"),
]

app = typer.Typer(
    help="List the runs of a store; `runs diff A B` says what differs between two.", invoke_without_command=True
)


@app.callback()
def runs(
    ctx: typer.Context,
    store: StoreUri = None,
    count: Annotated[int, typer.Option("--count", help="how many, the newest", min=1, metavar="N")] = 20,
    json_: Json = False,
) -> None:
    """List the newest runs: when, what, how it ended, and what they did anew."""
    if ctx.invoked_subcommand is not None:
        return
    from pipelines.dag.runs import living, load_runs, state_of

    opened = _store(store)
    found = load_runs(opened)[-count:]
    live = living(opened)
    if json_:
        print(json.dumps([_as_dict(run, live) for run in found], indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for run in found:
        state = state_of(run, live)
        colour = {"done": "green", "waiting": "yellow", "running": "cyan"}.get(state, "red")
        done = [n.state for n in run.nodes]
        told = ", ".join(f"{done.count(s)} {w}" for s, w in _STATES.items() if s in done)
        seconds = sum(n.seconds for n in run.nodes)
        console.print(
            f"{run.run_id}  {run.pipeline:<18} [{colour}]{state:<11}[/] {seconds:9.1f} s  {told}  [dim]{escape(run.code)}[/]"
        )
    if not found:
        console.print(f"no pipeline has run on {opened.display} yet")


_STATES = {
    "SUCCEEDED": "done",
    "CACHED": "cached",
    "RUNNING": "at work",
    "WAITING_HUMAN": "waiting",
    "FAILED": "failed",
    "BLOCKED": "blocked",
    "PENDING": "to do",
}


@app.command("diff")
def diff(
    before: RunName,
    after: RunName,
    store: StoreUri = None,
    all_: Annotated[
        bool, typer.Option("--all", help="every field and metric, and the nodes that are the same")
    ] = False,
    json_: Json = False,
) -> None:
    """What differs between two runs: configuration, code, inputs, rows, records and metrics, node by node."""
    from pipelines.commits import Commits
    from pipelines.compare_runs import compare
    from pipelines.dag.runs import load_run

    opened = _store(store)
    one, two = (load_run(opened, named_run(opened, name)) for name in (before, after))
    found = compare(Commits(opened), one, two)
    if json_:
        print(json.dumps(_diff_json(found), indent=1, ensure_ascii=False))
        return
    _tell(Console(highlight=False, soft_wrap=True), found, all_)


def named_run(store: Store, name: str) -> str:
    """The id of the run that ``name`` means."""
    from pipelines.dag.runs import load_runs
    from stages.contract import StageError

    ids = [run.run_id for run in load_runs(store)]
    head, _, back = name.partition("~")
    if head == "latest" and (not back or back.isdigit()):
        steps = int(back or 0)
        if steps < len(ids):
            return ids[-1 - steps]
        raise StageError(f"{name}: {store.display} has only {len(ids)} runs; `fulcrum runs` lists them")
    fitting = [run_id for run_id in ids if run_id == name] or [i for i in ids if i.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise StageError(f"{name} may be any of {len(fitting)} runs: {', '.join(fitting[-5:])}. Give more of it.")
    raise StageError(f"there is no run {name} in {store.display}; `fulcrum runs` lists them")


def _store(store: str | None) -> Store:
    from pipelines.config import Settings
    from pipelines.dag.store import Store

    return Store(store or Settings().store, create=False)


def _as_dict(run: RunRecord, live: set[str]) -> dict[str, Any]:
    from pipelines.dag.runs import state_of

    return {
        "run_id": run.run_id,
        "pipeline": run.pipeline,
        "state": state_of(run, live),
        "started": run.started,
        "seconds": round(sum(n.seconds for n in run.nodes), 3),
        "stages": {n.name: n.state for n in run.nodes},
        "host": run.host,
        "code": run.code,
    }


# -- what differs ------------------------------------------------------------------------------------------------------


def _diff_json(found: RunsDiff) -> dict[str, Any]:
    def pairs(changes: Mapping[str, Change]) -> dict[str, dict[str, Any]]:
        return {name: {"before": a, "after": b} for name, (a, b) in changes.items()}

    nodes = []
    for node in found.nodes:
        fields = {k: pairs(v) for k, v in asdict(node).items() if isinstance(v, dict) and v}
        state = {"before": node.state[0], "after": node.state[1]}
        nodes.append({"node": node.node, "same": node.same, "state": state, "content": list(node.content), **fields})
    return {
        "before": found.before.run_id,
        "after": found.after.run_id,
        "run": pairs(found.run),
        "config": pairs(found.config),
        "nodes": nodes,
    }


_SHOWN = 12  # lines of a list, unless --all


def _tell(console: Console, found: RunsDiff, all_: bool) -> None:
    for mark, run in (("-", found.before), ("+", found.after)):
        console.print(f"{mark} {run.run_id}  {run.pipeline}  {run.started[:19].replace('T', ' ')}")
    _changes(console, {**found.run, **found.config}, all_, "  ")
    same = [node for node in found.nodes if node.same]
    for side, other in enumerate(("later", "earlier")):
        alone = [node.node for node in found.nodes if node.state[side] is None]
        if alone:
            console.print(f"  only in the {other} run: {', '.join(alone)}")
    for node in found.nodes:
        if not node.same and None not in node.state:
            _tell_node(console, node, all_)
    if same:
        names = ", ".join(n.node for n in same)
        console.print(
            f"\n[dim]the same: {names if all_ or len(same) < 8 else f'{len(same)} of {len(found.nodes)} nodes'}[/]"
        )


def _tell_node(console: Console, node: NodeDiff, all_: bool) -> None:
    state = (
        node.state[1]
        if node.state[0] == node.state[1]
        else f"{node.state[0] or 'not in it'} -> {node.state[1] or 'not in it'}"
    )
    console.print(f"\n[bold]{node.node}[/]  {state}")
    _changes(console, node.recipe, all_, "  ")
    if node.inputs:
        console.print(f"  inputs that changed: {', '.join(node.inputs)}")
    for title, changes in (("rows of", node.rows), ("records", node.records)):
        for name, (a, b) in changes.items():
            console.print(f"  {title} {name}: {_number(a)} -> {_number(b)}{_by(a, b)}")
    if node.content:
        console.print(f"  other content in: {', '.join(node.content)}")
    _changes(console, node.metrics, all_, "  ")


def _changes(console: Console, changes: Mapping[str, Change], all_: bool, indent: str) -> None:
    for number, (name, (a, b)) in enumerate(changes.items()):
        if number == _SHOWN and not all_:
            console.print(f"{indent}[dim]and {len(changes) - number} more; --all shows them[/]")
            return
        console.print(
            f"{indent}{escape(name)}: [red]{escape(_number(a))}[/] -> [green]{escape(_number(b))}[/]{_by(a, b)}"
        )


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _by(a: Any, b: Any) -> str:
    """By how much a number changed, in per cent."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
    return f"  [dim]({(b - a) / abs(a):+.1%})[/]" if numbers and a and abs(b - a) < 10 * abs(a) else ""

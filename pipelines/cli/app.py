"""``fulcrum``: run, submit, attach, plan, status, runs, graph, funnel, trace, remove, gc, doctor, serve, simulate, train,
merge, sample, prompt, evaluate, report, protocol, people, adapter, promote, config, review, world.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from fulcrum.version import __version__
from pipelines.catalog import BUILT_IN, find
from pipelines.cli import (
    adapter_commands,
    config_commands,
    doctor_command,
    evaluate_commands,
    funnel_commands,
    gc_command,
    people_commands,
    promote_command,
    prompt_command,
    protocol_commands,
    remove_commands,
    review_commands,
    runs_commands,
    serve_command,
    simulate_command,
    submit_commands,
    trace_command,
    train_commands,
    world_commands,
)
from pipelines.cli.options import (
    Assignments,
    ConfigFile,
    Json,
    Limit,
    PipelineName,
    RetryFailed,
    SourceUri,
    StoreUri,
    resolve_config,
)
from pipelines.config import ConfigError, hide
from pipelines.dag.state import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE

# The parent of every usage error, which typer does not export by itself.
USAGE_ERROR: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="fulcrum",
    help="From raw footage to a balanced subject-to-video adapter: curation, review, training and evaluation as one resumable pipeline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Pipelines: " + "; ".join(f"{name}, {doc}" for name, doc in BUILT_IN.items()) + ".",
)
app.add_typer(config_commands.app, name="config")
app.add_typer(runs_commands.app, name="runs")
app.add_typer(review_commands.app, name="review")
app.add_typer(world_commands.app, name="world")
app.add_typer(train_commands.app, name="train")
app.add_typer(adapter_commands.app, name="adapter")
app.add_typer(protocol_commands.app, name="protocol")
app.add_typer(people_commands.app, name="people")


def _version(value: bool) -> None:
    if value:
        print(f"fulcrum {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    return


@app.command()
def run(
    pipeline: PipelineName,
    config: ConfigFile = None,
    set_: Assignments = None,
    store: StoreUri = None,
    source: SourceUri = None,
    limit: Limit = None,
    json_: Json = False,
    retry_failed: RetryFailed = False,
    request: Annotated[str | None, typer.Option("--request", hidden=True, metavar="ID")] = None,
) -> None:
    """Run a pipeline; what is already done is not done again.

    Exit code 0: done. 75: waiting for people; answer on the page, then run again. 1: failed. 2: wrong usage or configuration.
    """
    from pipelines.launch import launch

    if request is not None:
        raise typer.Exit(submit_commands.run_request(request, store or "", as_json=json_, retry_failed=retry_failed))
    again = "fulcrum " + shlex.join(sys.argv[1:])
    found = find(pipeline)
    resolved = resolve_config(found, config, set_, store, source, limit)
    raise typer.Exit(launch(found, resolved, again=again, as_json=json_, retry_failed=retry_failed))


@app.command()
def plan(
    pipeline: PipelineName,
    config: ConfigFile = None,
    set_: Assignments = None,
    store: StoreUri = None,
    source: SourceUri = None,
    limit: Limit = None,
    json_: Json = False,
    why: Annotated[bool, typer.Option("--why", help="name the fields that changed")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="hours of footage, machine hours and cost, from a sample of the source")
    ] = False,
    sample: Annotated[int, typer.Option("--sample", help="videos to work through for --estimate", min=12)] = 20,
    price_per_core_hour: Annotated[float | None, typer.Option("--price-per-core-hour", min=0, metavar="PRICE")] = None,
    price_per_gpu_hour: Annotated[float | None, typer.Option("--price-per-gpu-hour", min=0, metavar="PRICE")] = None,
) -> None:
    """Say what `run` would do, without doing it; with --estimate, what it would take."""
    from pipelines.dag.plan import plan as make_plan
    from pipelines.dag.store import MARKER, Store, resolve

    found = find(pipeline)
    resolved = resolve_config(found, config, set_, store, source, limit)
    if estimate:
        from pipelines.cli.estimate_output import print_estimate

        prices = {"core_price": price_per_core_hour, "gpu_price": price_per_gpu_hour}
        print_estimate(found, resolved, sample=sample, as_json=json_, **prices)
        return
    filesystem, root = resolve(resolved.settings.store)
    there = filesystem.get_file_info(f"{root}/{MARKER}").is_file
    opened = Store(resolved.settings.store, create=False) if there else None
    planned = make_plan(found, opened, resolved.params, resolved.world(), resolved.settings.seed)
    if json_:
        print(
            json.dumps(
                [{"name": p.node, "action": p.action, "why": p.why, "warning": p.warning} for p in planned], indent=1
            )
        )
        return
    console = Console(highlight=False, soft_wrap=True)
    for item in planned:
        mark = {"cached": "[dim]= cached[/]", "run": "[cyan]▸ run   [/]", "maybe": "[dim]? maybe [/]"}[item.action]
        gate = "  [yellow](people)[/]" if item.gate else ""
        console.print(f"{mark} {item.node}{gate}")
        if why and item.action != "cached":
            for reason in item.why:
                console.print(f"           {escape(reason)}")
        if item.warning:
            console.print(f"           [yellow]{escape(item.warning)}[/]")


@app.command()
def status(
    store: StoreUri = None,
    json_: Json = False,
    run_: Annotated[str | None, typer.Option("--run", help="a run's id; by default the latest", metavar="ID")] = None,
) -> None:
    """Show the stages of the latest run, their states and outputs."""
    from pipelines.config import Settings
    from pipelines.dag.runs import load_run
    from pipelines.dag.store import Store
    from pipelines.report_run import MARKS, counts_text, status_json

    record = load_run(Store(store or Settings().store, create=False), run_)
    if json_:
        print(json.dumps(status_json(record), indent=1, ensure_ascii=False))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{record.pipeline}[/]  run {record.run_id}  {record.state}")
    table = RichTable(box=None, pad_edge=False)
    for column in ("", "stage", "state", "seconds", "records"):
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    for node in record.nodes:
        table.add_row(
            MARKS[node.state],
            node.name,
            node.state,
            f"{node.seconds:.1f}",
            escape(node.message or counts_text(node.counts)),
        )
    console.print(table)
    if record.ledger:
        console.print(f"ledger: {record.ledger}", soft_wrap=True)


@app.command()
def graph(
    pipeline: PipelineName,
    form: Annotated[str, typer.Option("--format", help="text, mermaid or json", metavar="FORMAT")] = "text",
) -> None:
    """Draw a pipeline: which stage feeds which."""
    found = find(pipeline)
    order = found.order()
    if form == "mermaid":
        print("flowchart TD")
        for node in order:
            shape = f"{node.name}{{{{{node.name}}}}}" if node.stage.gate else f"{node.name}[{node.name}]"
            print(f"  {shape}")
        for node in order:
            for source in sorted({o.node for o in node.inputs.values()}):
                print(f"  {source} --> {node.name}")
    elif form == "json":
        print(json.dumps([{"name": n.name, "stage": n.stage.name, "gate": n.stage.gate, "inputs": {k: str(o) for k, o in n.inputs.items()},
                           "outputs": list(n.outputs)} for n in order], indent=1))  # fmt: skip
    elif form == "text":
        for node in order:
            sources = ", ".join(str(o) for o in node.inputs.values()) or "-"
            gate = " (people)" if node.stage.gate else ""
            print(f"{node.name}{gate}\n    from {sources}\n    to   {', '.join(node.outputs)}")
    else:
        raise ConfigError([f"--format {form}: write text, mermaid or json"])


app.command()(submit_commands.submit)
app.command()(submit_commands.attach)
app.command()(funnel_commands.funnel)
app.command()(trace_command.trace)
app.command()(remove_commands.remove)
app.command()(gc_command.gc)
app.command()(serve_command.serve)
app.command()(simulate_command.simulate)
app.command()(doctor_command.doctor)
app.command()(promote_command.promote)
app.command()(adapter_commands.merge)
app.command()(adapter_commands.sample)
app.command()(prompt_command.prompt)
app.command()(evaluate_commands.evaluate)
app.command()(evaluate_commands.report)


def run_app() -> int:
    """Run the command line; every error that a user can cause ends in one message and the right exit code."""
    from pipelines.dag.graph import WiringError
    from stages.contract import StageError

    try:
        result: Any = app(standalone_mode=False)
        # Typer turns Ctrl-C into this code without a word.
        return _stopped() if result == EXIT_INTERRUPTED else result if isinstance(result, int) else 0
    except typer.Exit as error:
        return _stopped() if error.exit_code == EXIT_INTERRUPTED else int(error.exit_code)
    except typer.Abort:
        return _stopped()
    except USAGE_ERROR as error:
        error.show()  # type: ignore[attr-defined]
        return EXIT_USAGE
    except (ConfigError, WiringError) as error:
        print(f"fulcrum: {hide(str(error))}", file=sys.stderr)
        return EXIT_USAGE
    except StageError as error:
        print(f"fulcrum: {hide(str(error))}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return _stopped()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _stopped() -> int:
    print("\nfulcrum: stopped. What was committed is kept; run the same command again to go on.", file=sys.stderr)
    return EXIT_INTERRUPTED

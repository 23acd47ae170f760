"""``fulcrum evaluate`` and ``fulcrum report``: any systems' videos in one table, and the page that shows it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.cli.options import Assignments, ConfigFile, Json, StoreUri
from pipelines.commits import below
from pipelines.config import ConfigError, Settings
from stages.evaluation.systems import CLEAR, MEANINGLESS

if TYPE_CHECKING:
    from pipelines.dag.runs import RunRecord
    from pipelines.dag.store import Store

RunId = Annotated[
    str | None, typer.Option("--run", help="a run's id; by default the latest that has one", metavar="ID")
]
ARROWS = {"higher": "↑", "lower": "↓"}


def evaluate(
    videos: Annotated[
        list[str] | None,
        typer.Option("--videos", help="a system's videos, as NAME=DIR or DIR; repeatable", metavar="[NAME=]DIR"),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", help="what was asked; fulcrum protocol writes known ones", metavar="FILE"),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", help="of the file names, e.g. '{prompt_id}_seed{seed}'", metavar="PATTERN"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="file to put the page into as well", metavar="FILE")] = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    store: StoreUri = None,
    run_: RunId = None,
    json_: Json = False,
) -> None:
    """Measure folders of videos against a manifest and print the table; without --videos, print that of a run.

    Models are named in the configuration: --set evaluate.dino=DIR --set 'evaluate.clip={model: ViT-B-32, weights: FILE}'.
    """
    if videos:
        if manifest is None:
            raise ConfigError(["--videos needs --manifest: what was asked of the systems"])
        settings = _measure(_folders(videos), manifest, pattern, config, set_, store, json_)
        run_ = None
    else:
        given = [
            n for n, v in (("--manifest", manifest), ("--pattern", pattern), ("--config", config), ("--set", set_)) if v
        ]
        if given:
            raise ConfigError([f"{', '.join(given)} without --videos: name the folders to measure"])
        settings = Settings.model_validate({"store": store or Settings().store})
    opened, record = run_with(settings.store, run_, "evaluate")
    if out is not None:
        _put_page(opened, record, out)
    _print(opened, record, json_)


def report(
    out: Annotated[Path, typer.Option("--out", help="file to write", metavar="FILE")] = Path("report.html"),
    store: StoreUri = None,
    run_: RunId = None,
) -> None:
    """Put a run's report where you want it: one page that opens from disk, without a network."""
    opened, record = run_with(store or Settings().store, run_, "report")
    _put_page(opened, record, out)
    print(f"{out}: the report of run {record.run_id} of {record.pipeline}")


def _folders(videos: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    problems = []
    for text in videos:
        name, equals, path = text.partition("=")
        if not equals:
            name, path = Path(text).expanduser().absolute().name, text
        if name in found:
            problems.append(f"--videos {text}: there are two systems called {name}; write NAME=DIR")
        if not Path(path).expanduser().is_dir():
            problems.append(f"--videos {text}: there is no folder {path}")
        found[name] = str(Path(path).expanduser().absolute())
    if problems:
        raise ConfigError(problems)
    return found


def _measure(
    folders: Mapping[str, str],
    manifest: Path,
    pattern: str | None,
    config: Path | None,
    assignments: list[str] | None,
    store: str | None,
    as_json: bool,
) -> Settings:
    from pipelines.cli.own_options import run_own
    from pipelines.config import load
    from pipelines.evaluation import evaluate_folders
    from stages.evaluation.manifest import read_manifest

    read_manifest(manifest)  # what is wrong with it is told now
    given = {"manifest": str(manifest.expanduser().absolute()), "videos": dict(folders), "pattern": pattern}
    pipeline = evaluate_folders(given)
    resolved = load(pipeline, config, assignments or [], {"store": store})
    code = run_own(pipeline, resolved, as_json)
    if code != 0:
        raise typer.Exit(code)
    return resolved.settings


def run_with(store_uri: str, run: str | None, stage: str) -> tuple[Store, RunRecord]:
    """The store, and the run named, or the latest in which this stage was done."""
    from pipelines.dag.runs import load_run
    from pipelines.dag.store import Store

    store = Store(store_uri, create=False)
    names = [run] if run else list(reversed(store.names("runs")))
    for name in names:
        record = load_run(store, name)
        if any(node.name == stage and node.outputs for node in record.nodes):
            return store, record
    which = f"run {run}" if run else f"no run in {store_uri}"
    raise ConfigError([f"{which} has {'not ' if run else ''}done its {stage} stage yet"])


def _put_page(store: Store, record: RunRecord, out: Path) -> None:
    outputs = next((n.outputs for n in record.nodes if n.name == "report"), {})
    if "report" not in outputs:
        raise ConfigError([f"run {record.run_id} has no report; its pipeline ends before one"])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(_alone(store.read(f"{below(outputs['report'])}/index.html").decode()), encoding="utf-8")


def _alone(page: str) -> str:
    """The page without its links to pages that stay beside it in the store."""
    return re.sub(r'<a href="pairs\.html">(.*?)</a>', r"\1 on the page in the store", page, flags=re.DOTALL)


def _print(store: Store, record: RunRecord, as_json: bool) -> None:
    from data_schemas.tables import COMPARISONS, METRICS
    from pipelines.dag.artifacts import open_table, read_manifest
    from stages.evaluation.systems import in_road_order, title_of

    node = record.node("evaluate")
    committed = read_manifest(store, node.name, node.fingerprint or "")
    if committed is None:
        raise ConfigError([f"the evaluation of run {record.run_id} is not in its store any more; run it again"])
    tables = {
        name: open_table(store, committed.outputs[name].path, schema).to_table().to_pylist()
        for name, schema in (("metrics", METRICS), ("comparisons", COMPARISONS))
        if name in committed.outputs
    }
    if as_json:
        print(json.dumps({"run_id": record.run_id, "pipeline": record.pipeline, **tables}, ensure_ascii=False))
        return
    rows = tables["metrics"]
    systems = in_road_order(r["system"] for r in rows)
    tested = {(r["system"], r["metric"]): r for r in tables.get("comparisons", [])}
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    for system in systems:
        table.add_column(escape(title_of(system)), justify="right", no_wrap=True)
    unmeasured: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    for key in dict.fromkeys(r["metric"] for r in rows):
        mine = {r["system"]: r for r in rows if r["metric"] == key}
        note = next((r["note"] for r in mine.values() if r["note"]), None)
        if all(r["value"] is None for r in mine.values()):
            unmeasured.setdefault(note or "cannot be told for any video", []).append(key)
            continue
        if note:
            notes.setdefault(note, []).append(key)
        better = next(iter(mine.values()))["better"]
        cells = [_cell(mine.get(s), tested.get((s, key))) for s in systems]
        table.add_row(f"{key} {ARROWS.get(better, '')}", *cells)
    console.print(f"[bold]{escape(record.pipeline)}[/]  run {record.run_id}")
    console.print(table)
    console.print(_legend(rows, tables.get("comparisons", [])))
    for note, keys in notes.items():
        console.print(f"[yellow]{escape(', '.join(keys))}[/]: {escape(note)}")
    for note, keys in unmeasured.items():
        console.print(f"[dim]{escape(', '.join(keys))}: {escape(note)}[/]")


def _cell(row: Mapping[str, Any] | None, test: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "[dim]-[/]"
    ends = f" [dim]{row['low']:.3f}..{row['high']:.3f}[/]" if row["low"] is not None else ""
    less = f" [red]{row['coverage']:.0%}[/]" if row["coverage"] < 1 else ""
    means = not (row["note"] and MEANINGLESS in row["note"])
    mark = " *" if means and test is not None and test["p_holm"] < CLEAR else "  "
    return f"{row['value']:.3f}{ends}{less}{mark}"


def _legend(rows: Sequence[Mapping[str, Any]], tests: Sequence[Mapping[str, Any]]) -> str:
    n = max((r["n"] for r in rows), default=0)
    words = f"[dim]means over prompts of up to {n} videos each, with 95% intervals bootstrapped by prompt"
    if any(r["coverage"] < 1 and r["value"] is not None for r in rows):
        words += "; red: the share of the videos asked for that could be measured"
    if tests:
        words += f"; * differs from {escape(tests[0]['baseline'])} (paired by prompt, Holm-adjusted p < 0.05)"
    return words + "[/]"

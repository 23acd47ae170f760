"""What a run says while it runs: lines for a person, or JSON lines for a machine."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipelines.dag.logs import EventLog
from pipelines.dag.runs import NodeRecord, RunRecord, now

MARKS = {
    "SUCCEEDED": "[green]✓[/]",
    "CACHED": "[dim]=[/]",
    "WAITING_HUMAN": "[yellow]…[/]",
    "FAILED": "[red]✗[/]",
    "BLOCKED": "[dim]·[/]",
    "RUNNING": "[cyan]▸[/]",
    "PENDING": "[dim]·[/]",
}


def counts_text(counts: Mapping[str, int]) -> str:
    order = ("accepted", "rejected", "in_review", "failed")
    return ", ".join(f"{counts[k]:,} {k.replace('_', ' ')}" for k in order if counts.get(k))


class Terminal:
    """One line a stage, and at the end what to do next."""

    def __init__(self, again: str, serve: str) -> None:
        self.console = Console(stderr=False, highlight=False, soft_wrap=True)
        self.again, self.serve = again, serve

    def run_started(self, run: RunRecord) -> None:
        self.console.print(f"[bold]{run.pipeline}[/]  run {run.run_id}  {len(run.nodes)} stages")

    def node_started(self, node: NodeRecord) -> None:
        if sys.stdout.isatty():
            self.console.print(f"{MARKS['RUNNING']} {node.name}", end="\r")

    def node_ended(self, node: NodeRecord) -> None:
        told = counts_text(node.counts)
        match node.state:
            case "SUCCEEDED":
                rest = f"{node.seconds:8.1f} s  {told}"
            case "CACHED":
                rest = f"[dim]  cached    {told}[/]"
            case _:
                rest = escape(node.message or "")
        self.console.print(f"{MARKS[node.state]} {node.name:<20} {rest}".rstrip())

    def note(self, text: str) -> None:
        self.console.print(f"[dim]  {escape(text)}[/]")

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """What a stage says about its data, its cache or its memory before the work, for people to read (``plan``)."""
        if "plan" in fields:
            colour = "yellow" if fields.get("warn") else "dim"
            for line in str(fields["plan"]).splitlines():
                self.console.print(f"  [{colour}]{escape(str(fields.get('stage', '')))}: {escape(line)}[/]")

    def run_ended(self, run: RunRecord) -> None:
        waiting = [n for n in run.nodes if n.state == "WAITING_HUMAN"]
        failed = [n for n in run.nodes if n.state == "FAILED"]
        if failed:
            self.console.print(
                f"[red]Failed[/] at {', '.join(n.name for n in failed)}. What was committed is kept; run the same command again."
            )
        if waiting:
            self.console.print(
                "[yellow]Waiting for people.[/] Open the review page in another terminal, answer, then run the same command again:"
            )
            for node in waiting:
                self.console.print(f"  {node.name}: {escape(node.page or '')}")
            self.console.print(f"  serve the page:  {escape(self.serve)}")
            self.console.print(f"  then go on:      {escape(self.again)}")
        if not failed and not waiting:
            self.console.print("[green]Done.[/]")


class JsonLines:
    """One JSON object a line on standard output; docs/operations.md describes every field."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self._lock = threading.Lock()

    def _say(self, event: str, **fields: Any) -> None:
        value = {"event": event, "at": now(), "run_id": self.run_id, **fields}
        with self._lock:  # stages that run side by side tell from threads of their own
            print(json.dumps(value, ensure_ascii=False, default=str), flush=True)

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """What a stage tells while it runs: ``record_failed``, and events of its own."""
        self._say(kind, **fields)

    def progress(self, fields: Mapping[str, object]) -> None:
        self._say("progress", **fields)

    def run_started(self, run: RunRecord) -> None:
        self.run_id = run.run_id
        self._say("run_started", pipeline=run.pipeline, stages=[n.name for n in run.nodes])

    def node_started(self, node: NodeRecord) -> None:
        self._say("stage_started", name=node.name)

    def node_ended(self, node: NodeRecord) -> None:
        self._say("stage_ended", **_node(node), counts=node.counts)

    def note(self, text: str) -> None:
        self._say("note", text=text)

    def run_ended(self, run: RunRecord) -> None:
        self._say("run_ended", **status_json(run))


class Logged:
    """Tells a reporter, and writes the same to the machine's log, with the run's and the stage's id."""

    def __init__(self, shown: Terminal | JsonLines, log: EventLog) -> None:
        self.shown, self.log = shown, log

    def run_started(self, run: RunRecord) -> None:
        self.log = self.log.bind(run_id=run.run_id)
        self.log.write("run_started", {"pipeline": run.pipeline, "code": run.code})
        self.shown.run_started(run)

    def node_started(self, node: NodeRecord) -> None:
        self.log.write("stage_started", {"stage": node.name, "fingerprint": node.fingerprint})
        self.shown.node_started(node)

    def node_ended(self, node: NodeRecord) -> None:
        told = {k: v for k, v in _node(node).items() if k not in ("name", "outputs")}
        self.log.write(
            "stage_ended", {"stage": node.name, "fingerprint": node.fingerprint, **told, "counts": node.counts}
        )
        self.shown.node_ended(node)

    def note(self, text: str) -> None:
        self.log.write("note", {"text": text})
        self.shown.note(text)

    def run_ended(self, run: RunRecord) -> None:
        self.log.write("run_ended", {"pipeline": run.pipeline, "state": run.state})
        self.shown.run_ended(run)


def _node(node: NodeRecord) -> dict[str, Any]:
    value: dict[str, Any] = {"name": node.name, "state": node.state, "seconds": node.seconds, "outputs": node.outputs}
    if node.message:
        value["message"] = node.message
    if node.page:
        value["page"] = node.page
    return value


def status_json(run: RunRecord) -> dict[str, Any]:
    """The contract of ``fulcrum status --json``. The ledger of the whole run stands as a stage of its own at the end."""
    stages = [_node(n) for n in run.nodes]
    if run.ledger:
        stages.append({"name": "ledger", "state": "SUCCEEDED", "seconds": 0.0, "outputs": {"ledger": run.ledger}})
    return {"pipeline": run.pipeline, "run_id": run.run_id, "state": run.state, "stages": stages}

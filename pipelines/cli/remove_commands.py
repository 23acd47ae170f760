"""``fulcrum remove``: takes a video down for good, and lists everything it touched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.cli.options import Json, StoreUri
from pipelines.cli.review_commands import DatabaseUrl

if TYPE_CHECKING:
    from pipelines.dag.takedowns import Entry
    from pipelines.traces import Shown, Trace, Traces


def remove(
    video: Annotated[str, typer.Argument(help="its video_id, URI, path, or the end of its path", metavar="VIDEO")],
    store: StoreUri = None,
    reason: Annotated[str, typer.Option("--reason", help="why, for the log that is kept", metavar="TEXT")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what it touched")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="allow it again")] = False,
    database: DatabaseUrl = None,
    json_: Json = False,
) -> None:
    """Take a video down: no run uses it from now on, even if its file is still there. Lists every artifact it touched.

    The next `fulcrum run` makes the tables again without it; nothing else is decoded or encoded again.
    """
    from pipelines.commits import Commits
    from pipelines.config import Config, Settings
    from pipelines.dag.store import Store
    from pipelines.dag.takedowns import record, taken_down
    from pipelines.traces import Video, find_video, shown_to_people, trace

    settings = Settings.model_validate({"store": store or Settings().store, "review": {"database": database}})
    opened = Store(settings.store, create=False)
    commits = Commits(opened)
    before = taken_down(opened)
    found = find_video(commits, video, [Video(e.video_id, e.uri, e.path) for e in before.values()])
    traces = trace(commits, found)
    shown = shown_to_people(Config(settings, {}).review_database, traces.identities)
    entry = before.get(found.video_id)
    if not dry_run and (entry is None) != undo:
        sha256 = traces.content[-1] if traces.content else None
        action: Any = "undo" if undo else "remove"
        entry = record(opened, action, found.video_id, uri=found.uri, path=found.path, sha256=sha256, reason=reason)
    if json_:
        print(json.dumps(_as_dict(traces, shown, entry, dry_run, undo), indent=1, ensure_ascii=False))
        return
    _tell(Console(highlight=False, soft_wrap=True), traces, shown, entry, dry_run, undo)


def _as_dict(traces: Traces, shown: Sequence[Shown], entry: Entry | None, dry_run: bool, undo: bool) -> dict[str, Any]:
    return {**traces_json(traces, shown, entry), "dry_run": dry_run, "undo": undo}


def traces_json(traces: Traces, shown: Sequence[Shown], entry: Entry | None) -> dict[str, Any]:
    """Everything a video touched, for machines."""
    return {
        "video": asdict(traces.video),
        "taken_down": entry is not None and entry.action == "remove",
        "entry": asdict(entry) if entry else None,
        "artifacts": [asdict(artifact) for artifact in traces.artifacts],
        "ledgers": traces.ledgers,
        "identities": len(traces.identities),
        "content": traces.content,
        "same_content": [asdict(video) for video in traces.same_content],
        "records": traces.records,
        "records_of_its_content": traces.derived,
        "review": [asdict(campaign) for campaign in shown],
        "redo": traces.redo,
    }


def _tell(
    console: Console, traces: Traces, shown: Sequence[Shown], entry: Entry | None, dry_run: bool, undo: bool
) -> None:
    if dry_run:
        state = "is taken down" if entry and entry.action == "remove" else "is in use; nothing was changed (--dry-run)"
    elif entry is None:
        state = "was not taken down; there is nothing to undo"
    elif entry.action == "undo":
        state = f"is allowed again ({entry.at}, by {entry.by})"
    else:
        state = f"is taken down ({entry.at}, by {entry.by}{f': {entry.reason}' if entry.reason else ''})"
    tell_traces(console, traces, shown, state)
    if traces.redo and (dry_run or entry is not None):
        console.print("\nTo make the tables with it again:" if undo else "\nTo make the tables without it:")
        for pipeline, nodes in traces.redo.items():
            console.print(
                f"  fulcrum run {pipeline}   makes again, as far as they come out otherwise: {', '.join(nodes)}"
            )


def tell_traces(console: Console, traces: Traces, shown: Sequence[Shown], state: str) -> None:
    """A video and everything it touched, for people."""
    video = traces.video
    console.print(f"[bold]{escape(video.path)}[/] ({video.video_id}) {escape(state)}")
    console.print(escape(video.uri))
    for title, current in (("In what the latest runs made:", True), ("In older commits:", False)):
        some = [artifact for artifact in traces.artifacts if artifact.current is current]
        if some:
            console.print(f"\n{title}")
            for artifact in some:
                _tell_artifact(console, artifact)
    if not traces.artifacts:
        console.print("\nNo committed artifact holds it.")
    if traces.ledgers:
        console.print("\nLedgers with rows of it:")
        for uri, rows in traces.ledgers.items():
            console.print(f"  {rows:>4} rows  {escape(uri)}")
    if shown:
        console.print("\nIn the review database, which lies outside the store and keeps what was asked and answered:")
        for campaign in shown:
            console.print(
                f"  {campaign.campaign} ({campaign.state}): {campaign.items} items, {len(campaign.files)} media files"
            )
            for file in campaign.files:
                console.print(f"      {escape(file)}")
    if traces.same_content:
        console.print("\n[yellow]The same content lies in other files, which stay in use:[/]")
        for other in traces.same_content:
            console.print(f"  {other.video_id}  {escape(other.path)}")
    if traces.records or traces.derived:
        console.print("\nRecords of its content stay in the store and are used by no table while it is taken down:")
        for stage, groups in sorted(traces.records.items()):
            console.print(f"  records/{stage}: {', '.join(groups)}")
        for stage in traces.derived:
            console.print(f"  records/{stage}: keyed by what was made of its clips, so that they cannot be told apart")


def _tell_artifact(console: Console, artifact: Trace) -> None:
    what = {"rows": f"{artifact.count} rows", "files": f"{artifact.count} files", "made from it": "made from it"}
    name = f"{artifact.node}.{artifact.output}"
    console.print(f"  {name:28s} {what[artifact.how]:14s} {escape(artifact.uri)}")
    for uri in artifact.files:
        console.print(f"      {escape(uri)}")

"""``fulcrum trace``: from an artifact back to all it was made of, or from a source video forward to all it touched."""

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
    from pipelines.commits import Commits
    from pipelines.config import Config
    from pipelines.dag.artifacts import Manifest
    from pipelines.provenance import Provenance, RuleCut, Step
    from pipelines.registered import Registered
    from pipelines.traces import Traces

SHOWN = 20  # rows of a list on a terminal; --all and --json show all

TrackingUri = Annotated[
    str | None, typer.Option("--tracking", help="MLflow URI; by default the one beside the store", metavar="URI")
]


def trace(
    what: Annotated[
        str,
        typer.Argument(
            help="an artifact (adapter_final, select.selection, a digest, a path, model@champion) or a source video",
            metavar="WHAT",
        ),
    ],
    store: StoreUri = None,
    all_: Annotated[bool, typer.Option("--all", help="every row of every list")] = False,
    database: DatabaseUrl = None,
    tracking: TrackingUri = None,
    json_: Json = False,
) -> None:
    """Follow an artifact back to source videos, thresholds, rules and people's answers, or a video forward to every adapter."""
    from pipelines.commits import Commits, find_artifact
    from pipelines.config import Config, Settings
    from pipelines.dag.store import Store
    from pipelines.dag.takedowns import taken_down
    from pipelines.provenance import provenance
    from pipelines.registered import commit_of, find_registered, registered

    settings = Settings.model_validate(
        {"store": store or Settings().store, "review": {"database": database}, "tracking": {"uri": tracking}}
    )
    opened = Store(settings.store, create=False)
    commits = Commits(opened)
    config = Config(settings, {})
    artifact = find_artifact(commits, what)
    by_alias = artifact is None and ("@" in what or what.startswith("models:/"))
    if by_alias:
        named = find_registered(registered(config.tracking_uri), what)
        artifact = commit_of(commits, named) if named else None
    console = Console(highlight=False, soft_wrap=True)
    if artifact is None:
        _forward(console, commits, what, config, json_)
        return
    found = provenance(commits, *artifact, taken_down=taken_down(opened))
    adapter = is_adapter(*artifact)
    aliases = [one for one in registered(config.tracking_uri) if one.digest == found.digest] if adapter else []
    if json_:
        print(json.dumps(provenance_json(found, aliases), indent=1, ensure_ascii=False))
        return
    _tell(console, found, aliases, None if all_ else SHOWN)


# -- back --------------------------------------------------------------------------------------------------------------


def provenance_json(found: Provenance, aliases: list[Registered]) -> dict[str, Any]:
    """What the command prints with --json; docs/operations.md describes it."""
    return {
        "artifact": {k: getattr(found, k) for k in ("name", "uri", "digest", "fingerprint")},
        "registered": [asdict(one) for one in aliases],
        "videos": [
            {**asdict(o.video), "sha256": o.sha256, "licence": o.licence, "taken_down": o.taken_down}
            for o in found.origins
        ],
        "videos_read": found.read,
        "rules": [asdict(cut) for cut in found.rules],
        "thresholds": found.thresholds,
        "answers": [asdict(answers) for answers in found.answers],
        "models": found.models,
        "steps": [asdict(step) for step in found.steps],
    }


def _tell(console: Console, found: Provenance, aliases: list[Registered], most: int | None) -> None:
    last = next(step for step in found.steps if step.fingerprint == found.fingerprint)
    console.print(f"[bold]{escape(found.name)}[/]  {escape(found.uri)}")
    digest = found.digest.removeprefix("sha256:")[:16]
    console.print(f"[dim]digest {digest}, made {last.started[:19]} by run {last.run_id}, {escape(last.code)}[/]")
    for one in aliases:
        console.print(f"registered as [bold]{escape(one.shown)}[/]")
    console.print(f"\n[bold]Source videos[/]  {len(found.origins)} of the {found.read} that were read")
    for origin in found.origins[:most]:
        down = "  [red]taken down[/]" if origin.taken_down else ""
        licence = f"  [dim]{escape(origin.licence)}[/]" if origin.licence else ""
        console.print(f"  {origin.video.video_id}  {escape(origin.video.path)}{licence}{down}")
    _more(console, len(found.origins), most)
    gone = sum(origin.taken_down for origin in found.origins)
    if gone:
        console.print(f"  [red]{gone} taken down since: run the pipeline again to make it without them[/]")
    console.print("\n[bold]Steps[/]")
    _steps(console, list(found.steps))
    if found.rules:
        console.print("\n[bold]Rules[/]  and the clips that each was the first to stop")
        _rules(console, found.rules)
    if found.thresholds:
        console.print("\n[bold]Thresholds[/]  of the steps that turned records away")
        by_step: dict[str, list[str]] = {}
        for name, value in found.thresholds.items():
            step, _, parameter = name.partition(".")
            by_step.setdefault(step, []).append(f"{parameter} {value}")
        for step, values in by_step.items():
            console.print(f"  {step:<16} {escape(', '.join(values))}")
    for answers in found.answers:
        said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(answers.verdicts.items()))
        by = ", ".join(f"{name} {count}" for name, count in sorted(answers.by.items()))
        console.print(f"\n[bold]Answers[/]  {answers.node}: {said or 'none'} ({escape(by)})")
        console.print(f"  {len(answers.about)} of them on what went into this:")
        for row in answers.about[:most]:
            reasons = f"  {', '.join(row['reasons'])}" if row["reasons"] else ""
            console.print(f"  {row['external_id']}  {row['verdict']}  {escape(row['reviewer'])}{escape(reasons)}")
        _more(console, len(answers.about), most)
    if found.models:
        console.print("\n[bold]Models[/]")
        for name, digest in found.models.items():
            console.print(f"  {name:<34} {escape(str(digest))[:64]}")


def _steps(console: Console, steps: list[Step]) -> None:
    width = max(len(step.node) for step in steps)
    for step in steps:
        rows = ", ".join(f"{count:,} {name}" for name, count in step.rows.items())
        what = f"{step.stage} {step.version}"
        made = step.started[:16].replace("T", " ")
        console.print(f"  {step.node:<{width}}  [dim]{made}[/]  {what:<18}  {rows}".rstrip())


def _rules(console: Console, rules: Sequence[RuleCut]) -> None:
    names = [f"{cut.node}.{cut.rule['name']}" for cut in rules]
    asks = [
        " ".join(f"{key} {value}" for key, value in cut.rule.items() if key != "name" and value is not None)
        for cut in rules
    ]
    for name, asked, cut in zip(names, asks, rules, strict=True):
        console.print(
            f"  {name:<{max(map(len, names))}}  {escape(asked):<{max(map(len, asks))}}  stopped {cut.stopped:,}"
        )


def _more(console: Console, count: int, most: int | None) -> None:
    if most is not None and count > most:
        console.print(f"  [dim]and {count - most:,} more; --all shows them[/]")


# -- forward -----------------------------------------------------------------------------------------------------------


def _forward(console: Console, commits: Commits, what: str, config: Config, json_: bool) -> None:
    from pipelines.cli.remove_commands import tell_traces, traces_json
    from pipelines.dag.takedowns import taken_down
    from pipelines.traces import Video, find_video, shown_to_people
    from pipelines.traces import trace as touched

    before = taken_down(commits.store)
    video = find_video(commits, what, [Video(e.video_id, e.uri, e.path) for e in before.values()], artifacts=True)
    traces = touched(commits, video)
    shown = shown_to_people(config.review_database, traces.identities)
    adapters = adapters_of(commits, traces, config)
    entry = before.get(video.video_id)
    if json_:
        found = {**traces_json(traces, shown, entry), "adapters": adapters}
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    tell_traces(console, traces, shown, "is taken down" if entry else "is in use")
    console.print("\n[bold]Adapters[/]" + ("" if adapters else "  none"))
    for one in adapters:
        how = "trained on it" if one["trained"] else "it was in the tables, no row of it was trained on"
        named = f"  [bold]{escape(', '.join(one['registered']))}[/]" if one["registered"] else ""
        console.print(f"  {one['name']:<28} {how}{'' if one['current'] else '  [dim]older[/]'}{named}")
        console.print(f"    [dim]{escape(one['uri'])}[/]")


def adapters_of(commits: Commits, traces: Traces, config: Config) -> list[dict[str, Any]]:
    """Every adapter that a video touched, whether rows of it trained it or an adapter it was made of, and its names."""
    from pipelines.provenance import provenance
    from pipelines.registered import registered

    found: list[dict[str, Any]] = []
    adapters = [t for t in traces.artifacts if is_adapter(commits.at[t.node, t.fingerprint], t.output)]
    versions = registered(config.tracking_uri) if adapters else []
    for touched in adapters:
        manifest = commits.at[touched.node, touched.fingerprint]
        made = provenance(commits, manifest, touched.output)
        found.append(
            {
                "name": made.name,
                "uri": touched.uri,
                "digest": made.digest,
                "fingerprint": touched.fingerprint,
                "current": touched.current,
                "trained": any(o.video.video_id == traces.video.video_id for o in made.origins),
                "registered": [one.shown for one in versions if one.digest == made.digest],
            }
        )
    return found


def is_adapter(manifest: Manifest, output: str) -> bool:
    return output == "adapter" and manifest.outputs[output].kind == "files"

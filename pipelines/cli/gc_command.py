"""``fulcrum gc``: deletes what nobody needs any more, or says what that would be."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.cli.options import ConfigFile, Json, StoreUri
from pipelines.cli.review_commands import DatabaseUrl
from pipelines.cli.trace_command import TrackingUri

if TYPE_CHECKING:
    from pipelines.cleanup import Found, Garbage
    from pipelines.config import Settings
    from pipelines.dag.store import Store

DAY_S = 86_400.0


def gc(
    store: StoreUri = None,
    config: ConfigFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    grace: Annotated[float, typer.Option("--grace", help="days: nothing younger goes", min=0, metavar="DAYS")] = 7.0,
    keep: Annotated[int, typer.Option("--keep", help="newest runs of each pipeline that stay whole", min=1)] = 3,
    database: DatabaseUrl = None,
    tracking: TrackingUri = None,
    why: Annotated[bool, typer.Option("--why", help="say of each commit that stays why it does")] = False,
    json_: Json = False,
) -> None:
    """Delete old commits, killed attempts, merged shards, and what they leave.

    What a living run, a waiting campaign or a registered adapter needs stays; so do people's answers, and the newest commit of
    every node. An adapter with an alias in MLflow (candidate, champion, any of yours) keeps all that it was made of. Runs may
    go on meanwhile.
    """
    from pipelines.cleanup import Needs, Policy, campaigns_of, survey, sweep
    from pipelines.config import Config, load_settings
    from pipelines.dag.store import Store
    from pipelines.registered import registered

    settings = load_settings(config, {"store": store})
    review = settings.review.model_copy(update={"database": database} if database else {})
    tracked = settings.tracking.model_copy(update={"uri": tracking} if tracking else {})
    settings = settings.model_copy(update={"review": review, "tracking": tracked})
    opened = Store(settings.store, create=False)
    _same_places(opened, settings)
    where = Config(settings, {})
    needs = Needs(
        opened,
        Policy(grace * DAY_S, keep),
        campaigns=lambda: campaigns_of(where.review_database),
        versions=lambda: registered(where.tracking_uri),
    )
    found = survey(needs, where.local_beside_store)
    gone = found.garbage if dry_run else sweep(needs, found)
    if json_:
        print(json.dumps(_as_dict(found, gone, dry_run), indent=1, ensure_ascii=False))
        return
    _tell(Console(highlight=False, soft_wrap=True), found, gone, dry_run, why)


def _same_places(store: Store, settings: Settings) -> None:
    """Refuse to clean up by another review database or registry than the runs on this store used.

    Campaigns and aliases in them would not be seen, and what they need would go.
    """
    from pipelines.config import hide
    from pipelines.dag.runs import config_path, load_runs
    from stages.contract import StageError

    given = {"review.database": hide(settings.review.database), "tracking.uri": hide(settings.tracking.uri)}
    for run in reversed(load_runs(store)):
        try:
            used = store.read_json(config_path(run.run_id))
        except (FileNotFoundError, ValueError):
            continue  # by a release that did not write it
        for key, value in given.items():
            section, name = key.split(".")
            before = used.get(section, {}).get(name)
            if before != value and (section != "tracking" or used["tracking"].get("enabled", True)):
                option = "--database" if section == "review" else "--tracking"
                raise StageError(
                    f"run {run.run_id} of {run.pipeline} used {key} {before or '(the default)'}, and this would look into "
                    f"{value or 'the default'}. Give the run's configuration with --config, or the right place with {option}: what "
                    "campaigns and registered adapters need is not known otherwise."
                )


def _as_dict(found: Found, gone: list[Garbage], dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "bytes": sum(one.bytes for one in gone),
        "gone": [
            {"kind": one.kind, "path": one.path, "bytes": one.bytes, "age_s": round(one.age_s, 1)} for one in gone
        ],
        "kept": [{"node": node, "fingerprint": f, "why": why} for (node, f), why in sorted(found.kept.items())],
        "live_runs": sorted(found.live),
    }


def _tell(console: Console, found: Found, gone: list[Garbage], dry_run: bool, why: bool) -> None:
    kinds = Counter(one.kind for one in gone)
    for one in sorted(gone, key=lambda one: (one.kind, one.path)):
        console.print(f"  {one.kind:<16} {_size(one.bytes):>9}  {one.age_s / DAY_S:6.1f} days  {escape(one.path)}")
    if why:
        console.print("\nStays:")
        for (node, fingerprint), reason in sorted(found.kept.items()):
            console.print(f"  {node:<20} {fingerprint[:16]}  {escape(reason)}")
        console.print("")
    said = ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in sorted(kinds.items())) or "nothing"
    verb = "would go" if dry_run else "gone"
    console.print(f"{verb}: {said} ({_size(sum(one.bytes for one in gone))}); {len(found.kept)} commits stay")
    if found.live:
        console.print(f"{len(found.live)} runs are at work: merged shards are left for another time")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"

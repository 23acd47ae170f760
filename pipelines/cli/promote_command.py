"""``fulcrum promote``: gives an evaluated adapter the alias ``candidate`` or ``champion`` in MLflow's registry."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.options import ConfigFile, StoreUri
from pipelines.config import Config, ConfigError, load_settings

Alias = Annotated[str, typer.Argument(help="candidate, or champion for the candidate there is", metavar="ALIAS")]


def promote(
    alias: Alias,
    store: StoreUri = None,
    config: ConfigFile = None,
    run_: Annotated[str | None, typer.Option("--run", help="a run's id; by default the latest", metavar="ID")] = None,
    adapter: Annotated[
        str, typer.Option("--adapter", help="which of the run's adapters", metavar="OUTPUT")
    ] = "adapter_final",
    model: Annotated[str, typer.Option("--model", help="name in the registry", metavar="NAME")] = "fulcrum",
    tracking: Annotated[
        str | None, typer.Option("--tracking", help="MLflow URI; by default the one beside the store", metavar="URI")
    ] = None,
    accept_regression: Annotated[
        bool, typer.Option("--accept-regression", help="take a champion that is worse, or that cannot be compared")
    ] = False,
) -> None:
    """Promote an adapter that was evaluated.

    candidate: registers the run's adapter with its evaluation, unless a gate of the configuration (promotion.gates) holds it
    back: it may not be worse than the base by more than a gate allows. champion: moves the alias to the candidate, unless that is
    clearly worse than the champion in any metric (its whole 95% interval beyond the other's).
    """
    from pipelines.dag.runs import load_run
    from pipelines.dag.store import Store
    from pipelines.registry import CANDIDATE, CHAMPION, evaluated, make_candidate, make_champion
    from pipelines.tracking import Tracker

    if alias not in (CANDIDATE, CHAMPION):
        raise ConfigError([f"promote {alias}: write {CANDIDATE} or {CHAMPION}"])
    settings = load_settings(config, {"store": store})
    if tracking:
        settings = settings.model_copy(update={"tracking": settings.tracking.model_copy(update={"uri": tracking})})
    opened = Store(settings.store, create=False)
    tracker = Tracker(Config(settings, {}).tracking_uri, settings.tracking.experiment, opened)
    if alias == CANDIDATE:
        record = load_run(opened, run_)
        found = evaluated(opened, record, adapter)
        version = make_candidate(tracker, record, found, model, settings.promotion.gates)
        print(f"{model} version {version} is the candidate: {adapter} of run {record.run_id}")
        return
    version, before = make_champion(tracker, model, accept_regression)
    print(
        f"{model} version {version} is the champion"
        + (f", in place of version {before}" if before not in (None, version) else "")
    )

"""Which committed adapters MLflow's registry names: what ``trace`` tells of an adapter, and what ``gc`` may never delete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.commits import Commits, find_artifact
from pipelines.config import hide
from pipelines.dag.artifacts import Manifest
from pipelines.registry import ADAPTER_TAG
from stages.contract import StageError

PAGE = 100


@dataclass(frozen=True)
class Registered:
    """A version of a registered model. ``digest`` is the adapter's, where `fulcrum promote` registered it."""

    model: str
    version: str
    aliases: Sequence[str]
    digest: str | None
    source: str

    @property
    def shown(self) -> str:
        return f"{self.model} version {self.version}" + (f" ({', '.join(self.aliases)})" if self.aliases else "")


def registered(tracking_uri: str) -> list[Registered]:
    """Every version of every registered model. Raises ``StageError`` where the registry does not answer.

    A database that was never made holds none; it is not made by asking.
    """
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if tracking_uri.startswith("sqlite:///") and not path.exists():
        return []
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        found, token = [], None
        aliases: dict[tuple[str, str], list[str]] = {}
        while True:
            models = client.search_registered_models(max_results=PAGE, page_token=token)
            for model in models:
                for alias, version in model.aliases.items():
                    aliases.setdefault((model.name, str(version)), []).append(alias)
            token = models.token
            if not token:
                break
        while True:
            versions = client.search_model_versions(max_results=PAGE, page_token=token or None)
            for one in versions:
                named = tuple(sorted(aliases.get((one.name, str(one.version)), [])))
                found.append(Registered(one.name, str(one.version), named, one.tags.get(ADAPTER_TAG), one.source or ""))
            token = versions.token
            if not token:
                return sorted(found, key=lambda one: (one.model, int(one.version)))
    except (MlflowException, OSError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StageError(
            f"the registry at {hide(tracking_uri)} does not answer: {said}. Start it, or name another with --tracking."
        ) from error


def commit_of(commits: Commits, one: Registered) -> tuple[Manifest, str] | None:
    """The commit that a registered version is, by its address, else by its digest; None when it is of another store."""
    named = find_artifact(commits, one.source) if "/data/" in one.source else None
    if named is not None and one.digest in (None, named[0].outputs[named[1]].digest):
        return named
    made = commits.makers(one.digest) if one.digest else []
    return made[-1] if made else None


def find_registered(versions: Sequence[Registered], what: str) -> Registered | None:
    """The version that ``what`` names: ``model@alias`` or ``model/version``, with or without ``models:/`` before it."""
    name = what.removeprefix("models:/")
    for one in versions:
        if name == f"{one.model}/{one.version}" or any(name == f"{one.model}@{alias}" for alias in one.aliases):
            return one
    return None

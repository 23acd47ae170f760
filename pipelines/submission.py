"""What ``fulcrum submit`` asks a cluster to run: written into the store, read from it there, answered by the run's record.

The store is what both sides see. That the request is found on the cluster proves that it is one and the same store; its
answer outlives the job, the head and the job's log.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from pipelines.config import ConfigError, hide
from pipelines.dag.runs import RunRecord, living, load_runs, state_of
from pipelines.dag.state import EXIT_FAILED, EXIT_INTERRUPTED, State, exit_code
from pipelines.dag.store import Store
from stages.contract import StageError


@dataclass(frozen=True)
class Request:
    """``config`` is a whole configuration file as a tree, without passwords; ``again`` what to type to go on."""

    submission: str
    pipeline: str
    config: Mapping[str, Any]
    code: str
    again: str


def new_submission() -> str:
    return f"fulcrum-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def write_request(store: Store, request: Request) -> None:
    store.put_json(_path(request.submission), asdict(request))


def read_request(store: Store, submission: str) -> Request:
    try:
        return Request(**store.read_json(_path(submission)))
    except FileNotFoundError:
        raise no_request(store.display, submission) from None


def no_request(store: str, submission: str) -> StageError:
    """For a cluster that sees another store than whoever submitted."""
    return StageError(
        f"the store {store}, as this machine of the cluster sees it, does not have the request {submission}: it is another "
        "place than the one that `fulcrum submit` wrote to. Use an object store, or a folder that is mounted under the "
        "same path on every machine."
    )


@contextmanager
def as_file(request: Request) -> Iterator[Path]:
    """The request's configuration as a file."""
    with tempfile.TemporaryDirectory(prefix="fulcrum-request-") as folder:
        path = Path(folder) / f"{request.submission}.yaml"
        path.write_text(yaml.safe_dump(dict(request.config), allow_unicode=True), encoding="utf-8")
        yield path


def check_portable(tree: Mapping[str, Any], store: str) -> None:
    """Raise ``ConfigError`` for what cannot, or must not, be sent to another machine."""
    problems = []
    if "://" not in store and not store.startswith("/"):
        problems.append(
            f"store: {store} is a path relative to this folder, which means nothing on the cluster. Give an object store "
            "(s3://bucket/prefix), or the absolute path of a folder that is mounted on every machine."
        )
    source = tree.get("source")
    if source and "://" not in source and not source.startswith("/"):
        problems.append(f"source: {source} is a path relative to this folder; give an absolute path or a URI")
    problems += [
        f"{key}: holds a password, which would lie in the store for all to read. Write ${{NAME}} in its place and set NAME "
        "in the environment of the cluster's nodes."
        for key, value in _leaves(tree)
        if hide(value) != value
    ]
    if problems:
        raise ConfigError(problems)


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for item in tree:
            yield from _leaves(item, path)
    else:
        yield path, tree


@dataclass(frozen=True)
class Answer:
    """How a submitted run ended: its record (None where it never began), its state as ``fulcrum runs`` has it, and the code."""

    run: RunRecord | None
    state: str
    code: int


def answer(store: Store, submission: str, driver_code: int | None) -> Answer:
    """What the store says of the newest run of this submission.

    ``driver_code`` is what the job's process ended with, as far as Ray knows: the answer where no run began (2 for a
    configuration that only the cluster could refuse).
    """
    mine = [run for run in load_runs(store) if run.submission == submission]
    if not mine:
        return Answer(None, "not begun", driver_code or EXIT_FAILED)
    run = mine[-1]
    state = state_of(run, living(store))
    if state in ("done", "waiting", "failed"):
        return Answer(run, state, exit_code([State(n.state) for n in run.nodes]))
    return Answer(run, state, EXIT_INTERRUPTED if state == "interrupted" else driver_code or EXIT_FAILED)


def _path(submission: str) -> str:
    return f"submissions/{submission}.json"

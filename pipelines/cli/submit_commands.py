"""``fulcrum submit`` and ``fulcrum attach``: a pipeline as a job of a Ray cluster, followed from here."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import (
    Assignments,
    ConfigFile,
    Json,
    Limit,
    PipelineName,
    RetryFailed,
    SourceUri,
    StoreUri,
)
from pipelines.dag.state import EXIT_DONE, EXIT_INTERRUPTED

if TYPE_CHECKING:
    from pipelines.dag.store import Store
    from pipelines.ray_jobs import Jobs

Address = Annotated[
    str,
    typer.Option(
        "--address", help="the head's job server, e.g. http://head:8265", metavar="URL", envvar="RAY_API_SERVER_ADDRESS"
    ),
]
StopToo = Annotated[
    bool, typer.Option("--stop-on-ctrl-c", help="Ctrl-C stops the job too, instead of only looking away")
]


def submit(
    pipeline: PipelineName,
    address: Address,
    config: ConfigFile = None,
    set_: Assignments = None,
    store: StoreUri = None,
    source: SourceUri = None,
    limit: Limit = None,
    json_: Json = False,
    retry_failed: RetryFailed = False,
    package: Annotated[
        list[Path] | None,
        typer.Option("--package", help="a package (folder) or wheel of yours that the pipeline names", metavar="PATH"),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="do not follow it")] = False,
    stop_on_ctrl_c: StopToo = False,
) -> None:
    """Run a pipeline as a job of a Ray cluster, with the code that is installed here, and follow it.

    The exit code is the pipeline's own, read from the store: 0 done, 75 waiting for people, 1 failed. 2: wrong usage or
    configuration. Ctrl-C only looks away. The token is taken from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
    """
    from pipelines.catalog import find
    from pipelines.config import gather, load
    from pipelines.dag.store import Store
    from pipelines.launch import code_revision
    from pipelines.ray_jobs import Jobs
    from pipelines.submission import Request, check_portable, new_submission, write_request

    found = find(pipeline)
    options = {"store": store, "source": source, "limit": limit}
    tree = gather(found, config, set_ or [], options)
    settings = load(found, config, set_ or [], options, elsewhere=True).settings
    check_portable(tree, settings.store)
    jobs = Jobs(address)
    opened = Store(settings.store)
    submission, again = new_submission(), "fulcrum " + shlex.join(sys.argv[1:])
    write_request(opened, Request(submission, pipeline, tree, code_revision(), again))
    arguments = ["run", pipeline, "--store", settings.store, "--request", submission]
    arguments += ["--json"] * json_ + ["--retry-failed"] * retry_failed
    version = jobs.submit(submission, arguments, package or [], {"pipeline": pipeline, "store": settings.store})
    _say(f"submitted {pipeline} as {submission} with fulcrum-{version}")
    if no_wait:
        _say(_how_to(submission, jobs.address, settings.store))
        raise typer.Exit(EXIT_DONE)
    raise SystemExit(_follow(jobs, opened, submission, settings.store, stop_on_ctrl_c))


def attach(
    submission: Annotated[str, typer.Argument(help="what submit printed", metavar="ID")],
    address: Address,
    store: Annotated[str, typer.Option("--store", help="the store that it runs on", metavar="URI")],
    stop_on_ctrl_c: StopToo = False,
) -> None:
    """Follow a submitted job again, from the beginning of its log, and end with its pipeline's exit code."""
    from pipelines.dag.store import Store
    from pipelines.ray_jobs import Jobs

    opened = Store(store, create=False)
    raise SystemExit(_follow(Jobs(address), opened, submission, store, stop_on_ctrl_c))


def run_request(submission: str, store: str, *, as_json: bool, retry_failed: bool) -> int:
    """On the cluster: run what the request in the store says."""
    from pipelines.catalog import find
    from pipelines.config import load
    from pipelines.dag.store import existing_store
    from pipelines.launch import launch
    from pipelines.submission import as_file, no_request, read_request

    opened = existing_store(store)
    if opened is None:
        raise no_request(store, submission)
    request = read_request(opened, submission)
    pipeline = find(request.pipeline)
    with as_file(request) as path:
        resolved = load(pipeline, path, [], {"store": store})
    return launch(pipeline, resolved, again=request.again, as_json=as_json, retry_failed=retry_failed)


def _follow(jobs: Jobs, store: Store, submission: str, named: str, stop_too: bool) -> int:
    from pipelines.ray_jobs import HeadGone
    from pipelines.submission import answer

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        ended = jobs.follow(submission, show)
    except KeyboardInterrupt:
        if stop_too:
            jobs.stop(submission)
            _say(f"\n{submission} was told to stop. What was committed is kept; submit it again to go on.")
        else:
            _say(f"\n{submission} goes on without you. " + _how_to(submission, jobs.address, named))
        return EXIT_INTERRUPTED
    except HeadGone as error:
        found = answer(store, submission, None)
        _say(f"fulcrum: {error}")
        _say(f"The store says of {submission}: {found.state}. What was committed is kept; submit it again to go on.")
        return found.code
    found = answer(store, submission, ended.code)
    if found.run is None:
        why = ended.message.strip().splitlines()
        _say(
            f"fulcrum: {submission} {ended.status.lower()} before its pipeline began"
            + (f": {why[-1]}" if why else "")
            + ". Its log is above; `ray job logs` has it too."
        )
        return found.code
    state = "killed" if found.state == "running" else found.state
    waits = ", as Ray sees it SUCCEEDED" if state == "waiting" else ""
    _say(f"{submission} is {state}{waits} (run {found.run.run_id}); exit code {found.code}")
    return found.code


def _how_to(submission: str, address: str, store: str) -> str:
    return (
        f"Follow it with:\n    fulcrum attach {submission} --address {address} --store {shlex.quote(store)}\n"
        f"and stop it with:\n    ray job stop {submission} --address {address}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

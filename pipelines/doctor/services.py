"""Checks of what is around: the store and its clock, the review database, MLflow, the source, Ray."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.config import Config, hide
from pipelines.dag.runs import STALE_S
from pipelines.doctor.finding import Finding, Level


def store(config: Config) -> Iterator[Finding]:
    """Puts, lists, reads and deletes an object; the store's clock against this machine's, since heartbeats are compared."""
    from pipelines.dag.store import Store, StoreError, existing_store, resolve

    named = hide(config.settings.store)
    try:
        there = existing_store(config.settings.store)
        if there is None:
            yield from _no_store_yet(config, resolve(config.settings.store)[1])
            return
        opened = Store(config.settings.store, create=False)
        path = f"doctor/{uuid.uuid4().hex}.json"
        began = time.monotonic()
        opened.put_json(path, {"by": socket.gethostname()})
        took = time.monotonic() - began
        try:
            stamp = opened.fs.get_file_info(opened.full(path)).mtime_ns
            if opened.read_json(path)["by"] != socket.gethostname() or path.split("/")[1] not in opened.names("doctor"):
                raise StoreError(f"{named} gives back another object than it was given, or does not list it")
        finally:
            opened.delete(path)
            if opened.is_local:
                with contextlib.suppress(OSError):  # another doctor is there
                    Path(opened.full("doctor")).rmdir()
    except (OSError, StoreError) as error:
        remedy = (
            "Check the path, its permissions or the credentials: for S3 AWS_PROFILE or AWS_ACCESS_KEY_ID, "
            "AWS_DEFAULT_REGION, AWS_ENDPOINT_URL."
        )
        yield Finding("store", "bad", f"{named}: {hide(str(error))}", remedy)
        return
    yield Finding("store", "good", f"{named}: written in {took * 1000:.0f} ms, listed, read and deleted")
    apart = abs(time.time() - stamp / 1e9) if stamp else 0.0
    if apart > STALE_S / 6:
        remedy = "Let both take the time from NTP: a heartbeat that seems older than 30 s is a dead run's."
        level: Level = "bad" if apart > STALE_S / 2 else "warning"
        yield Finding("clock", level, f"this machine and the store are {apart:.1f} s apart", remedy)
    else:
        yield Finding("clock", "good", f"{time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}, as the store's")


def _no_store_yet(config: Config, root: str) -> Iterator[Finding]:
    named = hide(config.settings.store)
    if "://" in named and not named.startswith("file://"):
        yield Finding("store", "good", f"no store at {named} yet; its place answers")
        return
    place = Path(root).absolute()
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        what = f"{named} is a file" if place.is_file() else f"{named} holds other files and no store"
        yield Finding("store", "bad", what, "Check the path, or give an empty or a new folder with --store.")
        return
    parent = next(p for p in place.parents if p.exists())
    if os.access(parent, os.W_OK):
        yield Finding("store", "good", f"no store at {named} yet; it can be made in {parent}")
    else:
        yield Finding(
            "store", "bad", f"no store at {named}, and {parent} is not writable", "Give another with --store."
        )


def review_database(config: Config) -> Iterator[Finding]:
    """Whether it answers and which layout it has. It is not opened for use, so that nothing is migrated by asking."""
    import sqlalchemy as sa

    from stages.review.database import refuse_network_file_system
    from stages.review.errors import ReviewError
    from stages.review.schema import SCHEMA_VERSION

    url = config.review_database
    named = hide(url)
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///"):
        try:
            refuse_network_file_system(path)
        except ReviewError as error:
            yield Finding(
                "review database", "bad", str(error), "Name a path on a local disk, or PostgreSQL, with --database."
            )
            return
        if not path.exists():
            yield Finding("review database", "good", f"none yet at {named}: it is made when somebody is first asked")
            return
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        with engine.connect() as connection:
            said = connection.execute(sa.text("SELECT value FROM meta WHERE key = 'schema_version'")).scalar()
    except (sa.exc.SQLAlchemyError, ModuleNotFoundError) as error:
        why = hide(str(getattr(error, "orig", None) or error)).strip().splitlines()[0]
        remedy = (
            "Check that the server runs and the URL, and for PostgreSQL the driver: pip install 'fulcrum[postgres]'."
        )
        yield Finding("review database", "bad", f"{named}: {why}", remedy)
        return
    finally:
        engine.dispose()
    layout = int(str(said)) if str(said).isdigit() else 0
    if layout < SCHEMA_VERSION:
        remedy = "Nothing to do: it is brought up to date, with a copy beside it, when it is next opened."
        yield Finding("review database", "warning", f"{named} has layout {layout}, of an older release", remedy)
    elif layout > SCHEMA_VERSION:
        remedy = "Install the release that made it, or a newer one."
        yield Finding(
            "review database", "bad", f"{named} has layout {layout}; this release knows {SCHEMA_VERSION}", remedy
        )
    else:
        yield Finding("review database", "good", f"{named}, layout {layout}")


def mlflow(config: Config) -> Iterator[Finding]:
    if not config.settings.tracking.enabled:
        yield Finding("MLflow", "good", "tracking is off")
        return
    uri = config.tracking_uri
    if not uri.startswith(("http://", "https://")):
        yield Finding("MLflow", "good", f"{hide(uri)}: a file of its own, made when it is first needed")
        return
    import httpx

    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=10)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        remedy = "Start it, or name another with tracking.uri. Runs go on without it and publish later."
        yield Finding("MLflow", "warning", f"{hide(uri)} does not answer: {hide(str(error)).splitlines()[0]}", remedy)
        return
    yield Finding("MLflow", "good", f"{hide(uri)} answers")


def source(config: Config) -> Iterator[Finding]:
    from pipelines.dag.store import resolve

    named = config.settings.source
    if not named:
        yield Finding("source", "good", "none given; name one with --source to have it looked at")
        return
    filesystem, root = resolve(named)
    if filesystem.get_file_info(root).type.name == "NotFound":
        yield Finding(
            "source", "bad", f"there is nothing at {hide(named)}", "Check the path or URI, and that it is mounted."
        )
    else:
        yield Finding("source", "good", f"{hide(named)} can be seen")


def ray(config: Config) -> Iterator[Finding]:
    """A local Ray needs nothing; a cluster's head must answer."""
    engine = config.settings.engine
    address = engine.address
    if engine.kind == "inline" or not address or address == "auto":
        what = (
            "inline: none"
            if engine.kind == "inline"
            else f"{'the running' if address else 'a local'} one, {engine.num_cpus or os.cpu_count()} CPUs"
        )
        yield Finding("Ray", "good", what)
        return
    at = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        with socket.create_connection((at.hostname or "", at.port or 6379), timeout=5):
            pass
    except OSError as error:
        remedy = "Start the head (ray start --head), check the address, and that this machine may reach its port."
        yield Finding("Ray", "bad", f"{address} does not answer: {error}", remedy)
        return
    yield Finding("Ray", "good", f"{address} answers")

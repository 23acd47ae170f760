"""Opens the review database: SQLite in WAL mode by default, or another engine by URL, always one short transaction."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from stages.review import schema
from stages.review.errors import ReviewError
from stages.review.migrate import OLDEST, keep_copy, migrate

# SQLite's write-ahead log needs shared memory and byte-range locks that mean the same to every process. File systems
# that cross a network do not promise that: two writers may both believe that they hold the lock, and answers are lost.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "lustre", "gpfs", "beegfs", "glusterfs", "ceph"}
    | {"ocfs2", "gfs2", "pvfs2", "orangefs", "9p", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys"}
    | {"fuse.mountpoint-s3", "fuse.rclone", "fuse.juicefs", "fuse.glusterfs", "fuse.ceph", "fuse.blobfuse2"}
)
BUSY_MS = 15_000


@dataclass(frozen=True)
class Database:
    """An open review database. ``read`` and ``write`` each give one transaction."""

    engine: Engine
    url: str  # without a password
    # SQLite's own wait for the write lock is a sleep of up to 100 ms; threads of one process queue here instead.
    turn: AbstractContextManager[object] = field(default_factory=nullcontext)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that holds the write lock from its first statement (``BEGIN IMMEDIATE`` on SQLite).

        A deferred transaction that reads, decides and then writes may see another writer in between: that is how
        review queues hand one item to two people.
        """
        with (
            self.turn,
            self.engine.connect().execution_options(immediate=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent snapshot; never waits for a writer on SQLite's WAL."""
        # SQLite's transactions are snapshots by themselves.
        options = {"isolation_level": "REPEATABLE READ"} if self.engine.dialect.name == "postgresql" else {}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        self.engine.dispose()


def database_url(database: str | Path) -> sa.URL:
    """The SQLAlchemy URL of a path or URL; a plain path means SQLite.

    Raises ``ReviewError`` when it is neither.
    """
    text = str(database)
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        return make_url(text)
    except ArgumentError as error:
        raise ReviewError(
            f"The review database {text!r} is neither a path nor a URL like sqlite:////a/b.db."
        ) from error


def open_database(database: str | Path) -> Database:
    """Open the database, creating it and its tables when there are none.

    A database of an older layout is brought up to date; a copy of a SQLite file is kept beside it. Raises ``ReviewError`` for a
    network file system under SQLite, a database of a newer release, a file that is no database, and a server that does not
    answer.
    """
    url = database_url(database)
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ReviewError("The review database must be a file: several processes share it.")
        path = Path(url.database)
        refuse_network_file_system(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ReviewError(f"The folder of the review database {path} cannot be made: {error.strerror}.") from error
    shown = url.render_as_string(hide_password=True)
    try:
        engine = _engine(url)
        opened = Database(engine, shown, Lock() if url.get_backend_name() == "sqlite" else nullcontext())
        _prepare(opened)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ReviewError(f"The review database {shown} needs a driver that is not installed: {error}.") from error
    except (OperationalError, sa.exc.DatabaseError) as error:
        reason = str(error.orig or error).strip().splitlines()[0]
        raise ReviewError(
            f"The review database {shown} cannot be used: {reason}. Check the path, its permissions and the free disk "
            "space, or name another database."
        ) from error
    return opened


def _engine(url: sa.URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        if url.drivername == "postgresql":  # not SQLAlchemy's own default driver, which is the previous generation
            url = url.set(drivername="postgresql+psycopg")
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        # The driver's own implicit BEGIN comes too late for a lease, so transactions are ours alone.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def lock(connection: Connection, name: str) -> None:
    """Let one transaction at a time do what ``name`` says, until it ends: for making what has no row to lock yet.

    SQLite's writers are alone anyway.
    """
    if connection.dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


def _prepare(database: Database) -> None:
    with database.read() as connection:
        found = _version(connection, database.url)
    if found is None:
        with database.write() as connection:
            lock(connection, "make the tables")
            if _version(connection, database.url) is None:  # another process may have been faster
                schema.metadata.create_all(connection)
                connection.execute(schema.meta.insert().values(key="schema_version", value=str(schema.SCHEMA_VERSION)))
        found = schema.SCHEMA_VERSION
    if OLDEST <= found < schema.SCHEMA_VERSION:
        copy = keep_copy(database.engine.url, found)
        with database.write() as connection:
            lock(connection, "make the tables")
            if _version(connection, database.url) == found:  # another process may have been faster
                migrate(connection, found)
        if copy is not None:
            told = "The review database %s had layout %d and has layout %d now; the old one is kept at %s."
            logging.getLogger(__name__).warning(told, database.url, found, schema.SCHEMA_VERSION, copy)
    elif found != schema.SCHEMA_VERSION:
        age = "an older" if found < OLDEST else "a newer"
        raise ReviewError(
            f"The review database {database.url} has layout {found}, made by {age} release; this one reads layouts "
            f"{OLDEST} to {schema.SCHEMA_VERSION}. Install that release, or name another review database to start a new one."
        )


def _version(connection: Connection, shown: str) -> int | None:
    tables = set(sa.inspect(connection).get_table_names())
    if not tables:
        return None
    if "meta" not in tables:
        raise ReviewError(f"{shown} is a database of something else (it has tables {', '.join(sorted(tables)[:4])}).")
    value = connection.execute(sa.select(schema.meta.c.value).where(schema.meta.c.key == "schema_version")).scalar()
    if value is None or not value.isdigit():
        raise ReviewError(f"The review database {shown} does not say its layout; it is not one of ours.")
    return int(value)


def refuse_network_file_system(path: Path, mounts: str | None = None) -> None:
    """Raise ``ReviewError`` when SQLite's file would lie on a network file system.

    ``mounts`` is the text of a mount table in the layout of /proc/mounts; by default the machine's own, and where the
    machine has none nothing is refused.
    """
    if mounts is None:
        table = Path("/proc/mounts")
        mounts = table.read_text(errors="replace") if table.exists() else ""
    resolved = path.expanduser().absolute().resolve()
    best = (-1, "", "")
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) < 3:
            continue
        point = Path(parts[1].encode().decode("unicode_escape"))
        # A later line with the same point lies over the earlier one.
        if (point == resolved or point in resolved.parents) and len(point.parts) >= best[0]:
            best = (len(point.parts), str(point), parts[2])
    if best[2] in NETWORK_FILE_SYSTEMS:
        raise ReviewError(
            f"The review database {path} would lie on {best[1]}, a network file system ({best[2]}). SQLite's locks do not "
            "hold there and answers could be lost. Name a path on a local disk, or a PostgreSQL URL."
        )


def record_event(
    connection: Connection,
    at: float,
    actor: str,
    kind: str,
    campaign_id: str | None = None,
    item_id: str | None = None,
    detail: Mapping[str, object] | None = None,
) -> None:
    """Append one row to the audit log, inside the transaction of what it tells about."""
    connection.execute(
        schema.event.insert().values(
            at=at,
            actor=actor,
            kind=kind,
            campaign_id=campaign_id,
            item_id=item_id,
            detail=json.dumps(detail or {}, sort_keys=True, ensure_ascii=False),
        )
    )

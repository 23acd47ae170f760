"""Who reviews: persons, and the browser sessions that speak for them."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stages.review import schema
from stages.review.database import Database, record_event
from stages.review.errors import ReviewError

Role = Literal["annotator", "lead", "script"]

SESSION_SECONDS = 30 * 24 * 3600
SCRIPT_PREFIX = "script:"
MAX_NAME = 64


@dataclass(frozen=True)
class Person:
    """Somebody who answers; a scripted reviewer is one too, by its own role and a name that starts with ``script:``."""

    id: str
    name: str
    role: Role


@dataclass(frozen=True)
class Session:
    """A person's login in one browser; ``csrf`` must come with every change that this browser asks for."""

    person: Person
    csrf: str


def person_named(db: Database, name: str, role: Role = "annotator", *, now: float | None = None) -> Person:
    """The person of that name, made on first use; an existing person keeps the role they have.

    Raises ``ReviewError`` for a name that is empty, too long, unprintable, or a script's without the script's role.
    """
    name = " ".join(name.split())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ReviewError(f"A reviewer's name has 1 to {MAX_NAME} printable characters.")
    if name.lower().startswith(SCRIPT_PREFIX) != (role == "script"):
        raise ReviewError(f"Names that start with {SCRIPT_PREFIX!r} belong to scripted reviewers; take another name.")
    now = time.time() if now is None else now
    with db.read() as connection:
        found = _by_name(connection, name)
    if found is not None:
        return found
    with db.write() as connection:
        found = _by_name(connection, name)
        if found is None:
            found = Person(hashlib.sha256(f"person {name}".encode()).hexdigest()[:32], name, role)
            connection.execute(
                schema.person.insert().values(id=found.id, name=name, role=role, active=True, created_at=now)
            )
            record_event(connection, now, name, "joined", detail={"role": role})
    return found


def _by_name(connection: Connection, name: str) -> Person | None:
    row = connection.execute(sa.select(schema.person).where(schema.person.c.name == name)).mappings().first()
    return None if row is None else Person(row["id"], row["name"], row["role"])


def open_session(db: Database, person: Person, *, now: float | None = None) -> tuple[str, Session]:
    """A new login: the cookie's value, which is stored nowhere, and the session."""
    now = time.time() if now is None else now
    token, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(24)
    with db.write() as connection:
        connection.execute(sa.delete(schema.session).where(schema.session.c.expires_at < now))
        connection.execute(
            schema.session.insert().values(
                token_digest=_digest(token),
                person_id=person.id,
                csrf=csrf,
                created_at=now,
                expires_at=now + SESSION_SECONDS,
            )
        )
    return token, Session(person, csrf)


def find_session(db: Database, token: str | None, *, now: float | None = None) -> Session | None:
    """The session of a cookie, or None when it is unknown, expired, or its person was deactivated."""
    if not token:
        return None
    now = time.time() if now is None else now
    query = (
        sa.select(schema.session.c.csrf, schema.person)
        .join(schema.person, schema.person.c.id == schema.session.c.person_id)
        .where(
            schema.session.c.token_digest == _digest(token),
            schema.session.c.expires_at > now,
            schema.person.c.active,
        )
    )
    with db.read() as connection:
        row = connection.execute(query).mappings().first()
    return None if row is None else Session(Person(row["id"], row["name"], row["role"]), row["csrf"])


def close_session(db: Database, token: str) -> None:
    with db.write() as connection:
        connection.execute(sa.delete(schema.session).where(schema.session.c.token_digest == _digest(token)))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

"""Who reviews: persons, and the browser sessions that speak for them."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from stages.review import schema
from stages.review.database import Database, lock, record_event
from stages.review.errors import ReviewError

Role = Literal["annotator", "lead", "admin", "script"]

SESSION_SECONDS = 30 * 24 * 3600
SCRIPT_PREFIX = "script:"
MAX_NAME = 64


@dataclass(frozen=True)
class Person:
    """Somebody who answers; a scripted reviewer is one too, by its own role and a name that starts with ``script:``."""

    id: str
    name: str
    role: Role

    @property
    def leads(self) -> bool:
        """Whether they see the campaign as a whole, settle disagreements and close it."""
        return self.role in ("lead", "admin")


@dataclass(frozen=True)
class Session:
    """A person's login in one browser; ``csrf`` must come with every change that this browser asks for."""

    person: Person
    csrf: str


@dataclass(frozen=True)
class Member:
    """A person as an admin sees them."""

    person: Person
    active: bool


def invite(
    db: Database, name: str, role: Role | None = None, actor: str = "command line", *, now: float | None = None
) -> str:
    """The person's new token, which is shown now and stored nowhere; an earlier one and its logins end with it.

    Without ``role`` a known person keeps theirs and a new one is an annotator. Whoever was deactivated is active again.
    Raises ``ReviewError`` for a bad name, or for a script's.
    """
    if role == "script":
        raise ReviewError("Scripted reviewers need no token: they run inside the pipeline.")
    now = time.time() if now is None else now
    who = person_named(db, name, role or "annotator", now=now)
    role = role or who.role
    token = secrets.token_urlsafe(32)
    with db.write() as connection:
        values = {"role": role, "active": True, "token_digest": _digest(token)}
        connection.execute(schema.person.update().where(schema.person.c.id == who.id).values(values))
        connection.execute(sa.delete(schema.session).where(schema.session.c.person_id == who.id))
        record_event(connection, now, actor, "invited", detail={"name": who.name, "role": role})
    return token


def deactivate(db: Database, person_id: str, actor: str, *, now: float | None = None) -> None:
    """End a person's token and logins. Their answers stay. Raises ``ReviewError`` for an unknown person or a script."""
    now = time.time() if now is None else now
    with db.write() as connection:
        row = connection.execute(sa.select(schema.person).where(schema.person.c.id == person_id)).mappings().first()
        if row is None or row["role"] == "script":
            raise ReviewError("There is no such person.")
        values = {"active": False, "token_digest": None}
        connection.execute(schema.person.update().where(schema.person.c.id == person_id).values(values))
        connection.execute(sa.delete(schema.session).where(schema.session.c.person_id == person_id))
        record_event(connection, now, actor, "deactivated", detail={"name": row["name"]})


def members(db: Database) -> list[Member]:
    """Everybody, by name; scripts left out."""
    query = sa.select(schema.person).where(schema.person.c.role != "script").order_by(schema.person.c.name)
    with db.read() as connection:
        return [Member(_person(row), row["active"]) for row in connection.execute(query).mappings()]


def bearer(db: Database, token: str) -> Person | None:
    """The active person whose token this is. Looked up by digest, so no comparison leaks how much of it was right."""
    query = sa.select(schema.person).where(schema.person.c.token_digest == _digest(token), schema.person.c.active)
    with db.read() as connection:
        row = connection.execute(query).mappings().first()
    return None if row is None else _person(row)


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
        lock(connection, f"person {name}")
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
    return None if row is None else _person(row)


def _person(row: RowMapping) -> Person:
    return Person(row["id"], row["name"], row["role"])


def open_session(db: Database, person: Person, *, now: float | None = None) -> tuple[str, Session]:
    """A new login: the cookie's value, which is stored nowhere, and the session."""
    now = time.time() if now is None else now
    token, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(24)
    with db.write() as connection:
        connection.execute(sa.delete(schema.session).where(schema.session.c.expires_at < now))
        record_event(connection, now, person.name, "logged_in")
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
    return None if row is None else Session(_person(row), row["csrf"])


def close_session(db: Database, token: str) -> None:
    with db.write() as connection:
        connection.execute(sa.delete(schema.session).where(schema.session.c.token_digest == _digest(token)))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

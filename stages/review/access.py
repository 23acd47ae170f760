"""Who asks: the cookie of a browser or the token of a program, and what their role may do."""

from __future__ import annotations

import secrets
import time
from collections import deque
from threading import Lock
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from stages.review import people
from stages.review.database import Database
from stages.review.people import Person, Session

COOKIE = "fulcrum_review"
TRIES, WINDOW_S = 10, 60.0
_MAX_ADDRESSES = 10_000


class NeedsLogin(Exception):
    """Nobody is logged in in this browser."""


class LoginLimit:
    """At most ``TRIES`` failed logins per address in ``WINDOW_S`` seconds.

    Tokens are too long to be guessed; this keeps whoever tries from costing anything.
    """

    def __init__(self) -> None:
        self._failed: dict[str, deque[float]] = {}
        self._lock = Lock()

    def wait(self, address: str, now: float | None = None) -> float:
        """Seconds until this address may try again; 0 when it may now."""
        now = time.monotonic() if now is None else now
        with self._lock:
            times = self._failed.get(address)
            while times and times[0] <= now - WINDOW_S:
                times.popleft()
            return times[0] + WINDOW_S - now if times and len(times) >= TRIES else 0.0

    def failed(self, address: str, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        with self._lock:
            if len(self._failed) >= _MAX_ADDRESSES:
                self._failed.pop(next(iter(self._failed)))
            self._failed.setdefault(address, deque(maxlen=TRIES)).append(now)


def database(request: Request) -> Database:
    opened: Database = request.app.state.db
    return opened


def address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def log_in(request: Request, token: str) -> Person | None:
    """The person of this token, or None. Raises 429 when this address has tried too often."""
    limit: LoginLimit = request.app.state.limit
    wait = limit.wait(address(request))
    if wait:
        raise HTTPException(429, "Too many failed logins; try again in a minute.", {"Retry-After": str(int(wait) + 1)})
    found = people.bearer(database(request), token)
    if found is None:
        limit.failed(address(request))
    return found


def reader(request: Request) -> Session:
    """Whoever this request speaks for. A program's session has an empty ``csrf``. Raises ``NeedsLogin``."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        person = log_in(request, token.strip())
        found = None if person is None else Session(person, "")
    else:
        found = people.find_session(database(request), request.cookies.get(COOKIE))
    if found is None:
        raise NeedsLogin
    return found


def writer(request: Request, who: Annotated[Session, Depends(reader)]) -> Session:
    """The same for a change. A browser must send the page's own token: another site knows the cookie's way, not that.

    A program that sends its token by hand cannot be made to do so by another site.
    """
    sent = request.headers.get("x-csrf-token", "")
    if who.csrf and not secrets.compare_digest(sent.encode(), who.csrf.encode()):
        raise HTTPException(403, "This page is out of date; reload it.")
    return who


def _leads(who: Session) -> Session:
    if not who.person.leads:
        raise HTTPException(403, "This is for leads.")
    return who


def lead_reader(who: Annotated[Session, Depends(reader)]) -> Session:
    return _leads(who)


def lead_writer(who: Annotated[Session, Depends(writer)]) -> Session:
    return _leads(who)


def admin_reader(who: Annotated[Session, Depends(reader)]) -> Session:
    if who.person.role != "admin":
        raise HTTPException(403, "This is for admins.")
    return who


def admin_writer(who: Annotated[Session, Depends(writer)]) -> Session:
    return admin_reader(who)


Db = Annotated[Database, Depends(database)]
Reader = Annotated[Session, Depends(reader)]
Writer = Annotated[Session, Depends(writer)]
LeadReader = Annotated[Session, Depends(lead_reader)]
LeadWriter = Annotated[Session, Depends(lead_writer)]
AdminReader = Annotated[Session, Depends(admin_reader)]
AdminWriter = Annotated[Session, Depends(admin_writer)]

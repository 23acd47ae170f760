"""The server against its own description: whatever is sent to it, it answers in the shapes it promises and never breaks.

The long form: ``FULCRUM_FUZZ=500 python -m pytest tests/review/test_fuzz.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from stages.review.app import create_app
from stages.review.campaigns import create_campaign
from stages.review.people import invite, person_named
from stages.review.queue import claim
from tests.review.conftest import filter_items, likert_items, pair_items, spec

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from schemathesis.checks import CHECKS, load_all_checks  # noqa: E402

EXAMPLES = int(os.environ.get("FULCRUM_FUZZ", "12"))
CAMPAIGNS = {"filter": filter_items, "consis": pair_items, "likert": likert_items}

load_all_checks()
WANTED = [
    CHECKS.get_one(name)
    for name in ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
]  # fmt: skip


class Rooms:
    """One server with campaigns of all kinds, its description, and what may be put into its addresses."""

    def __init__(self, folder: Path) -> None:
        self.app = create_app(folder / "review.db")
        db = self.app.state.db
        for form, items in CAMPAIGNS.items():
            create_campaign(db, spec(form, form, overlap=20, gold_rate=0.5 if form == "filter" else 0.0), items(40))
        self.token = invite(db, "Root", "admin")
        root = person_named(db, "Root")
        items = [one.item_id for form in CAMPAIGNS for one in claim(db, form, root, 6)]
        self.known = {
            "campaign_id": list(CAMPAIGNS),
            "item_id": items,
            "person_id": ["0" * 32],
            "name": ["0" * 32 + ".webm"],
        }
        self.schema = schemathesis.openapi.from_asgi("/openapi.json", self.app, headers={"host": "127.0.0.1"})
        self.headers = {"Authorization": f"Bearer {self.token}", "Host": "127.0.0.1"}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rooms]:
    made = Rooms(tmp_path_factory.mktemp("rooms"))
    yield made
    made.app.state.db.close()


def addresses() -> list[tuple[str, str]]:
    """From a server of its own: which addresses there are is known before any test runs."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Path(folder) / "review.db")
        found = [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]
        app.state.db.close()
    return found


@pytest.mark.parametrize(("method", "path"), addresses())
def test_nothing_that_can_be_sent_breaks_the_server(rooms: Rooms, method: str, path: str) -> None:
    operation = rooms.schema[path][method]

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def send(data: Any) -> None:
        case = data.draw(operation.as_strategy())
        for name in case.path_parameters or {}:
            # Mostly what there is, or nothing but refusals would be tried.
            if data.draw(st.integers(0, 3)):
                case.path_parameters[name] = data.draw(st.sampled_from(rooms.known[name]))
        if path.endswith("/close") and isinstance(case.body, dict):
            case.body["partial"] = False  # a closed campaign would end the test of all others
        case.call_and_validate(headers=rooms.headers, checks=WANTED)

    send()


@settings(max_examples=EXAMPLES * 4, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.binary(max_size=200), st.sampled_from(["application/json", "text/plain", "application/x-www-form-urlencoded"])
)
def test_nor_does_a_body_of_any_bytes(rooms: Rooms, body: bytes, kind: str) -> None:
    client = TestClient(rooms.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    for path in (
        "/api/campaigns/filter/claim",
        f"/api/items/{rooms.known['item_id'][0]}/response",
        "/login",
        "/logout",
    ):
        answer = client.post(
            path, content=body, headers={**rooms.headers, "Content-Type": kind}, follow_redirects=False
        )
        assert answer.status_code < 500, (path, answer.text)

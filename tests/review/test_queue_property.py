"""Nobody collides: real processes with expiring leases, kills and repeated submits, and still k counted answers an item."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from benchmarks.postgres import postgres, postgres_missing
from benchmarks.review_collisions import run
from stages.review.app import create_app
from stages.review.people import invite

SMALL = {"processes": 3, "items": 80, "overlap": 2, "kills": 1, "patience_s": 100.0}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("policy", ["count", "others"])
def test_every_item_gets_exactly_k_counted_answers_and_none_is_lost(tmp_path: Path, policy: str) -> None:
    found = run(tmp_path / "review.db", skip_policy=policy, **SMALL)  # type: ignore[arg-type]
    assert found["counted"] == 160


@pytest.mark.timeout(120)
def test_nor_on_postgresql() -> None:
    missing = postgres_missing()
    if missing:
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="fulcrum-review-") as name:
        Path(name).chmod(0o755)  # pytest's own folders are closed to the user that the server runs as
        with postgres(Path(name) / "server") as url:
            assert run(url, **SMALL)["counted"] == 160  # type: ignore[arg-type]
            nothing_breaks_on_what_it_cannot_store(url, Path(name))


def nothing_breaks_on_what_it_cannot_store(url: str, media: Path) -> None:
    """PostgreSQL takes no NUL in a text; on the same server, because starting one takes seconds."""
    app = create_app(url, media)
    token = invite(app.state.db, "Root", "admin")
    headers = {"Authorization": f"Bearer {token}"}
    client = TestClient(app, base_url="http://127.0.0.1", headers=headers, raise_server_exceptions=False)
    assert client.get("/api/campaigns/a%00b/progress").status_code == 422
    assert client.post("/api/leases/heartbeat", json={"items": ["\0"]}).status_code == 422
    app.state.db.close()

"""The status page: the drawing, who may see it, what it says of a run, and what Prometheus reads."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pipelines.catalog import BUILT_IN, find
from pipelines.dag.runs import _born, load_run, now, progress_path
from pipelines.dag.store import Store
from pipelines.status.app import TOKEN, add_status
from pipelines.status.draw import GAP_X, HEIGHT, WIDTH, layout, reduced
from pipelines.status.snapshot import Watcher
from stages.review.access import COOKIE
from stages.review.app import create_app
from stages.review.database import open_database
from stages.review.people import Role, bearer, invite, open_session
from tests.dag.toy import ToyParams, make_pipeline, run_toy
from tests.review.browsing import browsing, serving

DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}


@st.composite
def dags(draw: st.DrawFn) -> dict[str, list[str]]:
    names = [f"n{i}" for i in range(draw(st.integers(1, 12)))]
    return {
        n: draw(st.lists(st.sampled_from(names[:i]), unique=True, max_size=4)) if i else [] for i, n in enumerate(names)
    }


def reach(after: dict[str, list[str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, sources in after.items():
        found[name] = set(sources).union(*(found[s] for s in sources))
    return found


@settings(max_examples=40, deadline=None)
@given(dags())
def test_edges_that_are_left_out_are_implied_and_no_other(after: dict[str, list[str]]) -> None:
    fewest = reduced(after)
    assert reach(fewest) == reach(after)
    for name, sources in fewest.items():
        for source in sources:
            fewer = {**fewest, name: [s for s in sources if s != source]}
            assert reach(fewer) != reach(after)


@settings(max_examples=40, deadline=None)
@given(dags())
def test_boxes_do_not_touch_and_what_feeds_lies_above(after: dict[str, list[str]]) -> None:
    plan = layout(after)
    centres = list(plan.centres.values())
    for at, (x, y) in enumerate(centres):
        assert WIDTH / 2 <= x <= plan.width - WIDTH / 2
        assert HEIGHT / 2 <= y <= plan.height - HEIGHT / 2
        for other_x, other_y in centres[at + 1 :]:
            assert abs(x - other_x) >= WIDTH + GAP_X - 1e-6 or abs(y - other_y) > HEIGHT
    for (source, name), points in plan.edges.items():
        assert [points[0], points[-1]] == [plan.centres[source], plan.centres[name]]
        assert [y for _, y in points] == sorted({y for _, y in points})
        for x, y in points[1:-1]:  # a long edge passes beside every box of the rows between
            assert all(abs(x - cx) > WIDTH / 2 for cx, cy in centres if cy == y)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_pipeline_can_be_drawn(name: str) -> None:
    after = {n.name: [o.node for o in n.inputs.values()] for n in find(name).order()}
    plan = layout(after)
    assert set(plan.centres) == set(after)
    assert plan.width < 1000


# -- served ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    run_toy(tmp_path, make_pipeline(DIAMOND), {"b": ToyParams(fail=True)})
    return tmp_path


@pytest.fixture
def client(root: Path) -> Iterator[TestClient]:
    app = create_app(root / "review.db", root / "media")
    add_status(app, Store(str(root / "store")))
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
        yield client
    app.state.db.close()


def log_in(client: TestClient, role: Role) -> None:
    db: Any = client.app.state.db  # type: ignore[attr-defined]
    person = bearer(db, invite(db, f"a {role}", role))
    assert person is not None
    client.cookies.set(COOKIE, open_session(db, person)[0])


def test_only_leads_see_it(client: TestClient) -> None:
    assert client.get("/status", follow_redirects=False).status_code == 303
    assert client.get("/api/status").status_code == 401
    log_in(client, "annotator")
    assert client.get("/status").status_code == 403
    assert "/status" not in client.get("/").text
    log_in(client, "lead")
    assert client.get("/status").status_code == 200
    assert "/status" in client.get("/").text


def test_it_tells_the_run_and_says_when_nothing_changed(client: TestClient, root: Path) -> None:
    log_in(client, "lead")
    told = client.get("/api/status").json()
    assert {s["name"]: s["state"] for s in told["stages"]} == {
        "a": "SUCCEEDED",
        "b": "FAILED",
        "c": "SUCCEEDED",
        "d": "BLOCKED",
    }
    assert {s["name"]: s["after"] for s in told["stages"]} == {**DIAMOND, "d": ["b", "c"]}
    assert told["state"] == "failed"
    page = client.get("/status")
    assert "asked to fail" in page.text
    again = client.get("/status", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    run_toy(root, make_pipeline(DIAMOND))
    time.sleep(1.1)  # a watcher looks once a second
    fresh = client.get("/status", headers={"If-None-Match": page.headers["etag"]})
    assert fresh.status_code == 200
    assert "asked to fail" not in fresh.text
    assert client.get("/status", params={"run": told["run_id"]}).status_code == 200
    assert client.get("/status", params={"run": "nobody"}).status_code == 404


def test_a_page_that_tells_of_text_shows_it_as_text(client: TestClient, root: Path) -> None:
    store = Store(str(root / "store"))
    run = load_run(store)
    run.node("b").message = "<script>alert(1)</script>"
    run.save(store)
    log_in(client, "lead")
    assert "<script>alert" not in client.get("/status").text


def test_progress_of_a_living_run_is_shown_and_a_killed_one_says_so(root: Path) -> None:
    store = Store(str(root / "store"))
    run = load_run(store)
    run.state, run.node("b").state, run.node("b").started = "running", "RUNNING", now()
    run.save(store)
    done = {"done": 30, "total": 40, "unit": "files", "failed": 1, "footage_s": 60.0, "per_second": 3.0, "realtime": 6.0,
            "left_s": 3.3, "at": now()}  # fmt: skip
    store.put_json(progress_path(run.run_id, "b"), done)
    snapshot = Watcher(store).look()
    assert snapshot is not None
    assert (snapshot.state, snapshot.nodes[1].state, snapshot.nodes[1].progress) == ("killed", "KILLED", None)
    beat = {
        "run_id": run.run_id,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "at": time.time(),
    }
    store.put_json(f"live/run-{run.run_id}.json", beat)
    snapshot = Watcher(store).look()
    assert snapshot is not None
    assert (snapshot.state, snapshot.nodes[1].state) == ("running", "RUNNING")
    assert snapshot.nodes[1].progress == done


def test_prometheus_reads_the_newest_run_of_each_pipeline(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
    }
    assert samples["fulcrum_run_state", (("pipeline", "toy"), ("state", "failed"))] == 1
    assert samples["fulcrum_stage_state", (("pipeline", "toy"), ("stage", "b"), ("state", "FAILED"))] == 1
    assert samples["fulcrum_stage_records", (("pipeline", "toy"), ("stage", "a"), ("status", "accepted"))] == 2
    assert samples["fulcrum_stage_rows", (("output", "out"), ("pipeline", "toy"), ("stage", "a"))] == 2
    assert samples["fulcrum_live_runs", ()] == 0
    far = TestClient(client.app, base_url="http://127.0.0.1", client=("10.0.0.7", 5000))
    assert far.get("/metrics").status_code == 403
    monkeypatch.setenv(TOKEN, "a secret")
    assert far.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 403
    assert far.get("/metrics", headers={"Authorization": "Bearer a secret"}).status_code == 200


@pytest.mark.browser
def test_the_page_follows_a_run_by_itself(root: Path) -> None:
    database, store = root / "review.db", Store(str(root / "store"))
    from playwright.sync_api import expect

    db = open_database(database)
    token = invite(db, "lead", "lead")
    db.close()
    with serving(database, lambda app: add_status(app, store)) as base, browsing() as browser:
        page = browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.goto(f"{base}/login#{token}")
        page.wait_for_url(f"{base}/")
        page.goto(f"{base}/status")
        assert page.locator(".pill").first.inner_text() == "failed"
        assert page.locator(".node.failed .name").text_content() == "b"
        page.locator(".node.failed").click()
        assert page.locator("tr:target th").inner_text() == "b"
        run_toy(root, make_pipeline(DIAMOND))
        expect(page.locator(".pill").first).to_have_text("done", timeout=30_000)
        assert page.locator(".node.failed").count() == 0
        assert not problems


def test_the_example_board_asks_only_for_metrics_that_there_are(client: TestClient, root: Path) -> None:
    board = json.loads((Path(__file__).parents[2] / "deploy" / "grafana-board.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"fulcrum_\w+", target["expr"])
    }
    told = {name for line in client.get("/metrics").text.splitlines() for name in re.findall(r"^# TYPE (\w+)", line)}
    assert {name.removesuffix("_total") for name in asked} <= {name.removesuffix("_total") for name in told}

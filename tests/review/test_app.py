"""The page's server: what it shows to whom, and what it never shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from stages.review.access import TRIES, WINDOW_S, LoginLimit
from stages.review.app import create_app, greet, serve
from stages.review.campaigns import Campaign, CampaignSpec, NewItem, close_campaign, create_campaign
from stages.review.database import Database
from stages.review.errors import ReviewError
from stages.review.keymap import keymap
from stages.review.media import MediaStore
from stages.review.people import Role, bearer, invite
from stages.review.schema import event
from tests.review.conftest import spec

Make = Callable[..., Campaign]
HOST = "http://127.0.0.1"


class Browser:
    """A person at the page, without a browser: logs in, keeps the cookie and the page's token, records all it is sent."""

    def __init__(self, app: Any, name: str, role: Role = "annotator") -> None:
        self.client = TestClient(app, base_url=HOST)
        self.seen: list[str] = []
        page = log_in(self.client, invite(app.state.db, name, role))
        assert page.status_code == 200

    def open(self, campaign: str) -> str:
        page = self.get(f"/c/{campaign}")
        found = re.search(r'"csrf": "([^"]+)"', page.text)
        assert found, page.text
        self.client.headers["x-csrf-token"] = found[1]
        return page.text

    def get(self, path: str, **more: Any) -> Any:
        answer = self.client.get(path, **more)
        self.seen.append(answer.text + str(answer.headers))
        return answer

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.client.post(path, json=body or {})
        self.seen.append(answer.text + str(answer.headers))
        return answer

    def claim(self, campaign: str, n: int = 4) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.post(f"/api/campaigns/{campaign}/claim", {"n": n}).json()["items"]
        return items

    def answer(self, item: str, choice: str, **more: Any) -> Any:
        return self.post(f"/api/items/{item}/response", {"key": f"key-{item}", "choice": choice} | more)


def log_in(client: TestClient, token: str, target: str = "/") -> Any:
    csrf = re.search(r'name="csrf" value="([^"]+)"', client.get("/login").text)
    assert csrf
    return client.post("/login", data={"csrf": csrf[1], "token": token, "next": target})


@pytest.fixture
def app(db: Database, tmp_path: Path) -> Iterator[Any]:
    made = create_app(tmp_path / "review.db")
    yield made
    made.state.db.close()


@pytest.fixture
def ada(app: Any) -> Browser:
    return Browser(app, "Ada")


@pytest.fixture
def lea(app: Any) -> Browser:
    return Browser(app, "Lea", "lead")


def test_a_person_logs_in_once_and_then_judges(make: Make, ada: Browser, db: Database) -> None:
    make(3)
    assert "0 of 3 judged" in ada.get("/").text
    ada.open("clips")
    for one in ada.claim("clips"):
        assert ada.answer(one["id"], "accept").json() == {"stored": True}
    progress = ada.get("/api/campaigns/clips/progress").json()
    assert progress == {"items": 3, "done": 3, "remaining": 0, "mine": 3}


def test_without_a_login_pages_ask_for_it_and_nothing_else_answers(make: Make, app: Any) -> None:
    make(1)
    stranger = TestClient(app, base_url=HOST, follow_redirects=False)
    assert stranger.get("/c/clips").headers["location"] == "/login?next=/c/clips"
    assert stranger.post("/api/campaigns/clips/claim", json={}).status_code == 401
    assert stranger.get("/media/" + "0" * 32 + ".webm").status_code == 401


def test_a_change_without_the_pages_token_is_refused(make: Make, ada: Browser) -> None:
    make(1)
    for token in ("", "wrong"):
        ada.client.headers["x-csrf-token"] = token
        assert ada.post("/api/campaigns/clips/claim").status_code == 403


def test_the_login_form_cannot_be_sent_from_another_site(app: Any) -> None:
    client = TestClient(app, base_url=HOST)
    token = invite(app.state.db, "Ada", "annotator")
    assert client.post("/login", data={"token": token, "csrf": "guess"}).status_code == 403


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example"])
def test_the_login_form_sends_nobody_to_another_site(app: Any, target: str) -> None:
    client = TestClient(app, base_url=HOST, follow_redirects=False)
    assert log_in(client, invite(app.state.db, "Ada", "annotator"), target).headers["location"] == "/"


def test_a_token_is_shown_once_and_stored_nowhere(app: Any, db: Database, tmp_path: Path) -> None:
    token = invite(db, "Ada", "annotator")
    client = TestClient(app, base_url=HOST)
    log_in(client, token)
    secrets = [token, *(cookie.value or "" for cookie in client.cookies.jar if cookie.name == "fulcrum_review")]
    db.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("review.db*"))
    assert b"Ada" in stored
    assert not [secret for secret in secrets if secret.encode() in stored]


def test_a_new_invitation_ends_the_old_token_and_its_logins(app: Any, ada: Browser) -> None:
    assert ada.get("/api/me").json()["name"] == "Ada"
    token = invite(app.state.db, "Ada", "lead")
    assert ada.get("/api/me").status_code == 401
    program = TestClient(app, base_url=HOST, headers={"Authorization": f"Bearer {token}"})
    assert program.get("/api/me").json() == {"name": "Ada", "role": "lead", "csrf": ""}


def test_a_program_uses_its_token_and_needs_no_csrf(make: Make, app: Any) -> None:
    make(2)
    token = invite(app.state.db, "Ada", "annotator")
    program = TestClient(app, base_url=HOST, headers={"Authorization": f"Bearer {token}"})
    assert len(program.post("/api/campaigns/clips/claim", json={"n": 2}).json()["items"]) == 2
    program.headers["Authorization"] = "Bearer wrong"
    assert program.get("/api/me").status_code == 401


def test_failed_logins_are_slowed_down_noted_and_no_riddle(app: Any, db: Database) -> None:
    client = TestClient(app, base_url=HOST)
    wrong = log_in(client, "guess")
    assert wrong.status_code == 401
    assert 'role="alert"' in wrong.text
    for _ in range(TRIES - 1):
        assert log_in(client, "guess").status_code == 401
    limited = log_in(client, invite(db, "Ada", "annotator"))  # even with the right token: guessing must not tell
    assert limited.status_code == 429
    assert int(limited.headers["retry-after"]) <= WINDOW_S + 1
    with db.read() as connection:
        kinds = list(connection.execute(sa.select(event.c.kind)).scalars())
    assert kinds.count("login_refused") == TRIES


def test_an_address_may_try_again_after_the_window() -> None:
    limit = LoginLimit()
    for second in range(TRIES):
        limit.failed("somewhere", now=float(second))
    assert limit.wait("somewhere", now=10.0) == WINDOW_S - 10
    assert limit.wait("elsewhere", now=10.0) == 0
    assert limit.wait("somewhere", now=WINDOW_S + 0.5) == 0


def test_logging_out_ends_the_cookie(make: Make, ada: Browser) -> None:
    make(1)
    ada.open("clips")
    cookie = ada.client.cookies["fulcrum_review"]
    ada.post("/logout")
    ada.client.cookies.set("fulcrum_review", cookie)
    assert ada.get("/api/me").status_code == 401


LEADS_ONLY = [
    ("GET", "/api/campaigns/clips/dashboard", None),
    ("GET", "/api/campaigns/clips/disagreements", None),
    ("POST", "/api/campaigns/clips/close", {"partial": True}),
    ("POST", "/api/items/{item}/gold", {"choice": "accept"}),
    ("POST", "/api/items/{item}/gold/withdraw", {}),
    ("GET", "/c/clips/lead", None),
]
ADMINS_ONLY = [
    ("GET", "/api/people", None),
    ("POST", "/api/people", {"name": "Eve", "role": "admin"}),
    ("POST", "/api/people/{person}/deactivate", {}),
    ("GET", "/api/audit", None),
]


@pytest.mark.parametrize(("method", "path", "body"), [*LEADS_ONLY, *ADMINS_ONLY])
def test_an_annotator_cannot_do_a_leads_work_nor_a_lead_an_admins(
    make: Make, ada: Browser, lea: Browser, method: str, path: str, body: Any
) -> None:
    make(1)
    leads = (method, path, body) in LEADS_ONLY
    for who, refused in ((ada, True), (lea, not leads)):
        who.open("clips")
        where = path.replace("{item}", "0" * 32).replace("{person}", "0" * 32)
        answer = who.client.request(method, where, json=body)
        assert (answer.status_code == 403) == refused, (where, answer.text)


def test_every_address_of_the_interface_asks_who_it_is(app: Any) -> None:
    stranger = TestClient(app, base_url=HOST, follow_redirects=False)
    asked = 0
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            answer = stranger.request(method, re.sub(r"{[^}]+}", "0", path), json={})
            assert answer.status_code == 401, (method, path, answer.text)
            asked += 1
    assert asked >= 18


def test_an_admin_invites_and_ends_access_and_the_log_tells(app: Any, ada: Browser) -> None:
    root = Browser(app, "Root", "admin")
    root.client.headers["x-csrf-token"] = root.get("/api/me").json()["csrf"]
    made = root.post("/api/people", {"name": " Ben ", "role": "lead"}).json()
    assert (made["name"], made["role"]) == ("Ben", "lead")
    people = {one["name"]: one for one in root.get("/api/people").json()["people"]}
    assert set(people) == {"Ada", "Ben", "Root"}
    assert root.post(f"/api/people/{people['Ada']['id']}/deactivate").json() == {"active": False}
    assert ada.get("/api/me").status_code == 401
    log = root.get("/api/audit").json()["events"]
    assert [one["kind"] for one in log[:2]] == ["deactivated", "invited"]
    assert {one["actor"] for one in log[:2]} == {"Root"}
    assert made["token"] not in str(log)


def test_no_response_tells_which_side_should_win_or_what_made_a_video(db: Database, ada: Browser) -> None:
    payload = {"winner": "a" * 32 + ".webm", "loser": "b" * 32 + ".webm", "reference": None, "prompt": "a dog runs"}
    secret = {"model": "secret-model-7b", "aesthetic": 5.4321}
    items = [NewItem(f"secret-model-7b/{n}", payload | secret, stratum="secret-rule") for n in range(4)]
    create_campaign(db, spec("pairs", "consis", aggregation="lead"), items)
    page = ada.open("pairs")
    held = ada.claim("pairs")
    assert set(held[0]) == {"id", "videos", "pictures", "text", "fps", "draft"}
    ada.answer(held[0]["id"], "left", rest_same=True)
    ada.post("/api/campaigns/pairs/undo")
    ada.answer(held[0]["id"], "maybe")
    ada.get("/api/campaigns/pairs/progress")
    ada.post("/api/leases/heartbeat", {"items": [one["id"] for one in held]})
    traffic = "\n".join(ada.seen) + page
    for word in ("secret", "winner", "loser", "5.4321", "stratum", "gold", '"AB"', '"BA"', "external"):
        assert word not in traffic, word


def test_both_orders_of_a_pair_are_shown_and_come_back_right(db: Database, ada: Browser) -> None:
    payload = {"winner": "a" * 32 + ".webm", "loser": "b" * 32 + ".webm", "reference": None, "prompt": ""}
    create_campaign(db, spec("pairs", "real_fake"), [NewItem(f"p{n}", payload) for n in range(8)])
    ada.open("pairs")
    lefts = set()
    for one in ada.claim("pairs", 8):
        left_is_winner = one["videos"][0].endswith("a" * 32 + ".webm")
        lefts.add(left_is_winner)
        ada.answer(one["id"], "left" if left_is_winner else "right")
    close_campaign(db, "pairs", "Ada")
    from stages.review.verdicts import export

    assert lefts == {True, False}
    assert {row["verdict"] for row in export(db, "pairs").verdicts.to_pylist()} == {"winner"}


def test_one_person_never_sees_what_another_answered(make: Make, app: Any, ada: Browser) -> None:
    make(1, overlap=2)
    ada.open("clips")
    (one,) = ada.claim("clips")
    ada.answer(one["id"], "reject", reasons=["blur"])
    ben = Browser(app, "Ben")
    ben.open("clips")
    assert ben.claim("clips")[0]["id"] == one["id"]
    assert "Ada" not in "".join(ben.seen[1:])


def test_captions_and_titles_are_escaped(db: Database, ada: Browser) -> None:
    evil = "</script><script>alert(1)</script>"
    create_campaign(
        db,
        CampaignSpec(campaign_id="evil", form="filter", title=evil, guidelines=evil, reasons=(evil,)),
        [NewItem("c", {"media": "0" * 32 + ".webm", "caption": evil})],
    )
    assert "<script>alert" not in ada.get("/").text
    assert "<script>alert" not in ada.open("evil")


def test_media_are_served_in_ranges_and_kept_by_the_browser(
    ada: Browser, media: MediaStore, videos: list[Path]
) -> None:
    data = videos[0].read_bytes()
    url = "/media/" + media.add_bytes(data, ".webm")
    whole = ada.client.get(url)
    assert (whole.content, whole.headers["content-type"]) == (data, "video/webm")
    assert "immutable" in whole.headers["cache-control"]
    part = ada.client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, data[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(data)}"
    assert ada.client.get(url, headers={"Range": f"bytes={len(data)}-"}).status_code == 416
    assert ada.client.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    "name",
    [
        "../review.db", "..%2Freview.db", "%2e%2e/review.db", "....//review.db", "/etc/passwd", "%2Fetc%2Fpasswd", "review.db",
        "a" * 32 + ".db", "A" * 32 + ".webm", "a" * 32 + ".webm%00", "0" * 32 + ".webm", "a" * 31 + "/.webm",
    ],
)  # fmt: skip
def test_nothing_outside_the_media_root_can_be_named(ada: Browser, name: str) -> None:
    assert ada.client.get("/media/" + name).status_code == 404


def test_a_link_out_of_the_media_root_is_not_followed(ada: Browser, media: MediaStore, tmp_path: Path) -> None:
    name = "c" * 32 + ".jpg"
    (media.root / "cc").mkdir(parents=True)
    (tmp_path / "private.jpg").write_bytes(b"private")
    (media.root / "cc" / name).symlink_to(tmp_path / "private.jpg")
    assert ada.client.get("/media/" + name).status_code == 404


def test_every_response_carries_the_security_headers(make: Make, ada: Browser) -> None:
    make(1)
    for path in ("/", "/c/clips", "/login", "/static/review.js", "/media/none", "/nowhere"):
        headers = ada.client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    cookie = next(one for one in ada.client.cookies.jar if one.name == "fulcrum_review")
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "strict"


def test_another_host_name_is_refused_so_that_no_site_can_rebind_its_own_to_this_machine(app: Any) -> None:
    assert TestClient(app, base_url="http://evil.example").get("/login").status_code == 400


def test_the_page_is_served_to_the_network_only_under_a_name_it_knows(tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match="needs --public-url"):
        serve(tmp_path / "review.db", host="0.0.0.0")
    app = create_app(tmp_path / "review.db", public_url="https://review.example.org")
    client = TestClient(app, base_url="https://review.example.org")
    assert log_in(client, invite(app.state.db, "Ada", "annotator")).status_code == 200
    assert all(cookie.secure for cookie in client.cookies.jar)
    app.state.db.close()


def test_whoever_starts_the_server_first_is_its_admin(db: Database, capsys: pytest.CaptureFixture[str]) -> None:
    greet(db, "http://127.0.0.1:8765")
    token = capsys.readouterr().out.strip().rpartition("/login#")[2]
    first = bearer(db, token)
    assert first is not None
    assert first.role == "admin"
    greet(db, "http://127.0.0.1:8765")
    assert "login#" not in capsys.readouterr().out


def test_a_request_of_unknown_length_is_refused(ada: Browser) -> None:
    answer = ada.client.post("/api/leases/heartbeat", content=iter([b"{}"]))
    assert answer.status_code == 411


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/items/nothing/response", {"key": "k" * 8, "choice": "accept"}, 404),
        ("/api/items/nothing/response", {"key": "k" * 8}, 422),
        ("/api/items/nothing/response", {"key": "k" * 8, "choice": "accept", "reviewer": "Eve"}, 422),
        ("/api/campaigns/nothing/claim", {"n": 1}, 422),
        ("/api/campaigns/clips/claim", {"n": 10_000}, 422),
        ("/api/leases/heartbeat", {"items": ["x"] * 1000}, 422),
        ("/api/leases/heartbeat", {"items": ["x" * 70_000]}, 413),
    ],
)
def test_bad_requests_get_a_clear_refusal(make: Make, ada: Browser, path: str, body: Any, status: int) -> None:
    make(1)
    ada.open("clips")
    answer = ada.post(path, body)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_closed_campaign_says_so(make: Make, ada: Browser, db: Database) -> None:
    make(1)
    ada.open("clips")
    (one,) = ada.claim("clips")
    close_campaign(db, "clips", "Ada")
    assert ada.answer(one["id"], "accept").status_code == 409
    assert ada.post("/api/campaigns/clips/claim").status_code == 409


def test_every_key_of_every_form_is_one_unmodified_key_and_means_one_thing_at_a_time() -> None:
    for form in ("filter", "consis", "real_fake"):
        table = keymap(form)
        for phase in ({"decide", "video", "page"}, {"second"}):
            keys = [key.lower() for entry in table if entry["group"] in phase for key in entry["keys"]]
            assert len(keys) == len(set(keys)), (form, phase)
        assert all(len(key) == 1 or key.startswith("Arrow") for entry in table for key in entry["keys"])

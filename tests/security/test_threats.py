"""Attacks of docs/security.md that no room's own tests make."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from models.captioners.endpoint import Endpoint as Captioner
from models.captioners.endpoint import EndpointSpec as CaptionerSpec
from models.captioners.protocols import WriterRefused
from models.metrics.endpoint import Endpoint, EndpointSpec
from models.metrics.tools import Tools
from pipelines.config import ConfigError, load
from pipelines.curate import PIPELINE
from pipelines.simulation.scenario import load_scenario
from stages.curation.listing import list_source
from stages.curation.score_keyframes import DearParams
from stages.curation.tar_source import Refused, members
from stages.review.access import COOKIE
from stages.review.app import create_app
from stages.review.people import find_session, invite
from tests.curation.fake_endpoint import serving
from tests.review.test_app import HOST, Browser, log_in

# -- configuration -----------------------------------------------------------------------------------------------------


def test_reading_a_configuration_runs_nothing(tmp_path: Path) -> None:
    planted = tmp_path / "ran"
    value = f"!!python/object/apply:os.mkdir ['{planted}']"
    file = tmp_path / "c.yaml"
    file.write_text(f"source: {value}\n")
    with pytest.raises(ConfigError):
        load(PIPELINE, file, [], {})
    with pytest.raises(ConfigError):
        load(PIPELINE, None, [f"seed={value}"], {})
    with pytest.raises(ConfigError):
        load_scenario(file)
    assert not planted.exists()


# -- weights -----------------------------------------------------------------------------------------------------------


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_pickled_weights_run_nothing(tmp_path: Path) -> None:
    import torch

    from models.scorers.clip_tower import EncoderError, _state
    from models.video.transnet import WeightsError, load_transnet

    weights, planted = tmp_path / "w.pth", tmp_path / "ran"
    torch.save({"weight": _Touch(planted)}, weights)
    with pytest.raises(WeightsError):
        load_transnet(weights)
    with pytest.raises(EncoderError):
        _state(weights)
    assert not planted.exists()
    torch.load(weights, weights_only=False)
    assert planted.exists()  # it would have


def test_a_network_that_is_a_program_must_be_pinned_and_is_not_opened_otherwise(tmp_path: Path) -> None:
    import torch

    from models.scorers.dear.base import DearSpec
    from models.scorers.dear.network import Network
    from models.scorers.errors import ScorerError

    file, planted = tmp_path / "net.pt2", tmp_path / "ran"
    torch.save(_Touch(planted), file)
    with pytest.raises(ValidationError, match=r"opening .*net\.pt2 runs what is in it.*pin it with sha256"):
        DearParams(name="q", kind="network", model=str(file))
    pinned = DearParams(name="q", kind="network", model=str(file), sha256=hashlib.sha256(b"another").hexdigest())
    with pytest.raises(ScorerError, match="was asked for"):
        Network(pinned.spec(), "cpu", 1)
    assert not planted.exists()
    assert DearSpec("q", "classifier", "folder").sha256 is None  # safetensors need no pin: they hold no code


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_name_that_would_command_a_terminal_is_refused_and_written_out(tmp_path: Path) -> None:
    name = "a\x1b]0;owned\x07.mp4"
    source = tmp_path / "s"
    source.mkdir()
    for one in (name, "b.mp4"):
        (source / one).write_bytes(b"x")
    found = list_source(str(source))
    assert found.files.column("path").to_pylist() == ["b.mp4"]
    assert found.problems.column("path").to_pylist() == [r"a\x1b]0;owned\x07.mp4"]
    tar = tmp_path / "t.tar"
    with tarfile.open(tar, "w") as out:
        out.addfile(tarfile.TarInfo(name), io.BytesIO())
    [refused] = members(str(tar))
    assert isinstance(refused, Refused)
    assert refused.name == r"a\x1b]0;owned\x07.mp4"


# -- the network -------------------------------------------------------------------------------------------------------


def test_no_endpoint_sends_us_or_our_key_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "secret")
    video = np.zeros((4, 8, 8, 3), np.uint8)
    with serving(lambda n, body: 500) as other, serving(lambda n, body: (307, {"Location": f"{other.url}/x"})) as first:
        judge = Endpoint(EndpointSpec("judge", first.url, ("a",), token="secret"))
        with pytest.raises(ValueError, match="gave no scores: status 307"):
            judge.score("a", video, "", [], Tools(fps=8.0))
        captioner = Captioner(CaptionerSpec(first.url, "m", key_env="KEY"))
        with pytest.raises(WriterRefused, match="status 307"):
            captioner.ask("describe")
        assert len(first.requests) == 2
        assert not other.requests


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1"])
def test_an_endpoint_is_asked_by_http_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ValueError, match="gave no scores"):
        Endpoint(EndpointSpec("judge", url, ("a",))).score(
            "a", np.zeros((2, 8, 8, 3), np.uint8), "", [], Tools(fps=8.0)
        )


def test_a_local_ray_has_no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from pipelines.dag.engine import RayEngine

    told: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda address, **settings: told.update(settings, address=address))
    RayEngine(num_cpus=1)._start()
    assert (told["address"], told["include_dashboard"]) == ("local", False)


# -- reviewers ---------------------------------------------------------------------------------------------------------


def test_a_cookie_from_before_the_login_is_not_taken_over(tmp_path: Path) -> None:
    """Session fixation: whoever plants a cookie in a browser does not have the session of who then logs in."""
    app = create_app(tmp_path / "review.db")
    client = TestClient(app, base_url=HOST)
    client.cookies.set(COOKIE, "planted")
    assert log_in(client, invite(app.state.db, "Ada")).status_code == 200
    assert find_session(app.state.db, "planted") is None
    given = {cookie.value for cookie in client.cookies.jar if cookie.name == COOKIE} - {"planted"}
    assert [find_session(app.state.db, str(value)) is not None for value in given] == [True]
    app.state.db.close()


def test_an_answer_is_its_senders_whatever_it_says(tmp_path: Path) -> None:
    """One reviewer posing as another: who answers is the login's, and a body that names somebody is refused."""
    app = create_app(tmp_path / "review.db")
    ada = Browser(app, "Ada")
    invite(app.state.db, "Bob")
    for field in ("person", "person_id", "name", "reviewer"):
        body = {"key": "12345678", "choice": "accept", field: "Bob"}
        ada.client.headers["x-csrf-token"] = ada.get("/api/me").json()["csrf"]
        assert ada.post("/api/items/x/response", body).status_code == 422
    assert ada.get("/api/me", headers={"x-remote-user": "Bob", "x-forwarded-user": "Bob"}).json()["name"] == "Ada"
    app.state.db.close()

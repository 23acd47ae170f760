"""The doctor sees what is wrong, says what to do, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer import Exit

from pipelines.cli.doctor_command import doctor
from pipelines.config import Config, Settings
from pipelines.dag.store import Store
from pipelines.doctor import examine, machine, services, software
from pipelines.doctor.finding import Finding


def config(tmp_path: Path, **values: Any) -> Config:
    return Config(Settings.model_validate({"store": str(tmp_path / "store"), **values}), {})


def one(found: list[Finding], subject: str) -> Finding:
    return next(f for f in found if f.subject == subject)


def test_a_machine_that_runs_these_tests_is_well_and_nothing_is_left_behind(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    before = store.files("")
    found = list(examine(config(tmp_path)))
    assert {f.subject for f in found if f.level == "bad"} <= {"disk", "shared memory"}
    assert "libx264, libvpx-vp9, aac, libopus: encoded and decoded" in one(found, "encoders").what
    assert "written in" in one(found, "store").what
    assert store.files("") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]
    assert all(f.remedy for f in found if f.level != "good")


def test_every_finding_names_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = config(tmp_path, source="s3://[", engine={"address": "127.0.0.1:1"}, tracking={"uri": "http://127.0.0.1:1"})
    (tmp_path / "store").write_text("a file")
    found = [*services.store(bad), *services.ray(bad), *services.mlflow(bad)]
    assert [f.level for f in found] == ["bad", "bad", "warning"]
    assert all(f.remedy for f in found)

    small = SimpleNamespace(total=64e6, used=0, free=64e6)
    monkeypatch.setattr("shutil.disk_usage", lambda path: small)
    [shm] = machine.shared_memory(str(tmp_path))
    assert (shm.level, "--shm-size" in shm.remedy) == ("bad", True)
    assert [f.level for f in machine.disk(config(tmp_path / "other"))] == ["bad"]


def test_an_encoder_that_is_not_there_is_named_with_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(software.ENCODERS, "libnothing", "a use of it")
    [found] = software.encoders()
    assert found.level == "bad"
    assert "libnothing does not work: a use of it" in found.what


def test_requirements_that_are_not_met_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["pyarrow>=9999", "no-such-package>=1", "numpy>=1", "other; sys_platform == 'nowhere'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    [found] = software.versions()
    assert found.level == "bad"
    assert "wanted >=9999" in found.what
    assert "no-such-package is missing" in found.what
    assert "other" not in found.what


def test_a_clock_that_is_apart_from_the_stores_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(str(tmp_path / "store"))
    real = services.time.time
    monkeypatch.setattr(services.time, "time", lambda: real() + 100)
    found = {f.subject: f for f in services.store(config(tmp_path))}
    assert found["clock"].level == "bad"
    assert "NTP" in found["clock"].remedy


@pytest.mark.parametrize(("layout", "level"), [(1, "warning"), (3, "good"), (99, "bad")])
def test_a_review_database_of_another_layout_is_told_and_not_touched(tmp_path: Path, layout: int, level: str) -> None:
    path = tmp_path / "store.local" / "review.db"
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        database.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(layout),))
    before = path.read_bytes()
    [found] = services.review_database(config(tmp_path))
    assert found.level == level
    assert path.read_bytes() == before


def test_the_command_ends_with_one_where_something_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(Exit) as ended:
        doctor(store=str(tmp_path / "store"), json_=True)
    assert ended.value.exit_code == 1
    told = json.loads(capsys.readouterr().out)
    assert [f["subject"] for f in told if f["level"] == "bad" and f["subject"] != "disk"] == ["store"]
    with pytest.raises(Exit):
        doctor(store=str(tmp_path / "store"))
    assert "Check the path" in capsys.readouterr().out
    assert os.path.isfile(tmp_path / "store")

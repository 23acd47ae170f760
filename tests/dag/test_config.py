"""A configuration is checked whole, and every complaint names key, file and the nearest right spelling."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.catalog import find
from pipelines.config import ConfigError, hide, load
from pipelines.dag.graph import Pipeline
from tests.dag.toy import ToyParams, make_pipeline

PIPELINE: Pipeline = make_pipeline({"first": [], "second": ["first"]})


def problems(tmp_path: Path, text: str, *assignments: str) -> str:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(PIPELINE, file, assignments, {})
    return str(caught.value)


def test_file_then_set_then_options(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("seed: 3\nstages:\n  first: {add: 1}\n  second: {add: 2}\n")
    config = load(PIPELINE, file, ["first.add=5", "review.port=9000"], {"store": str(tmp_path / "s"), "limit": None})
    assert config.params == {"first": ToyParams(add=5), "second": ToyParams(add=2)}
    assert (config.settings.seed, config.settings.review.port, config.settings.limit) == (3, 9000, None)


def test_all_problems_at_once_with_key_file_and_spelling(tmp_path: Path) -> None:
    said = problems(
        tmp_path, "sed: 1\nlimit: many\nstages:\n  frist: {}\n  second: {ad: 1, divide: x}\n", "firts.add=1", "nonsense"
    )
    for part in (
        "c.yaml: sed: unknown key; did you mean seed?",
        "limit:",
        "stages.frist",
        "did you mean first?",
        "stages.second.ad: unknown key; did you mean add?",
        "stages.second.divide",
        "--set firts.add=1",
        "write key=value",
    ):
        assert part in said, part


def test_older_version_missing_file_and_broken_yaml(tmp_path: Path) -> None:
    assert "older format" in problems(tmp_path, "version: 0\n")
    assert "line 2" in problems(tmp_path, "seed: 1\n  limit: [\n")
    assert "must hold a mapping" in problems(tmp_path, "- a\n")
    with pytest.raises(ConfigError, match="no such file"):
        load(PIPELINE, tmp_path / "none.yaml", [], {})


def test_missing_source_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(ConfigError, match="did you mean videos"):
        load(PIPELINE, None, [], {"source": str(tmp_path / "vidoes")})


def test_secrets_are_neither_shown_nor_in_the_world_of_a_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    file = tmp_path / "c.yaml"
    file.write_text(
        "review: {database: 'postgresql://me:${DB_PASSWORD}@host/db'}\ntracking: {uri: 'https://u:tr0ub4dor@mlflow.example'}\n"
    )
    config = load(PIPELINE, file, [], {})
    shown = str(config.shown())
    assert "hunter2" not in shown
    assert "tr0ub4dor" not in shown
    assert "hunter2" in config.review_database
    assert hide("postgresql://me:pw@host/db") == "postgresql://me:***@host/db"
    monkeypatch.delenv("DB_PASSWORD")
    with pytest.raises(ConfigError, match="no variable DB_PASSWORD"):
        load(PIPELINE, file, [], {})


@pytest.mark.parametrize("name", ["curate", "libragen", "demo"])
def test_what_is_shown_can_be_saved_and_used(tmp_path: Path, name: str) -> None:
    pipeline = find(name)
    shown = load(pipeline, None, ["seed=4"], {}).shown()
    file = tmp_path / "saved.yaml"
    file.write_text(yaml.safe_dump(shown))
    again = load(pipeline, file, [], {})
    assert again.shown() == shown
    assert again.params == load(pipeline, None, ["seed=4"], {}).params


def test_a_rule_is_changed_removed_and_added_by_name() -> None:
    pipeline = find("curate")
    settings = [
        "select.rules.motionless.min=0.5",
        "select.rules.too_dark=null",
        "select.rules.wide={column: width, min: 640}",
    ]
    config = load(pipeline, None, settings, {})
    rules = {r.name: r for r in config.params["select"].rules}  # type: ignore[attr-defined]
    assert rules["motionless"].min == 0.5
    assert "too_dark" not in rules
    assert rules["wide"].min == 640
    assert config.params["preselect"].rules == config.params["select"].rules  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="did you mean motionless"):
        load(pipeline, None, ["select.rules.motionles.min=0.5"], {})
    with pytest.raises(ConfigError, match=r"follows select\.rules"):
        load(pipeline, None, ["preselect.rules.motionless.min=0.5"], {})

"""Our package names are generic, so the command makes sure that they are ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from data_schemas.tables import TABLES
from fulcrum.guard import NAMES
from pipelines.dag.artifacts import open_table
from pipelines.dag.store import Store

ROOT = Path(__file__).resolve().parent.parent.parent
FULCRUM = [str(Path(sys.executable).parent / "fulcrum")]
MODULE = [sys.executable, "-m", "fulcrum"]


def call(command: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('hostile models')\n")
    (tmp_path / "stages.py").write_text("raise RuntimeError('hostile stages')\n")
    return tmp_path


def test_the_command_works_from_a_folder_with_hostile_names(hostile: Path) -> None:
    done = call([*FULCRUM, "graph", "curate"], hostile)
    assert done.returncode == 0, done.stderr
    assert "ingest" in done.stdout


@pytest.mark.parametrize("command", [FULCRUM, MODULE])
def test_a_hostile_import_path_is_refused_with_both_paths(hostile: Path, command: list[str]) -> None:
    done = call([*command, "graph", "curate"], hostile, PYTHONPATH=str(hostile))
    assert done.returncode == 2
    assert str(hostile / "stages.py") in done.stderr or str(hostile / "models" / "__init__.py") in done.stderr
    assert str(ROOT) in done.stderr
    assert "Traceback" not in done.stderr


def test_no_other_installed_distribution_provides_our_names() -> None:
    ours = {*NAMES, "fulcrum"}
    for distribution in distributions():
        if (distribution.metadata["Name"] or "").lower() == "fulcrum":
            continue
        tops = {str(f).split("/")[0].removesuffix(".py") for f in distribution.files or []}
        assert not tops & ours, distribution.metadata["Name"]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plan", "libragen", "--store", "none"], ["graph", "demo"], ["config", "show", "curate"]]
)
def test_light_commands_import_neither_torch_nor_ray(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys\nsys.argv = ['fulcrum', *sys.argv[1:]]\nfrom pipelines.cli.app import run_app\nassert run_app() == 0\n"
        "heavy = {'torch', 'ray', 'mlflow', 'cv2', 'diffusers'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    source = tmp_path / "videos"
    source.mkdir()
    (source / "a.mp4").write_bytes(b"x")
    extra = ["--source", str(source)] if arguments[0] == "plan" else []
    done = call([sys.executable, "-c", code, *arguments, *extra], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_released_table_version_never_changes(name: str) -> None:
    """A golden file per table and version: change a schema by raising its version and adding a file."""
    schema = TABLES[name]
    golden = ROOT / "tests" / "golden" / "schemas" / f"{name}-{schema.version}.json"
    assert golden.exists(), f"write {golden.name} with: python -m tests.golden.write_schemas"
    assert json.loads(golden.read_text(encoding="utf-8")) == schema.describe()


@pytest.mark.parametrize(
    "golden", sorted((ROOT / "tests" / "golden" / "schemas").glob("*.parquet")), ids=lambda p: p.stem
)
def test_a_table_that_an_earlier_release_wrote_can_still_be_read(golden: Path, tmp_path: Path) -> None:
    schema = TABLES[golden.stem.rsplit("-", 1)[0]]
    store = Store(str(tmp_path / "store"))
    (tmp_path / "store" / "table").mkdir()
    shutil.copy(golden, tmp_path / "store" / "table")
    table = open_table(store, "table", schema).to_table()
    assert schema.validate(table).schema.equals(schema.arrow)

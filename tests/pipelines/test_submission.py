"""What is sent to a cluster, what is refused before, and what the store says of it afterwards. No Ray is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fulcrum import guard
from fulcrum.shipping import build_wheel, shipped_files, wheel_version
from pipelines.config import ConfigError, load
from pipelines.curate import PIPELINE
from pipelines.dag.runs import NodeRecord, RunRecord
from pipelines.dag.store import Store
from pipelines.launch import INSIDE_RAY_JOB, submission_of
from pipelines.submission import Request, answer, as_file, check_portable, read_request, write_request
from stages.contract import StageError
from tests.pipelines.command import fulcrum

ROOT = Path(__file__).resolve().parent.parent.parent


# -- the wheel ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The wheel put where pip would put it (it is pure, so unpacking is installing), and its version."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(folder)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site", wheel_version(wheel)


def test_equal_code_gives_an_equal_wheel_and_a_changed_byte_another_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (build_wheel(tmp_path / name) for name in ("one", "two"))
    assert (one.name, one.read_bytes()) == (two.name, two.read_bytes())
    copy = tmp_path / "copy"
    for path in shipped_files(ROOT):
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert build_wheel(tmp_path, copy).name == one.name
    (copy / "models" / "__init__.py").write_text("# changed\n")
    assert build_wheel(tmp_path, copy).name != one.name


def test_the_wheel_asks_pip_for_nothing_and_lists_its_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(tmp_path)) as archive:
        names = archive.namelist()
        [metadata] = [archive.read(n).decode() for n in names if n.endswith("/METADATA")]
        [record] = [archive.read(n).decode() for n in names if n.endswith("/RECORD")]
    assert "Requires-Dist" not in metadata
    assert [line.split(",")[0] for line in record.splitlines()] == names
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"fulcrum", *guard.NAMES}
    assert not any("__pycache__" in name or name.startswith("tests") for name in names)


def run_python(code: str, paths: list[Path], **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), **more}
    return subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=False
    )


HOOK = "from fulcrum.guard import check_worker; check_worker(); print('fine')"


def test_a_worker_that_has_the_wheel_passes_the_guard(installed: tuple[Path, str]) -> None:
    site, version = installed
    done = run_python(HOOK, [site], **{guard.SHIPPED: version})
    assert done.stdout == "fine\n", done.stderr


def test_a_worker_stops_whose_code_is_not_that_of_the_wheel(installed: tuple[Path, str]) -> None:
    site, version = installed
    other = run_python(HOOK, [ROOT, site], **{guard.SHIPPED: version})  # a checkout that comes first
    assert other.returncode != 0
    assert f"fulcrum-{version}" in other.stderr
    assert str(ROOT) in other.stderr
    assert "PYTHONPATH" in other.stderr
    older = run_python(HOOK, [site], **{guard.SHIPPED: "0.1.0+0000000000000000"})
    assert f"fulcrum-{version})" in older.stderr


def test_a_worker_stops_where_one_of_our_names_is_somebody_elses(installed: tuple[Path, str], tmp_path: Path) -> None:
    site, version = installed
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    done = run_python(HOOK, [tmp_path, site], **{guard.SHIPPED: version})
    assert "the package 'models' resolves to" in done.stderr


# -- the request -------------------------------------------------------------------------------------------------------


def request_of(config: dict[str, object]) -> Request:
    return Request("fulcrum-1", "curate", config, "fulcrum 0", "fulcrum submit curate")


def test_a_request_comes_back_from_the_store_as_the_same_configuration(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    tree = {
        "store": str(tmp_path / "store"),
        "limit": 3,
        "stages": {"select": {"rules": {"motionless": {"min": 0.02}}}},
    }
    write_request(store, request_of(tree))
    with as_file(read_request(store, "fulcrum-1")) as path:
        again = load(PIPELINE, path, [], {})
    assert again == load(PIPELINE, None, ["select.rules.motionless.min=0.02"], {"store": tree["store"], "limit": 3})


def test_a_cluster_that_sees_another_store_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="another place than the one that `fulcrum submit` wrote to"):
        read_request(Store(str(tmp_path / "store")), "fulcrum-1")
    nothing = fulcrum("run", "curate", "--store", tmp_path / "none", "--request", "fulcrum-1")
    assert nothing.code == 1
    assert "mounted under the same path on every machine" in nothing.err
    assert not (tmp_path / "none").exists()


def test_what_means_nothing_on_another_machine_is_refused_before_it_is_sent() -> None:
    tree = {"source": "films", "review": {"database": "postgresql://me:hush@db/review"}}
    with pytest.raises(ConfigError) as found:
        check_portable(tree, "store")
    text = str(found.value)
    assert "store: store is a path relative to this folder" in text
    assert "source: films is a path relative" in text
    assert "review.database: holds a password" in text
    assert "hush" not in text
    check_portable(
        {"source": "s3://b/films", "review": {"database": "postgresql://me:${SECRET}@db/review"}}, "/data/store"
    )


def test_no_job_server_at_the_address_is_a_message_and_nothing_is_submitted(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for address, said in (
        ("http://127.0.0.1:9", "no job server of Ray answers"),
        ("ray://head:10001", "give the head's job server"),
    ):
        done = fulcrum("submit", "curate", "--address", address, "--store", store, "--source", "s3://bucket/films")
        assert done.code == 1
        assert said in done.err
        assert "Traceback" not in done.err
    assert not store.exists()


# -- the answer --------------------------------------------------------------------------------------------------------


def run_record(state: str, nodes: list[str], submission: str = "fulcrum-1") -> RunRecord:
    records = [NodeRecord(f"n{i}", state=s) for i, s in enumerate(nodes)]
    return RunRecord("curate", f"r-{state}", "now", state, records, "host", 1, "code", submission=submission)


@pytest.mark.parametrize(
    ("state", "nodes", "driver", "code"),
    [
        ("done", ["SUCCEEDED", "CACHED"], 0, 0),
        ("waiting", ["SUCCEEDED", "WAITING_HUMAN"], 0, 75),
        ("failed", ["FAILED", "BLOCKED"], 1, 1),
        ("interrupted", ["FAILED"], None, 130),
        ("running", ["RUNNING"], 137, 137),  # killed: its record says running, but its heart does not beat
        ("running", ["RUNNING"], None, 1),
    ],
)
def test_the_code_is_the_runs_own_whatever_ray_says(
    tmp_path: Path, state: str, nodes: list[str], driver: int | None, code: int
) -> None:
    store = Store(str(tmp_path / "store"))
    run_record(state, nodes).save(store)
    replace(run_record("done", ["SUCCEEDED"], "fulcrum-2"), run_id="z").save(store)  # a later run of somebody else
    found = answer(store, "fulcrum-1", driver)
    assert found.code == code
    assert found.state == ("killed" if state == "running" else state)


def test_a_job_that_began_no_run_answers_with_its_processs_code(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    assert answer(store, "fulcrum-1", 2).code == 2
    assert answer(store, "fulcrum-1", 0).code == 1  # that Ray saw it succeed proves nothing
    assert answer(store, "fulcrum-1", None).run is None


def test_a_run_knows_the_job_that_it_is() -> None:
    assert submission_of({INSIDE_RAY_JOB: '{"metadata": {"job_submission_id": "fulcrum-1"}}'}) == "fulcrum-1"
    for text in ("", "{}", "null", '{"metadata": null}'):
        assert submission_of({INSIDE_RAY_JOB: text}) is None

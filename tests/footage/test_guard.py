"""The guard: what a child process does to itself, its parent survives and names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.video.guard import CrashedError, Guard, Limits, OutOfMemoryError, TimedOutError

HOOKS = "tests.footage.hooks"


@pytest.fixture(scope="module")
def guard():
    with Guard(Limits(limit_s=60, stall_s=30, memory_bytes=1 << 30)) as made:
        yield made


def test_results_come_back_from_one_persistent_child(guard: Guard) -> None:
    assert guard.call(f"{HOOKS}:echo", {"value": {"a": (1, None)}}) == {"a": (1, None)}
    first = guard.call(f"{HOOKS}:pid", {})
    assert guard.call(f"{HOOKS}:pid", {}) == first != os.getpid()


def test_an_exception_of_the_work_arrives_as_itself_and_keeps_the_child(guard: Guard) -> None:
    before = guard.call(f"{HOOKS}:pid", {})
    with pytest.raises(ValueError, match="the reason"):
        guard.call(f"{HOOKS}:fail", {})
    assert guard.call(f"{HOOKS}:pid", {}) == before


@pytest.mark.parametrize(
    ("work", "limits", "error", "says"),
    [
        ("hang", Limits(limit_s=60, stall_s=0.5), TimedOutError, "no sign of life for 0.5 s"),
        ("go_on_for_ever", Limits(limit_s=0.6, stall_s=30), TimedOutError, "not done after 0.6 s"),
        ("crash", Limits(), CrashedError, "SIGABRT"),
        ("segfault", Limits(), CrashedError, "SIGSEGV"),
        ("leave", Limits(), CrashedError, "code 3"),
        ("balloon", Limits(memory_bytes=300 << 20), OutOfMemoryError, "0.293 GiB of memory"),
        ("one_giant", Limits(), OutOfMemoryError, "of memory allowed"),
    ],
)
def test_what_hangs_crashes_or_balloons_is_stopped_and_the_next_call_works(
    guard: Guard, work: str, limits: Limits, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        guard.call(f"{HOOKS}:{work}", {}, limits)
    assert guard.call(f"{HOOKS}:echo", {"value": 7}) == 7


def test_what_the_child_imports_is_not_charged_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text(
        "import time\ntime.sleep(1.2)\ndef work(on_progress):\n    return 'done'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Guard(Limits(limit_s=60, stall_s=0.5)) as fresh:
        assert fresh.call("slow_to_import:work", {}) == "done"


def test_the_child_is_told_no_secrets_and_dumps_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("REVIEW_PASSWORD", "hunter2")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    with Guard() as fresh:
        seen = fresh.call(f"{HOOKS}:environment", {})
        assert fresh.call(f"{HOOKS}:core_limit", {}) == (0, 0)
    assert "hunter2" not in seen.values()
    assert (seen["LC_ALL"], seen["OMP_NUM_THREADS"]) == ("C.UTF-8", "1")
    assert "PATH" in seen


def test_a_child_that_died_between_calls_is_replaced(guard: Guard) -> None:
    os.kill(guard.call(f"{HOOKS}:pid", {}), signal.SIGKILL)
    time.sleep(0.1)
    assert guard.call(f"{HOOKS}:echo", {"value": 1}) == 1


def test_the_child_imports_no_torch_and_no_ray(guard: Guard) -> None:
    loaded = {name.split(".")[0] for name in guard.call(f"{HOOKS}:modules", {})}
    assert {"av", "cv2", "scenedetect"} <= loaded
    assert not loaded & {"torch", "ray", "mlflow", "pydantic", "transformers", "decord"}


def test_the_child_takes_no_modules_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path)
    with Guard() as fresh:
        assert fresh.call(f"{HOOKS}:echo", {"value": 2}) == 2


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks processes up in /proc")
def test_the_child_dies_with_its_parent() -> None:
    program = (
        "import sys, time; sys.path[:0] = sys.argv[1:]\n"
        "from models.video.guard import Guard\n"
        f"g = Guard(); print(g.call('{HOOKS}:pid', {{}}), flush=True); time.sleep(600)"
    )
    paths = [os.path.abspath(p) for p in sys.path if p]
    parent = subprocess.Popen([sys.executable, "-c", program, *paths], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False

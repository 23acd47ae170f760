"""The Ray engine fits its actor pool to the machine, passes errors through, and its workers import our packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.dag.engine import InlineEngine
from pipelines.dag.nodes import Worker

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = """
import sys, os
from pipelines.dag.engine import RayEngine
from pipelines.dag.nodes import Worker
from stages.contract import StageError

class Square:
    def __init__(self, add):
        self.add = add
    def __call__(self, batch):
        if "explode" in batch:
            raise StageError("the actor says no")
        import models
        return [x * x + self.add for x in batch], models.__file__, os.getpid()

if __name__ == "__main__":
    cpus, root = int(sys.argv[1]), sys.argv[2]
    engine = RayEngine(num_cpus=cpus)
    found = list(engine.map(Square, [[1, 2], [3], [4, 5], [6]], {"add": 1}, Worker(), engine.pool_size(4, Worker(), None)))
    assert sorted(x for values, _, _ in found for x in values) == [2, 5, 10, 17, 26, 37]
    assert all(path == root + "/models/__init__.py" for _, path, _ in found), found
    assert os.getpid() not in {pid for _, _, pid in found}
    try:
        list(engine.map(Square, [["explode"]], {"add": 1}, Worker(), 1))
    except StageError as error:
        assert "the actor says no" in str(error)
    else:
        raise AssertionError("the error was swallowed")
    try:
        engine.pool_size(1, Worker(64.0), None)
    except StageError as error:
        assert "Lower the stage's resources" in str(error)
    print("fine")
"""


@pytest.mark.ray
def test_a_pool_on_one_cpu_does_not_wait_for_itself_even_beside_hostile_names(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('hostile')\n")
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(CODE)
    done = subprocess.run(
        [sys.executable, str(script), "1", str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fine" in done.stdout


def test_the_inline_engine_closes_its_actor() -> None:
    closed = []

    class Actor:
        def __call__(self, batch: int) -> int:
            return batch + 1

        def close(self) -> None:
            closed.append(True)

    assert list(InlineEngine().map(Actor, [1, 2], {}, Worker(), 1)) == [2, 3]
    assert closed

"""What is kept of a counted run: the command that made it, without this machine's paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measured import ROOT, as_typed


def test_a_command_is_kept_as_it_is_typed_in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = [str(ROOT / "benchmarks" / "fuzz.py"), "--files", "2000", "--no-write"]
    assert as_typed(words, None) == "python benchmarks/fuzz.py --files 2000 --no-write"
    assert as_typed(words, "benchmarks.fuzz") == "python -m benchmarks.fuzz --files 2000 --no-write"
    assert as_typed(["x", "--page", "docs/shots.md"], "m") == "python -m m --page docs/shots.md"


@pytest.mark.parametrize("typed", [["--peer-data", "PATH"], ["--peer-data=PATH"]])
def test_what_lies_elsewhere_is_named_by_its_option(typed: list[str], tmp_path: Path) -> None:
    words = ["x", *(word.replace("PATH", str(tmp_path)) for word in typed), "--rows", "3"]
    assert as_typed(words, "m") == "python -m m --peer-data PEER_DATA --rows 3"

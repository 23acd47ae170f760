"""Every scorer's columns are work of their own: a changed one is computed again, alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.scorers.catalog import scorer_class
from stages.curation.analyze import DEFAULT_SCORERS
from tests.footage.media import pan, write
from tests.footage.test_analyze_stage import Calls, calls, run

__all__ = ["calls"]


def test_changed_scorers_recompute_their_own_columns_and_no_others(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write(folder / "pan.mp4", pan(1, 1, 40, seed=4))
    first = run(tmp_path, folder, scorers=DEFAULT_SCORERS)
    assert calls.take()[1] == [("pan.mp4", DEFAULT_SCORERS, False)]
    for changed in (("noise",), ("colourfulness", "static")):
        for name in changed:
            monkeypatch.setattr(scorer_class(name), "version", "changed")
        again = run(tmp_path, folder, scorers=DEFAULT_SCORERS)
        assert calls.take() == ([], [("pan.mp4", changed, True)])
        assert again.outputs["shots"].equals(first.outputs["shots"])
    columns = {c.name for name in DEFAULT_SCORERS for c in scorer_class(name).columns}
    assert columns <= set(first.outputs["shots"].column_names)

"""The reproduction: a frozen plan, rules that decide claims, results that make a page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.reproduction import page, plan, results, run
from benchmarks.reproduction.cells import BY_NAME, CELLS, QUESTIONS, ordered
from benchmarks.reproduction.hypotheses import AGREEMENTS, HYPOTHESES, Hypothesis, judge, judge_agreement, values
from models.training.adapter import FILE_NAME
from tinyworld import difficulty as d

MARKS = ("identity", "identity_first", "background", "motion", "travel", "cleanness")


def marks(seed: int, **shift: float) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    return {name: (rng.random(QUESTIONS) + shift.get(name, 0.0)).tolist() for name in MARKS}


def test_every_cell_is_a_whole_pipeline_and_every_claim_is_about_systems_that_cells_examine() -> None:
    for cell in CELLS:
        assert cell.pipeline.problems() == []
    names = {name for cell in CELLS for systems in cell.exams.values() for name in systems}
    assert {name for h in HYPOTHESES for name in h.systems} <= names
    assert {a.cell for a in AGREEMENTS} <= {cell.name for cell in CELLS if cell.switched}
    assert len(names) == sum(len(systems) for cell in CELLS for systems in cell.exams.values())


def test_the_committed_plan_is_what_the_code_does_so_that_finished_cells_count() -> None:
    committed = plan.committed()
    assert committed is not None
    assert committed == plan.make_plan()
    for file in (plan.FOLDER / "cells").glob("*.json"):
        cell = json.loads(file.read_text())
        assert cell["plan"] == committed["digest"], file
        assert file.stat().st_size < 100_000, file
        assert file.name == f"{cell['cell']}-{cell['seed']}.json"


def test_the_page_is_what_the_committed_cells_give(tmp_path: Path) -> None:
    committed = plan.committed()
    assert committed is not None
    copy = tmp_path / "reproduction"
    (copy / "cells").mkdir(parents=True)
    looked_into = plan.FOLDER / "looked_into.md"
    if looked_into.exists():
        (copy / "looked_into.md").write_bytes(looked_into.read_bytes())
    for file in (plan.FOLDER / "cells").glob("*.json"):
        (copy / "cells" / file.name).write_bytes(file.read_bytes())
    assert page.write(committed["digest"], copy).read_text() == plan.FOLDER.with_suffix(".md").read_text()


def test_a_change_of_a_setting_is_another_plan() -> None:
    made = plan.make_plan()
    changed = json.loads(json.dumps(made))
    key = next(key for key in made["cells"]["p20"] if key.startswith("switching "))
    changed["nodes"][key]["params"]["video_probability"] = 0.3
    assert plan.digest_of(changed) != made["digest"] == plan.digest_of(made)


def test_a_default_that_a_pipeline_leaves_alone_is_in_the_plan() -> None:
    made = plan.make_plan()
    trainings = [node for key, node in made["nodes"].items() if key.startswith("switching ")]
    assert all("weight_decay" in node["params"] for node in trainings)


def test_a_claim_holds_where_interval_and_every_seed_say_so() -> None:
    claim = Hypothesis("row", "one above other", "paper", ((1.0, "one", "identity"), (-1.0, "other", "identity")))
    clear = {seed: {"one": marks(seed, identity=0.5), "other": marks(seed + 9)} for seed in range(3)}
    assert judge(claim, clear).verdict == "holds"
    turned = {seed: {"one": s["other"], "other": s["one"]} for seed, s in clear.items()}
    assert judge(claim, turned).verdict == "does not hold"
    none = {seed: {"one": marks(seed), "other": marks(seed + 9)} for seed in range(3)}
    assert judge(claim, none).verdict == "cannot be told"
    # One seed of three that says the opposite: the mean alone does not decide.
    mixed = {**clear, 2: {"one": marks(2, identity=-0.1), "other": marks(11, identity=0.1)}}
    found = judge(claim, mixed)
    assert found.interval is not None
    assert (found.interval.low or 0.0) > 0
    assert found.verdict == "cannot be told"
    assert judge(claim, {0: {"one": marks(0)}}).verdict == "not run"


def test_the_difference_is_the_mean_over_questions_and_seeds() -> None:
    claim = Hypothesis("row", "", "", ((1.0, "m", "identity"), (-0.5, "a", "identity"), (-0.5, "b", "identity")))
    table = {
        seed: {
            name: {mark: [level + seed] * QUESTIONS for mark in MARKS}
            for name, level in (("m", 3.0), ("a", 1.0), ("b", 2.0))
        }
        for seed in (0, 1)
    }
    found = judge(claim, table)
    assert found.interval is not None
    assert found.interval.value == pytest.approx(1.5)
    assert found.seeds == {0: pytest.approx(1.5), 1: pytest.approx(1.5)}


def test_ways_count_only_where_a_way_is_asked_for() -> None:
    told = values({"travel": [1.0] * QUESTIONS}, "moves")
    asked = [d.MOTIONS[i % len(d.MOTIONS)] for i in range(QUESTIONS)]
    assert [v is not None for v in told] == [motion in ("left", "right", "up", "down") for motion in asked]


def test_gradients_agree_by_the_mean_of_the_settled_steps() -> None:
    near_zero, high = AGREEMENTS
    early = [[step, 0.9 if step < 100 else 0.02] for step in range(0, 300, 20)]
    assert judge_agreement(near_zero, {0: early, 1: early}).verdict == "holds"
    assert judge_agreement(high, {0: early}).verdict == "does not hold"
    assert judge_agreement(high, {}).verdict == "not run"


def fake_run(folder: Path, cell_name: str) -> list[dict[str, Any]]:
    """Stages as the last event of a run tells them."""
    cell = BY_NAME[cell_name]
    stages: list[dict[str, Any]] = []
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / FILE_NAME).write_bytes(b"weights")
    (adapter / "adapter.json").write_text("{}")
    rows = [
        {"step": s, "gradient/cosine": 0.1, "gradient/image_norm": 1.0, "gradient/video_norm": 2.0} for s in (0, 120)
    ]
    (adapter / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"step": 121, "loss": 1.0}]))
    stages.append({"name": "switching", "state": "SUCCEEDED", "seconds": 61.0, "outputs": {"adapter": str(adapter)}})
    (folder / "subset").mkdir()
    pq.write_table(pa.table({"clip_id": ["a", "b", "c"]}), folder / "subset" / "part.parquet")
    stages.append({"name": "export", "state": "CACHED", "seconds": 0.1, "outputs": {"subset": str(folder / "subset")}})
    for exam in cell.exams:
        (folder / exam).mkdir()
        answers = [dict.fromkeys(MARKS, 0.123456) for _ in range(QUESTIONS)]
        (folder / exam / "marks.json").write_text(json.dumps({cell_name: answers}))
        stages.append({"name": exam, "state": "SUCCEEDED", "seconds": 9.0, "outputs": {exam: str(folder / exam)}})
    return stages


def test_a_finished_cell_is_small_and_counts_for_its_plan_alone(tmp_path: Path) -> None:
    stages = fake_run(tmp_path, "p20")
    file = results.write(BY_NAME["p20"], 1, "digest", stages, 75.0, "fulcrum 1", tmp_path / "out")
    assert file.stat().st_size < 100_000
    [found] = results.load("digest", tmp_path / "out")
    assert found["systems"]["p20"]["identity"] == [0.1235] * QUESTIONS
    assert found["gradients"] == [[0, 0.1, 1.0, 2.0], [120, 0.1, 1.0, 2.0]]
    assert found["stage_s"] == {"switching": 61.0, "exam": 9.0}
    assert found["clips"] == 3
    assert results.load("another", tmp_path / "out") == []
    text = page.write("digest", tmp_path / "out").read_text()
    assert "1 of 30 cells" in text
    assert f"| p20 | {QUESTIONS} | 0.12" in text


def test_missing_cells_run_in_order_until_the_minutes_are_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def finish(cell: Any, seed: int, digest: str, code: str, work: Path) -> Path:
        asked.append(f"{cell.name}-{seed}")
        if asked[-1] == "p0-0":
            raise run.CellFailed("p0-0 ended with 1")
        file = tmp_path / f"{asked[-1]}.json"
        file.write_text(json.dumps({"wall_s": 1.0}))
        return file

    monkeypatch.setattr(run, "run_cell", finish)
    monkeypatch.setattr(run, "render_world", lambda *a, **k: None)
    monkeypatch.setattr(results, "load", lambda digest: [{"cell": "p20", "seed": 0}])
    assert run.run("digest", tmp_path, run.CELL_MINUTES - 1, jobs=1) == 0
    assert asked == []  # none fits
    assert run.run("digest", tmp_path, 10_000, jobs=1) == len(ordered()) - 2
    assert asked == [f"{cell.name}-{seed}" for cell, seed in ordered() if (cell.name, seed) != ("p20", 0)]


def test_a_cell_that_fails_says_which_stage_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {
        "name": "switching",
        "state": "FAILED",
        "seconds": 0.1,
        "outputs": {},
        "message": "needs 8 videos, has 3.",
    }
    waits = {"name": "exam", "state": "BLOCKED", "seconds": 0.0, "outputs": {}, "message": "waits for switching"}
    said = "\n".join(
        json.dumps(event) for event in ({"event": "run_started"}, {"event": "run_ended", "stages": [failed, waits]})
    )
    for out, err, why in (
        (said, "", "switching: needs 8 videos, has 3."),
        ("", "no such pipeline", "no such pipeline"),
    ):
        done = subprocess.CompletedProcess([], 1, out, err)
        monkeypatch.setattr(run.subprocess, "run", lambda *a, done=done, **k: done)
        with pytest.raises(run.CellFailed) as told:
            run.run_cell(BY_NAME["p20"], 0, "digest", "fulcrum 1", tmp_path)
        assert str(told.value) == why


def test_another_plan_than_the_committed_one_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from benchmarks.reproduction import plan; plan.PLAN = plan.FOLDER / 'no-plan.json';"
        "from benchmarks.reproduction.__main__ import main; sys.argv = ['x']; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--freeze" in done.stderr
    assert "Traceback" not in done.stderr

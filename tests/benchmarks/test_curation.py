"""The comparison's own instruments: its films, its account of CPU time, its arithmetic. The systems run in the script."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import measured
from benchmarks.curation import decode_way, footage, parts_way, script_way, table
from benchmarks.curation.account import CommandFailed, Cost, account
from benchmarks.curation.footage import Film
from benchmarks.curation.run import Finished, marginal, ratios
from benchmarks.curation.systems import SYSTEMS, Result, Tools

BURN = "import time\nt = time.process_time()\nwhile time.process_time() - t < 0.6: pass\n"


def test_marginal_cost_is_the_slope_and_fixed_cost_its_intercept() -> None:
    rate, fixed = marginal(small=4 + 0.5 * 60, large=4 + 0.5 * 240, small_s=60, large_s=240)
    assert (rate, fixed) == pytest.approx((0.5, 4.0))


def test_ratios_are_of_marginal_costs() -> None:
    cost = {"decode": 0.1, "script": 2.0, "fulcrum_fp32": 0.25}
    found = ratios({name: {"cpu_s_per_s": value} for name, value in cost.items()})
    assert found == pytest.approx({"script / decode": 20.0, "fulcrum_fp32 / decode": 2.5, "script / fulcrum_fp32": 8.0})


def test_what_is_finished_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def system(films: Sequence[Film], work: Path, tools: Tools) -> Result:
        ran.append(len(films))
        return Result(Cost(1.5, 2.0, 0.25), {"cut": 1.0}, {"clips": 3.0})

    monkeypatch.setitem(SYSTEMS, "script", system)
    tools = Tools(tmp_path, tmp_path, None, None)
    films = [Film(f"{n}.mp4", "360p", 20.0, 600, 4, "") for n in range(2)]
    found = [Finished(tmp_path, tools, tmp_path / "rows.jsonl").run("script", films, 0) for _ in range(2)]
    Finished(tmp_path, tools, tmp_path / "rows.jsonl").run("script", films, 1)
    Finished(tmp_path, tools, tmp_path / "rows.jsonl").run("script", films[:1], 0)
    assert ran == [2, 2, 1]
    assert found[0] == found[1] == Result(Cost(1.5, 2.0, 0.25), {"cut": 1.0}, {"clips": 3.0})


def test_the_account_counts_processes_that_outlive_their_parent() -> None:
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BURN!r}], start_new_session=True)"
    cost, _ = account([sys.executable, "-c", orphan])
    assert cost.cpu_s >= 0.6


def test_the_account_counts_what_its_parent_never_waits_for() -> None:
    careless = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {BURN!r}])\n"
        "time.sleep(2.5)\n"
    )
    cost, _ = account([sys.executable, "-c", careless])
    assert cost.cpu_s >= 0.5


def test_a_failed_command_is_an_error_with_what_it_said() -> None:
    with pytest.raises(CommandFailed, match="no such step"):
        account([sys.executable, "-c", "raise SystemExit('no such step')"])


def test_films_are_whole_cut_together_and_kept(
    footage_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = footage.make(footage_folder, tmp_path / "films", minutes=0.3, sizes=["360p"])
    assert [f.seconds for f in films] == [20]
    decode_way.main([films[0].path])
    assert capsys.readouterr().out == f"frames {films[0].frames}\n"
    parts_way.encode(str(tmp_path / "clip.mp4"), "40", films[0].path)
    assert capsys.readouterr().out == f"frames {films[0].frames}\n"
    before = Path(films[0].path).stat().st_mtime_ns
    assert footage.make(footage_folder, tmp_path / "films", minutes=0.3, sizes=["360p"]) == films
    assert Path(films[0].path).stat().st_mtime_ns == before
    script_way.scenes([{"path": f.path, "caption": "", "seconds": f.seconds} for f in films], tmp_path)
    scenes = json.loads((tmp_path / "scenes.json").read_text(encoding="utf-8"))
    assert films[0].shots - 1 <= len(scenes) <= films[0].shots + 1


@pytest.fixture
def footage_folder(footage: Path, tmp_path: Path) -> Path:
    """Three files of the real footage with their rows of the manifest: enough to cut from, quick to read."""
    rows = json.loads((footage / "manifest.json").read_text(encoding="utf-8"))
    wanted = [
        r for r in rows if r["file"] in ("mdn-shared-assets/flower.mp4", "sam2/03_blocks.mp4", "moviepy/chaplin.mp4")
    ]
    folder = tmp_path / "few"
    for row in wanted:
        target = folder / row["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(footage / row["file"])
    (folder / "manifest.json").write_text(json.dumps(wanted), encoding="utf-8")
    return folder


def test_the_page_tells_what_was_counted() -> None:
    found = json.loads((measured.FOLDER / "curation.json").read_text(encoding="utf-8"))
    assert table.tables(found) in table.PAGE.read_text(encoding="utf-8")
    rate = {name: row["cpu_s_per_s"] for name, row in found["systems"].items()}
    assert f"{rate['script'] / rate['fulcrum_fp32']:.1f} " in table.against(found)


def test_the_parts_are_summed_and_set_beside_the_whole() -> None:
    cost = {"analyze": 0.1, "tower_fp32": 0.05, "encode": 0.25, "fulcrum_every_clip_fp32": 0.5, "script": 2.0}
    told = table.floor({"systems": {name: {"cpu_s_per_s": value} for name, value in cost.items()}})
    assert "0.100 + 0.050 + 0.250 = **0.400** CPU s, 80% of" in told
    assert told.endswith("the scripts 5.0 times.")

"""The stage ``analyze``: work is kept by content and by scorer, and every file ends in the tables and in the ledger."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

import models.video.analyze as video_analyze
from data_schemas.ids import clip_id, video_id
from data_schemas.tables import SOURCES
from models.scorers.motion import Motion
from models.video.guard import Guard
from stages.contract import StageError
from stages.curation import analyze_worker
from stages.curation.analyze import AnalyzeParams, ShotSettings, analyze
from tests.context import LocalContext
from tests.footage.media import pan, still, texture, write

FEW = ("motion", "exposure")


class Calls:
    """What the workers hashed and decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hashed: list[str] = []
        self.decoded: list[tuple[str, tuple[str, ...], bool]] = []  # file, scorers, whether shots were given
        real_call, real_sha = Guard.call, video_analyze.file_sha256

        def call(guard: Guard, call: str, arguments: dict[str, Any], limits: Any = None) -> Any:
            names = tuple(spec.rpartition(":")[2] for spec in arguments["scorers"])
            self.decoded.append((Path(arguments["path"]).name, names, arguments["shots"] is not None))
            return real_call(guard, call, arguments, limits)

        def sha(path: str | Path, *rest: Any) -> str:
            self.hashed.append(Path(path).name)
            return real_sha(path, *rest)

        monkeypatch.setattr(Guard, "call", call)
        monkeypatch.setattr(video_analyze, "file_sha256", sha)

    def take(self) -> tuple[list[str], list[tuple[str, tuple[str, ...], bool]]]:
        taken = sorted(self.hashed), sorted(self.decoded)
        self.hashed, self.decoded = [], []
        return taken


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    write(folder / "two_shots.mp4", np.concatenate([pan(2, 0, 30, seed=1), still(9, 30)]))
    write(folder / "pan.mp4", pan(1, 1, 30, seed=4))
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(200))
    cv2.imwrite(str(folder / "photo.png"), texture(60, 80, 2))
    return folder


def sources(folder: Path) -> pa.Table:
    rows = []
    for path in sorted(folder.iterdir()):
        stat = path.stat()
        rows.append(
            {
                "video_id": video_id("test", path.name),
                "uri": str(path),
                "path": path.name,
                "media_type": "image" if path.suffix == ".png" else "video",
                "bytes": stat.st_size,
                "mtime_ns": stat.st_mtime_ns,
            }
        )
    return SOURCES.table(rows)


def run(tmp_path: Path, folder: Path, *, retry_failed: bool = False, table: pa.Table | None = None, **params: Any):
    context = LocalContext(
        tmp_path, analyze, {"sources": table if table is not None else sources(folder)}, retry_failed=retry_failed
    )
    context.run(AnalyzeParams(**{"scorers": FEW, **params}))
    return context


def by_path(context: LocalContext) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in context.outputs["videos"].to_pylist()}


def test_every_file_ends_in_the_tables_and_in_the_ledger(tmp_path: Path, source: Path, calls: Calls) -> None:
    context = run(tmp_path, source)
    videos = by_path(context)
    assert {p: v["status"] for p, v in videos.items()} == {
        "two_shots.mp4": "ok", "pan.mp4": "ok", "photo.png": "ok", "broken.mp4": "failed",
    }  # fmt: skip
    assert videos["broken.mp4"]["error_message"].startswith("broken.mp4: the MP4 index (moov box) is missing")
    assert videos["broken.mp4"]["duration_s"] is None
    assert (videos["photo.png"]["media_type"], videos["photo.png"]["width"]) == ("image", 80)
    assert videos["pan.mp4"]["frames"] == 30

    shots = context.outputs["shots"].to_pylist()
    two = [s for s in shots if s["video_id"] == videos["two_shots.mp4"]["video_id"]]
    assert [(s["start_frame"], s["end_frame"], s["boundary_in"], s["boundary_out"]) for s in two] == [
        (0, 30, "start", "cut"), (30, 60, "cut", "end"),
    ]  # fmt: skip
    assert two[0]["clip_id"] == clip_id(two[0]["video_id"], 0, 30)
    assert two[0]["motion"] > 0.1 > 0.001 > two[1]["motion"]
    assert len(shots) == 3
    field = context.outputs["shots"].schema.field("motion")
    assert field.metadata[b"unit"] == b"frame diagonals/s"

    frames = context.outputs["keyframes"].to_pylist()
    assert {f["clip_id"] for f in frames} == {s["clip_id"] for s in shots}
    assert len(frames) == 9

    ledger = {row["record_id"]: row for row in context.ledger_rows}
    assert len(ledger) == 4
    assert {ledger[v["video_id"]]["status"] for v in videos.values() if v["status"] == "ok"} == {"accepted"}
    failed = ledger[videos["broken.mp4"]["video_id"]]
    assert (failed["status"], failed["error_type"], failed["attempts"]) == ("failed", "UndecodableError", 1)
    assert len(calls.take()[1]) == 4


def test_a_damaged_file_is_read_and_says_how_damaged_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    whole = write(folder / "whole.mp4", pan(2, 0, 30, seed=1)).read_bytes()
    start, end = len(whole) // 2, len(whole) * 9 // 10  # the index, which is last, stays
    (folder / "torn.mp4").write_bytes(whole[:start] + bytes(end - start) + whole[end:])
    videos = by_path(run(tmp_path, folder))
    assert (videos["whole.mp4"]["decode_errors"], videos["whole.mp4"]["time_faults"]) == (0, 0)
    assert videos["torn.mp4"]["status"] == "ok"
    torn = videos["torn.mp4"]
    assert torn["decode_errors"] > 0 < torn["frames"] < 30
    assert torn["decode_errors"] + torn["frames"] == 30


def test_running_again_reads_nothing_and_a_new_file_costs_that_file(tmp_path: Path, source: Path, calls: Calls) -> None:
    first = run(tmp_path, source)
    calls.take()
    again = run(tmp_path, source)
    assert calls.take() == ([], [])
    for name in ("videos", "shots", "keyframes"):
        assert again.outputs[name].equals(first.outputs[name])
    write(source / "third.mp4", pan(3, 0, 20, seed=8))
    assert run(tmp_path, source).outputs["videos"].num_rows == 5
    assert calls.take() == (["third.mp4"], [("third.mp4", FEW, False)])


def test_a_changed_scorer_recomputes_its_columns_alone_over_the_recorded_shots(
    tmp_path: Path, source: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path, source)
    calls.take()
    monkeypatch.setattr(Motion, "version", f"{Motion.version}+1")
    second = run(tmp_path, source)
    hashed, decoded = calls.take()
    assert hashed == []
    assert decoded == [(name, ("motion",), True) for name in ("pan.mp4", "two_shots.mp4")]
    assert second.outputs["shots"].equals(first.outputs["shots"])


def test_a_further_scorer_of_a_users_own_runs_alone(tmp_path: Path, source: Path, calls: Calls) -> None:
    run(tmp_path, source)
    calls.take()
    context = run(tmp_path, source, scorers=(*FEW, "tests.footage.user_scorers:Redness"))
    assert {names for _, names, _ in calls.take()[1]} == {("Redness",)}
    assert all(0 < row["redness"] < 1 for row in context.outputs["shots"].to_pylist())


def test_other_shot_settings_redo_everything(tmp_path: Path, source: Path, calls: Calls) -> None:
    run(tmp_path, source)
    calls.take()
    context = run(tmp_path, source, shots=ShotSettings(min_change=250.0))
    assert len(calls.take()[1]) == 4
    assert context.outputs["shots"].num_rows == 2


def test_a_renamed_file_and_a_copy_are_hashed_and_not_decoded(tmp_path: Path, source: Path, calls: Calls) -> None:
    run(tmp_path, source)
    calls.take()
    shutil.copy(source / "two_shots.mp4", source / "copy.mp4")
    (source / "pan.mp4").rename(source / "renamed.mp4")
    context = run(tmp_path, source)
    assert calls.take() == (["copy.mp4", "renamed.mp4"], [])
    shots = context.outputs["shots"].to_pylist()
    assert len(shots) == len({s["clip_id"] for s in shots}) == 5
    assert context.outputs["keyframes"].num_rows == 15


def test_a_rewritten_file_is_noticed(tmp_path: Path, source: Path, calls: Calls) -> None:
    run(tmp_path, source)
    calls.take()
    write(source / "pan.mp4", pan(5, 0, 40, seed=6))
    context = run(tmp_path, source)
    assert calls.take()[1] == [("pan.mp4", FEW, False)]
    assert by_path(context)["pan.mp4"]["frames"] == 40


def test_copies_within_one_run_are_decoded_once(tmp_path: Path, source: Path, calls: Calls) -> None:
    for name in ("copy1.mp4", "copy2.mp4"):
        shutil.copy(source / "pan.mp4", source / name)
    shutil.copy(source / "broken.mp4", source / "broken2.mp4")
    context = run(tmp_path, source)
    assert sum(name in ("pan.mp4", "copy1.mp4", "copy2.mp4") for name, _, _ in calls.take()[1]) == 1
    assert by_path(context)["broken2.mp4"]["error_message"].startswith("broken2.mp4: the MP4 index")
    assert context.events[-1][1]["failed"] == 2


def test_a_failed_file_is_tried_again_only_when_asked(tmp_path: Path, source: Path, calls: Calls) -> None:
    run(tmp_path, source)
    run(tmp_path, source)
    assert sum(name == "broken.mp4" for name, _, _ in calls.take()[1]) == 1
    context = run(tmp_path, source, retry_failed=True)
    assert calls.take()[1] == [("broken.mp4", FEW, False)]
    failed = next(row for row in context.ledger_rows if row["status"] == "failed")
    assert failed["attempts"] == 2


def test_a_success_after_a_failure_stands(
    tmp_path: Path, source: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a limit too small for any file, then a sane one: the content is the same, so only a retry brings it back
    assert {v["status"] for v in by_path(run(tmp_path, source, max_megapixels=1e-6)).values()} == {"failed"}
    assert {v["status"] for v in by_path(run(tmp_path, source)).values()} == {"failed"}
    context = run(tmp_path, source, retry_failed=True)
    assert by_path(context)["pan.mp4"]["status"] == "ok"
    assert by_path(run(tmp_path, source))["pan.mp4"]["error_message"] is None


def test_a_scorer_that_fails_leaves_nulls_and_a_line_in_the_ledger(tmp_path: Path, source: Path, calls: Calls) -> None:
    broken = (*FEW, "tests.footage.user_scorers:Broken")
    context = run(tmp_path, source, scorers=broken)
    assert by_path(context)["pan.mp4"]["status"] == "ok"
    rows = context.outputs["shots"].to_pylist()
    assert all(row["broken"] is None and row["motion"] is not None for row in rows)
    failed = [row for row in context.ledger_rows if row["stage"] == "analyze: broken"]
    assert {row["error_message"] for row in failed} == {"it never worked"}
    assert {row["error_type"] for row in failed} == {"RuntimeError"}
    assert len(failed) == 2  # the two videos; an image has no shots to score
    calls.take()
    run(tmp_path, source, scorers=broken)
    assert calls.take() == ([], [])


@pytest.mark.parametrize(
    ("scorer", "error_type", "says"),
    [
        ("HangsOnOne", "TimedOutError", "no sign of life for 1 s"),
        ("CrashesOnOne", "CrashedError", "SIGSEGV"),
        ("BalloonsOnOne", "OutOfMemoryError", "0.4 GiB of memory allowed"),
    ],
)
def test_what_hangs_crashes_or_balloons_is_quarantined_and_its_neighbours_are_unharmed(
    tmp_path: Path, scorer: str, error_type: str, says: str
) -> None:
    # a decoder that misbehaves on one file is stood in for by a scorer that does: it runs in the same guarded process
    folder = tmp_path / "source"
    folder.mkdir()
    for name, width in (("a.mp4", 160), ("bad.mp4", 320), ("z.mp4", 160)):
        write(folder / name, pan(1, 1, 10, 90, width, seed=width + len(name)))
    settings = {"scorers": (f"tests.footage.user_scorers:{scorer}",), "memory_gib": 0.4}
    settings["stall_seconds"] = 1.0 if scorer == "HangsOnOne" else 30.0
    for tried in (1, 2):
        context = run(tmp_path, folder, retry_failed=tried > 1, **settings)
        videos = by_path(context)
        assert [videos[n]["status"] for n in ("a.mp4", "bad.mp4", "z.mp4")] == ["ok", "failed", "ok"]
        assert {s["video_id"] for s in context.outputs["shots"].to_pylist() if s["redness"] is not None} == {
            videos["a.mp4"]["video_id"],
            videos["z.mp4"]["video_id"],
        }
        (failed,) = [row for row in context.ledger_rows if row["status"] == "failed"]
        assert (failed["record_id"], failed["error_type"]) == (videos["bad.mp4"]["video_id"], error_type)
        assert says in failed["error_message"]
        assert failed["attempts"] == tried


def test_an_error_that_nobody_foresaw_costs_one_file_but_not_every_file(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Guard.call

    def odd(guard: Guard, call: str, arguments: dict[str, Any], limits: Any = None) -> Any:
        if arguments["path"].endswith(hit):
            return real(guard, "tests.footage.hooks:fail", {}, limits)
        return real(guard, call, arguments, limits)

    monkeypatch.setattr(Guard, "call", odd)
    hit: str | tuple[str, ...] = "pan.mp4"
    video = by_path(run(tmp_path, source))["pan.mp4"]
    assert video["error_type"] == "ValueError"
    assert "ended unexpectedly: the reason (at hooks.py:" in video["error_message"]
    for n in range(6):
        write(source / f"more{n}.mp4", pan(1, 0, 3, seed=20 + n))
    hit = ".mp4"  # now it meets everything: a defect of ours, and no reason to fail a million files
    with pytest.raises(ValueError, match="the reason"):
        run(tmp_path, source)


def test_a_file_that_changes_while_it_is_read_is_read_again_later(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Guard.call

    def growing(guard: Guard, call: str, arguments: dict[str, Any], limits: Any = None) -> Any:
        result = real(guard, call, arguments, limits)
        if arguments["path"].endswith("pan.mp4"):
            with open(arguments["path"], "ab") as file:
                file.write(b"more")
        return result

    monkeypatch.setattr(Guard, "call", growing)
    video = by_path(run(tmp_path, source))["pan.mp4"]
    assert (video["status"], video["error_type"]) == ("failed", "OSError")
    assert "it changed while it was being read" in video["error_message"]
    monkeypatch.setattr(Guard, "call", real)
    assert by_path(run(tmp_path, source))["pan.mp4"]["status"] == "ok"


def test_a_file_that_is_replaced_while_it_is_read_leaves_nothing_under_the_name_of_what_it_was(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, other = Guard.call, tmp_path / "other.mp4"
    write(other, still(200, 45))

    def replacing(guard: Guard, call: str, arguments: dict[str, Any], limits: Any = None) -> Any:
        result = real(guard, call, arguments, limits)
        if arguments["path"].endswith("pan.mp4") and other.exists():
            other.replace(arguments["path"])
        return result

    monkeypatch.setattr(Guard, "call", replacing)
    video = by_path(run(tmp_path, source))["pan.mp4"]
    assert (video["status"], video["sha256"]) == ("failed", None)
    assert "changed while it was being read" in video["error_message"]
    video = by_path(run(tmp_path, source))["pan.mp4"]
    assert (video["status"], video["frames"]) == ("ok", 45)


def test_a_known_file_that_is_replaced_after_it_was_listed_gives_no_scores_to_what_it_was(
    tmp_path: Path, source: Path
) -> None:
    run(tmp_path, source)
    listed, kept = sources(source), tmp_path / "kept.mp4"
    shutil.move(source / "pan.mp4", kept)
    write(source / "pan.mp4", still(250, 30))
    changed = run(tmp_path, source, table=listed, scorers=(*FEW, "sharpness"))
    video = by_path(changed)["pan.mp4"]
    assert (video["status"], "changed since it was listed" in video["error_message"]) == ("failed", True)
    assert by_path(changed)["two_shots.mp4"]["status"] == "ok"
    shutil.copy(kept, source / "again.mp4")
    (tmp_path / "fresh").mkdir()
    found, fresh = (run(place, source, scorers=(*FEW, "sharpness")) for place in (tmp_path, tmp_path / "fresh"))
    for context in (found, fresh):
        assert by_path(context)["again.mp4"]["status"] == "ok"
    columns = ["clip_id", "exposure_mean", "sharpness"]
    columns = [name for name in columns if name in found.outputs["shots"].column_names]
    rows = [context.outputs["shots"].select(columns).sort_by("clip_id") for context in (found, fresh)]
    assert rows[0].equals(rows[1])


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read_fails_and_is_read_when_it_may(tmp_path: Path, source: Path) -> None:
    (source / "pan.mp4").chmod(0)
    assert by_path(run(tmp_path, source))["pan.mp4"]["error_type"] == "PermissionError"
    (source / "pan.mp4").chmod(0o644)
    assert by_path(run(tmp_path, source))["pan.mp4"]["status"] == "ok"


def test_a_file_that_vanished_after_listing_fails_with_a_reason(tmp_path: Path, source: Path) -> None:
    table = sources(source)
    (source / "pan.mp4").unlink()
    video = by_path(run(tmp_path, source, table=table))["pan.mp4"]
    assert (video["status"], video["error_type"]) == ("failed", "FileNotFoundError")
    assert "cannot be read" in video["error_message"]


def test_lost_storage_stops_the_run_and_keeps_what_was_done(tmp_path: Path, source: Path, calls: Calls) -> None:
    run(tmp_path, source)
    write(source / "late.mp4", pan(1, 0, 10))
    table = sources(source)
    source.rename(tmp_path / "away")
    with pytest.raises(StageError, match=r"the folder .*source is gone .* Is the storage mounted"):
        run(tmp_path, source, table=table)
    (tmp_path / "away").rename(source)
    calls.take()
    run(tmp_path, source, table=table)
    assert [name for name, _, _ in calls.take()[1]] == ["late.mp4"]


def test_a_full_disk_stops_the_run_and_keeps_what_the_batch_had_finished(
    tmp_path: Path, source: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Guard.call

    def full(guard: Guard, call: str, arguments: dict[str, Any], limits: Any = None) -> Any:
        if arguments["path"].endswith("photo.png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return counting(guard, call, arguments, limits)

    monkeypatch.setattr(Guard, "call", full)
    with pytest.raises(StageError, match=r"while analysing .*photo.png: the disk is full.*run again"):
        run(tmp_path, source)
    assert [name for name, _, _ in calls.take()[1]] == ["broken.mp4", "pan.mp4"]
    monkeypatch.setattr(Guard, "call", counting)
    run(tmp_path, source)
    assert [name for name, _, _ in calls.take()[1]] == ["photo.png", "two_shots.mp4"]


def test_storage_without_change_marks_is_read_anew_in_every_run_but_not_decoded(
    tmp_path: Path, source: Path, calls: Calls
) -> None:
    table = sources(source)
    table = table.set_column(5, SOURCES.fields[5].arrow(), pa.nulls(table.num_rows, pa.int64()))
    run(tmp_path, source, table=table)
    calls.take()
    run(tmp_path, source, table=table)
    assert calls.take()[1] == []


def test_files_named_by_uri_are_fetched_and_the_copies_deleted(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spool))
    table = sources(source)
    uris = pa.array([f"file://{uri}" for uri in table.column("uri").to_pylist()])
    table = table.set_column(1, SOURCES.fields[1].arrow(), uris)
    videos = by_path(run(tmp_path, source, table=table))
    assert videos["pan.mp4"]["status"] == "ok"
    assert list(spool.iterdir()) == []


def test_what_travels_to_workers_pickles(tmp_path: Path, source: Path) -> None:
    known = analyze_worker.Known.of(["ab" * 32, "cd" * 32])
    assert "ab" * 32 in pickle.loads(pickle.dumps(known))
    assert "ef" * 32 not in known
    item = analyze_worker.Item("v", "u", "video", "i", None, ("facts",))
    assert pickle.loads(pickle.dumps(item)) == item

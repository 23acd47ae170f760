"""Curation of real files, as a data engineer meets it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from pipelines.dag.records import RecordStore
from pipelines.dag.store import Store
from tests.pipelines.command import INLINE, SCRIPTED, Done, fulcrum, outputs

GOOD = [
    "mdn-learning-area/frog.mp4",
    "mdn-learning-area/rabbit320.mp4",
    "mdn-learning-area/rabbit320.webm",
    "made/composite_hardcuts_48_96_144_192.mp4",
    "moviepy/fire2.mp4",
]
IMAGE = "vace/test.jpg"
BROKEN = ["made/zero_byte.mp4", "mp4parse/short-cenc.mp4", "small/Mpeg4.mp4"]
LATER = "moviepy/chaplin.mp4"


@pytest.fixture(scope="module")
def place(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source of a few real files, and a first run of curate on it."""
    root = tmp_path_factory.mktemp("curate")
    source = root / "videos"
    source.mkdir()
    for name in (*GOOD, IMAGE, *BROKEN):
        shutil.copy(footage / name, source / name.replace("/", "_"))
    (source / "mdn-learning-area_frog.txt").write_text("a frog sits on a leaf\n")
    (source / "notes.md").write_text("neither video nor image\n")
    return root


def run(place: Path, *more: str) -> Done:
    return fulcrum(
        "run", "curate", "--source", place / "videos", "--store", place / "store", "--json", *INLINE, *SCRIPTED, *more
    )


@pytest.fixture(scope="module")
def first(place: Path) -> Done:
    done = run(place)
    assert done.code == 0, done.out[-2000:] + done.err[-2000:]
    return done


def decoded(place: Path) -> int:
    """How many files' contents have been decoded on this store, ever."""
    return RecordStore(Store(str(place / "store"), create=False), "analyze", tidy=False).committed("facts")


def test_every_file_ends_somewhere_and_failures_say_why(place: Path, first: Done) -> None:
    found = outputs(place / "store")
    videos = pads.dataset(found["videos"]).to_table().to_pylist()
    assert {v["path"] for v in videos} == {n.replace("/", "_") for n in (*GOOD, IMAGE, *BROKEN)}
    failed = {v["path"]: v for v in videos if v["status"] == "failed"}
    assert set(failed) == {n.replace("/", "_") for n in BROKEN}
    assert all(v["error_type"] and len(v["error_message"]) > 10 for v in failed.values())
    ledger = pads.dataset(found["ledger"]).to_table().to_pylist()
    analyzed = {r["record_id"]: r["status"] for r in ledger if r["stage"] == "analyze"}
    assert analyzed == {v["video_id"]: "failed" if v["status"] == "failed" else "accepted" for v in videos}
    clips = pads.dataset(found["clips"]).to_table().to_pylist()
    ended = {r["record_id"] for r in ledger if r["stage"] == "select"}
    assert ended == {c["clip_id"] for c in clips}


def test_known_cuts_known_copies_and_captions(place: Path, first: Done) -> None:
    found = outputs(place / "store")
    videos = {v["path"]: v["video_id"] for v in pads.dataset(found["videos"]).to_table().to_pylist()}
    clips = pads.dataset(found["clips"]).to_table().to_pylist()
    composite = videos["made_composite_hardcuts_48_96_144_192.mp4"]
    assert sorted(c["start_frame"] for c in clips if c["video_id"] == composite) == [0, 48, 96, 144, 192]
    captions = {r["clip_id"]: r["caption"] for r in pads.dataset(found["captions"]).to_table().to_pylist()}
    frog = [c["clip_id"] for c in clips if c["video_id"] == videos["mdn-learning-area_frog.mp4"]]
    assert {captions[c] for c in frog} == {"a frog sits on a leaf"}
    kept = {r["clip_id"]: r["kept_id"] for r in pads.dataset(found["dedupe"]).to_table().to_pylist()}
    rabbits = [
        c["clip_id"]
        for c in clips
        if c["video_id"] in (videos["mdn-learning-area_rabbit320.mp4"], videos["mdn-learning-area_rabbit320.webm"])
    ]
    assert len({kept[c] for c in rabbits if c in kept}) == 1
    subset = pads.dataset(found["subset"]).to_table().to_pylist()
    assert subset
    assert all(Path(row["media_uri"]).is_file() for row in subset)


def test_running_again_does_no_work(place: Path, first: Done) -> None:
    assert set(run(place).states.values()) == {"CACHED"}


def test_changing_a_threshold_reruns_selection_and_what_hangs_on_it(place: Path, first: Done) -> None:
    before = decoded(place)
    states = run(place, "--set", "select.rules.motionless.min=0.5").states
    # Captions hang on it too: a captioner is asked about what passes the rules.
    assert {n for n, s in states.items() if s == "CACHED"} >= {"ingest", "analyze"}
    assert {"preselect", "select", "dedupe", "review_clips", "export"} <= {
        n for n, s in states.items() if s == "SUCCEEDED"
    }
    assert decoded(place) == before


def test_adding_one_file_does_the_work_of_one_file(place: Path, first: Done, footage: Path) -> None:
    before = decoded(place)
    shutil.copy(footage / LATER, place / "videos" / "later.mp4")
    states = run(place).states
    assert states["analyze"] == "SUCCEEDED"
    assert decoded(place) == before + 1
    shutil.copy(footage / LATER, place / "videos" / "the_same_under_another_name.mp4")
    run(place)
    assert decoded(place) == before + 1
    paths = {v["path"] for v in pads.dataset(outputs(place / "store")["videos"]).to_table(columns=["path"]).to_pylist()}
    assert {"later.mp4", "the_same_under_another_name.mp4"} <= paths


def test_people_are_awaited_with_code_75_and_the_address_of_the_page(place: Path, first: Done) -> None:
    done = fulcrum("run", "curate", "--source", place / "videos", "--store", place / "store", *INLINE)
    assert done.code == 75, done.out + done.err
    assert "http://127.0.0.1:8765" in done.out
    assert "Waiting for people" in done.out
    status = fulcrum("status", "--store", place / "store").out
    assert "WAITING_HUMAN" in status
    assert "BLOCKED" in status
    command = ("run", "curate", "--source", place / "videos", "--store", place / "store", *INLINE)
    assert fulcrum(*command, RAY_JOB_CONFIG_JSON_ENV_VAR="{}").code == 0, "Ray would call another code a failed job"


def test_a_machine_can_follow_the_run_line_by_line(place: Path, first: Done) -> None:
    events = first.events
    assert [events[0]["event"], events[-1]["event"]] == ["run_started", "run_ended"]
    assert {e["run_id"] for e in events} == {events[0]["run_id"]}
    assert [e["at"] for e in events] == sorted(e["at"] for e in events)
    told = next(e for e in reversed(events) if e["event"] == "progress" and e["stage"] == "analyze")
    assert (told["done"], told["total"], told["failed"], told["left_s"]) == (9, 9, len(BROKEN), 0.0)
    assert told["footage_s"] > 20
    failed = [e for e in events if e["event"] == "record_failed"]
    assert len({e["record_id"] for e in failed}) == len(failed) == len(BROKEN)  # each once
    assert all(e["stage"] == "analyze" and e["error_type"] and e["error_message"] for e in failed)

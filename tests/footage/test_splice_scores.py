"""The short form of ``benchmarks/shots.py``: two spliced films of the held-out half, and the real one, scored beside the peers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks.shots import ADAPTIVE, CONTENT, OURS, detect, real_truths, score
from benchmarks.splices import plan, render
from models.video.reader import VideoReader


@pytest.fixture(scope="module")
def films(footage: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("splices")
    plans = plan(footage, "held-out", 20, seed=7, per_video=10)
    for one in plans:
        one.width, one.height, one.fps = 320, 180, 25.0  # small, since only the sum of time is short here
        for piece in one.pieces:
            piece.body, piece.offset_s = min(piece.body, 40), min(piece.offset_s, 0.5)
    return [render(footage, one, folder, seed=7) for one in plans]


def test_truth_counts_the_frames_that_are_there(films) -> None:
    for film in films:
        with VideoReader(film.path) as reader:
            assert sum(1 for _ in reader) == film.frames
        for truth in film.truths:
            assert 0 < truth.start <= truth.end < film.frames
            assert (truth.start == truth.end) == (truth.kind == "cut")


def test_a_cuts_frames_differ_and_a_gradual_changes_ends_are_pure(films) -> None:
    """At its start and end a boundary's frames show the old shot and the new one alone."""
    import cv2

    film = films[0]
    with VideoReader(film.path) as reader:
        thumbs = [cv2.resize(f.picture(), (32, 18), interpolation=cv2.INTER_AREA).astype(float) for f in reader]
    steps = [abs(b - a).mean() for a, b in itertools.pairwise(thumbs)]
    for truth in film.truths:
        change = abs(thumbs[truth.end] - thumbs[truth.start - 1]).mean()
        assert change > 12, truth
        if truth.kind == "cut":
            assert steps[truth.start - 1] > 12, truth


def test_floors_on_spliced_footage_and_better_than_both_peers(films) -> None:
    """Floors below what the counted run found (docs/measured/shots.json), since this is a sample of it."""
    found = score((f.path, f.truths, f.traps) for f in films)["detectors"]
    ours, peers = found[OURS], (found[CONTENT], found[ADAPTIVE])
    assert sum(ours["hard"]["2 frames"][k] for k in ("hit", "missed")) + sum(
        ours["gradual"]["2 frames"][k] for k in ("hit", "missed")
    ) == sum(len(f.truths) for f in films)
    for kind, floor in (("hard", 0.9), ("gradual", 0.8)):
        for tolerance in ("2 frames", "0.5 s"):
            mine = ours[kind][tolerance]["f1"]
            assert mine >= floor, (kind, tolerance, found)
            assert all(mine > (peer[kind][tolerance]["f1"] or 0.0) for peer in peers), (kind, tolerance, found)


def test_on_real_footage_no_worse_than_either_peer(footage: Path) -> None:
    """Measured: 19 of 19 hard cuts, 2 of 3 gradual changes and nothing false. The third takes 4 frames out of a whirl."""
    short = [video for video in real_truths(footage) if "big" not in video[0].name]  # the long ones: test_shots.py
    found = score(short)["detectors"]
    ours = found[OURS]
    assert ours["hard"]["2 frames"]["missed"] == 0
    assert ours["hard"]["2 frames"]["false"] == 0
    assert ours["gradual"]["2 frames"]["hit"] >= 2
    for peer in (CONTENT, ADAPTIVE):
        for kind in ("hard", "gradual"):
            assert ours[kind]["2 frames"]["f1"] >= (found[peer][kind]["2 frames"]["f1"] or 0.0)


def test_single_shots_with_held_frames_and_a_hand_held_camera_stay_whole(footage: Path) -> None:
    for name in ("cogvideo/horse.mp4", "moviepy/fire2.mp4", "moviepy/doc_example2.mp4"):
        assert detect(footage / name, peers=False).frames[OURS] == [], name


def test_the_page_gets_the_figures_that_were_counted(films, tmp_path: Path) -> None:
    from benchmarks.pages import BEGIN, END, put
    from benchmarks.shot_tables import tables

    counted = score([(films[0].path, films[0].truths, films[0].traps)], peers=False)
    part = {"boundaries": 10, "minutes": 0.5, "videos": 1, "made_of": {"cut": 4}, **counted}
    found = {"spliced": {"held-out": part, "tuning": part}, "real": part, "single_shots": part,
             "cost": {"frames": 9, "cpu_ms_per_frame": {OURS: 0.123}}}  # fmt: skip
    page = tmp_path / "shots.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put(tables(found), page)
    text = page.read_text()
    hard = counted["detectors"][OURS]["hard"]["2 frames"]
    assert f"**{hard['f1']:.3f}** ({hard['hit']}, {hard['missed']}, {hard['false']})" in text
    assert f"{OURS} 0.123" in text
    assert (text.startswith("before\n"), text.endswith("\nafter\n"), "old" in text) == (True, True, False)
    page.write_text("no marks")
    with pytest.raises(ValueError, match="needs the lines"):
        put(tables(found), page)

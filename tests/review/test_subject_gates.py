"""The gates of the subjects room: off by default, crops and pairs on the review page, and verdicts that reach what is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data_schemas.tables import PAIRS, SUBJECTS, SUBSET, VERDICTS, VIDEOS
from models.subjects.frames import png
from models.video.encode import write_video
from stages.review.answers import Answer
from stages.review.campaigns import close_if_done, find_campaign
from stages.review.database import open_database
from stages.review.media import MediaStore, media_root_for
from stages.review.people import person_named
from stages.review.queue import claim, submit
from stages.review.subject_gate import AskParams, ReviewTrainingPairsParams, review_subjects, review_training_pairs
from stages.review.subject_items import LABELS
from stages.review.views import item_view
from stages.subjects.pairs import PairParams, pairs
from tests.context import LocalContext

CLIPS = ("a", "b")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two clips of a red square on grey, three crops of each and a face, a photograph, and a pair of each kind."""
    tmp = tmp_path_factory.mktemp("gates")
    media = tmp / "media"
    media.mkdir()
    subset, subjects = [], []
    for number, clip in enumerate(CLIPS):
        frames = np.full((9, 96, 128, 3), 128, np.uint8)
        for i, frame in enumerate(frames):
            frame[30:60, 20 + 5 * i : 50 + 5 * i] = (200, 20 + 90 * number, 20)
        write_video(frames, 8.0, media / f"{clip}.mp4")
        subset.append(
            {
                "clip_id": clip, "video_id": f"v-{clip}", "media_uri": f"x/{clip}.mp4", "media_sha256": clip * 64, "media_bytes": 1,
                "caption": "A red square slides", "start_s": 0.0, "end_s": 1.0, "frames": 9, "fps": 8.0, "width": 128, "height": 96,
            }
        )  # fmt: skip
        for index in (1, 4, 7):
            crop = frames[index][30:60, 20 + 5 * index : 50 + 5 * index]
            subjects.append(subject(f"{clip}{index}", clip, index / 8, crop))
    subjects.append({**subject("face", "a", 0.5, np.zeros((30, 30, 3), np.uint8)), "part": "face"})
    photo = np.full((64, 64, 3), 200, np.uint8)
    (tmp / "photo.png").write_bytes(png(photo))
    subjects.append({**subject("p", None, None, photo[10:40, 10:40]), "video_id": "photo"})
    videos = [
        {
            "video_id": "photo", "uri": f"file://{tmp}/photo.png", "path": "photo.png", "media_type": "image", "bytes": 1,
            "sha256": "c" * 64, "status": "ok",
        }
    ]  # fmt: skip
    rows = [
        pair("cross", "cross_pair", "a", ["b4"]),
        pair("two", "cross_pair", "b", ["a4", "p"]),
        pair("in", "in_pair", "a", ["a7"]),
    ]
    return {
        "subset": SUBSET.table(subset), "media": media, "subjects": SUBJECTS.table(subjects), "videos": VIDEOS.table(videos),
        "pairs": PAIRS.table(rows),
    }  # fmt: skip


def subject(name: str, clip: str | None, time_s: float | None, crop: np.ndarray) -> dict[str, Any]:
    return {
        "subject_id": name, "origin": "clip" if clip else "photo", "clip_id": clip, "video_id": f"v-{clip}", "phrase": "a red square",
        "time_s": time_s, "box": [0.2, 0.3, 0.5, 0.6], "area": 0.1, "mask_area": 0.1, "crop": png(np.ascontiguousarray(crop)),
        "mask": png(np.full(crop.shape[:2], 255, np.uint8)), "encoder": "made-up", "embedding": [1.0, 0.0], "subject": 0,
        "completeness": 0.7,
    }  # fmt: skip


def pair(name: str, kind: str, clip: str, references: list[str]) -> dict[str, Any]:
    told = [
        {"subject_id": r, "phrase": "a red square", "origin": "clip", "video_id": "v", "time_s": 0.5}
        for r in references
    ]
    heads = " ".join(f"Ref {i}: a red square." for i in range(1, len(told) + 1))
    marks = " and ".join(f"Ref {i}[a red square]" for i in range(1, len(told) + 1))
    return {
        "sample_id": name, "kind": kind, "clip_id": clip, "video_id": f"v-{clip}", "prompt": f"{heads} Video: {marks} slides",
        "references": told, "similarity": 0.8, "same_source": False, "split": "train",
    }  # fmt: skip


def subject_ctx(tmp_path: Path, inputs: dict[str, Any]) -> LocalContext:
    return LocalContext(tmp_path, review_subjects, {n: inputs[n] for n in ("subset", "media", "subjects", "videos")})


def pair_ctx(tmp_path: Path, inputs: dict[str, Any]) -> LocalContext:
    return LocalContext(
        tmp_path, review_training_pairs, {n: inputs[n] for n in ("subset", "media", "subjects", "pairs")}
    )


def judge(tmp_path: Path, campaign: str, said: dict[str, tuple[str, tuple[str, ...]]]) -> list[dict[str, Any]]:
    """One person answers everything, ``accept`` where nothing is said; returns what the page showed."""
    db = open_database(f"sqlite:///{tmp_path / 'review' / 'review.db'}")
    try:
        who = person_named(db, "Ada", "annotator")
        shown = []
        while held := claim(db, campaign, who, 50):
            for one in held:
                choice, reasons = said.get(one.external_id, ("accept", ()))
                submit(db, who, Answer(one.item_id, f"k{one.item_id}", choice, reasons))
                shown.append({"name": one.external_id, **item_view("filter", one)})
        assert close_if_done(db, campaign).remaining == 0
        return shown
    finally:
        db.close()


def test_nobody_is_asked_unless_somebody_wants_it(tmp_path: Path, inputs: dict[str, Any]) -> None:
    first = subject_ctx(tmp_path / "s", inputs)
    assert first.run() is None
    assert first.outputs["verdicts"].num_rows == 0
    assert first.ledger_rows == []
    second = pair_ctx(tmp_path / "p", inputs)
    assert second.run() is None
    assert second.outputs["reviewed"] == inputs["pairs"]
    assert not (tmp_path / "p" / "review").exists()  # no database is even opened


def test_every_crop_is_shown_with_its_mask_and_frame_and_verdicts_reach_the_pairs(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    ctx = subject_ctx(tmp_path, inputs)
    waiting = ctx.run(AskParams(reviewer="people"))
    assert waiting is not None
    assert waiting.remaining == 7  # the face is no whole subject
    campaign = waiting.page.rsplit("/", 1)[1]
    shown = judge(tmp_path, campaign, {"a4": ("reject", ("blurred or dark",)), "p": ("skip", ("cannot tell",))})
    media = MediaStore(media_root_for(f"sqlite:///{tmp_path / 'review' / 'review.db'}"))
    for item in shown:
        assert item["videos"] == []
        assert item["labels"] == list(LABELS)
        assert item["text"] == "a red square"
        assert all(media.find(url.removeprefix("/media/")) for url in item["pictures"])
    again = subject_ctx(tmp_path, inputs)
    assert again.run(AskParams(reviewer="people")) is None
    ledger = {r["record_id"]: (r["status"], r["reason"]) for r in again.ledger_rows}
    assert ledger["a4"] == ("rejected", "blurred or dark")
    assert ledger["p"] == ("in_review", None)
    assert ledger["b4"] == ("accepted", None)
    paired = LocalContext(
        tmp_path / "pairs", pairs,
        {"subset": inputs["subset"], "subjects": inputs["subjects"], "verdicts": again.outputs["verdicts"]},
    )  # fmt: skip
    paired.run(PairParams(lower=0.1, upper=1.0, min_in_pair=0, min_cross_pair=0, held_out=0.0, in_pair_per_clip=3))
    used = {x["subject_id"] for row in paired.outputs["pairs"].to_pylist() for x in row["references"]}
    assert used
    assert used.isdisjoint({"a4", "p", "face"})
    reasons = {r["record_id"]: r["reason"] for r in paired.ledger_rows}
    assert reasons["a4"] == reasons["p"] == "refused_by_reviewers"
    assert reasons["face"] == "face"


def test_a_pair_that_people_reject_is_not_passed_on(tmp_path: Path, inputs: dict[str, Any]) -> None:
    ctx = pair_ctx(tmp_path, inputs)
    waiting = ctx.run(ReviewTrainingPairsParams(reviewer="people"))
    assert waiting is not None
    assert waiting.remaining == 2  # the in-pair is not asked about
    campaign = waiting.page.rsplit("/", 1)[1]
    shown = {s["name"]: s for s in judge(tmp_path, campaign, {"two": ("reject", ("another subject",))})}
    assert len(shown["cross"]["videos"]) == 1
    assert shown["two"]["labels"] == ["1: a red square", "2: a red square"]
    assert shown["two"]["text"] == "a red square and a red square slides"
    media = MediaStore(media_root_for(f"sqlite:///{tmp_path / 'review' / 'review.db'}"))
    for item in shown.values():
        assert all(media.find(url.removeprefix("/media/")) for url in (*item["pictures"], *item["videos"]))
    again = pair_ctx(tmp_path, inputs)
    assert again.run(ReviewTrainingPairsParams(reviewer="people")) is None
    assert sorted(again.outputs["reviewed"]["sample_id"].to_pylist()) == ["cross", "in"]
    ledger = {r["record_id"]: (r["status"], r["reason"]) for r in again.ledger_rows}
    assert ledger == {"cross": ("accepted", None), "two": ("rejected", "another subject")}
    db = open_database(f"sqlite:///{tmp_path / 'review' / 'review.db'}")
    found = find_campaign(db, campaign)
    assert found is not None
    assert found.spec.asks == "Is each reference the subject of the clip?"
    db.close()


@pytest.mark.parametrize("context", [subject_ctx, pair_ctx])
def test_a_script_accepts_everything_and_makes_no_media(tmp_path: Path, inputs: dict[str, Any], context: Any) -> None:
    ctx = context(tmp_path, inputs)
    params = AskParams if context is subject_ctx else ReviewTrainingPairsParams
    assert ctx.run(params(reviewer="script:rules")) is None
    assert set(ctx.outputs["verdicts"]["verdict"].to_pylist()) == {"accept"}
    assert {r["status"] for r in ctx.ledger_rows} == {"accepted"}
    root = media_root_for(f"sqlite:///{tmp_path / 'review' / 'review.db'}")
    assert not list(Path(root).rglob("*.jpg")) + list(Path(root).rglob("*.webm"))


def test_a_pair_whose_crop_is_gone_is_named(tmp_path: Path, inputs: dict[str, Any]) -> None:
    from stages.contract import StageError

    rows = PAIRS.table([pair("lost", "cross_pair", "a", ["nowhere"])])
    with pytest.raises(StageError, match="Subject nowhere of a pair is not in the table subjects"):
        pair_ctx(tmp_path, {**inputs, "pairs": rows}).run(ReviewTrainingPairsParams(reviewer="people"))


def test_verdicts_of_nobody_refuse_nothing() -> None:
    from stages.review.verdict_rules import refused

    assert len(refused(VERDICTS.empty())) == 0
    assert pa.types.is_string(refused(VERDICTS.empty()).type)

"""Survivors are cut at exact frames, encoded once and described; every clip that came this far ends in the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import models.video.encode
from data_schemas.tables import DEDUPE, VERDICTS
from models.video.encode import cut_clip, read_video
from stages.curation.export import ExportParams, export
from tests.context import LocalContext

Tables = dict[str, pa.Table]


@pytest.fixture(scope="module")
def tables(footage: Path, analysed: Callable[..., Tables], tmp_path_factory: pytest.TempPathFactory) -> Tables:
    folder = tmp_path_factory.mktemp("sources")
    paths = []
    for name in ("bird.mkv", "milk.mkv"):
        paths.append(folder / f"{Path(name).stem}.mp4")
        cut_clip(footage / "intel-sample-videos" / name, 0, 40, paths[-1], max_side=160)
    return analysed(paths, spans={path: [(0, 12), (12, 40)] for path in paths}, captions={paths[0]: "a man in a room"})


def dedupe_of(tables: Tables, dropped: Mapping[str, str] | None = None) -> pa.Table:
    dropped = dropped or {}
    rows = [
        {"clip_id": c, "kept": c not in dropped, "kind": "near" if c in dropped else None, "kept_id": dropped.get(c, c)}
        for c in tables["clips"].column("clip_id").to_pylist()
    ]
    return DEDUPE.table(rows)


def run(tmp_path: Path, tables: Tables, params: ExportParams | None = None, **more: pa.Table) -> LocalContext:
    inputs = {name: tables[name] for name in ("clips", "selection", "captions", "videos")}
    context = LocalContext(tmp_path, export, {"dedupe": dedupe_of(tables), **inputs, **more})
    context.run(params or ExportParams())
    return context


def verdict(clip: str, said: str, reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"external_id": clip, "item_id": f"i-{clip}", "verdict": said, "reasons": list(reasons), "answers": 1}


def test_survivors_are_cut_at_exact_frames_with_all_their_scores(tables: Tables, tmp_path: Path) -> None:
    context = run(tmp_path, tables)
    subset, media = context.outputs["subset"], context.outputs["media"]
    assert sorted(subset.column("clip_id").to_pylist()) == sorted(tables["clips"].column("clip_id").to_pylist())
    clips = {row["clip_id"]: row for row in tables["clips"].to_pylist()}
    for row in subset.to_pylist():
        file = Path(row["media_uri"])
        assert file.parent == media
        assert hashlib.sha256(file.read_bytes()).hexdigest() == row["media_sha256"]
        clip = clips[row["clip_id"]]
        frames, _ = read_video(file)
        original, _ = read_video(clip["video_uri"])
        assert len(frames) == row["frames"] == clip["end_frame"] - clip["start_frame"]
        for at in (0, -1):  # the first and last frame are the source's own, up to coding
            source = original[clip["start_frame"] : clip["end_frame"]][at]
            assert np.abs(frames[at].astype(int) - source.astype(int)).mean() < 4
        assert (row["sharpness"], row["motion"]) == (1.0, 0.1)
        assert row["licence"] == "CC-BY 4.0"
        assert row["caption"] == ("a man in a room" if "bird" in clip["video_uri"] else None)
    assert {row["status"] for row in context.ledger_rows} == {"accepted"}


def test_copies_and_rejected_clips_stay_out_and_the_card_counts_them(tables: Tables, tmp_path: Path) -> None:
    a, b, c, d = tables["clips"].column("clip_id").to_pylist()
    selection = pa.Table.from_pylist(
        [{**row, "kept": row["clip_id"] != d, "first_failing_rule": "still" if row["clip_id"] == d else None}
         for row in tables["selection"].to_pylist()],
        schema=tables["selection"].schema,
    )  # fmt: skip
    dedupe = dedupe_of(tables, {b: a}).filter(pa.compute.not_equal(pa.array([a, b, c, d]), d))
    verdicts = VERDICTS.table([verdict(a, "accept"), verdict(c, "reject", ("blurred", "logo"))])
    context = run(tmp_path, {**tables, "selection": selection}, dedupe=dedupe, verdicts=verdicts)
    assert context.outputs["subset"].column("clip_id").to_pylist() == [a]
    assert {row["record_id"]: (row["status"], row["reason"]) for row in context.ledger_rows} == {
        a: ("accepted", None),
        c: ("rejected", "review: blurred, logo"),
    }
    card = (context.outputs["media"] / "README.md").read_text()
    for line in (
        "| shots found | | 4 |",
        "| rule `still` | -1 | 3 |",
        "| near copies | -1 | 2 |",
        "| rejected by reviewers | -1 | 1 |",
        "| CC-BY 4.0 | 1 |",
    ):
        assert line in card


def test_what_people_have_not_accepted_is_in_review(tables: Tables, tmp_path: Path) -> None:
    a, b, c, d = tables["clips"].column("clip_id").to_pylist()
    verdicts = VERDICTS.table([verdict(a, "accept"), verdict(b, "skip"), verdict(c, "in_review")])
    context = run(tmp_path, tables, verdicts=verdicts)
    assert context.outputs["subset"].column("clip_id").to_pylist() == [a]
    assert {row["record_id"]: row["status"] for row in context.ledger_rows} == {
        a: "accepted", b: "in_review", c: "in_review", d: "in_review",
    }  # fmt: skip


def test_without_a_review_a_clip_whose_rule_asks_for_a_person_waits(tables: Tables, tmp_path: Path) -> None:
    first = tables["clips"].column("clip_id")[0].as_py()
    rows = [{**row, "review": row["clip_id"] == first} for row in tables["selection"].to_pylist()]
    context = run(tmp_path, {**tables, "selection": pa.Table.from_pylist(rows, schema=tables["selection"].schema)})
    assert context.outputs["subset"].num_rows == 3
    assert [row["record_id"] for row in context.ledger_rows if row["status"] == "in_review"] == [first]


def test_another_verdict_encodes_only_what_it_adds(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, *_ = tables["clips"].column("clip_id").to_pylist()
    cut: list[str] = []
    real = models.video.encode.cut_clip

    def counted(source: str, *args: Any) -> Any:
        cut.append(source)
        return real(source, *args)

    monkeypatch.setattr(models.video.encode, "cut_clip", counted)
    first = run(tmp_path, tables, verdicts=VERDICTS.table([verdict(a, "accept")])).outputs["subset"]
    assert len(cut) == 1
    both = VERDICTS.table([verdict(a, "accept"), verdict(b, "accept")])
    second = run(tmp_path, tables, verdicts=both).outputs["subset"]
    assert len(cut) == 2
    kept = second.filter(pa.compute.equal(second.column("clip_id"), a))
    assert kept.column("media_sha256").to_pylist() == first.column("media_sha256").to_pylist()
    run(tmp_path, tables, ExportParams(max_side=96), verdicts=both)
    assert len(cut) == 4


def test_a_clip_that_cannot_be_encoded_is_failed_with_the_reason_and_the_rest_goes_on(
    tables: Tables, tmp_path: Path
) -> None:
    rows = tables["clips"].to_pylist()
    rows[0]["end_frame"] = 9999
    context = run(tmp_path, {**tables, "clips": pa.Table.from_pylist(rows, schema=tables["clips"].schema)})
    assert context.outputs["subset"].num_rows == 3
    [failure] = [row for row in context.ledger_rows if row["status"] == "failed"]
    assert failure["record_id"] == rows[0]["clip_id"]
    assert failure["error_type"] == "EncodeError"
    assert "changed since it was analysed" in failure["error_message"]


def test_nothing_to_export_leaves_an_empty_subset_and_a_card(tables: Tables, tmp_path: Path) -> None:
    context = run(tmp_path, tables, verdicts=VERDICTS.empty())
    assert context.outputs["subset"].num_rows == 0
    assert (context.outputs["media"] / "README.md").exists()

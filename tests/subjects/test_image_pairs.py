"""Sheets of two pictures, from Parquet and from a folder, as image-pair rows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_schemas.ids import short_hash
from models.subjects.prompts import parse
from stages.contract import NotEnoughRows, StageError
from stages.subjects import image_pairs as module
from stages.subjects.image_pairs import ImagePairParams, halves, image_pairs
from tests.context import LocalContext

SIDE, PADDING = 48, 4
RED, BLUE = (200, 10, 10), (10, 10, 200)


def sheet() -> bytes:
    picture = Image.new("RGB", (2 * SIDE + 3 * PADDING, SIDE + 2 * PADDING), (255, 255, 255))
    picture.paste(Image.new("RGB", (SIDE, SIDE), RED), (PADDING, PADDING))
    picture.paste(Image.new("RGB", (SIDE, SIDE), BLUE), (2 * PADDING + SIDE, PADDING))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def row(quality: float = 5, valid: bool = True, image: bytes | None = None) -> dict[str, Any]:
    return {
        "image": {"bytes": sheet() if image is None else image, "path": None},
        "description": {
            "item": "Eames chair",
            "description_0": "A white Eames chair by a wall.",
            "description_1": "On a beach, the Eames chair stands in the sand.",
            "description_valid": valid,
        },
        "quality_assessment": {"compositeStructure": 5, "objectConsistency": quality, "imageQuality": 5},
    }


def run(tmp_path: Path, rows: list[dict[str, Any]], **params: object) -> LocalContext:
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "sheets.parquet")
    ctx = LocalContext(tmp_path, image_pairs)
    ctx.run(ImagePairParams.model_validate({"table": str(tmp_path / "sheets.parquet"), **params}))
    return ctx


def test_the_left_picture_is_the_reference_and_the_right_one_the_target(tmp_path: Path) -> None:
    ctx = run(tmp_path, [row()])
    pair = ctx.outputs["pairs"].to_pylist()[0]
    clip = ctx.outputs["subset"].to_pylist()[0]
    crop = np.asarray(Image.open(io.BytesIO(ctx.outputs["subjects"].to_pylist()[0]["crop"])))
    target = np.asarray(Image.open(ctx.outputs["media"] / clip["media_uri"].rsplit("/", 1)[1]))
    assert crop.shape == target.shape == (SIDE, SIDE, 3)
    assert (crop == RED).all()
    assert (target == BLUE).all()
    assert (pair["kind"], pair["clip_id"], clip["frames"]) == ("image_pair", clip["clip_id"], 1)
    assert pair["prompt"] == (
        "Ref 1: A white Eames chair by a wall. Video: On a beach, the Ref 1[Eames chair] stands in the sand"
    )
    assert parse(pair["prompt"]).appearances == (pair["references"][0]["appearance"],)


def test_every_sheet_ends_in_the_ledger(tmp_path: Path) -> None:
    odd = io.BytesIO()
    Image.new("RGB", (90, 30)).save(odd, format="PNG")
    given = [row(), row(quality=4), row(valid=False), row(image=b"no picture"), row(image=odd.getvalue())]
    lines = run(tmp_path, given).ledger_rows
    assert [(r["status"], r["reason"]) for r in lines[:3]] == [
        ("accepted", None),
        ("rejected", "low_objectConsistency"),
        ("rejected", "no_description"),
    ]
    assert [r["status"] for r in lines[3:]] == ["failed", "failed"]
    assert "no sheet of two squares" in lines[4]["error_message"]


def test_a_folder_of_sheets_gives_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    one = run(tmp_path / "a", [row()]).outputs["pairs"].to_pylist()[0]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "0.png").write_bytes(sheet())
    line = {k: v for k, v in row().items() if k != "image"} | {"file_name": "0.png"}
    outside = {**line, "file_name": "../a/sheets.parquet"}
    (folder / "metadata.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(outside) + "\n")
    ctx = LocalContext(tmp_path, image_pairs)
    ctx.run(ImagePairParams(table=str(folder)))
    assert ctx.outputs["pairs"].to_pylist()[0]["prompt"] == one["prompt"]
    assert [r["status"] for r in ctx.ledger_rows] == ["accepted", "failed"]  # no file outside the folder is read


def test_rows_that_were_given_are_passed_on(tmp_path: Path) -> None:
    first = run(tmp_path, [row()])
    names = ("subset", "media", "pairs", "subjects")
    again = LocalContext(tmp_path, image_pairs, {name: first.outputs[name] for name in names})
    (tmp_path / "more").mkdir()
    pq.write_table(pa.Table.from_pylist([row(), row()]), tmp_path / "more" / "others.parquet")
    again.run(ImagePairParams(table=str(tmp_path / "more")))
    assert again.outputs["pairs"].num_rows == again.outputs["subset"].num_rows == 3
    for clip in again.outputs["subset"].to_pylist():
        assert (again.outputs["media"] / clip["media_uri"].rsplit("/", 1)[1]).exists()


def test_what_cannot_be_used_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughRows, match="low_objectConsistency"):
        run(tmp_path, [row(quality=1)])
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(StageError, match="has no column description, image"):
        LocalContext(tmp_path, image_pairs).run(ImagePairParams(table=str(tmp_path / "other.parquet")))
    with pytest.raises(StageError, match=r"no Parquet file and no folder"):
        LocalContext(tmp_path, image_pairs).run(ImagePairParams(table=str(tmp_path / "nothing")))


def test_a_stage_that_was_killed_goes_on_behind_its_last_portion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.subjects.image_pairs.PORTION", 2)
    read: list[str] = []

    def counted(sheet: Any, *rest: Any) -> Any:
        if len(read) == 5:
            raise KeyboardInterrupt
        read.append(sheet.name)
        return rows_of(sheet, *rest)

    rows_of = module._rows
    monkeypatch.setattr(module, "_rows", counted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [row() for _ in range(7)])
    assert read == [f"sheets.parquet:{n}" for n in range(5)]
    read.clear()
    ctx = LocalContext(tmp_path, image_pairs)
    ctx.run(ImagePairParams(table=str(tmp_path / "sheets.parquet")))
    assert read == ["sheets.parquet:4", "sheets.parquet:5", "sheets.parquet:6"]  # 0 to 3 were committed, two by two
    whole = [short_hash("sheet target", f"sheets.parquet:{n}") for n in range(7)]
    assert sorted(ctx.outputs["pairs"]["clip_id"].to_pylist()) == sorted(whole)
    assert len(ctx.ledger_rows) == 7


def test_sheets_are_numbered_across_row_groups_and_a_limit_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.subjects.image_pairs.PORTION", 3)
    file = tmp_path / "sheets.parquet"
    pq.write_table(pa.Table.from_pylist([row() for _ in range(11)]), file, row_group_size=4)
    for limit, count in ((None, 11), (7, 7), (1, 1)):
        ctx = LocalContext(tmp_path, image_pairs)
        ctx.run(ImagePairParams(table=str(file), limit=limit))
        found = {r["record_id"] for r in ctx.ledger_rows}
        assert found == {short_hash("sheet", f"sheets.parquet:{n}") for n in range(count)}


@pytest.mark.parametrize(("side", "padding"), [(512, 8), (512, 16), (64, 0)])
def test_a_sheets_padding_follows_from_its_size(side: int, padding: int) -> None:
    left, right = halves(Image.new("RGB", (2 * side + 3 * padding, side + 2 * padding)))
    assert left.size == right.size == (side, side)


def test_the_pipeline_with_image_pairs_is_wired() -> None:
    from pipelines.disentangled_images import PIPELINE

    assert not PIPELINE.problems()
    assert {str(source) for source in PIPELINE["encode"].inputs.values()} == {
        "images.subset", "images.media", "images.pairs", "images.subjects"
    }  # fmt: skip

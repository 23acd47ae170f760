"""A user's table is read as it comes from pandas, polars or pyarrow, and what is wrong with it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.contract import StageError
from stages.training.own_table import OwnParams, read_rows

ROW: dict[str, Any] = {"video": "a.mp4", "prompt": "a dog", "references": ["r.png"]}


def table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> OwnParams:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path / "rows.parquet")
    return OwnParams(table=str(path / "rows.parquet"))


def test_paths_start_at_the_table_or_at_media(tmp_path: Path) -> None:
    params = table(tmp_path, [ROW, {**ROW, "video": "s3://b/x.mp4", "references": None}])
    first, second = read_rows(params, ("video", "prompt"))
    assert (first.video, first.references) == (str(tmp_path / "a.mp4"), (str(tmp_path / "r.png"),))
    assert (second.video, second.references) == ("s3://b/x.mp4", ())
    moved = params.model_copy(update={"media": "s3://b/clips/"})
    assert read_rows(moved, ("video",))[0].video == "s3://b/clips/a.mp4"


def test_one_reference_may_be_plain_text_and_polars_types_are_read(tmp_path: Path) -> None:
    (row,) = read_rows(table(tmp_path, [{**ROW, "references": "r.png"}]), ("video",))
    assert row.references == (str(tmp_path / "r.png"),)
    large = pa.schema([("prompt", pa.large_string()), ("references", pa.large_list(pa.large_string()))])
    (row,) = read_rows(table(tmp_path, [ROW], large), ("prompt",))
    assert row.references == (str(tmp_path / "r.png"),)


def test_a_row_keeps_its_name_when_others_come_before_it(tmp_path: Path) -> None:
    alone = read_rows(table(tmp_path, [ROW]), ("video",))[0].sample_id
    assert read_rows(table(tmp_path, [{**ROW, "prompt": "a cat"}, ROW]), ("video",))[1].sample_id == alone


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"video": "a.mp4", "promt": "x"}], "no column prompt .did you mean promt.*--column prompt=NAME"),
        ([{**ROW, "prompt": 3}], "column prompt is int64, must be text"),
        ([{**ROW, "references": [1]}], "column references is list<.*must be text or a list of text"),
        ([ROW, {**ROW, "prompt": ""}], "row 1 has no prompt"),
        ([{**ROW, "kind": "cross"}], "row 0: kind is 'cross', must be in_pair or cross_pair"),
        ([ROW, ROW], "is there more than once"),
        ([{**ROW, "sample_id": "../x"}], "'../x' is used in file names"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(StageError, match=said):
        read_rows(table(tmp_path, rows), ("video", "prompt"))

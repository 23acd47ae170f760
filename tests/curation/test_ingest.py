"""A source is listed whole: sidecars and columns carried along, strangers counted, nothing dropped silently."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_schemas.ids import video_id
from stages.contract import RetryableError, StageError, World
from stages.curation.ingest import IngestParams, ingest
from tests.context import LocalContext

MP4 = b"\x00\x00\x00\x18ftypisom" + bytes(16)


def put(path: Path, content: bytes = MP4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def rows_of(context: LocalContext) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in context.outputs["sources"].to_pylist()}


def listed(tmp_path: Path, source: Path, **options: Any) -> LocalContext:
    context = LocalContext(tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}", ingest, source=source, **options)
    context.run()
    return context


def digest(source: Path | None, limit: int | None = None) -> dict[str, str]:
    assert ingest.world is not None
    world = World(source=str(source) if source else None, limit=limit, review_database="", review_page="")
    return dict(ingest.world(IngestParams(), world))


def test_a_folder_is_listed_to_its_leaves_without_hidden_files(tmp_path: Path) -> None:
    source = tmp_path / "footage"
    put(source / "a.mp4")
    put(source / "deep" / "er" / "Кошка 🐈.MOV")
    put(source / "deep" / "photo.jpg", b"\xff\xd8\xff")
    put(source / ".hidden.mp4")
    put(source / ".cache" / "b.mp4")
    put(source / "notes.pdf", b"%PDF")
    context = listed(tmp_path, source)
    rows = rows_of(context)
    assert {path: row["media_type"] for path, row in rows.items()} == {
        "a.mp4": "video",
        "deep/er/Кошка 🐈.MOV": "video",
        "deep/photo.jpg": "image",
    }
    assert rows["a.mp4"]["video_id"] == video_id("footage", "a.mp4")
    assert rows["a.mp4"]["uri"] == str(source / "a.mp4")
    assert rows["a.mp4"]["bytes"] == len(MP4)
    [(kind, told)] = context.events
    assert kind == "listed"
    assert told["ignored"] == {".pdf": 1}
    assert told["hidden"] == 2


def test_ids_stay_when_the_source_moves_and_keeps_its_name(tmp_path: Path) -> None:
    put(tmp_path / "here" / "footage" / "a.mp4")
    put(tmp_path / "there" / "footage" / "a.mp4")
    ids = [rows_of(listed(tmp_path, tmp_path / place / "footage"))["a.mp4"]["video_id"] for place in ("here", "there")]
    assert ids[0] == ids[1]


def test_first_bytes_decide_where_the_name_says_nothing(tmp_path: Path) -> None:
    source = tmp_path / "s"
    put(source / "clip")
    put(source / "clip.bin")
    put(source / "program.ts", b"export const x = 1")
    put(source / "stream.ts", (b"\x47" + bytes(187)) * 3)
    put(source / "empty.unknown", b"")
    assert sorted(rows_of(listed(tmp_path, source))) == ["clip", "clip.bin", "stream.ts"]


def test_sidecars_bring_caption_licence_and_the_rest(tmp_path: Path) -> None:
    source = tmp_path / "s"
    put(source / "a.mp4")
    put(source / "a.txt", "﻿ A cat on a mat.\n".encode())
    put(source / "b.webm")
    put(source / "b.json", json.dumps({"caption": "Een hond", "license": "CC0", "author": "Ann", "n": 3}).encode())
    put(source / "c.mp4")
    put(source / "alone.txt", b"no video has this stem")
    rows = rows_of(listed(tmp_path, source))
    assert rows["a.mp4"]["caption"] == "A cat on a mat."
    assert rows["a.mp4"]["caption_source"] == "sidecar"
    assert (rows["b.webm"]["caption"], rows["b.webm"]["licence"]) == ("Een hond", "CC0")
    assert json.loads(rows["b.webm"]["extra"]) == {"author": "Ann", "n": 3}
    assert (rows["c.mp4"]["caption"], rows["c.mp4"]["caption_source"], rows["c.mp4"]["extra"]) == (None, None, None)


@pytest.mark.parametrize(
    "content", [b"{", b"[1]", b"\xff\xfe\x00", b'"text"', b'{"caption": "cut \\ud83d"}', b'{"caption": ["a", "b"]}']
)
def test_a_broken_sidecar_does_not_cost_its_video(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "s"
    put(source / "a.mp4")
    put(source / "a.json", content)
    context = listed(tmp_path, source)
    row = rows_of(context)["a.mp4"]
    assert row["caption"] is None
    assert "a.json" in json.loads(row["extra"])["sidecar_problem"]
    assert [kind for kind, _ in context.events] == ["sidecar_unreadable", "listed"]


def test_numbers_that_are_none_are_null_however_deep(tmp_path: Path) -> None:
    put(tmp_path / "s" / "a.mp4")
    put(tmp_path / "s" / "a.json", b'{"scores": {"a": NaN, "b": 1.5}, "l": [1, Infinity], "x": NaN}')
    extra = rows_of(listed(tmp_path, tmp_path / "s"))["a.mp4"]["extra"]
    assert json.loads(extra, parse_constant=pytest.fail) == {"scores": {"a": None, "b": 1.5}, "l": [1, None]}
    table = pa.table({"path": ["a.mp4"], "deep": [{"list": [float("nan"), 2.0]}]})
    pq.write_table(table, tmp_path / "s" / "list.parquet")
    extra = rows_of(listed(tmp_path, tmp_path / "s" / "list.parquet"))["a.mp4"]["extra"]
    assert json.loads(extra, parse_constant=pytest.fail) == {"deep": {"list": [None, 2.0]}}


@pytest.mark.parametrize("breaks", [2, 99])
def test_that_the_storage_breaks_off_says_nothing_of_a_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: int
) -> None:
    source = tmp_path / "s"
    put(source / "a.mp4")
    put(source / "a.txt", b"a cat on a mat")
    asked: list[str] = []

    class Breaking:
        """A storage whose answer ends in its middle, as Arrow tells it, ``breaks`` times."""

        def open_input_stream(self, path: str, compression: None) -> io.BytesIO:
            asked.append(path)
            if len(asked) <= breaks:
                raise OSError("AWS Error INTERNAL_FAILURE during GetObject operation: Failed to flush response stream")
            return io.BytesIO(Path(path).read_bytes())

    monkeypatch.setattr("stages.curation.ingest.open_location", lambda uri: (Breaking(), uri))
    monkeypatch.setattr("stages.retried._PAUSES_S", (0.001,) * 4)
    if breaks == 2:
        row = rows_of(listed(tmp_path, source))["a.mp4"]
        assert (row["caption"], row["extra"]) == ("a cat on a mat", None)
        assert len(asked) == 3
    else:
        with pytest.raises(RetryableError, match="the storage cannot be reached: AWS Error INTERNAL_FAILURE"):
            listed(tmp_path, source)


def test_links_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    source = tmp_path / "s"
    put(source / "real" / "a.mp4")
    put(tmp_path / "elsewhere" / "b.mp4")
    (source / "real" / "back").symlink_to(source, target_is_directory=True)
    (source / "other").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (source / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    context = listed(tmp_path, source)
    assert sorted(rows_of(context)) == ["other/b.mp4", "real/a.mp4"]
    [failure] = [row for row in context.ledger_rows if row["status"] == "failed"]
    assert "gone.mp4" in failure["error_message"]


def test_a_name_that_is_not_utf8_is_reported_not_lost(tmp_path: Path) -> None:
    source = tmp_path / "s"
    put(source / "a.mp4")
    try:
        Path(os.fsdecode(os.fsencode(source) + b"/bad\xff.mp4")).write_bytes(MP4)
    except OSError:
        pytest.skip("this filesystem takes only UTF-8 names")
    context = listed(tmp_path, source)
    [failure] = [row for row in context.ledger_rows if row["status"] == "failed"]
    assert failure["error_type"] == "FileNameError"
    assert "bad\\xff.mp4" in failure["error_message"]


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    put(tmp_path / "s" / "a.mp4")
    os.mkfifo(tmp_path / "s" / "b.mp4")
    assert sorted(rows_of(listed(tmp_path, tmp_path / "s"))) == ["a.mp4"]


def test_limit_takes_the_first_by_path(tmp_path: Path) -> None:
    for name in ("c.mp4", "a.txt.mp4", "b.mp4"):
        put(tmp_path / "s" / name)
    assert sorted(rows_of(listed(tmp_path, tmp_path / "s", limit=2))) == ["a.txt.mp4", "b.mp4"]


def test_every_listed_file_is_in_the_ledger(tmp_path: Path) -> None:
    put(tmp_path / "s" / "a.mp4")
    put(tmp_path / "s" / "b.mp4")
    context = listed(tmp_path, tmp_path / "s")
    assert sorted(r["record_id"] for r in context.ledger_rows) == sorted(
        r["video_id"] for r in rows_of(context).values()
    )
    assert {r["status"] for r in context.ledger_rows} == {"accepted"}


# -- lists ------------------------------------------------------------------------------------------------------------


def test_a_csv_list_carries_its_columns(tmp_path: Path) -> None:
    put(tmp_path / "media" / "a.mp4")
    put(tmp_path / "b c.mp4")
    text = f'uri,caption,licence,score\nmedia/a.mp4,"Two\nlines",CC0,1.5\n{(tmp_path / "b c.mp4").as_uri()},,,\n'
    source = put(tmp_path / "list.csv", text.encode())
    rows = rows_of(listed(tmp_path, source))
    first, second = rows["media/a.mp4"], rows[(tmp_path / "b c.mp4").as_uri()]
    assert first["uri"] == str(tmp_path / "media" / "a.mp4")
    assert (first["caption"], first["caption_source"], first["licence"]) == ("Two\nlines", "column", "CC0")
    assert json.loads(first["extra"]) == {"score": 1.5}
    assert second["uri"] == str(tmp_path / "b c.mp4")
    assert (second["caption"], second["licence"], second["extra"]) == (None, None, None)


def test_a_parquet_list_with_a_path_column_works_and_a_missing_file_is_a_failed_row(tmp_path: Path) -> None:
    put(tmp_path / "a.mp4")
    table = pa.table({"path": ["a.mp4", "gone.mp4"], "caption": ["one", "two"], "tags": [["x"], []]})
    pq.write_table(table, tmp_path / "list.parquet")
    context = listed(tmp_path, tmp_path / "list.parquet")
    rows = rows_of(context)
    assert list(rows) == ["a.mp4"]
    assert json.loads(rows["a.mp4"]["extra"]) == {"tags": ["x"]}
    [failure] = [row for row in context.ledger_rows if row["status"] == "failed"]
    assert failure["record_id"] == video_id("list", "gone.mp4")
    assert "gone.mp4 is listed but cannot be read: there is nothing there" in failure["error_message"]


def test_rows_that_repeat_are_one_and_rows_that_contradict_are_a_failure_of_their_file(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        put(tmp_path / name)
    source = put(tmp_path / "list.csv", b"path,caption\na.mp4,one\nb.mp4,b\na.mp4,one\n")
    assert list(rows_of(listed(tmp_path, source))) == ["a.mp4", "b.mp4"]
    source.write_bytes(b"path,caption\na.mp4,one\nb.mp4,b\na.mp4,two\na.mp4,one\n")
    context = listed(tmp_path, source)
    assert list(rows_of(context)) == ["b.mp4"]
    [failure] = [row for row in context.ledger_rows if row["status"] == "failed"]
    assert (failure["record_id"], failure["error_type"]) == (video_id("list", "a.mp4"), "ContradictingRows")


def test_json_lines_carry_their_columns_and_csv_text_stays_as_it_is(tmp_path: Path) -> None:
    put(tmp_path / "a.mp4")
    lines = {"path": "a.mp4", "caption": "one", "tags": ["x", "y"], "from": {"site": "s"}, "bytes": 7}
    source = put(tmp_path / "list.jsonl", (json.dumps(lines) + "\n").encode())
    row = rows_of(listed(tmp_path, source))["a.mp4"]
    assert row["caption"] == "one"
    assert json.loads(row["extra"]) == {"tags": ["x", "y"], "from": {"site": "s"}, "listed_bytes": 7}
    source = put(tmp_path / "list.csv", b"path,zip,when,n,x,ok,word\na.mp4,007,2024-01-02,12,1.5,true,NA\n")
    told = json.loads(rows_of(listed(tmp_path, source))["a.mp4"]["extra"])
    assert told == {"zip": "007", "when": "2024-01-02", "n": 12, "x": 1.5, "ok": True, "word": "NA"}


def test_what_a_list_says_is_carried_as_it_was_written(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        put(tmp_path / name)
    text = "path,id,long,price,exact\na.mp4,7301234567890123457,73012345678901234571,1.10,0.12345678901234567890\n"
    text += "b.mp4,7301234567890123999,1,2.25,1.5\n"
    rows = rows_of(listed(tmp_path, put(tmp_path / "list.csv", text.encode())))
    assert [json.loads(rows[name]["extra"]) for name in ("a.mp4", "b.mp4")] == [
        {"id": 7301234567890123457, "long": "73012345678901234571", "price": 1.1, "exact": "0.12345678901234567890"},
        {"id": 7301234567890123999, "long": "1", "price": 2.25, "exact": "1.5"},
    ]
    said = {"day": "2023-05-01", "at": "2023-05-01T10:00:00+02:00"}
    lines = put(tmp_path / "list.jsonl", json.dumps({"path": "a.mp4", **said}).encode())
    assert json.loads(rows_of(listed(tmp_path, lines))["a.mp4"]["extra"]) == said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"uri,tag,caption,tag\na.mp4,1,x,2\n", "more than one column tag"),
        (b"uri,path,listed_path\na.mp4,x,y\n", "more than one column listed_path"),
        (b"file,caption\na.mp4,x\n", "no column uri or path"),
        (b"uri,caption\na.mp4\n", "cannot be read"),
        (b"uri,caption\n,x\n", "rows without uri, the first is row 1"),
        (b"", "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    source = put(tmp_path / "list.csv", content)
    with pytest.raises(StageError, match=message):
        listed(tmp_path, source)


# -- sources that cannot be used, and change --------------------------------------------------------------------------


def test_an_absent_or_empty_source_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="there is no source"):
        digest(None)
    with pytest.raises(StageError, match="nowhere does not exist"):
        digest(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError, match="holds no video and no image"):
        listed(tmp_path, tmp_path / "empty")
    with pytest.raises(StageError, match="neither a folder, a tar nor a list"):
        digest(put(tmp_path / "a.mp4"))


def test_a_plan_notices_new_changed_and_removed_files_and_captions(tmp_path: Path) -> None:
    source = tmp_path / "s"
    put(source / "a.mp4")
    seen = [digest(source)]
    assert digest(source) == seen[0]
    put(source / "b.mp4")
    seen.append(digest(source))
    put(source / "a.txt", b"a caption")
    seen.append(digest(source))
    os.utime(source / "b.mp4", ns=(1, 1))
    seen.append(digest(source))
    (source / "a.mp4").unlink()
    seen.append(digest(source))
    seen.append(digest(source, limit=1))
    assert len({json.dumps(s) for s in seen}) == len(seen)

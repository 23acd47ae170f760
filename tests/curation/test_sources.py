"""The same footage in a folder, in a bucket and in tars is curated to the same tables and the same clips."""

from __future__ import annotations

import http.server
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data_schemas.tables import DEDUPE, SELECTION
from stages.contract import StageError
from stages.curation.analyze import AnalyzeParams, analyze
from stages.curation.caption import caption
from stages.curation.export import ExportParams, WebDatasetParams, export
from stages.curation.ingest import IngestParams, ingest
from stages.curation.listing import list_source
from stages.location import open_location
from tests.context import LocalContext
from tests.curation.storage import upload

FILES = ("androidx-media/sample_sef_slow_motion.mp4", "intel-sample-videos/milk.mkv", "mp4parse/short-cenc.mp4")


@pytest.fixture(scope="module")
def source(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three small videos, one of them encrypted, with sidecars."""
    folder = tmp_path_factory.mktemp("sources") / "films"
    (folder / "deep").mkdir(parents=True)
    for name in FILES:
        shutil.copy(footage / name, folder / "deep" / Path(name).name)
    (folder / "deep" / "milk.txt").write_text("milk is poured")
    (folder / "deep" / "milk.json").write_text(json.dumps({"licence": "CC0", "shot_by": "é"}))
    (folder / "deep" / "words.md").write_text("no media")
    return folder


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A spool that holds no more than one of the files at a time."""
    folder = tmp_path_factory.mktemp("spool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULCRUM_SPOOL", str(folder))
        patch.setenv("FULCRUM_SPOOL_GIB", "0.0001")
        yield folder


def curated(tmp_path: Path, source: str | Path) -> dict[str, Any]:
    """Ingest, analyze and export everything that can be decoded."""

    def run(stage: Any, params: Any, inputs: dict[str, Any] | None = None, **options: Any) -> LocalContext:
        context = LocalContext(tmp_path, stage, inputs, **options)
        context.run(params)
        return context

    sources = run(ingest, IngestParams(source_name="films"), source=source).outputs["sources"]
    found = run(analyze, AnalyzeParams(scorers=("sharpness",)), {"sources": sources}).outputs
    captions = run(caption, None, {"shots": found["shots"], "videos": found["videos"]}).outputs["captions"]
    ids = found["shots"].column("clip_id").to_pylist()
    selection = SELECTION.table([{"clip_id": c, "kept": True, "review": False} for c in ids])
    dedupe = DEDUPE.table([{"clip_id": c, "kept": True, "kept_id": c} for c in ids])
    inputs = {"clips": found["shots"], "selection": selection, "dedupe": dedupe, "captions": captions}
    exported = run(
        export,
        ExportParams(max_side=96, audio="keep", webdataset=WebDatasetParams()),
        {**inputs, "videos": found["videos"]},
    )
    return {"sources": sources, **found, **exported.outputs, "ledger": exported.ledger_rows}


def comparable(table: pa.Table, path_of: dict[str, str]) -> list[dict[str, Any]]:
    """Rows without ids and what says where the files lie, by the name of their file."""
    columns = [
        name for name in table.column_names
        if not name.endswith(("uri", "_id", "_ns", "etag")) and name not in ("path", "source_path", "file_name")
    ]  # fmt: skip
    names = [Path(path_of[video]).name for video in table.column("video_id").to_pylist()]
    rows = [{"file": name, **row} for name, row in zip(names, table.select(columns).to_pylist(), strict=True)]
    for row in rows:
        if row.get("error_message"):
            row["error_message"] = row["error_message"].split(": ", 1)[1]
    return sorted(rows, key=lambda row: json.dumps(row, default=str))


def same(one: dict[str, Any], two: dict[str, Any]) -> None:
    paths = [
        dict(zip(*(t["sources"].column(n).to_pylist() for n in ("video_id", "path")), strict=True)) for t in (one, two)
    ]
    for name in ("sources", "videos", "shots", "subset"):
        assert comparable(one[name], paths[0]) == comparable(two[name], paths[1]), name


@pytest.fixture(scope="module")
def from_folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return curated(tmp_path_factory.mktemp("folder"), source)


def test_a_bucket_gives_what_the_folder_gives(
    source: Path,
    from_folder: dict[str, Any],
    s3_options: str,
    spool: Path,
    tmp_path: Path,
) -> None:
    uri = upload(source, "footage", "some/films", s3_options)
    from_bucket = curated(tmp_path, uri)
    same(from_folder, from_bucket)
    for name in ("videos", "shots", "subset"):  # ids come from names and paths, not from where a source lies
        key = "video_id" if name == "videos" else "clip_id"
        assert sorted(from_folder[name].column(key).to_pylist()) == sorted(from_bucket[name].column(key).to_pylist())
    assert (from_folder["subset"].num_rows, from_folder["videos"].num_rows) == (2, 3)
    assert sorted(from_folder["subset"].column("sound").to_pylist()) == [False, True]
    sums = [(tables["media"] / "SHA256SUMS").read_text() for tables in (from_folder, from_bucket)]
    assert sums[0] == sums[1]  # the exported folders are equal byte for byte
    assert [p.name for p in spool.iterdir()] == ["lock"]
    assert from_bucket["sources"].column("uri")[0].as_py().startswith("s3://footage/some/films/deep/")


def test_tars_give_what_the_folder_gives(
    source: Path,
    from_folder: dict[str, Any],
    s3_options: str,
    spool: Path,
    tmp_path: Path,
) -> None:
    shards = (["milk.mkv", "milk.txt", "milk.json"], ["sample_sef_slow_motion.mp4", "short-cenc.mp4"])
    for number, names in enumerate(shards):
        tar = tmp_path / "tars" / f"shard-{number:03d}.tar"
        tar.parent.mkdir(exist_ok=True)
        with tarfile.open(tar, "w") as out:
            for name in names:
                out.add(source / "deep" / name, f"deep/{name}")
    in_bucket = curated(tmp_path / "remote", upload(tmp_path / "tars", "shards", "films", s3_options))
    same(from_folder, in_bucket)
    assert in_bucket["sources"].column("uri")[0].as_py().startswith("tar+s3://shards/films/shard-000.tar?")
    assert [p.name for p in spool.iterdir()] == ["lock"]


def test_a_list_in_a_bucket_names_files_beside_it_and_elsewhere(
    tmp_path: Path,
    s3_options: str,
) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "a b#1.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(16))
    (folder / "list.csv").write_text(f"uri,caption,who\na b#1.mp4,one,Ann\ns3://footage/no.mp4?{s3_options},two,\n")
    uri = upload(folder, "lists", "x", s3_options)
    context = LocalContext(tmp_path, ingest, source=uri.replace("/x?", "/x/list.csv?"))
    context.run()
    [row] = context.outputs["sources"].to_pylist()
    assert (row["path"], row["caption"], json.loads(row["extra"])) == ("a b#1.mp4", "one", {"who": "Ann"})
    assert row["uri"] == f"s3://lists/x/a%20b%231.mp4?{s3_options}"
    [failure] = [r for r in context.ledger_rows if r["status"] == "failed"]
    assert "there is nothing there" in failure["error_message"]


def test_changed_objects_are_noticed_when_planning(tmp_path: Path, s3_options: str) -> None:
    folder = tmp_path / "plans"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "x.mp4").write_bytes(b"1")
    (folder / "y.mp4").write_bytes(b"1")
    (folder / "a" / ".hidden.mp4").write_bytes(b"1")
    seen = [list_source(upload(folder, "plans", "", s3_options))]
    assert (seen[0].files.column("path").to_pylist(), seen[0].hidden) == (["a/x.mp4", "y.mp4"], 1)
    (folder / "y.mp4").write_bytes(b"22")
    seen.append(list_source(upload(folder, "plans", "", s3_options)))
    assert seen[0].digest() != seen[1].digest()


# -- what cannot be opened -------------------------------------------------------------------------------------------


def test_a_bucket_that_is_not_there_is_named(s3_options: str) -> None:
    with pytest.raises(StageError, match=r"the bucket s3://nowhere-to-be-found does not exist"):
        list_source(f"s3://nowhere-to-be-found/films?{s3_options}")


def test_a_prefix_that_is_not_there_is_told_from_a_bucket_that_is_not(tmp_path: Path, s3_options: str) -> None:
    (tmp_path / "x.mp4").write_bytes(b"1")
    upload(tmp_path, "there", "films", s3_options)
    with pytest.raises(StageError, match=r"bucket there is there, but nothing in it begins with flims/"):
        list_source(f"s3://there/flims?{s3_options}")


class Refuses(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        return


def test_a_bucket_that_refuses_says_what_access_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        options = f"endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
        with pytest.raises(StageError, match=r"s3://closed refuses access.*s3:ListBucket and s3:GetObject") as caught:
            list_source(f"s3://closed/films?{options}")
        assert "very-secret" not in str(caught.value)
        assert "AKIAEXAMPLE" not in str(caught.value)
    finally:
        server.shutdown()


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(StageError, match="holds credentials") as caught:
        open_location("s3://AKIAEXAMPLE:very-secret@bucket/films")
    assert "very-secret" not in str(caught.value)
    assert "AKIAEXAMPLE" not in str(caught.value)


def test_a_scheme_that_nothing_here_speaks_is_named() -> None:
    with pytest.raises(StageError, match=r"cannot open https://site/a\.mp4.*s3://"):
        open_location("https://site/a.mp4")

"""Survivors are cut at exact frames, encoded once and described; every clip that came this far ends in the ledger."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import models.video.cut
from data_schemas.tables import DEDUPE, VERDICTS
from models.video.cut import cut_clip
from models.video.encode import read_video
from stages.curation.export import ExportParams, WebDatasetParams, export
from stages.curation.rules import Rule
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
        "| **shots** |  |  | 4 | ",
        "| still | -1 | -",
        "| **pass the rules** |  |  | 3 | ",
        "| near duplicate | -1 | -",
        "| **are not duplicates** |  |  | 2 | ",
        "| rejected: blurred, logo | -1 | -",
        "| **exported** |  |  | 1 | ",
        "| CC-BY 4.0 | 1 |",
        "license: cc-by-4.0",
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
    cut: list[int] = []
    real = models.video.cut.cut_clips

    def counted(source: Any, cuts: Any, *args: Any) -> Any:
        cut.extend(one.start_frame for one in cuts)
        return real(source, cuts, *args)

    monkeypatch.setattr(models.video.cut, "cut_clips", counted)
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


# -- what others read ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> LocalContext:
    videos = [
        {**row, "extra": json.dumps({"channel": 7, "tags": ["é", "|"]}) if "bird" in row["uri"] else None}
        for row in tables["videos"].to_pylist()
    ]
    inputs = {**tables, "videos": pa.Table.from_pylist(videos, schema=tables["videos"].schema)}
    params = ExportParams(
        webdataset=WebDatasetParams(shard_mb=0.05),
        rules=(Rule(name="moving", column="motion", min=0.02, missing="review"),),
    )
    return run(tmp_path_factory.mktemp("exported"), inputs, params)


@pytest.fixture
def copied(exported: LocalContext, tmp_path: Path) -> Path:
    """The exported folder somewhere else, as a person who was given it has it."""
    return Path(shutil.copytree(exported.outputs["media"], tmp_path / "given"))


def test_duckdb_and_datasets_read_a_copy_as_it_is(exported: LocalContext, copied: Path) -> None:
    import duckdb

    with duckdb.connect() as db:
        rows = db.sql(
            f"SELECT file_name, media_sha256, extra->>'channel' AS channel FROM '{copied}/metadata.parquet'"
        ).fetchall()
    assert len(rows) == 4
    for name, digest, _ in rows:
        assert hashlib.sha256((copied / name).read_bytes()).hexdigest() == digest
    assert sorted(str(channel) for _, _, channel in rows) == ["7", "7", "None", "None"]

    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    datasets.disable_progress_bars()
    cache = str(copied.parent / "cache")
    subset = Path(exported.outputs["subset"].column("media_uri")[0].as_py()).parent.parent / "subset"
    by_card = datasets.load_dataset(str(copied), cache_dir=cache)["train"]  # the card says which file is the data
    assert by_card.num_rows == 4
    assert by_card[0]["file_name"] == f"{by_card[0]['clip_id']}.mp4"
    table = datasets.load_dataset("parquet", data_dir=str(subset), cache_dir=cache, split="train")
    assert table["clip_id"] == exported.outputs["subset"].column("clip_id").to_pylist()
    assert {str(f.dtype) for f in table.features.values()} <= {"string", "int64", "int32", "float64", "bool"}


def test_a_copy_says_nothing_of_the_machine_that_made_it(exported: LocalContext, copied: Path) -> None:
    import pyarrow.parquet as pq

    metadata = pq.read_table(copied / "metadata.parquet")
    assert not {"media_uri", "video_uri"} & set(metadata.column_names)
    store = exported.store.root.encode()
    for path in copied.rglob("*"):
        if path.is_file():
            assert store not in path.read_bytes(), path.name


def test_the_manifest_covers_every_file_and_finds_a_changed_one(copied: Path) -> None:
    listed = {line.split("  ")[1] for line in (copied / "SHA256SUMS").read_text().splitlines()}
    assert listed == {p.relative_to(copied).as_posix() for p in copied.rglob("*") if p.is_file()} - {"SHA256SUMS"}

    def check() -> int:
        return subprocess.run(
            ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=copied, capture_output=True, check=False
        ).returncode

    assert check() == 0
    with (copied / "README.md").open("a") as card:
        card.write("x")
    assert check() == 1


def test_shards_are_read_as_webdataset_and_hold_what_lies_beside_them(exported: LocalContext, copied: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    shards = sorted((copied / "shards").iterdir())
    assert len(shards) > 1
    samples = list(wds.WebDataset([str(s) for s in shards], shardshuffle=False))
    assert [s["__key__"] for s in samples] == exported.outputs["subset"].column("clip_id").to_pylist()
    for sample in samples:
        assert sample["mp4"] == (copied / f"{sample['__key__']}.mp4").read_bytes()
        told = json.loads(sample["json"])
        assert told["clip_id"] == sample["__key__"]
        assert sample["txt"].decode() == (told["caption"] or "")
        assert told["extra"] in (None, {"channel": 7, "tags": ["é", "|"]})
        assert told["motion"] == 0.1
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.uname, member.mode) == (0, 0, "", 0o644)


def test_shards_come_back_as_a_source(copied: Path, tmp_path: Path) -> None:
    from stages.curation.ingest import ingest

    context = LocalContext(tmp_path, ingest, source=copied / "shards")
    context.run()
    rows = context.outputs["sources"].to_pylist()
    assert len(rows) == 4
    assert sorted(str(row["caption"]) for row in rows) == ["None", "None", "a man in a room", "a man in a room"]
    assert {row["licence"] for row in rows} == {"CC-BY 4.0"}


def test_the_card_is_one_that_hubs_read(exported: LocalContext) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard((exported.outputs["media"] / "README.md").read_text())
    told = card.data.to_dict()
    assert (told["license"], told["size_categories"], told["task_categories"]) == (
        "cc-by-4.0",
        ["n<1K"],
        ["text-to-video"],
    )
    assert [c["config_name"] for c in told["configs"]] == ["clips", "webdataset"]
    for line in (
        "4 clips from 2 source videos",
        "| `moving` | motion >= 0.02 | review |",
        "| 0 to 239 | 4 |",
        "| `media_sha256` | string |  | digest of that file |",
        "Encoding: codec libx264, audio drop.",
    ):
        assert line in card.text
    metadata = hashlib.sha256((exported.outputs["media"] / "metadata.parquet").read_bytes()).hexdigest()
    assert metadata in card.text


def test_the_same_clips_make_the_same_folder_whatever_was_encoded_before(tables: Tables, tmp_path: Path) -> None:
    a, *_ = tables["clips"].column("clip_id").to_pylist()
    params = ExportParams(webdataset=WebDatasetParams())
    run(tmp_path / "x", tables, params, verdicts=VERDICTS.table([verdict(a, "accept")]))
    sums = [(run(tmp_path / store, tables, params).outputs["media"] / "SHA256SUMS").read_text() for store in ("x", "y")]
    assert sums[0] == sums[1]


def test_a_source_that_changed_fails_its_clips_and_no_others(tables: Tables, tmp_path: Path) -> None:
    videos = tables["videos"].to_pylist()
    videos[0]["bytes"] += 1
    context = run(tmp_path, {**tables, "videos": pa.Table.from_pylist(videos, schema=tables["videos"].schema)})
    failed = [row for row in context.ledger_rows if row["status"] == "failed"]
    assert [row["video_id"] for row in failed] == [videos[0]["video_id"]] * 2
    assert all("changed since it was analysed" in row["error_message"] for row in failed)
    assert context.outputs["subset"].num_rows == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "quick"}, "preset of libx264"),
        ({"crf": 60}, "0 to 51"),
        ({"codec": "libvpx-vp9", "preset": "slow"}, "libvpx-vp9"),
    ],
)
def test_settings_that_the_codec_does_not_know_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportParams(**settings)

"""Bad input gets one clear message, exit code 1 or 2, and costs nothing that was done."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipelines.command import INLINE, fulcrum


def test_typos_are_answered_with_the_nearest_spelling(tmp_path: Path) -> None:
    assert "did you mean curate" in fulcrum("run", "curat").err
    (tmp_path / "videos").mkdir()
    config = tmp_path / "c.yaml"
    config.write_text("stages:\n  selct: {}\n  analyze: {scorer: []}\n")
    done = fulcrum("config", "validate", "curate", "--config", config)
    assert done.code == 2
    assert "selct" in done.err
    assert "did you mean select?" in done.err
    assert "did you mean scorers?" in done.err
    assert "c.yaml" in done.err
    assert fulcrum("run", "curate", "--soruce", "x").code == 2
    assert fulcrum("runn").code == 2


def test_an_empty_or_missing_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    done = fulcrum("run", "curate", "--source", tmp_path / "videos", "--store", tmp_path / "s", *INLINE)
    assert done.code == 1
    assert str(tmp_path / "videos") in done.out
    done = fulcrum("run", "curate", "--source", tmp_path / "vidoes", "--store", tmp_path / "s", *INLINE)
    assert done.code == 2
    assert "did you mean videos" in done.err
    done = fulcrum("run", "curate", "--store", tmp_path / "s", *INLINE)
    assert done.code in (1, 2)
    assert "--source" in done.out + done.err


def test_a_store_that_is_no_store_and_one_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.doc").write_text("x")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"not a video at all, but long enough to be looked at")
    common = ("run", "curate", "--source", tmp_path / "videos", *INLINE)
    done = fulcrum(*common, "--store", tmp_path / "thesis")
    assert done.code == 1
    assert "holds other files" in done.err
    assert list((tmp_path / "thesis").iterdir()) == [tmp_path / "thesis" / "chapter1.doc"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "fulcrum-store.json").write_text('{"format": 99}')
    assert "format 99" in fulcrum(*common, "--store", tmp_path / "old").err
    assert fulcrum("status", "--store", tmp_path / "none").code == 1


def test_a_committed_table_that_lost_a_column_is_refused_by_name(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    (source / "a.mp4").write_bytes(b"not a video at all, but long enough to be looked at")
    common = (
        "run",
        "curate",
        "--source",
        source,
        "--store",
        tmp_path / "s",
        *INLINE,
        "--set",
        "review_clips.reviewer=script:rules",
    )
    fulcrum(*common)
    part = next((tmp_path / "s" / "data" / "ingest").rglob("sources/*.parquet"))
    table = pq.read_table(part)
    pq.write_table(table.drop_columns(["uri"]), part)
    for manifest in (tmp_path / "s" / "stages" / "analyze").glob("*.json"):
        manifest.unlink()
    done = fulcrum(*common)
    assert done.code == 1
    assert "column uri is missing from table sources" in done.out


def test_a_source_list_with_a_missing_column_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"address": ["a.mp4"]}), tmp_path / "list.parquet")
    done = fulcrum("run", "curate", "--source", tmp_path / "list.parquet", "--store", tmp_path / "s", *INLINE)
    assert done.code == 1
    assert "uri" in done.out


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_stops_the_run_and_nothing_is_lost(tmp_path: Path, footage: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    source = tmp_path / "videos"
    source.mkdir()
    for name in ("mdn-learning-area/frog.mp4", "sam2/01_dog.mp4", "sam2/04_coffee.mp4", "cogvideo/1.mp4"):
        (source / name.replace("/", "_")).symlink_to(footage / name)
    common = (
        "run",
        "curate",
        "--source",
        source,
        "--store",
        disk / "s",
        *INLINE,
        "--set",
        "review_clips.reviewer=script:rules",
    )
    try:
        done = fulcrum(*common)
        assert done.code == 1
        assert "disk is full" in done.out + done.err
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        again = fulcrum(*common)
        assert again.code == 0, again.out + again.err
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_planted_secret_is_nowhere(tmp_path: Path) -> None:
    """The password of the review database and of the tracking server reach neither store, log, MLflow nor any output."""
    source = tmp_path / "videos"
    source.mkdir()
    (source / "a.mp4").write_bytes(b"not a video at all, but long enough to be looked at")
    secret = "s3cr3t-hunter2"
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = tmp_path / "c.yaml"
    config.write_text(
        "review:\n  database: 'sqlite:///${PLACE}/review.db?key=${PLANTED}'\ntracking:\n  uri: ${TRACKING}\n"
    )
    env = {"PLANTED": secret, "PLACE": str(tmp_path), "TRACKING": database, "AWS_SECRET_ACCESS_KEY": secret}
    common = ("--config", config, "--source", source, "--store", tmp_path / "s")
    said = ""
    for command in (
        ("config", "show", "curate"),
        ("run", "curate", "--set", "engine.kind=inline"),
        ("plan", "curate", "--why"),
    ):
        done = fulcrum(*command, *common, **env)
        said += done.out + done.err
    assert secret not in said
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path

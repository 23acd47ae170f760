"""New, changed and removed files, and videos that are taken down: on the real pipeline, in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from data_schemas.ids import video_id
from data_schemas.tables import CACHE, PAIRS, SAMPLES, VIDEOS
from pipelines.cli.remove_commands import remove
from pipelines.commits import Commits
from pipelines.config import load
from pipelines.curate import PIPELINE
from pipelines.dag.engine import InlineEngine
from pipelines.dag.graph import Pipeline, node
from pipelines.dag.records import RecordStore
from pipelines.dag.runner import Job, run
from pipelines.dag.runs import load_run
from pipelines.dag.store import Store
from pipelines.dag.takedowns import log, taken_down
from pipelines.launch import launch
from pipelines.traces import Video, find_video, trace
from stages.contract import Context, Files, Params, StageError, Table, stage
from stages.curation.default_rules import DEFAULT_RULES
from stages.review.proxies import poster_name
from tests.dag.toy import Quiet, world
from tests.footage.media import pan, still, write

NO_RULES = [f"select.rules.{rule.name}=null" for rule in DEFAULT_RULES]


class Place:
    """A source of three short videos, and the pipeline run on it."""

    def __init__(self, root: Path) -> None:
        self.source, self.uri = root / "videos", str(root / "store")
        (self.source / "deep").mkdir(parents=True)
        write(self.source / "a.mp4", np.concatenate([pan(2, 0, 30, seed=1), still(9, 30)]))
        write(self.source / "b.mp4", pan(1, 1, 40, seed=4))
        write(self.source / "deep" / "b.mp4", pan(3, 0, 40, seed=5))

    def run(self, reviewer: str = "script:rules") -> dict[str, str]:
        settings = ["engine.kind=inline", "tracking.enabled=false", f"review_clips.reviewer={reviewer}", *NO_RULES]
        config = load(PIPELINE, None, settings, {"store": self.uri, "source": str(self.source), "limit": None})
        code = launch(PIPELINE, config, again="again", as_json=True, retry_failed=False)
        assert code == (75 if reviewer == "people" else 0)
        return {n.name: n.state for n in load_run(self.store).nodes}

    @property
    def store(self) -> Store:
        return Store(self.uri, create=False)

    @property
    def decoded(self) -> int:
        return RecordStore(self.store, "analyze", tidy=False).committed("facts")

    def table(self, name: str) -> list[dict[str, Any]]:
        record = load_run(self.store)
        uris = {output: uri for n in record.nodes for output, uri in n.outputs.items()} | {"ledger": record.ledger}
        return pads.dataset(uris[name]).to_table().to_pylist()

    def videos(self) -> dict[str, dict[str, Any]]:
        return {row["path"]: row for row in self.table("videos")}

    def holding(self, path: str) -> set[str]:
        """Outputs of the latest run that hold the video, as the command finds them."""
        commits = Commits(self.store)
        return {f"{t.node}.{t.output}" for t in trace(commits, self.id(path)).artifacts if t.current}

    def id(self, path: str) -> Video:
        return Video(video_id("videos", path), str(self.source / path), path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("remove"))
    place.run()
    return place


def naming(root: Path, identities: set[str], outputs: Mapping[str, str]) -> set[str]:
    """Oracle: outputs in whose Parquet files one of the identities stands anywhere, as text of the row."""
    found = set()
    for name, uri in outputs.items():
        for path in Path(uri).rglob("*.parquet"):
            for row in pq.read_table(path).to_pylist():
                text = str({k: v for k, v in row.items() if not isinstance(v, bytes)})
                if any(identity in text for identity in identities):
                    found.add(name)
    return found


def run_remove(capsys: pytest.CaptureFixture[str], place: Place, video: str, **options: Any) -> dict[str, Any]:
    capsys.readouterr()
    remove(video, store=place.uri, json_=True, **options)
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_new_changed_and_removed_files_are_noticed(first: Place) -> None:
    decoded, videos = first.decoded, first.videos()
    assert {v["status"] for v in videos.values()} == {"ok"}
    assert set(first.run().values()) == {"CACHED"}

    write(first.source / "c.mp4", pan(2, 2, 30, seed=8))  # new: one decode
    first.run()
    assert first.decoded == decoded + 1
    assert first.videos()["c.mp4"]["frames"] == 30

    old = {row["clip_id"] for row in first.table("clips") if row["video_id"] == videos["b.mp4"]["video_id"]}
    write(first.source / "b.mp4", pan(1, 2, 25, seed=6))  # changed: one decode, and its old clips disappear
    first.run()
    assert first.decoded == decoded + 2
    assert first.videos()["b.mp4"]["frames"] == 25
    for name in ("clips", "keyframes", "selection", "dedupe", "subset"):
        assert not old & {row["clip_id"] for row in first.table(name)}, name

    content = (first.source / "c.mp4").read_bytes()
    stat = (first.source / "c.mp4").stat()
    (first.source / "c.mp4").unlink()  # removed: out of every table but the ones that say so
    first.run()
    assert first.decoded == decoded + 2
    gone = first.videos()["c.mp4"]
    assert (gone["status"], gone["frames"], gone["sha256"]) == ("removed", None, None)
    assert first.holding("c.mp4") == {"ingest.removed", "analyze.videos"}
    rows = [row for row in first.table("ledger") if row["record_id"] == gone["video_id"]]
    assert [(row["stage"], row["status"], row["reason"]) for row in rows] == [("ingest", "rejected", "removed")]
    assert set(first.run().values()) == {"CACHED"}

    (first.source / "c.mp4").write_bytes(content)  # back as it was: everything is there already
    os.utime(first.source / "c.mp4", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert set(first.run().values()) == {"CACHED"}
    assert first.videos()["c.mp4"]["status"] == "ok"


def test_a_video_is_taken_down_and_allowed_again(first: Place, capsys: pytest.CaptureFixture[str]) -> None:
    first.run()
    decoded, b = first.decoded, first.id("deep/b.mp4")
    clips = {row["clip_id"] for row in first.table("clips") if row["video_id"] == b.video_id}
    assert clips & {row["clip_id"] for row in first.table("subset")}
    outputs = {f"{n.name}.{o}": uri for n in load_run(first.store).nodes for o, uri in n.outputs.items()}

    listed = run_remove(capsys, first, "deep/b.mp4", dry_run=True)
    assert not taken_down(first.store)
    current = {f"{a['node']}.{a['output']}" for a in listed["artifacts"] if a["current"]}
    assert current == naming(Path(first.uri), {b.video_id, *clips}, outputs)
    files = [uri for a in listed["artifacts"] if a["current"] for uri in a["files"]]
    exported = {row["clip_id"] for row in first.table("subset")}
    assert {Path(uri).stem for uri in files if uri.endswith(".mp4")} == clips & exported
    assert all(Path(uri).is_file() for uri in files)
    assert {"facts", "shots", "keyframes"} <= set(listed["records"]["analyze"])
    [campaign] = [c for c in listed["review"] if c["items"]][-1:]
    assert campaign["items"] == len(clips)

    said = run_remove(capsys, first, b.uri, reason="a letter from a lawyer")
    assert said["taken_down"]
    [entry] = log(first.store)
    assert (entry.video_id, entry.action, entry.reason) == (b.video_id, "remove", "a letter from a lawyer")
    assert "@" in entry.by
    states = first.run()
    assert states["ingest"] == "SUCCEEDED"
    assert (first.source / "deep" / "b.mp4").exists()
    outputs = {f"{n.name}.{o}": uri for n in load_run(first.store).nodes for o, uri in n.outputs.items()}
    assert naming(Path(first.uri), {b.video_id, *clips}, outputs) == set()
    assert not [p for uri in outputs.values() for p in Path(uri).rglob("*") if p.stem in clips]
    rows = [row for row in first.table("ledger") if b.video_id in (row["record_id"], row["video_id"])]
    assert [(row["stage"], row["status"], row["reason"]) for row in rows] == [("ingest", "rejected", "taken down")]
    assert set(first.run().values()) == {"CACHED"}
    assert [a for a in run_remove(capsys, first, "deep/b.mp4")["artifacts"] if a["current"]] == []
    assert len(log(first.store)) == 1  # it was down already

    assert not run_remove(capsys, first, b.video_id, undo=True)["taken_down"]
    first.run()
    assert clips <= {row["clip_id"] for row in first.table("clips")}
    assert first.decoded == decoded
    assert [e.action for e in log(first.store)] == ["remove", "undo"]


def test_the_proxies_that_people_see_are_found_by_the_rows_that_name_them(
    first: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    first.run(reviewer="people")
    mine = [row for row in first.table("shown") if row["video_id"] == first.id("deep/b.mp4").video_id]
    names = {name for row in mine for name in (row["media"], poster_name(row["media"]), *row["pictures"])}
    listed = run_remove(capsys, first, "deep/b.mp4", dry_run=True)
    [folder] = [a for a in listed["artifacts"] if a["current"] and a["output"] == "proxies"]
    assert folder["how"] == "files"
    assert {Path(uri).name for uri in folder["files"]} == names
    assert all(Path(uri).is_file() for uri in folder["files"])
    assert listed["records"]["review_media"] == ["proxies"]
    on_the_page = {Path(file).name for campaign in listed["review"] for file in campaign["files"]}
    assert on_the_page == {name for row in mine for name in (row["media"], *row["pictures"])}


def test_who_is_meant_is_never_guessed(first: Place) -> None:
    with pytest.raises(StageError, match="may be any of 2 videos") as caught:
        remove("b.mp4", store=first.uri)
    assert all(first.id(path).video_id in str(caught.value) for path in ("b.mp4", "deep/b.mp4"))
    with pytest.raises(StageError, match=r"is called \.mp4"):
        remove(".mp4", store=first.uri)
    assert not taken_down(first.store)


def test_the_same_content_under_another_name_is_told_and_stays(
    first: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (first.source / "twin.mp4").write_bytes((first.source / "a.mp4").read_bytes())
    first.run()
    said = run_remove(capsys, first, "a.mp4", dry_run=True)
    assert [video["path"] for video in said["same_content"]] == ["twin.mp4"]
    remove("a.mp4", store=first.uri, dry_run=True)
    text = capsys.readouterr().out
    assert "nothing was changed" in text
    assert "twin.mp4" in text
    (first.source / "twin.mp4").unlink()


# -- what was made from it -------------------------------------------------------------------------------------------


class Nothing(Params):
    """No parameters."""


VIDEO = "0123456789abcdef0123"
SAMPLE = "fedcba98765432100000"


def made_up(
    name: str, outputs: Mapping[str, Any], inputs: Mapping[str, Any], rows: Mapping[str, list[dict[str, Any]]]
) -> Any:
    def work(ctx: Context, params: Nothing) -> None:
        for output, artifact in outputs.items():
            if isinstance(artifact, Table):
                ctx.write(output, artifact.schema.table(rows[output]))
            else:
                (ctx.folder(output) / "weights.bin").write_bytes(name.encode())

    return stage(name=name, version="1", params=Nothing, inputs=inputs, outputs=outputs)(work)


def test_what_was_trained_on_it_is_found_by_lineage(tmp_path: Path) -> None:
    """video -> training sample (by a reference of it) -> cache -> adapter -> generated videos; the other branch is clean."""
    other = {
        "video_id": "other",
        "sha256": "s2",
        "uri": "/o",
        "path": "o.mp4",
        "media_type": "video",
        "bytes": 1,
        "status": "ok",
    }
    video = {**other, "video_id": VIDEO, "sha256": "s1", "uri": "/v.mp4", "path": "v.mp4"}
    reference = {"subject_id": "s", "video_id": VIDEO}
    pair = {"kind": "in_pair", "prompt": "p", "same_source": True, "split": "train"}
    pairs = [
        {**pair, "sample_id": SAMPLE, "clip_id": "c-other", "video_id": "other", "references": [reference]},
        {**pair, "sample_id": "clean", "clip_id": "c-other", "video_id": "other", "references": []},
    ]
    cached = {
        "kind": "in_pair",
        "split": "train",
        "shard": "s",
        "bucket": "b",
        "references": 1,
        "views": 1,
        "text_key": "t",
        "prompt": "p",
    }
    sample = {"system": "dirty", "prompt_id": "p", "seed": 1, "prompt": "p", "status": "ok"}
    cache, adapter = {"cache": Table(CACHE)}, {"adapter": Files("adapter")}
    pipeline = Pipeline(
        "made_up",
        (
            node("videos", made_up("videos", {"videos": Table(VIDEOS)}, {}, {"videos": [video, other]})),
            node("pairs", made_up("pairs", {"pairs": Table(PAIRS)}, {"videos": Table(VIDEOS)}, {"pairs": pairs}),
                 videos="videos.videos"),
            node("dirty", made_up("encode", cache, {"pairs": Table(PAIRS)}, {"cache": [{**cached, "sample_id": SAMPLE}]}),
                 pairs="pairs.pairs"),
            node("clean", made_up("encode2", cache, {"pairs": Table(PAIRS)}, {"cache": [{**cached, "sample_id": "clean"}]}),
                 pairs="pairs.pairs"),
            node("train_dirty", made_up("train", adapter, cache, {}), cache="dirty.cache"),
            node("train_clean", made_up("train2", adapter, cache, {}), cache="clean.cache"),
            node("sample_dirty", made_up("sample", {"samples": Table(SAMPLES)}, adapter, {"samples": [sample]}),
                 adapter="train_dirty.adapter"),
            node("sample_clean", made_up("sample2", {"samples": Table(SAMPLES)}, adapter, {"samples": [{**sample, "system": "x"}]}),
                 adapter="train_clean.adapter"),
        ),
    )  # fmt: skip
    store = Store(str(tmp_path / "store"))
    job = Job(pipeline=pipeline, store=store, params={n.name: Nothing() for n in pipeline.nodes}, world=world(), seed=0,
              engine=InlineEngine(), local=tmp_path / "local", quiet=True)  # fmt: skip
    assert run(job, Quiet()).state == "done"
    commits = Commits(store)
    found = trace(commits, find_video(commits, "v.mp4"))
    assert {(t.node, t.how) for t in found.artifacts} == {
        ("videos", "rows"), ("pairs", "rows"), ("dirty", "rows"), ("train_dirty", "made from it"), ("sample_dirty", "made from it"),
    }  # fmt: skip
    assert found.identities == {VIDEO, SAMPLE}
    assert found.redo == {"made_up": ["videos", "pairs", "dirty", "train_dirty", "sample_dirty"]}

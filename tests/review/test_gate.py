"""A gate makes its campaign, waits as data, and commits the frozen answers; it never changes once people have answered."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_schemas.tables import CAPTIONS, CLIPS, DEDUPE, PREFERENCES
from pipelines.dag.store import Store
from stages.contract import StageError, Waiting
from stages.review.answers import Answer
from stages.review.campaigns import close_campaign, list_campaigns
from stages.review.database import Database, open_database
from stages.review.gate import ReviewClipsParams, ReviewPairsParams, review_clips, review_pairs
from stages.review.media import MediaStore, media_root_for
from stages.review.people import person_named
from stages.review.proxies import poster_name
from stages.review.queue import claim, submit
from tests.context import LocalContext
from tests.curation.storage import upload
from tests.review.clips import KEPT, REJECTED, curated, gate_inputs
from tests.review.conftest import write_webm


def pair_inputs(folder: Path, count: int = 4, kind: str = "consis") -> dict[str, Any]:
    shards = folder / "shards"
    (shards / "videos").mkdir(parents=True)
    rows = []
    for n in range(count):
        for side in "wl":
            write_webm(shards / "videos" / f"{n}{side}.webm", hue=n + 7 * (side == "l"), frames=6)
        Image.fromarray(np.full((32, 32, 3), 40 * n, np.uint8)).save(shards / "videos" / f"{n}.png")
        uris = {"winner_uri": f"{n}w.webm", "loser_uri": f"{n}l.webm", "reference_uri": f"{n}.png"}
        rows.append(
            {
                "pair_id": f"pair-{n}",
                "kind": kind,
                "sample_id": f"s{n}",
                "shard": "x",
                "prompt": f"prompt {n}",
                "seed": n,
            }
            | {field: f"file:///gone/attempt-1/shards/videos/{name}" for field, name in uris.items()}
        )
    return {"preferences": PREFERENCES.table(rows), "shards": shards}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.webm"
    write_webm(path, frames=20)
    return path


def review_db(ctx: LocalContext) -> Database:
    return open_database(ctx.world.review_database)


def accept_all(db: Database, name: str = "Ada") -> int:
    who = person_named(db, name)
    (campaign,) = [one for one in list_campaigns(db) if one.state == "open"]
    done = 0
    while held := claim(db, campaign.id, who, 10):
        for one in held:
            submit(db, who, Answer(one.item_id, f"{name}-{one.item_id}", "accept"))
            done += 1
    return done


def test_the_filter_gate_waits_for_people_and_then_commits_their_frozen_answers(tmp_path: Path, source: Path) -> None:
    inputs = gate_inputs(tmp_path, curated(source), rejected_share=0.5)
    ctx = LocalContext(tmp_path, review_clips, inputs)
    waiting = ctx.run()
    # six survivors, and 0.5 x 6 = 3 of the rejected ones
    assert isinstance(waiting, Waiting)
    assert waiting.remaining == 9
    db = review_db(ctx)
    assert waiting.page.endswith(f"/c/{list_campaigns(db)[0].id}")

    assert accept_all(db) == 9
    again = LocalContext(tmp_path, review_clips, inputs)
    assert again.run() is None
    items = again.outputs["items"].to_pylist()
    drawn = [row for row in items if row["stratum"] == "motion"]
    assert len(items) == 9
    assert {row["inclusion_probability"] for row in drawn} == {3 / REJECTED}
    assert {row["verdict"] for row in again.outputs["verdicts"].to_pylist()} == {"accept"}
    assert {row["reviewer"] for row in again.outputs["decisions"].to_pylist()} == {"Ada"}
    assert [row["status"] for row in again.ledger_rows] == ["accepted"] * KEPT
    payload = json.loads(items[0]["payload"])
    assert set(payload) == {"media", "keyframes", "caption", "duration_s", "fps"}  # no score to lean on


def test_what_the_page_plays_is_linked_from_the_store_and_placed_again_when_it_was_deleted(
    tmp_path: Path, source: Path
) -> None:
    inputs = gate_inputs(tmp_path, curated(source))
    ctx = LocalContext(tmp_path, review_clips, inputs)
    ctx.run()
    root = media_root_for(ctx.world.review_database)
    placed = {path.name: path for path in root.rglob("*.*")}
    rows = inputs["shown"].to_pylist()
    assert set(placed) >= {name for row in rows for name in (row["media"], poster_name(row["media"]), *row["pictures"])}
    assert all(path.samefile(inputs["proxies"] / name) for name, path in placed.items())  # takes no room twice
    shutil.rmtree(root)
    LocalContext(tmp_path, review_clips, inputs).run()
    assert {path.name for path in root.rglob("*.*")} == set(placed)


def test_from_an_object_store_only_what_is_missing_is_fetched(
    tmp_path: Path, source: Path, s3_options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = gate_inputs(tmp_path, curated(source), rejected_share=0)
    upload(inputs["proxies"], "review", "store/data/proxies", s3_options)
    store = Store(f"s3://review/store?{s3_options}")
    ctx = LocalContext(tmp_path, review_clips, inputs)
    monkeypatch.setattr(ctx, "uri", lambda name: store.uri_of(f"data/{name}"))
    ctx.run()
    placed = sorted(media_root_for(ctx.world.review_database).rglob("*.*"))
    assert {path.name: path.read_bytes() for path in placed} == {
        path.name: path.read_bytes() for path in inputs["proxies"].iterdir()
    }
    kept = {path: path.stat().st_mtime_ns for path in placed[1:]}
    placed[0].unlink()
    ctx.run()
    assert placed[0].is_file()
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_a_file_that_the_store_has_lost_is_named_with_the_remedy(tmp_path: Path, source: Path) -> None:
    inputs = gate_inputs(tmp_path, curated(source))
    lost = inputs["shown"].to_pylist()[0]["media"]
    (inputs["proxies"] / lost).unlink()
    with pytest.raises(StageError, match=f"{lost} is gone from the store. Delete"):
        LocalContext(tmp_path, review_clips, inputs).run()


def test_where_the_disk_knows_no_links_the_media_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "file").write_bytes(b"a video")
    media = MediaStore(tmp_path / "media")
    media.add_link(f"{1:032x}.webm", tmp_path / "file")
    found = media.find(f"{1:032x}.webm")
    assert found is not None
    assert found.read_bytes() == b"a video"


def test_running_the_gate_again_while_people_answer_changes_nothing(tmp_path: Path, source: Path) -> None:
    inputs = gate_inputs(tmp_path, curated(source))
    first = LocalContext(tmp_path, review_clips, inputs).run()
    second = LocalContext(tmp_path, review_clips, inputs).run()
    assert first == second


def test_a_committed_gate_gives_the_same_tables_when_its_store_is_made_anew(tmp_path: Path, source: Path) -> None:
    inputs = gate_inputs(tmp_path, curated(source))
    ctx = LocalContext(tmp_path, review_clips, inputs)
    ctx.run()
    accept_all(review_db(ctx))
    once, twice = LocalContext(tmp_path, review_clips, inputs), LocalContext(tmp_path, review_clips, inputs)
    assert once.run() is None
    assert twice.run() is None
    for name in ("items", "decisions", "verdicts"):
        assert once.outputs[name].equals(twice.outputs[name])


def test_a_campaign_closed_in_part_leaves_the_rest_in_review(tmp_path: Path, source: Path) -> None:
    inputs = gate_inputs(tmp_path, curated(source), rejected_share=0)
    ctx = LocalContext(tmp_path, review_clips, inputs)
    ctx.run()
    db = review_db(ctx)
    who, campaign = person_named(db, "Ada"), list_campaigns(db)[0].id
    for one, choice in zip(claim(db, campaign, who, 2), ("accept", "reject"), strict=True):
        submit(db, who, Answer(one.item_id, f"key-{one.item_id}", choice, ("still",) if choice == "reject" else ()))
    close_campaign(db, campaign, "Ada")
    done = LocalContext(tmp_path, review_clips, inputs)
    assert done.run() is None
    ends = Counter((row["status"], row["reason"]) for row in done.ledger_rows)
    assert ends == {("accepted", None): 1, ("rejected", "still"): 1, ("in_review", None): KEPT - 2}


def test_with_nothing_to_review_the_gate_commits_empty_tables_and_makes_no_database(
    tmp_path: Path, source: Path
) -> None:
    inputs = gate_inputs(tmp_path, curated(source) | {"dedupe": DEDUPE.empty()})
    ctx = LocalContext(tmp_path, review_clips, inputs)
    assert ctx.run() is None
    assert ctx.outputs["verdicts"].num_rows == 0
    assert not media_root_for(ctx.world.review_database).parent.exists()


def test_a_clip_that_cannot_be_shown_is_no_item(tmp_path: Path, source: Path) -> None:
    inputs = curated(source)
    rows = inputs["clips"].to_pylist()
    rows[0] |= {"start_frame": 15, "end_frame": 90}  # the source holds 20 frames
    inputs = gate_inputs(tmp_path, inputs | {"clips": CLIPS.table(rows)}, rejected_share=0)
    ctx = LocalContext(tmp_path, review_clips, inputs)
    ctx.run()
    accept_all(review_db(ctx))
    done = LocalContext(tmp_path, review_clips, inputs)
    assert done.run() is None
    assert done.outputs["items"].num_rows == KEPT - 1
    assert "clip-000" not in {row["record_id"] for row in done.ledger_rows}  # it ended one stage before


def test_a_changed_campaign_carries_over_peoples_answers_where_the_same_is_asked(tmp_path: Path, source: Path) -> None:
    inputs = gate_inputs(tmp_path, curated(source), rejected_share=0)
    first = LocalContext(tmp_path, review_clips, inputs, fingerprint="a" * 64)
    first.run()
    accept_all(review_db(first))
    assert LocalContext(tmp_path, review_clips, inputs, fingerprint="a" * 64).run() is None

    captions = inputs["captions"].to_pylist()
    captions[0]["caption"] = "another caption"  # one item now asks something else
    inputs["captions"] = CAPTIONS.table(captions)
    waiting = LocalContext(tmp_path, review_clips, inputs, fingerprint="b" * 64).run()
    assert isinstance(waiting, Waiting)
    assert waiting.remaining == 1
    accept_all(review_db(first))
    done = LocalContext(tmp_path, review_clips, inputs, fingerprint="b" * 64)
    assert done.run() is None
    assert sorted(row["carried"] for row in done.outputs["decisions"].to_pylist()) == [False] + [True] * (KEPT - 1)


def test_a_scripted_reviewer_answers_under_its_own_name_and_the_run_goes_on(tmp_path: Path, source: Path) -> None:
    inputs = gate_inputs(tmp_path, curated(source), reviewer="script:rules", rejected_share=0.5)
    ctx = LocalContext(tmp_path, review_clips, inputs)
    assert ctx.run(ReviewClipsParams(reviewer="script:rules")) is None
    decisions = ctx.outputs["decisions"].to_pylist()
    stratum = {row["item_id"]: row["stratum"] for row in ctx.outputs["items"].to_pylist()}
    assert {row["reviewer"] for row in decisions} == {"script:rules"}
    assert all((row["verdict"] == "accept") == (stratum[row["item_id"]] == "kept") for row in decisions)
    assert not media_root_for(ctx.world.review_database).exists()


def test_a_scripts_answers_are_never_carried_to_people(tmp_path: Path, source: Path) -> None:
    inputs = gate_inputs(tmp_path, curated(source))
    LocalContext(tmp_path, review_clips, inputs, fingerprint="a" * 64).run(ReviewClipsParams(reviewer="script:rules"))
    waiting = LocalContext(tmp_path, review_clips, inputs, fingerprint="b" * 64).run()
    assert isinstance(waiting, Waiting)
    assert waiting.remaining == KEPT + 1


@pytest.mark.parametrize("kind", ["consis", "real_fake"])
def test_scripted_pairs_come_out_as_intended_whatever_side_they_were_shown_on(tmp_path: Path, kind: Any) -> None:
    inputs = pair_inputs(tmp_path, kind=kind)
    ctx = LocalContext(tmp_path, review_pairs, inputs)
    assert ctx.run(ReviewPairsParams(kind=kind, reviewer="script:rules")) is None
    assert [row["verdict"] for row in ctx.outputs["verdicts"].to_pylist()] == ["winner"] * 4
    sides = {json.loads(row["values"])["side"] for row in ctx.outputs["decisions"].to_pylist()}
    assert sides <= {"AB", "BA"}


def test_the_histogram_script_prefers_the_colours_of_the_reference(tmp_path: Path) -> None:
    inputs = pair_inputs(tmp_path, count=1)
    videos = inputs["shards"] / "videos"
    # The reference is the loser's own ground colour, so a judge of colours must prefer the loser.
    ground = [(7 * 53) % 200, (7 * 97) % 200, (7 * 31 + 60) % 200]
    Image.fromarray(np.tile(np.array(ground, np.uint8), (32, 32, 1))).save(videos / "0.png")
    ctx = LocalContext(tmp_path, review_pairs, inputs)
    assert ctx.run(ReviewPairsParams(kind="consis", reviewer="script:histogram")) is None
    assert [row["verdict"] for row in ctx.outputs["verdicts"].to_pylist()] == ["loser"]


def test_pairs_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    ctx = LocalContext(tmp_path, review_pairs, pair_inputs(tmp_path, count=1, kind="consis"))
    with pytest.raises(StageError, match="asks about real_fake pairs and was given consis"):
        ctx.run(ReviewPairsParams(kind="real_fake"))


def test_a_scripted_reviewer_cannot_pretend_to_be_two_people() -> None:
    with pytest.raises(ValueError, match="answers each item once"):
        ReviewClipsParams(reviewer="script:rules", overlap=2)

"""``fulcrum review`` from a terminal: invite, create, stats, close, export, import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.cli.review_commands import app
from pipelines.config import ConfigError
from stages.review.answers import Answer
from stages.review.database import open_database
from stages.review.errors import ReviewError
from stages.review.people import bearer, person_named
from stages.review.queue import claim, submit


@pytest.fixture
def review(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, videos: list[Path]) -> Any:
    """``review("stats", "clips")`` runs a command on a database beside six videos; failures raise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for path in videos:
        (tmp_path / path.name).write_bytes(path.read_bytes())

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--database", f"sqlite:///{tmp_path / 'review.db'}"])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    return call


def listing(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    return name


def clips(folder: Path, count: int = 4) -> str:
    return listing(
        folder,
        "clips.jsonl",
        [{"external_id": f"c{n}", "media": f"{n}.webm", "text": "a bar", "duration_s": 2} for n in range(count)],
    )


def answer(database: Path, campaign: str, **choice: Any) -> None:
    db = open_database(database)
    for name in ("Ada", "Ben"):
        who = person_named(db, name)
        for one in claim(db, campaign, who, 20):
            submit(db, who, Answer(one.item_id, f"{name}-{one.item_id}", watched_ms=2500, **choice))
    db.close()


def test_a_campaign_from_a_list_of_videos_to_its_export_and_back(review: Any, tmp_path: Path) -> None:
    assert "4 items, 4 to judge" in review("create", "clips", clips(tmp_path), "--form", "filter", "--overlap", "2")
    answer(tmp_path / "review.db", "clips", choice="accept")
    shown = review("stats", "clips")
    for part in ("4 of 4 items judged", "4 accept", "Ada", "agreement", "raw"):
        assert part in shown, shown
    found = json.loads(review("stats", "clips", "--json"))
    assert found["people"][0]["median_s"] == 2.5
    assert "4 tasks" in review("export", "clips", "tasks.json")
    assert "<Choices" in (tmp_path / "tasks.xml").read_text()
    assert "4 items with 8 answers" in review("import", "again", "tasks.json", "--form", "filter", "--overlap", "2")
    assert "4 of 4 items judged" in review("close", "clips")
    first = review("export", "clips", "frozen", "--format", "parquet").rpartition("digest ")[2]
    assert first == review("export", "clips", "frozen2", "--format", "parquet").rpartition("digest ")[2]
    assert pq.read_table(tmp_path / "frozen" / "verdicts.parquet").num_rows == 4
    with pytest.raises(ReviewError, match="name a folder without an export"):
        review("export", "clips", "frozen", "--format", "parquet")


def test_ratings_and_comparisons_are_printed(review: Any, tmp_path: Path) -> None:
    rated = [{"external_id": f"v{n}", "media": f"{n}.webm", "system": ["base", "sft"][n % 2]} for n in range(4)]
    review("create", "ratings", listing(tmp_path, "rated.jsonl", rated), "--form", "likert", "--overlap", "2")
    scores = {"identity": 4, "prompt": 4, "motion": 2, "overall": 3}
    answer(tmp_path / "review.db", "ratings", choice="rate", scores=scores)
    pairs = [
        {"external_id": f"p{n}", "a": f"{n}.webm", "b": f"{n + 1}.webm", "systems": ["base", "sft"]} for n in range(4)
    ]
    review("create", "pairs", listing(tmp_path, "pairs.jsonl", pairs), "--form", "compare", "--overlap", "2")
    answer(tmp_path / "review.db", "pairs", choice="left")
    ratings, compared = review("stats", "ratings"), review("stats", "pairs")
    for part in ("ratings", "motion", "2.00", "sft"):
        assert part in ratings, ratings
    for part in ("a against b", "GSB", "Bradley-Terry", "left chosen in 100% of 8"):
        assert part in compared, compared


def test_an_invitation_is_a_link_and_ends_with_the_next(review: Any, tmp_path: Path) -> None:
    first = review("invite", "Ada", "--role", "lead", "--public-url", "https://review.example.org/").strip()
    assert first.startswith("https://review.example.org/login#")
    second = review("invite", "Ada").strip()
    db = open_database(tmp_path / "review.db")
    assert bearer(db, first.rpartition("#")[2]) is None
    ada = bearer(db, second.rpartition("#")[2])
    assert ada is not None
    assert ada.role == "lead"  # kept
    review("invite", "Ada", "--revoke")
    assert bearer(db, second.rpartition("#")[2]) is None
    db.close()


def test_what_cannot_be_done_is_explained(review: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no review database"):
        review("stats", "clips")
    review("create", "clips", clips(tmp_path), "--form", "filter")
    with pytest.raises(ConfigError, match="there is no campaign nothing; there are: clips"):
        review("close", "nothing")
    with pytest.raises(ConfigError, match="4 of 4 items of clips lack answers; --partial"):
        review("close", "clips")
    with pytest.raises(ReviewError, match="only a closed campaign"):
        review("export", "clips", "frozen", "--format", "parquet")
    assert "0 of 4 items judged" in review("close", "clips", "--partial")
    with pytest.raises(ConfigError, match="nobody is called Eve"):
        review("invite", "Eve", "--revoke")
    with pytest.raises(ConfigError, match="campaign_id"):
        review("create", "not an id", "clips.jsonl", "--form", "filter")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{}", "line 1: external_id: Field required"),
        ("{", "line 1: not JSON"),
        ('{"external_id": "a"}', "a filter item needs media"),
        ('{"external_id": "a", "media": "gone.webm"}', "there is no file gone.webm"),
        ('{"external_id": "a", "media": "clips.mp4"}', "neither WebM"),
        ('{"external_id": "a", "media": "0.webm", "a": "1.webm"}', "a filter item has no a"),
        ('{"external_id": "a", "media": "0.webm", "gold": {"choice": "maybe"}}', "known answer"),
        ("", "has no items"),
    ],
)
def test_a_bad_list_names_the_line(review: Any, tmp_path: Path, row: str, problem: str) -> None:
    (tmp_path / "clips.mp4").write_bytes(b"0")
    (tmp_path / "bad.jsonl").write_text(row)
    with pytest.raises(ReviewError, match=problem):
        review("create", "bad", "bad.jsonl", "--form", "filter")

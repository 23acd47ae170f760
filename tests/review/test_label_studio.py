"""A campaign goes out as Label Studio's JSON and comes back the same; what Label Studio itself exports comes in."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stages.review.answers import Answer
from stages.review.campaigns import Campaign, close_campaign, create_campaign, get_campaign
from stages.review.database import Database, open_database
from stages.review.errors import ReviewError
from stages.review.label_studio import export_tasks, import_tasks, label_config, read_tasks
from stages.review.media import MediaStore
from stages.review.people import person_named
from stages.review.queue import claim, submit
from stages.review.spec import NewItem
from stages.review.verdicts import export
from tests.review.conftest import spec

Make = Callable[..., Campaign]
SCORES = {"identity": 5, "prompt": 4, "motion": 2, "overall": 3}
SAID: dict[str, list[dict[str, Any]]] = {
    "filter": [{"choice": "accept"}, {"choice": "reject", "reasons": ("blur", "text")}, {"choice": "skip", "reasons": ("other",)}],
    "consis": [{"choice": "left", "rest_same": True}, {"choice": "right", "rest_same": False}, {"choice": "broken"}],
    "real_fake": [{"choice": "same"}, {"choice": "both_bad"}, {"choice": "right"}],
    "compare": [{"choice": "left"}, {"choice": "right"}, {"choice": "skip", "reasons": ("cannot tell",)}],
    "likert": [
        {"choice": "rate", "scores": SCORES},
        {"choice": "rate", "scores": SCORES | {"overall": 5}},
        {"choice": "skip", "reasons": ("other",)},
    ],
}  # fmt: skip


def items_of(form: str, media: MediaStore, videos: list[Path]) -> list[NewItem]:
    names = [media.add_bytes(path.read_bytes(), ".webm") for path in videos]
    if form in ("filter", "likert"):
        shown: list[dict[str, Any]] = [{"media": names[n], "caption": f"text {n}"} for n in range(4)]
    else:
        first, second = ("a", "b") if form == "compare" else ("winner", "loser")
        shown = [{first: names[n], second: names[n + 1], "reference": None} for n in range(4)]
    hidden = {"system": "sft"} if form == "likert" else {"systems": ["base", "sft"]} if form == "compare" else {}
    gold = {"choice": "reject"} if form == "filter" else None
    return [
        NewItem(f"thing {n}", payload, "kept", 0.5, n, n / 10, hidden, gold if n == 0 else None)
        for n, payload in enumerate(shown)
    ]


def answered(db: Database, form: str, items: list[NewItem]) -> None:
    create_campaign(db, spec("out", form, overlap=2), items)
    for name in ("Ada", "Ben"):
        who = person_named(db, name)
        for n, one in enumerate(claim(db, "out", who, 3)):
            submit(db, who, Answer(one.item_id, f"{name}-{one.item_id}", watched_ms=1500, **SAID[form][n]))


@pytest.mark.parametrize("form", list(SAID))
def test_out_and_in_again_is_the_same(
    db: Database, media: MediaStore, videos: list[Path], tmp_path: Path, form: str
) -> None:
    answered(db, form, items_of(form, media, videos))
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(export_tasks(db, "out")))
    other = open_database(tmp_path / "other" / "review.db")
    given: Any = {"campaign_id": "in", "form": form, "title": "in", "overlap": 2}
    for _ in range(2):  # and doing it twice changes nothing
        found = import_tasks(other, read_tasks(path), media, tmp_path, **given)
        assert found.left_out == ()
    back = export_tasks(other, "in")
    for task in back:
        task["meta"]["campaign"] = "out"
    plain = lambda tasks: sorted(json.dumps(strip(task), sort_keys=True) for task in tasks)  # noqa: E731
    assert plain(back) == plain(json.loads(path.read_text()))
    for store, campaign in ((db, "out"), (other, "in")):
        close_campaign(store, campaign, "Lea")
    mine, theirs = export(db, "out"), export(other, "in")
    assert said(mine.verdicts) == said(theirs.verdicts)
    assert sides_of(db) == sides_of(other)  # and with them the statistics of left and right
    other.close()


def strip(task: dict[str, Any]) -> dict[str, Any]:
    """A task without numbers that only count: its own and those of its annotations."""
    annotations = [{k: v for k, v in one.items() if k != "id"} for one in task["annotations"]]
    annotations.sort(key=lambda one: one["completed_by"]["first_name"])
    return {k: v for k, v in task.items() if k != "id"} | {"annotations": annotations}


def said(verdicts: Any) -> dict[str, str]:
    return {row["external_id"]: row["verdict"] for row in verdicts.to_pylist()}


def sides_of(db: Database) -> list[tuple[str, str, str]]:
    from stages.review.campaigns import list_campaigns, read_campaign
    from stages.review.labels import load_labels

    with db.read() as connection:
        labels = load_labels(connection, read_campaign(connection, list_campaigns(db)[0].id))
    return sorted((one.thing.external_id, one.person.name, one.seen) for one in labels.answers)


def test_a_plain_label_studio_export_comes_in(
    db: Database, media: MediaStore, videos: list[Path], tmp_path: Path
) -> None:
    """As a project with a Choices tag named decision exports it: video paths, people by number, ISO times with Z."""
    choice = {"from_name": "decision", "to_name": "video", "type": "choices", "value": {"choices": ["reject"]}}
    tasks = [
        {
            "id": 7,
            "data": {"video": str(videos[0])},
            "annotations": [
                {
                    "id": 1, "completed_by": 3, "was_cancelled": False, "lead_time": 4.2,
                    "created_at": "2025-05-01T10:00:00.000000Z", "result": [choice],
                },
                {"id": 2, "completed_by": {"email": "ada@example.org"}, "was_cancelled": True, "result": []},
                {"id": 3, "completed_by": 4, "was_cancelled": False, "result": [{"type": "brush"}]},
            ],
        }
    ]  # fmt: skip
    found = import_tasks(db, tasks, media, tmp_path, campaign_id="in", form="filter", title="in", overlap=2)
    assert (found.items, found.answers, len(found.left_out)) == (1, 2, 1)
    close_campaign(db, "in", "Lea")
    rows = {row["reviewer"]: row for row in export(db, "in").decisions.to_pylist()}
    assert rows["Label Studio user 3"]["verdict"] == "reject"
    assert rows["Label Studio user 3"]["submitted_at"] == "2025-05-01T10:00:00.000+00:00"
    assert rows["ada@example.org"]["verdict"] == "skip"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read as JSON"),
        ('{"a": 1}', "no Label Studio export"),
        ("[1]", "no Label Studio export"),
        ("[]", "has no tasks"),
    ],
)
def test_a_file_that_is_no_export_is_explained(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "tasks.json").write_text(content)
    with pytest.raises(ReviewError, match=problem):
        read_tasks(tmp_path / "tasks.json")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "needs media"),
        ({"video": "gone.webm"}, "cannot be shown"),
        ({"video": "s3://bucket/a.mp4"}, "must be fetched"),
        ({"media": "/media/" + "0" * 32 + ".webm"}, "not among the media"),
    ],
)
def test_media_that_cannot_be_shown_are_named(
    db: Database, media: MediaStore, tmp_path: Path, data: dict[str, str], problem: str
) -> None:
    with pytest.raises(ReviewError, match=f"Task 5.*{problem}"):
        import_tasks(db, [{"id": 5, "data": data}], media, tmp_path, campaign_id="in", form="filter", title="in")


def test_the_interface_is_well_formed_and_names_what_the_tasks_hold(db: Database, make: Make) -> None:
    for form in SAID:
        make(1, form, form=form)
        config = ElementTree.fromstring(label_config(get_campaign(db, form).spec))
        names = {tag.get("name") for tag in config.iter() if tag.get("name")}
        wanted = {"filter": {"decision", "reasons"}, "likert": set(SCORES)}.get(form, {"preference"})
        assert wanted <= names


def test_nothing_is_exported_of_a_withdrawn_gold_answer(db: Database, media: MediaStore, videos: list[Path]) -> None:
    from stages.review.gold_items import withdraw_gold
    from stages.review.schema import item

    create_campaign(db, spec("out"), items_of("filter", media, videos))
    with db.read() as connection:
        marked = connection.execute(sa.select(item.c.id).where(item.c.gold.is_not(None))).scalar_one()
    assert [task["meta"]["gold"] for task in export_tasks(db, "out")].count({"choice": "reject"}) == 1
    withdraw_gold(db, marked, "Lea")
    assert {str(task["meta"]["gold"]) for task in export_tasks(db, "out")} == {"None"}

"""Review databases of older releases open: nothing that was asked or answered is lost, and people go on where they were."""

from __future__ import annotations

import logging
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks.postgres import postgres, postgres_missing
from stages.review import schema
from stages.review.answers import Answer
from stages.review.campaigns import CampaignSpec, NewItem, create_campaign, get_campaign, list_campaigns, progress
from stages.review.database import open_database
from stages.review.errors import ReviewError
from stages.review.people import invite, person_named
from stages.review.queue import claim, submit
from stages.review.verdicts import export

GOLDEN = Path(__file__).parents[1] / "golden" / "review"
OLDER = [("layout1", 1), ("layout2", 2), ("layout2b", 2)]


def restored(name: str, tmp_path: Path) -> Path:
    path = tmp_path / "review.db"
    with sqlite3.connect(path) as database:
        database.executescript((GOLDEN / f"{name}.sql").read_text())
    return path


def rows(path: Path) -> dict[str, list[Any]]:
    """Every table but the log, with its columns, in an order of their own."""
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        names = [n for (n,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'") if n != "event"]
        tables = {n: [dict(r) for r in database.execute(f'SELECT * FROM "{n}"')] for n in names if "sqlite" not in n}
    return {n: sorted(found, key=str) for n, found in tables.items()}


def plain(row: dict[str, Any]) -> str:
    """A row without what is drawn anew by every release, the order in which items are given out; settings with every default."""
    told = {key: value for key, value in row.items() if key != "shuffle"}
    if "spec" in told:
        told["spec"] = CampaignSpec.model_validate_json(told["spec"]).model_dump_json()
    return str(told)


@pytest.mark.parametrize(("name", "layout"), OLDER)
def test_a_migrated_database_is_what_this_release_would_have_made(name: str, layout: int, tmp_path: Path) -> None:
    """Oracle: the same people, campaigns and answers, written by this release."""
    path = restored(name, tmp_path)
    before = rows(path)
    open_database(path).close()
    (tmp_path / "three").mkdir()
    expected, found = rows(restored("layout3", tmp_path / "three")), rows(path)
    assert set(found) == set(expected)
    assert all(set(found[table][0]) == set(wanted[0]) for table, wanted in expected.items() if wanted)
    for table in ("lease", "response"):  # who saw and answered what in which order was drawn by that release
        kept = [{k: v for k, v in row.items() if k in before[table][0]} for row in found[table]]
        assert sorted(kept, key=str) == before[table]
    for table in ("campaign", "item", "person", "tally", "meta"):
        wanted = [plain(row) for row in expected[table] if row.get("campaign_id") != "open"]
        assert sorted(wanted) == sorted(plain(row) for row in found[table] if row.get("campaign_id") != "open"), table
    assert rows(Path(f"{path}.layout{layout}")) == before  # the copy
    with sqlite3.connect(path) as database:
        indexes = {
            n for (n,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        }
        assert indexes == {i.name for t in schema.metadata.sorted_tables for i in t.indexes}
        assert not database.execute("PRAGMA foreign_key_check").fetchall()
        log = [n for (n,) in database.execute("SELECT kind FROM event ORDER BY id")]
        assert log.count("migrated") == 1
        assert len(log) > 5  # what was logged before is there


@pytest.mark.parametrize(("name", "layout"), OLDER)
def test_people_go_on_in_it(name: str, layout: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = restored(name, tmp_path)
    with caplog.at_level(logging.WARNING):
        db = open_database(path)
    assert f"had layout {layout}" in caplog.text
    assert {c.id: c.state for c in list_campaigns(db)} == {"clips": "open", "closed": "closed", "open": "open"}
    assert (progress(db, "clips").done, progress(db, "open").done) == (6, 1)
    frozen = export(db, "closed")
    assert {row["verdict"] for row in frozen.decisions.to_pylist()} <= {"winner", "loser"}
    assert frozen.decisions.num_rows == 3
    ada = person_named(db, "ada")
    left = claim(db, "open", ada, 3, now=9000.0)
    assert len(left) == 2
    for one in left:
        submit(db, ada, Answer(one.item_id, f"new-{one.external_id}", "same"), now=9001.0)
    assert progress(db, "open").remaining == 0
    assert invite(db, "ada")  # a token for whoever had none
    db.close()
    again = open_database(path)  # a second opening migrates nothing
    assert get_campaign(again, "open").spec.title == "open"
    again.close()


def test_answers_of_the_first_layout_are_carried_into_a_new_campaign(tmp_path: Path) -> None:
    """Its digests were made otherwise; a campaign that asks the same to the letter takes the answers over."""
    path = restored("layout1", tmp_path)
    db = open_database(path)
    clips = [NewItem(f"clip-{n}", {"media": f"{n:032x}.webm", "caption": f"caption {n}"}) for n in range(7)]
    spec = CampaignSpec(campaign_id="again", form="filter", title="again", guidelines="Look at the subject.",
                        reasons=("blur", "text"), overlap=2)  # fmt: skip
    create_campaign(db, spec, clips)
    at = progress(db, "again")
    assert (at.items, at.done) == (7, 6)
    db.close()


def test_a_failure_half_way_leaves_the_old_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = restored("layout1", tmp_path)
    before = rows(path)

    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("stages.review.migrate.retally", fails)
        with pytest.raises(KeyboardInterrupt):
            open_database(path)
    assert rows(path) == before
    open_database(path).close()
    assert rows(path)["meta"] == [{"key": "schema_version", "value": "3"}]


def test_a_newer_layout_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = restored("layout3", tmp_path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = '4'")
    with pytest.raises(ReviewError, match=r"newer release.*Install that release"):
        open_database(path)


def open_to_all(folder: str) -> Path:
    """The server runs as another user, who must be able to go into the folder."""
    Path(folder).chmod(0o755)
    return Path(folder)


@pytest.mark.skipif(postgres_missing() is not None, reason=str(postgres_missing()))
def test_on_postgresql_too(tmp_path: Path) -> None:
    """The oldest layout, carried to a server as it was, ends with the rows that SQLite's migration ends with."""
    path = restored("layout1", tmp_path)
    old = sa.MetaData()
    source = sa.create_engine(f"sqlite:///{path}")
    with tempfile.TemporaryDirectory() as folder, postgres(open_to_all(folder) / "server") as url:
        server = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        with source.connect() as here, server.begin() as there:
            old.reflect(here)
            old.create_all(there)
            for table in old.sorted_tables:
                found = [dict(row) for row in here.execute(sa.select(table)).mappings()]
                if found:
                    there.execute(table.insert(), found)
        server.dispose()
        db = open_database(url)
        with db.read() as connection:
            got = {
                t.name: [dict(r) for r in connection.execute(sa.select(t)).mappings()]
                for t in schema.metadata.sorted_tables
            }
            assert (
                connection.execute(sa.text("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'before%'")).scalar()
                == 0
            )
        ada = person_named(db, "ada")
        assert len(claim(db, "open", ada, 3, now=9000.0)) == 2  # which also writes to the log, whose numbers go on
        db.close()
    source.dispose()
    open_database(path).close()
    wanted = rows(path)
    for table in ("campaign", "item", "person", "response", "lease", "tally", "meta"):
        assert len(got[table]) == len(wanted[table]), table
        assert sorted(str({k: v for k, v in r.items() if not isinstance(v, bool)}) for r in got[table]) == sorted(
            str({k: v for k, v in r.items() if not isinstance(got[table][0][k], bool)}) for r in wanted[table]
        ), table

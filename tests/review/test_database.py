"""Where the review database may lie and which one is opened."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from stages.review.campaigns import NewItem, create_campaign
from stages.review.database import Database, open_database, refuse_network_file_system
from stages.review.errors import ReviewError
from stages.review.media import ROOT_VARIABLE, media_root_for
from stages.review.schema import SCHEMA_VERSION, item, meta
from tests.review.conftest import filter_items, spec

MOUNTS = "/dev/sda / ext4 rw 0 0\nserver:/export /mnt/team nfs4 rw 0 0\n/dev/sdb /mnt/team/local ext4 rw 0 0\n"


def test_a_network_file_system_is_refused_with_the_reason() -> None:
    with pytest.raises(ReviewError, match=r"network file system \(nfs4\).*PostgreSQL"):
        refuse_network_file_system(Path("/mnt/team/review.db"), MOUNTS)
    refuse_network_file_system(Path("/mnt/team/local/review.db"), MOUNTS)
    refuse_network_file_system(Path("/home/review.db"), MOUNTS)


@pytest.mark.parametrize(("version", "age"), [(0, "an older"), (99, "a newer")])
def test_a_database_of_another_release_is_refused_with_the_way_out(tmp_path: Path, version: int, age: str) -> None:
    db = open_database(tmp_path / "review.db")
    with db.write() as connection:
        connection.execute(meta.update().values(value=str(version)))
    db.close()
    with pytest.raises(ReviewError, match=f"{age} release.*name another review database"):
        open_database(tmp_path / "review.db")


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE runs (id)")
    with pytest.raises(ReviewError, match="a database of something else"):
        open_database(tmp_path / "other.db")


def test_a_file_that_is_no_database_gives_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database, but long enough to be looked at " * 50)
    with pytest.raises(ReviewError, match="cannot be used: file is not a database"):
        open_database(tmp_path / "notes.txt")


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ReviewError) as refused:
        open_database("postgresql+nodriver://reviewer:hunter2@nowhere/review")
    assert "hunter2" not in str(refused.value)


def test_a_new_database_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(open_database, [tmp_path / "review.db"] * 8))
    for db in opened:
        with db.read() as connection:
            assert connection.execute(sa.select(meta.c.value)).scalars().all() == [str(SCHEMA_VERSION)]
        db.close()


def test_media_lie_beside_a_file_and_must_be_named_for_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert media_root_for(tmp_path / "review.db") == tmp_path / "review_media"
    assert media_root_for(f"sqlite:///{tmp_path}/review.db") == tmp_path / "review_media"
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    with pytest.raises(ReviewError, match=ROOT_VARIABLE):
        media_root_for("postgresql://host/review")
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    assert media_root_for("postgresql://host/review") == tmp_path


def test_making_a_campaign_twice_changes_nothing_and_other_settings_are_refused(db: Database) -> None:
    first = create_campaign(db, spec(), filter_items(3))
    assert create_campaign(db, spec(), filter_items(3)) == first
    with pytest.raises(ReviewError, match="exists with other settings"):
        create_campaign(db, spec(overlap=2), filter_items(3))
    with db.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(item)).scalar_one() == 3


def test_a_thing_cannot_be_two_items_of_one_campaign(db: Database) -> None:
    with pytest.raises(ReviewError, match="clip-0000 is there twice"):
        create_campaign(db, spec(), [*filter_items(2), NewItem("clip-0000", {})])

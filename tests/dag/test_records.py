"""Committed records are there whole or not at all, and merging shards changes nothing that a reader sees."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dag import records as records_module
from pipelines.dag import shards as shards_module
from pipelines.dag.records import RecordStore
from pipelines.dag.shards import KEY, MERGED, merge
from pipelines.dag.store import Store
from stages.contract import Group, StageError

NUMBERS, PICTURES = Group("numbers", "recipe-1"), Group("pictures", "recipe-1")
OTHER = Group("numbers", "recipe-2")


def rows_of(key: str) -> list[int]:
    """What the work on a key comes to: the same in every run, and for some keys nothing."""
    return list(range(hash_of(key) % 3))


def hash_of(key: str) -> int:
    return sum(ord(letter) * (place + 1) for place, letter in enumerate(key))


def commit(store: Store, keys: list[str], numbers: Group = NUMBERS, pictures: bool = True) -> None:
    found = [(key, n) for key in keys for n in rows_of(key)]
    tables = {"numbers": pa.table({KEY: [k for k, _ in found], "n": [n for _, n in found]},
                                  schema=pa.schema([(KEY, pa.string()), ("n", pa.int64())]))}  # fmt: skip
    if pictures:
        jpeg = pa.array([f"{k} {n}".encode() * 50 for k, n in found], pa.large_binary())
        tables["pictures"] = pa.table({KEY: pa.array([k for k, _ in found], pa.string()), "jpeg": jpeg})
    groups = [numbers, PICTURES] if pictures else [numbers]
    RecordStore(store, "stage").shards(groups).commit(tables, keys)


def look(
    store: Store, keys: list[str] | None = None
) -> tuple[set[str], list[tuple[str, int]], list[tuple[str, bytes]]]:
    """All that a fresh reader sees."""
    reader = RecordStore(store, "stage")
    numbers, pictures = reader.read(NUMBERS, keys), reader.read(PICTURES, keys)
    told = sorted(zip(*(c.to_pylist() for c in numbers.columns), strict=True)) if "n" in numbers.column_names else []
    shown = (
        sorted(zip(*(c.to_pylist() for c in pictures.columns), strict=True)) if "jpeg" in pictures.column_names else []
    )
    return set(reader.done(NUMBERS)), told, shown


@contextmanager
def small(leave: int = 2, fan: int = 2, blob: int = 3) -> Iterator[None]:
    """Merge soon and cut blobs small, so that a dozen records meet every case."""
    kept = records_module._LEAVE, records_module._FAN, shards_module._BLOB_ROWS
    records_module._LEAVE, records_module._FAN, shards_module._BLOB_ROWS = leave, fan, blob
    try:
        yield
    finally:
        records_module._LEAVE, records_module._FAN, shards_module._BLOB_ROWS = kept


KEYS = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=6, unique=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, st.booleans()), min_size=1, max_size=8), KEYS)
def test_whatever_was_committed_is_read_once_however_it_was_merged(
    history: list[tuple[list[str], bool]], wanted: list[str]
) -> None:
    """Oracle: a dict. Commits overlap at will, readers (which merge) come in between."""
    root = Path(tempfile.mkdtemp())
    try:
        store = Store(str(root / "s"))
        seen: set[str] = set()
        with small():
            for keys, read in history:
                commit(store, keys)
                seen |= set(keys)
                if read:
                    assert look(store)[0] == seen
            for asked in (None, wanted):
                chosen = seen if asked is None else seen & set(asked)
                done, told, shown = look(store, asked)
                assert done == seen
                assert told == sorted((k, n) for k in chosen for n in rows_of(k))
                assert shown == sorted((k, f"{k} {n}".encode() * 50) for k in chosen for n in rows_of(k))
    finally:
        shutil.rmtree(root)


def names(store: Store) -> tuple[list[str], list[str]]:
    found = store.names("records/stage")
    return [n for n in found if n.startswith(MERGED)], [n for n in found if not n.startswith(MERGED)]


def test_many_small_shards_cost_a_later_run_a_few_openings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "s"))
    for number in range(200):
        commit(store, [f"key-{number:03d}-{n}" for n in range(4)])
    before = look(store)
    assert len(before[0]) == 800
    opened: list[str] = []
    real = records_module.open_shard
    monkeypatch.setattr(
        records_module, "open_shard", lambda store, folder, name: opened.append(name) or real(store, folder, name)
    )
    reader = RecordStore(store, "stage")
    assert set(reader.done(NUMBERS)) == before[0]
    assert len(opened) == 1
    assert look(store) == before


def test_records_of_other_recipes_and_groups_are_merged_apart(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    with small():
        for number in range(6):
            commit(store, [f"a{number}"], NUMBERS)
            commit(store, [f"b{number}"], OTHER, pictures=False)
        reader = RecordStore(store, "stage")
        assert set(reader.done(NUMBERS)) == {f"a{n}" for n in range(6)}
        assert set(reader.done(OTHER)) == {f"b{n}" for n in range(6)}
        assert set(reader.done(PICTURES)) == {f"a{n}" for n in range(6)}


def test_two_runs_that_merge_at_the_same_time_leave_every_record_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    for number in range(8):
        commit(store, [f"k{number}", "shared"])
    expected = look(store)
    one = RecordStore(store, "stage", tidy=False)
    one.done(NUMBERS)
    shards = sorted(one._shards.values(), key=lambda shard: shard.name)
    merge(store, "records/stage", shards[:6], ())  # both saw the same small shards, neither saw the other's merge
    merge(store, "records/stage", shards[3:], ())
    assert look(store) == expected
    with small():
        assert look(store) == expected
    assert look(store) == expected


def test_a_reader_that_knows_the_small_shards_goes_on_reading_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    for number in range(4):
        commit(store, [f"k{number}"])
    early = RecordStore(store, "stage")
    assert len(early.done(NUMBERS)) == 4
    with small():
        assert len(look(store)[0]) == 4
    assert early.read(NUMBERS, ["k1", "k2"]).num_rows == len(rows_of("k1")) + len(rows_of("k2"))
    assert len(early.done(NUMBERS)) == 4


def test_a_kill_while_merging_leaves_the_small_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "s"))
    for number in range(6):
        commit(store, [f"k{number}"])
    expected = look(store)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with small(), monkeypatch.context() as patch:
        patch.setattr("pipelines.dag.store.os.replace", die)  # the last step of a write
        with pytest.raises(Killed):
            RecordStore(store, "stage").done(NUMBERS)
    assert names(store)[0] == []
    assert look(store) == expected


def test_what_a_process_commits_after_a_look_is_found_by_the_next_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    commit(store, ["b1"])
    reader = RecordStore(store, "stage")
    assert set(reader.done(NUMBERS)) == {"b1"}
    commit(store, ["b2"])
    assert reader.read(NUMBERS, ["b1", "b2"]).num_rows == len(rows_of("b1")) + len(rows_of("b2"))


def test_a_damaged_shard_is_named_with_the_remedy(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    commit(store, ["b", "cc"])
    path = Path(store.full(f"records/stage/{names(store)[1][0]}"))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(StageError, match=rf"{path.name} is damaged. Delete that file"):
        look(store)
    path.write_bytes(content[:-9])
    with pytest.raises(StageError, match="is damaged"):
        look(store)


def test_a_reader_travels_to_workers_and_reads_single_records(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    for number in range(6):
        commit(store, [f"k{number}"])
    with small():
        reader = pickle.loads(pickle.dumps(RecordStore(store, "stage").reader(PICTURES, ["k0", "k1", "absent"])))
    assert "k1" in reader
    assert "absent" not in reader
    for key in ("k0", "k1", "absent"):
        row = reader.get(key)
        expected = f"{key} 0".encode() * 50 if key != "absent" and rows_of(key) else None
        assert (row["jpeg"] if row else None) == expected


def test_rows_for_what_was_not_declared_or_not_committed_are_refused(tmp_path: Path) -> None:
    writer = RecordStore(Store(str(tmp_path / "s")), "stage").shards([NUMBERS])
    with pytest.raises(ValueError, match="not declared: pictures"):
        writer.commit({"pictures": pa.table({KEY: ["a"]})}, ["a"])
    with pytest.raises(ValueError, match="for keys not committed"):
        writer.commit({"numbers": pa.table({KEY: ["a"]})}, ["b"])
    with pytest.raises(ValueError, match="no column record_key"):
        writer.commit({"numbers": pa.table({"n": [1]})}, ["b"])

"""Equal things have equal keys, different things different ones, and what cannot be told apart is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from data_schemas.schema import Field, SchemaError, TableSchema
from pipelines.dag.canonical import CannotEncode, difference, digest, encode
from pipelines.dag.context import check_keys
from pipelines.dag.digest import files_digest, table_digest
from pipelines.dag.graph import WiringError, node
from pipelines.dag.records import RecordStore
from pipelines.dag.store import Store, StoreError
from stages.contract import Group, StageError
from tests.dag.toy import NUMBERS, make_pipeline, make_stage

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=10,
)


@given(PLAIN, PLAIN)
def test_encodings_are_equal_exactly_when_no_leaf_differs(a: object, b: object) -> None:
    if encode(a) == encode(b):
        assert difference(a, b) == []
    elif isinstance(a, dict) and isinstance(b, dict):
        assert difference(a, b)


def test_what_cannot_be_encoded_is_refused_with_its_place() -> None:
    with pytest.raises(CannotEncode, match=r"value\.a\[1\]"):
        encode({"a": [1, object()]})
    with pytest.raises(CannotEncode, match="secret"):
        encode({"key": SecretStr("hunter2")})
    with pytest.raises(CannotEncode, match="finite"):
        encode(math.nan)
    with pytest.raises(CannotEncode, match="keys must be strings"):
        encode({1: "a"})


def test_numbers_of_different_type_and_mappings_of_different_order() -> None:
    assert digest({"a": 1}) != digest({"a": 1.0})
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})

    class Model(BaseModel):
        x: int = 1

    assert digest(Model()) == digest({"x": 1})


MIXED = TableSchema(
    "mixed",
    "1.0",
    ("key",),
    (
        Field("key", pa.string(), "k", nullable=False),
        Field("flag", pa.bool_(), "f"),
        Field("score", pa.float64(), "s"),
        Field("vector", pa.list_(pa.float32()), "v"),
        Field("blob", pa.large_binary(), "b"),
        Field("nested", pa.list_(pa.struct([("a", pa.string()), ("t", pa.float64())])), "n"),
        Field("seconds", pa.float64(), "telemetry", telemetry=True),
    ),
    "All kinds of columns.",
)
ROW = st.fixed_dictionaries(
    {
        "flag": st.none() | st.booleans(),
        "score": st.none() | st.floats(allow_infinity=False, width=32),
        "vector": st.none() | st.lists(st.floats(-1, 1, width=32), max_size=3),
        "blob": st.none() | st.binary(max_size=4),
        "nested": st.none()
        | st.lists(st.fixed_dictionaries({"a": st.none() | st.text(max_size=3), "t": st.floats(0, 1)}), max_size=2),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=8), st.randoms(), st.integers(1, 4))
def test_table_digest_ignores_order_chunks_and_telemetry_and_sees_every_value(
    rows: list[dict], random: object, cut: int
) -> None:
    rows = [{"key": f"k{i}", "seconds": float(i), **row} for i, row in enumerate(rows)]
    table = MIXED.table(rows)
    again = [{**row, "seconds": 99.0} for row in rows]
    random.shuffle(again)  # type: ignore[attr-defined]
    other = pa.concat_tables([MIXED.table(again[:cut]), MIXED.table(again[cut:])])
    assert table_digest(table, MIXED) == table_digest(other, MIXED)
    first = rows[0]
    changes = {
        "flag": not first["flag"],
        "score": 0.5 if first["score"] is None else None,
        "vector": [9.0] if first["vector"] is None else None,
        "blob": (first["blob"] or b"") + b"x",
        "nested": [*(first["nested"] or []), {"a": "z", "t": 0.0}],
    }
    for name, value in changes.items():
        changed = MIXED.table([{**first, name: value}, *rows[1:]])
        assert table_digest(changed, MIXED) != table_digest(table, MIXED), name


def write_parts(folder: Path, tables: list[pa.Table]) -> pads.Dataset:
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=2)
    return pads.dataset(folder, format="parquet")


def test_a_table_on_disk_has_the_digest_of_the_table_in_memory_however_it_is_cut(tmp_path: Path) -> None:
    rows = [{"key": f"k{i}", "score": i / 7, "vector": [i, 0.5], "blob": b"x" * i, "nested": []} for i in range(9)]
    whole = MIXED.table(rows)
    parts = [MIXED.table(rows[5:]), MIXED.table(rows[:2]), MIXED.table(rows[2:5])]
    assert table_digest(write_parts(tmp_path, parts), MIXED) == table_digest(whole, MIXED)
    assert table_digest(whole.slice(0, 8), MIXED) != table_digest(whole, MIXED)
    assert table_digest(whole.slice(0, 0), MIXED) == table_digest(MIXED.empty(), MIXED)


LOOSE = TableSchema("loose", "1.0", ("key",), (Field("key", pa.string(), "k"),), "Any further columns.", open=True)


def loose(kind: pa.DataType, values: list[object]) -> str:
    keys = pa.array([f"k{i}" for i in range(len(values))])
    return table_digest(pa.table({"key": keys, "value": pa.array(values, kind)}), LOOSE)


def test_a_digest_sees_values_and_not_how_they_are_stored() -> None:
    assert loose(pa.float64(), [0.0, math.nan]) == loose(pa.float64(), [-0.0, -math.nan])
    assert loose(pa.string(), ["a", None]) == loose(pa.large_string(), ["a", None])
    assert loose(pa.list_(pa.int64()), [[1], []]) == loose(pa.large_list(pa.int64()), [[1], []])
    assert loose(pa.int64(), [1]) != loose(pa.int32(), [1])
    assert loose(pa.string(), [""]) != loose(pa.string(), [None])
    assert loose(pa.list_(pa.int64()), [[]]) != loose(pa.list_(pa.int64()), [None])
    assert loose(pa.list_(pa.string()), [["ab", "c"]]) != loose(pa.list_(pa.string()), [["a", "bc"]])
    # the second slot is null and holds other bytes than Arrow would put there
    hidden = pa.Array.from_buffers(
        pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(b"\x07" + bytes(7) + b"\x09" * 8)]
    )
    assert table_digest(pa.table({"key": ["k0", "k1"], "value": hidden}), LOOSE) == loose(pa.int64(), [7, None])


def test_values_that_trade_places_change_the_digest() -> None:
    assert loose(pa.int64(), [1, 2]) != loose(pa.int64(), [2, 1])
    one = pa.table({"key": ["k"], "a": ["xy"], "b": ["z"]})
    assert table_digest(one, LOOSE) != table_digest(pa.table({"key": ["k"], "a": ["x"], "b": ["yz"]}), LOOSE)
    assert table_digest(one, LOOSE) != table_digest(pa.table({"key": ["k"], "b": ["xy"], "a": ["z"]}), LOOSE)


def test_a_type_without_canonical_bytes_has_no_digest() -> None:
    with pytest.raises(TypeError, match="decimal128"):
        loose(pa.decimal128(5, 2), [None])


def test_a_key_that_names_two_rows_is_found_across_files(tmp_path: Path) -> None:
    rows = [{"key": f"k{i}"} for i in range(5)]
    check_keys(write_parts(tmp_path, [MIXED.table(rows[:3]), MIXED.table(rows[3:])]), MIXED, "node")
    with pytest.raises(StageError, match="node wrote 1 rows of table mixed whose key"):
        check_keys(write_parts(tmp_path, [MIXED.table(rows), MIXED.table([{"key": "k3"}])]), MIXED, "node")


def test_files_digest_sees_names_and_content() -> None:
    one = files_digest([("a", "1"), ("b", "2")])
    assert one == files_digest([("b", "2"), ("a", "1")])
    assert one != files_digest([("a", "2"), ("b", "1")])


def test_all_wiring_errors_are_said_at_once() -> None:
    start, middle = make_stage("start", []), make_stage("middle", ["x", "y"])
    broken = make_pipeline({})
    nodes = (
        node("start", start),
        node("middle", middle, x="strat.out", y="start.outt"),
        node("end", middle, x="start.out", z="start.out", params={"ad": 1}),
        node("end", start),
    )
    with pytest.raises(WiringError) as caught:
        type(broken)("broken", nodes).order()
    said = "\n".join(caught.value.problems)
    for part in (
        "two nodes are called end",
        "there is no node strat; did you mean start?",
        "start has no output outt; did you mean out?",
        "end: input y (table numbers) is not wired",
        "stage middle has no input z",
        "has no parameter ad; did you mean add?",
    ):
        assert part in said


def test_a_cycle_and_a_wrong_type_are_wiring_errors() -> None:
    pipeline = make_pipeline({"a": ["b"], "b": ["a"]})
    assert any("cycle" in p for p in pipeline.problems())


def test_records_are_read_once_even_if_two_runs_committed_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    records, group = RecordStore(store, "stage"), Group("g", "recipe-1")
    rows = pa.table({"record_key": ["a", "a", "b"], "x": [1, 2, 3]})
    records.shards([group]).commit({"g": rows}, ["a", "b", "empty"])
    records.shards([group]).commit({"g": pa.table({"record_key": ["b", "c"], "x": [3, 4]})}, ["b", "c"])
    assert records.done(group) == {"a", "b", "c", "empty"}
    assert records.done(Group("g", "recipe-2")) == set()
    assert sorted(records.read(group).column("x").to_pylist()) == [1, 2, 3, 4]
    assert sorted(records.read(group, ["a"]).column("x").to_pylist()) == [1, 2]


def test_a_torn_shard_does_not_exist(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    group = Group("g", "r")
    RecordStore(store, "stage").shards([group]).commit({"g": pa.table({"record_key": ["a"]})}, ["a"])
    shard = store.names("records/stage")[0]
    path = Path(store.full(f"records/stage/{shard}"))
    path.rename(path.with_name(f"{shard}.1234.tmp"))  # as a kill leaves it: written beside its place, not moved there
    assert RecordStore(store, "stage").done(group) == set()


def test_a_store_refuses_what_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("years of work")
    with pytest.raises(StoreError, match="holds other files"):
        Store(str(tmp_path / "full"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"is a file|below a file"):
        Store(str(tmp_path / "file"))
    Store(str(tmp_path / "old")).put_json("fulcrum-store.json", {"format": 0})
    with pytest.raises(StoreError, match="format 0"):
        Store(str(tmp_path / "old"))
    with pytest.raises(StoreError, match="no store at"):
        Store(str(tmp_path / "none"), create=False)


def test_a_table_is_checked_on_writing_and_on_reading() -> None:
    with pytest.raises(SchemaError, match="column value is missing"):
        NUMBERS.validate(pa.table({"key": ["a"], "seconds": [1.0]}))
    with pytest.raises(SchemaError, match="not in the schema: extra"):
        NUMBERS.validate(pa.table({"key": ["a"], "value": [1], "seconds": [1.0], "extra": [1]}))
    with pytest.raises(SchemaError, match="1 nulls"):
        NUMBERS.validate(pa.table({"key": ["a", None], "value": [1, 2], "seconds": [1.0, 1.0]}))
    later = TableSchema("numbers", "2.0", ("key",), NUMBERS.fields, "Later.")
    with pytest.raises(SchemaError, match="this release reads 1"):
        NUMBERS.check_readable(later.arrow, "the folder x")

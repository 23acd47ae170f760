"""Keys are found where they are, however they begin."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dag.sorted_keys import SortedKeys

# Short alphabets make prefixes, ties in the first eight bytes and keys that continue others likely; NUL and what is beyond
# ASCII sort by their bytes.
KEY = st.one_of(
    st.text("ab", max_size=12), st.text(max_size=9), st.text("ab", max_size=4).map(lambda t: "same-start-" + t)
)


@given(st.sets(KEY, max_size=60), st.lists(st.one_of(st.none(), KEY), max_size=12), st.integers(0, 3))
def test_every_key_is_found_and_no_other(held: set[str], others: list[str | None], skipped: int) -> None:
    ordered = sorted(held, key=lambda key: key.encode())
    keys = SortedKeys(pa.array(ordered, pa.string()).slice(skipped))
    ordered = ordered[skipped:]
    few = ordered[:: max(1, len(ordered) // 3)][:4]
    for wanted in ([*others, *few], few, ordered):
        asked = pa.array([None, *wanted], pa.string()).slice(1)
        expected = [ordered.index(key) if key in ordered else -1 for key in wanted]
        assert keys.find(asked).tolist() == expected


def test_a_few_keys_are_found_among_many_that_begin_alike() -> None:
    held = [f"same-start-{n:05d}" for n in range(2000)]
    keys = SortedKeys(pa.array(held))
    assert keys.find(pa.array(["same-start-00007", "same-start-0000", "other"])).tolist() == [7, -1, -1]

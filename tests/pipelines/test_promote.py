"""An alias needs an evaluation that measured this very adapter, and a champion is not replaced by one that is worse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_schemas.tables import METRICS, SAMPLES
from pipelines.dag.artifacts import Committed, Manifest, write_manifest
from pipelines.dag.runs import NodeRecord, RunRecord
from pipelines.dag.store import Store
from pipelines.gates import held_back
from pipelines.registry import evaluated, make_candidate, make_champion, regressions
from pipelines.tracking import Tracker
from stages.contract import StageError


def number(
    value: float,
    low: float | None,
    high: float | None,
    better: str = "higher",
    meaningless: bool = False,
    coverage: float = 1.0,
) -> dict[str, Any]:
    kept = {"value": value, "low": low, "high": high, "n": 4, "coverage": coverage}
    return {**kept, "better": better, "meaningless": meaningless}


def test_worse_is_an_interval_wholly_beyond_the_other() -> None:
    old = {"a": number(0.7, 0.6, 0.8), "b": number(0.2, 0.1, 0.3, "lower")}
    assert regressions({"a": number(0.55, 0.5, 0.61), "b": number(0.35, 0.29, 0.4, "lower")}, old) == []
    assert regressions({"a": number(0.5, 0.4, 0.59), "b": number(0.35, 0.31, 0.4, "lower")}, old) == [
        "a 0.5 (0.4 to 0.59) against 0.7 (0.6 to 0.8)",
        "b 0.35 (0.31 to 0.4) against 0.2 (0.1 to 0.3)",
    ]
    assert regressions({"b": old["b"]}, old) == ["a was 0.7 (0.6 to 0.8) and is not measured any more"]
    assert regressions({"a": number(0.5, None, None)}, {"a": number(0.6, None, None)}) == ["a 0.5 against 0.6"]
    fewer = {"a": number(0.9, 0.85, 0.95, coverage=0.5)}
    assert regressions(fewer, {"a": old["a"]}) == ["a covers 50% of the videos asked for, 100% before"]
    random = {"a": number(0.9, 0.9, 0.9, meaningless=True), "c": number(0.9, 0.9, 0.9, "neither")}
    assert regressions({"a": number(0.1, 0.1, 0.1), "c": number(0.1, 0.1, 0.1, "neither")}, random) == []


def row(value: float | None, better: str = "higher", note: str | None = None, coverage: float = 1.0) -> dict[str, Any]:
    return {"value": value, "better": better, "note": note, "coverage": coverage}


def test_a_gate_holds_back_what_falls_further_below_the_base_than_it_allows() -> None:
    base = {"clip_t": row(0.30), "copy_paste": row(0.10, "lower")}
    assert (
        held_back({"clip_t": row(0.29), "copy_paste": row(0.19, "lower")}, base, {"clip_t": 0.011, "copy_paste": 0.1})
        == []
    )
    assert held_back({"clip_t": row(0.9)}, base, {"clip_t": 0.0}) == []
    (fell,) = held_back({"clip_t": row(0.27)}, base, {"clip_t": 0.01})
    assert fell == "clip_t is 0.27 against the base's 0.3, worse by 0.03 where 0.01 is allowed"
    (rose,) = held_back({"copy_paste": row(0.4, "lower")}, base, {"copy_paste": 0.1})
    assert "worse by 0.3" in rose


def test_a_gate_that_nobody_can_tell_holds_back() -> None:
    for mine, base, said in (
        ({"clip_t": row(None)}, {"clip_t": row(0.3)}, "not measured for both"),
        ({"clip_t": row(0.3)}, {}, "which was not sampled"),
        ({"clip_t": row(0.3, note="the number means nothing")}, {"clip_t": row(0.3)}, "random weights"),
        ({"clip_t": row(0.3, "neither")}, {"clip_t": row(0.3)}, "no better side"),
        ({"clip_t": row(0.9, coverage=0.5)}, {"clip_t": row(0.3)}, "50% of the videos against the base's 100%"),
    ):
        assert said in held_back(mine, base, {"clip_t": 1.0})[0]


def test_nothing_is_registered_when_a_gate_holds(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "test", store)
    record = run(store, "first", 0.7)
    with pytest.raises(StageError, match="held back by its gates: subject_similarity cannot be compared with the base"):
        make_candidate(tracker, record, evaluated(store, record, "adapter_final"), "m", {"subject_similarity": 0.1})
    assert tracker.client.search_registered_models() == []


def run(store: Store, name: str, similarity: float | None, *, stale: bool = False, prompts: str = "p1") -> RunRecord:
    """A run whose final adapter was merged, sampled and evaluated, as manifests say it; without ``similarity`` it stops before."""

    def commit(node: str, stage: str, outputs: Mapping[str, str], inputs: Mapping[str, str]) -> None:
        committed = {k: Committed("files", f"data/{name}/{node}/{k}", d, None, 1) for k, d in outputs.items()}
        preimage = {"params": {"seeds": 1}, "models": {}, "inputs": dict(inputs), "seed": 0, "version": "1"}
        write_manifest(
            store,
            Manifest(node, stage, f"{name}-{node}", preimage, "s", committed, None, None, name, "t", 1.0, 1, "code"),
        )

    adapter = f"adapter-{name}"
    nodes = [
        NodeRecord(
            "merge_final", "SUCCEEDED", fingerprint=f"{name}-merge_final", outputs={"adapter_final": f"file:///{name}"}
        )
    ]
    commit("merge_final", "merge_final", {"adapter": adapter}, {})
    if similarity is not None:
        wired = "another" if stale else adapter
        commit("sample", "sample", {"samples": f"samples-{name}"}, {"final": wired})
        commit("evaluate", "evaluate", {"metrics": f"metrics-{name}"}, {"samples": f"samples-{name}"})
        row = {
            "system": "final",
            "metric": "subject_similarity",
            "value": similarity,
            "low": similarity - 0.01,
            "high": similarity + 0.01,
        }
        table = METRICS.table([{**row, "n": 8, "coverage": 1.0, "better": "higher"}])
        video = {"system": "final", "prompt_id": prompts, "seed": 1, "prompt": "a dog", "status": "ok"}
        for path, rows in (("evaluate/metrics", table), ("sample/samples", SAMPLES.table([video]))):
            with store.writer(f"data/{name}/{path}/part-00000.parquet") as file:
                pq.write_table(rows, file)
        nodes += [NodeRecord(n, "SUCCEEDED", fingerprint=f"{name}-{n}") for n in ("sample", "evaluate")]
    return RunRecord("libragen", name, "t", "done", nodes, "host", 1, "code")


def test_promotion_from_first_candidate_to_a_refused_regression(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "test", store)

    def candidate(record: RunRecord) -> str:
        return make_candidate(tracker, record, evaluated(store, record, "adapter_final"), "m")

    with pytest.raises(StageError, match="m has no candidate yet"):
        make_champion(tracker, "m")
    with pytest.raises(StageError, match="has no evaluation, and none is promoted without one"):
        candidate(run(store, "bare", None))
    with pytest.raises(StageError, match="did not measure adapter_final: its samples were made with other adapters"):
        candidate(run(store, "stale", 0.9, stale=True))
    with pytest.raises(StageError, match="no committed adapter_x; it has adapter_final"):
        evaluated(store, run(store, "named", 0.9), "adapter_x")

    first = run(store, "first", 0.7)
    assert candidate(first) == candidate(first) == "1"
    assert make_champion(tracker, "m") == ("1", None)
    assert candidate(run(store, "worse", 0.5)) == "2"
    with pytest.raises(
        StageError, match=r"not promoted over the champion, version 1, because it is worse: subject_similarity 0.5"
    ):
        make_champion(tracker, "m")
    assert tracker.client.get_model_version_by_alias("m", "champion").version in ("1", 1)
    assert candidate(run(store, "other", 0.9, prompts="p2")) == "3"
    with pytest.raises(StageError, match="evaluated on other prompts or with other settings"):
        make_champion(tracker, "m")
    assert make_champion(tracker, "m", accept_regression=True) == ("3", "1")
    assert candidate(run(store, "better", 0.95, prompts="p2")) == "4"
    assert make_champion(tracker, "m") == ("4", "3")
    tags = tracker.client.get_model_version_by_alias("m", "champion").tags
    assert json.loads(tags["fulcrum.metrics"])["subject_similarity"]["value"] == 0.95

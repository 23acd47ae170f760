"""MLflow holds each commit once, whatever is published again, and no secret."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipelines.dag.artifacts import read_manifest
from pipelines.dag.runs import RunRecord
from pipelines.dag.store import Store
from pipelines.tracking import Tracker, flatten
from tests.dag.toy import ToyParams, make_pipeline, run_toy


def publish(tracker: Tracker, record: RunRecord, store: Store, cached: bool) -> None:
    for entry in record.nodes:
        manifest = read_manifest(store, entry.name, entry.fingerprint or "")
        assert manifest is not None
        tracker.publish(record, manifest, cached)
    tracker.close(record)


def test_publishing_twice_changes_nothing_and_a_cached_stage_links_to_the_run_that_made_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    pipeline = make_pipeline({"a": [], "b": ["a"]})
    first = run_toy(tmp_path, pipeline, {"b": ToyParams(add=2)})
    store = Store(str(tmp_path / "store"))
    publish(Tracker(uri, "test", store), first, store, cached=False)
    again = run_toy(tmp_path, pipeline, {"b": ToyParams(add=2)})
    publish(Tracker(uri, "test", store), again, store, cached=True)

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("test")
    runs = client.search_runs([experiment.experiment_id])
    children = {r.info.run_name: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert set(children) == {"a", "b"}
    assert len(parents) == 2
    assert children["b"].data.params["add"] == "2"
    assert children["b"].data.metrics["rows.out"] == 2
    assert children["b"].data.tags["fulcrum.input.from_a"] == children["a"].data.tags["fulcrum.output.out"]
    latest = next(p for p in parents if p.data.tags["fulcrum.run_id"] == again.run_id)
    assert latest.data.tags["fulcrum.cached.b"] == children["b"].info.run_id
    assert children["b"].data.tags["fulcrum.parent.from_a"] == children["a"].info.run_id
    (dataset,) = (i.dataset for i in children["b"].inputs.dataset_inputs)
    assert dataset.name == "from_a"
    assert json.loads(dataset.source)["digest"] == children["a"].data.tags["fulcrum.output.out"]
    assert client.get_metric_history(children["b"].info.run_id, "seconds")[0].step == 0
    assert len(client.get_metric_history(children["b"].info.run_id, "seconds")) == 1


def test_a_training_run_grows_with_its_checkpoints_and_holds_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    record = run_toy(tmp_path, make_pipeline({"a": []}), {})
    store = Store(str(tmp_path / "store"))
    manifest = read_manifest(store, "a", record.nodes[0].fingerprint or "")
    assert manifest is not None
    home = tmp_path / "home"
    home.mkdir()

    def train(steps: range, seconds: float) -> None:
        with (home / "events.jsonl").open("a") as file:
            for step in steps:
                file.write(json.dumps({"step": step, "loss": 1 / step, "step_seconds": seconds}) + "\n")

    def checkpoint(step: int) -> None:
        # A new tracker each time: whoever goes on after a crash knows only what MLflow says.
        fields = {
            "run_id": record.run_id,
            "stage": "a",
            "fingerprint": manifest.fingerprint,
            "step": step,
            "home": str(home),
        }
        Tracker(uri, "test", store).checkpoint(record.pipeline, record.code, fields)

    def steps(key: str) -> list[int]:
        client = MlflowClient(tracking_uri=uri)
        (experiment,) = client.search_experiments(filter_string="name = 'test'")
        (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'a'")
        return [point.step for point in client.get_metric_history(run.info.run_id, key)]

    train(range(1, 6), 0.1)  # killed after step 5, the checkpoint is at 4
    checkpoint(4)
    assert steps("loss") == [1, 2, 3, 4]
    train(range(5, 9), 0.2)
    with monkeypatch.context() as patch:  # killed after the metrics, before the note of how far they go
        patch.setattr(MlflowClient, "set_tag", lambda *_: (_ for _ in ()).throw(ConnectionError("away")))
        with pytest.raises(ConnectionError):
            checkpoint(6)
    checkpoint(8)
    train(range(7, 9), 0.3)  # a torn checkpoint sends training back; what is published stays
    checkpoint(8)
    points = [
        {"key": k, "step": s, "value": 0.3 if k == "step_seconds" else 1 / s}
        for k in ("loss", "step_seconds")
        for s in range(1, 9)
    ]
    store.put("metrics.jsonl", "\n".join(json.dumps(p) for p in points).encode())
    Tracker(uri, "test", store).publish(record, replace(manifest, metrics="metrics.jsonl"), False)
    assert steps("loss") == steps("step_seconds") == [1, 2, 3, 4, 5, 6, 7, 8]
    checkpoint(8)
    assert len(steps("loss")) == 8


def test_an_interrupted_pipeline_run_ends_as_killed_and_its_training_stays_open_for_the_next(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "test", Store(str(tmp_path / "store")))
    fields = {"run_id": "r1", "stage": "sft", "fingerprint": "f", "step": 1, "home": str(tmp_path)}
    tracker.checkpoint("train", "code", fields)
    tracker.interrupted()
    (experiment,) = tracker.client.search_experiments(filter_string="name = 'test'")
    status = {r.info.run_name: r.info.status for r in tracker.client.search_runs([experiment.experiment_id])}
    assert status == {"train r1": "KILLED", "sft": "RUNNING"}


def test_nested_parameters_become_dotted_names() -> None:
    assert flatten({"a": {"b": 1}, "c": [1, 2]}) == {"a.b": "1", "c": "[1, 2]"}


def test_a_parameter_reads_the_same_from_a_manifest_that_was_read_again() -> None:
    made = {"rules": [{"name": "short", "column": "duration_s", "min": 0.5}]}
    assert flatten(made) == flatten(json.loads(json.dumps(made, sort_keys=True)))

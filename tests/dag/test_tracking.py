"""MLflow holds each commit once, whatever is published again, and no secret."""

from __future__ import annotations

from pathlib import Path

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
    assert client.get_metric_history(children["b"].info.run_id, "seconds")[0].step == 0
    assert len(client.get_metric_history(children["b"].info.run_id, "seconds")) == 1


def test_nested_parameters_become_dotted_names() -> None:
    assert flatten({"a": {"b": 1}, "c": [1, 2]}) == {"a.b": "1", "c": "[1, 2]"}

"""MLflow, with one writer: the process that runs the pipeline publishes what has been committed, and nothing else.

Each commit of a stage is one MLflow run, found again by its fingerprint, so that publishing twice changes nothing. The
runs hang below one parent per pipeline run. A stage that was cached links to the run that made it. A training run appears
with its first checkpoint and grows with each, so that its curves can be watched; what a crash throws away was never there.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import hide
from pipelines.dag.artifacts import Manifest
from pipelines.dag.runs import RunRecord
from pipelines.dag.store import Store
from stages.location import S3Place

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FINGERPRINT = "fulcrum.fingerprint"
PUBLISHED = "fulcrum.published_step"  # up to here a training run's metrics are in MLflow
BATCH = 1000  # metrics of one request, MLflow's limit
PARAM_CHARS = 500


def artifact_location(store: Store) -> str:
    """Beside the store, said explicitly: MLflow's default is a folder in whatever directory the command ran in."""
    place = store.uri_of("mlflow").partition("?")[0]
    if place.startswith("s3://"):  # MLflow's own client of S3 knows no options of a URI
        endpoint = S3Place.of(store.uri).endpoint
        if endpoint:
            os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", endpoint)
    return place


class Tracker:
    """Publishes the manifests of one pipeline run."""

    def __init__(self, uri: str, experiment: str, store: Store) -> None:
        self.uri, self.experiment, self.store = uri, experiment, store
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._parents: dict[str, str] = {}  # MLflow run of each pipeline run, by run_id
        self._made: dict[str, str] = {}  # MLflow run by the digest of what it made, of this process's publications

    @property
    def client(self) -> MlflowClient:
        return self._open()

    def _open(self) -> MlflowClient:
        if self._client is None:
            # A server that is away costs seconds, not MLflow's minutes: what is not published now is published later.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # --json writes nothing else there
            from mlflow.tracking import MlflowClient

            # After the import, which sets its loggers up. Making the tables of a new database is no news to a user.
            for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
                logging.getLogger(name).setLevel(logging.WARNING)

            if self.uri.startswith("sqlite:///"):
                Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            place = artifact_location(self.store)
            client = MlflowClient(tracking_uri=self.uri)
            found = client.get_experiment_by_name(self.experiment)
            if found:
                self._experiment_id = found.experiment_id
            else:
                self._experiment_id = _made_once(client, self.experiment, place)
            self._client = client
        return self._client

    def publish(self, record: RunRecord, manifest: Manifest, cached: bool) -> None:
        """Publish one commit; a second call with the same commit finds it published."""
        client = self._open()
        parent = self._parent(client, record.run_id, record.pipeline, record.code)
        record.tracking["parent"] = parent
        child = self._find(client, manifest.fingerprint, "FINISHED")
        if child is None:
            child = self._find(client, manifest.fingerprint, "RUNNING") or self._start_child(
                client, parent, manifest.node, manifest.fingerprint
            )
            self._tag(client, child, manifest)
            self._log(client, child, manifest)
            client.set_terminated(child, "FINISHED")
        record.tracking[manifest.node] = child
        self._made.update({output.digest: child for output in manifest.outputs.values()})
        if cached:
            client.set_tag(parent, f"fulcrum.cached.{manifest.node}", child)

    def checkpoint(self, pipeline: str, code: str, fields: Mapping[str, Any]) -> None:
        """Publish a training run's metrics up to a committed checkpoint; ``fields`` are those of the event.

        Steps that are published already are left alone, whoever published them: a step's number never changes its value.
        """
        from stages.training.jobs import read_events

        client = self._open()
        parent = self._parent(client, fields["run_id"], pipeline, code)
        child = self._find(client, fields["fingerprint"], "FINISHED")
        if child is not None:
            return
        child = self._find(client, fields["fingerprint"], "RUNNING") or self._start_child(
            client, parent, fields["stage"], fields["fingerprint"]
        )
        published = self._published(client, child)
        events = read_events(Path(fields["home"]), fields["step"])
        points = [
            (key, value, step) for step, found in events.items() if step > published for key, value in found.items()
        ]
        self._log_points(client, child, points)
        client.set_tag(child, PUBLISHED, str(fields["step"]))

    def previews(self, fields: Mapping[str, Any]) -> None:
        """Put a training run's preview videos beside its metrics, by step; the same ones again replace themselves."""
        client = self._open()
        child = self._find(client, fields["fingerprint"], "RUNNING") or self._find(
            client, fields["fingerprint"], "FINISHED"
        )
        if child is not None:
            client.log_artifacts(child, fields["folder"], f"previews/step_{fields['step']:08d}")

    def close(self, record: RunRecord) -> None:
        parent = record.tracking.get("parent")
        if parent:
            client = self._open()
            client.set_tag(parent, "fulcrum.state", record.state)
            self._parents.pop(record.run_id, None)
            client.set_terminated(parent, "FAILED" if record.state == "failed" else "FINISHED")

    def interrupted(self) -> None:
        """The pipeline runs that were open end as killed; their training runs stay open, for whoever goes on with them."""
        for parent in self._parents.values():
            self._open().set_terminated(parent, "KILLED")
        self._parents.clear()

    def _parent(self, client: MlflowClient, run_id: str, pipeline: str, code: str) -> str:
        if run_id not in self._parents:
            tags = {"fulcrum.run_id": run_id, "fulcrum.pipeline": pipeline, "fulcrum.code": code}
            found = client.search_runs(
                [self._experiment_id],
                f"tags.`fulcrum.run_id` = '{run_id}' and tags.`fulcrum.pipeline` = '{pipeline}'",
                max_results=1,
            )
            run = (
                found[0]
                if found
                else client.create_run(self._experiment_id, run_name=f"{pipeline} {run_id}", tags=tags)
            )
            self._parents[run_id] = str(run.info.run_id)
        return self._parents[run_id]

    def _find(self, client: MlflowClient, fingerprint: str, status: str) -> str | None:
        query = f"tags.`{FINGERPRINT}` = '{fingerprint}' and attributes.status = '{status}'"
        found = client.search_runs([self._experiment_id], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _start_child(self, client: MlflowClient, parent: str, node: str, fingerprint: str) -> str:
        tags = {"mlflow.parentRunId": parent, FINGERPRINT: fingerprint}
        run = client.create_run(self._experiment_id, run_name=node, tags=tags)
        return str(run.info.run_id)

    def _tag(self, client: MlflowClient, child: str, manifest: Manifest) -> None:
        """Where it came from: code, inputs as data sets with their digests, and the runs that made them."""
        from mlflow.entities import RunTag

        tags = {
            "fulcrum.stage": manifest.stage,
            "fulcrum.version": manifest.preimage["version"],
            "fulcrum.run_id": manifest.run_id,
            "fulcrum.code": manifest.code,
        }
        for name, digest in manifest.preimage["models"].items():
            tags[f"fulcrum.model.{name}"] = digest
        for name, digest in manifest.preimage["inputs"].items():
            tags[f"fulcrum.input.{name}"] = digest
            if digest in self._made:
                tags[f"fulcrum.parent.{name}"] = self._made[digest]
        for name, output in manifest.outputs.items():
            tags[f"fulcrum.output.{name}"] = output.digest
        client.log_batch(child, tags=[RunTag(key, str(value)) for key, value in tags.items()])
        self._log_inputs(client, child, manifest)

    def _log_inputs(self, client: MlflowClient, child: str, manifest: Manifest) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                # MLflow takes digests of 36 characters; the tags hold the whole ones.
                Dataset(name, digest.removeprefix("sha256:")[:36], "fulcrum", json.dumps({"digest": digest})),
                [InputTag("mlflow.data.context", manifest.stage)],
            )
            for name, digest in manifest.preimage["inputs"].items()
        ]
        if inputs:
            client.log_inputs(child, inputs)

    def _published(self, client: MlflowClient, child: str) -> int:
        return int(client.get_run(child).data.tags.get(PUBLISHED, 0))

    def _log_points(self, client: MlflowClient, child: str, points: Iterable[tuple[str, float, int]]) -> None:
        """Points without a time of their own: the same point twice is the same row of MLflow's, so it is there once."""
        from mlflow.entities import Metric

        metrics = [Metric(_key(key), float(value), 0, step) for key, value, step in points]
        for start in range(0, len(metrics), BATCH):
            client.log_batch(child, metrics=metrics[start : start + BATCH])

    def _log(self, client: MlflowClient, child: str, manifest: Manifest) -> None:
        from mlflow.entities import Param

        params = [Param(k, v) for k, v in flatten(hide(manifest.preimage["params"])).items()]
        for start in range(0, len(params), 100):
            client.log_batch(child, params=params[start : start + 100])
        points = [("seconds", manifest.seconds, 0)]
        points += [(f"records.{k}", float(v), 0) for k, v in manifest.counts.items()]
        points += [(f"rows.{k}", float(o.rows), 0) for k, o in manifest.outputs.items() if o.rows is not None]
        if manifest.metrics:
            published = self._published(client, child)
            for line in self.store.read(manifest.metrics).decode().splitlines():
                point = json.loads(line)
                if not 0 < int(point["step"]) <= published:
                    points.append((point["key"], float(point["value"]), int(point["step"])))
        self._log_points(client, child, points)


def _made_once(client: MlflowClient, experiment: str, place: str) -> str:
    """The id of a new experiment, or of the one that another run made at this very moment."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(experiment, artifact_location=place))
    except MlflowException:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise
        return str(found.experiment_id)


def _key(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as ``a.b`` to text, each at most 500 characters, MLflow's limit being 6,000."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        name = _key(f"{prefix}{key}")
        if isinstance(item, Mapping):
            flat.update(flatten(item, f"{name}."))
        else:
            # keys in order: a manifest that was read again has them so, and MLflow takes no second text for a parameter
            text = json.dumps(item, ensure_ascii=False, sort_keys=True) if isinstance(item, list) else str(item)
            flat[name] = text[:PARAM_CHARS]
    return flat

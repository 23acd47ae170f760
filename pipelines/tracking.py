"""MLflow, with one writer: the process that runs the pipeline publishes what has been committed, and nothing else.

Each commit of a stage is one MLflow run, found again by its fingerprint, so that publishing twice changes nothing. The
runs hang below one parent per pipeline run. A stage that was cached links to the run that made it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.config import hide
from pipelines.dag.artifacts import Manifest
from pipelines.dag.runs import RunRecord
from pipelines.dag.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

FINGERPRINT = "fulcrum.fingerprint"
PARAM_CHARS = 500


class Tracker:
    """Publishes the manifests of one pipeline run."""

    def __init__(self, uri: str, experiment: str, store: Store) -> None:
        self.uri, self.experiment, self.store = uri, experiment, store
        self._client: MlflowClient | None = None
        self._experiment_id = ""

    def _open(self) -> MlflowClient:
        if self._client is None:
            from pathlib import Path

            from mlflow.tracking import MlflowClient

            # After the import, which sets its loggers up. Making the tables of a new database is no news to a user.
            for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
                logging.getLogger(name).setLevel(logging.WARNING)

            if self.uri.startswith("sqlite:///"):
                Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            client = MlflowClient(tracking_uri=self.uri)
            found = client.get_experiment_by_name(self.experiment)
            if found:
                self._experiment_id = found.experiment_id
            else:
                # An explicit place for artifacts: the default is a folder in whatever directory the command ran in.
                where = {"artifact_location": self.store.uri_of("mlflow")}
                self._experiment_id = client.create_experiment(self.experiment, **where)
            self._client = client
        return self._client

    def publish(self, record: RunRecord, manifest: Manifest, cached: bool) -> None:
        """Publish one commit; a second call with the same commit finds it published."""
        client = self._open()
        parent = record.tracking.get("parent") or self._start_parent(client, record)
        child = self._find(client, manifest.fingerprint)
        if child is None:
            child = self._start_child(client, parent, record, manifest)
            self._log(client, child, manifest)
            client.set_terminated(child, "FINISHED")
        record.tracking[manifest.node] = child
        if cached:
            client.set_tag(parent, f"fulcrum.cached.{manifest.node}", child)

    def close(self, record: RunRecord) -> None:
        parent = record.tracking.get("parent")
        if parent:
            client = self._open()
            client.set_tag(parent, "fulcrum.state", record.state)
            client.set_terminated(parent, "FAILED" if record.state == "failed" else "FINISHED")

    def _start_parent(self, client: MlflowClient, record: RunRecord) -> str:
        tags = {"fulcrum.run_id": record.run_id, "fulcrum.pipeline": record.pipeline, "fulcrum.code": record.code}
        run = client.create_run(self._experiment_id, run_name=f"{record.pipeline} {record.run_id}", tags=tags)
        record.tracking["parent"] = run.info.run_id
        return str(run.info.run_id)

    def _find(self, client: MlflowClient, fingerprint: str) -> str | None:
        query = f"tags.`{FINGERPRINT}` = '{fingerprint}' and attributes.status = 'FINISHED'"
        found = client.search_runs([self._experiment_id], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _start_child(self, client: MlflowClient, parent: str, record: RunRecord, manifest: Manifest) -> str:
        tags = {
            "mlflow.parentRunId": parent,
            FINGERPRINT: manifest.fingerprint,
            "fulcrum.stage": manifest.stage,
            "fulcrum.version": manifest.preimage["version"],
            "fulcrum.run_id": manifest.run_id,
            "fulcrum.code": manifest.code,
        }
        for name, digest in manifest.preimage["inputs"].items():
            tags[f"fulcrum.input.{name}"] = digest
        for name, output in manifest.outputs.items():
            tags[f"fulcrum.output.{name}"] = output.digest
        run = client.create_run(self._experiment_id, run_name=manifest.node, tags=tags)
        return str(run.info.run_id)

    def _log(self, client: MlflowClient, child: str, manifest: Manifest) -> None:
        from mlflow.entities import Metric, Param

        params = [Param(k, v) for k, v in flatten(hide(manifest.preimage["params"])).items()]
        for start in range(0, len(params), 100):
            client.log_batch(child, params=params[start : start + 100])
        metrics: list[Metric] = [Metric("seconds", manifest.seconds, 0, 0)]
        metrics += [Metric(f"records.{k}", float(v), 0, 0) for k, v in manifest.counts.items()]
        metrics += [Metric(f"rows.{k}", float(o.rows), 0, 0) for k, o in manifest.outputs.items() if o.rows is not None]
        if manifest.metrics:
            for line in self.store.read(manifest.metrics).decode().splitlines():
                point = json.loads(line)
                metrics.append(Metric(_key(point["key"]), float(point["value"]), 0, int(point["step"])))
        for start in range(0, len(metrics), 1000):
            client.log_batch(child, metrics=metrics[start : start + 1000])


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
            flat[name] = (json.dumps(item, ensure_ascii=False) if isinstance(item, list) else str(item))[:PARAM_CHARS]
    return flat

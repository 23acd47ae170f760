"""Publishes to a real MLflow server, started here, and says what it then holds and what an absent one costs.

python benchmarks/mlflow_server.py            # about a minute, most of it the server's start
python benchmarks/mlflow_server.py --no-write
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measured import write
from pipelines.dag.store import Store
from pipelines.tracking import Tracker

STEPS, EVERY = 400, 100


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A tracking server on a free port; its URI."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination",
               str(folder / "artifacts")]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(900):
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.2)
        else:
            raise SystemExit(f"no server: {(folder / 'server.log').read_text()[-2000:]}")
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def publish(uri: str, folder: Path) -> list[float]:
    """Seconds of each checkpoint; every one published twice, by two trackers, as after a crash."""
    spent = []
    for step in range(EVERY, STEPS + 1, EVERY):
        for _ in range(2):
            tracker = Tracker(uri, "benchmark", Store(str(folder / "store")))
            fields = {"run_id": "r", "stage": "sft", "fingerprint": "f", "step": step, "home": str(folder)}
            started = time.perf_counter()
            tracker.checkpoint("benchmark", "code", fields)
            spent.append(time.perf_counter() - started)
    previews = folder / "previews"
    previews.mkdir()
    (previews / "a.webm").write_bytes(b"a video")
    tracker.previews({"fingerprint": "f", "folder": str(previews), "step": STEPS})
    return spent


def held(uri: str) -> dict[str, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("benchmark")
    (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'sft'")
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
    return {"steps": len(steps), "each_once": steps == list(range(1, STEPS + 1))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-write", action="store_true", help="print only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [
            json.dumps({"step": s, "loss": 1 / s, "grad_norm": 1.0, "learning_rate": 1e-4}) for s in range(1, STEPS + 1)
        ]
        (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
        started = time.perf_counter()
        with server(folder) as uri:
            start_s = time.perf_counter() - started
            spent = publish(uri, folder)
            found = held(uri)
        previews = [p.name for p in (folder / "store" / "mlflow").rglob("*.webm")]
        started = time.perf_counter()
        try:
            publish_gone = Tracker(uri, "benchmark", Store(str(folder / "store")))
            publish_gone.checkpoint(
                "b", "c", {"run_id": "r", "stage": "s", "fingerprint": "g", "step": 1, "home": str(folder)}
            )
            raise SystemExit("a server that is gone took metrics")
        except Exception as error:
            gone = {"error": type(error).__name__, "seconds": round(time.perf_counter() - started, 1)}
    result = {
        "server_start_s": round(start_s, 1),
        "checkpoint_s": [round(s, 3) for s in spent],
        "held": found,
        "previews": previews,
        "server_gone": gone,
    }
    print(json.dumps(result))
    if not found["each_once"] or previews != ["a.webm"]:
        raise SystemExit("the server does not hold what was published")
    if not options.no_write:
        print(write("mlflow_server", result))


if __name__ == "__main__":
    main()

"""The local cluster is started from its file as its header says, and its autoscaler brings a node of each group that work asks for."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).resolve().parent.parent.parent / "deploy" / "ray_cluster.local.yaml"
ASK = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="error")

@ray.remote(num_cpus=1)
def group():
    return ray.get_runtime_context().get_node_labels()["fulcrum/group"]

cpu = group.options(label_selector={"fulcrum/group": "cpu"}).remote()
gpu = group.options(label_selector={"fulcrum/group": "gpu-train"}, num_gpus=1).remote()
print(ray.get([cpu, gpu], timeout=100))
print(sorted(n["Resources"].get("CPU", 0.0) for n in ray.nodes() if n["Alive"]))
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The head's address, and the environment of whoever may use it. Ports and folder are free ones, else all is as in the file."""
    config, port = yaml.safe_load(FILE.read_text(encoding="utf-8")), _free_port()
    address = f"127.0.0.1:{port}"
    config["provider"]["gcs_address"] = address
    changed = tmp_path / "cluster.yaml"
    changed.write_text(yaml.safe_dump(config), encoding="utf-8")
    node = config["provider"]["head_node_id"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_CLOUD_INSTANCE_ID": node,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node,
    }
    folder = Path("/tmp") / f"fulcrum-{port}"  # sockets lie in it, and their paths may have 107 characters
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--num-cpus=0", "--node-ip-address=127.0.0.1"]
    own = [f"--port={port}", f"--autoscaling-config={changed}", f"--temp-dir={folder}", "--include-dashboard=false"]
    head = subprocess.Popen(
        [*ray, *own, "--block"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert head.stdout is not None
        said = []
        for line in head.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                break
        else:
            pytest.fail("".join(said))
        yield address, environment
    finally:
        head.terminate()
        head.communicate()
        # Nodes of the autoscaler are nobody's children: what runs out of this cluster's own folder goes with it.
        subprocess.run(["pkill", "-KILL", "-f", f"{folder}/"], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def test_nodes_of_the_groups_that_work_asks_for_come_by_themselves(cluster: tuple[str, dict[str, str]]) -> None:
    address, environment = cluster
    asked = subprocess.run(
        [sys.executable, "-c", ASK, address], env=environment, capture_output=True, text=True, timeout=150
    )
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert asked.stdout.splitlines() == ["['cpu', 'gpu-train']", "[0.0, 1.0, 1.0]"]

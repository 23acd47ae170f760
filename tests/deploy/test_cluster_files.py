"""The cluster files: what Ray's own schema and KubeRay's CRDs say of them, and what they must hold beyond that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
CRDS = "FULCRUM_KUBERAY_CRDS"  # a folder with ray.io_rayclusters.yaml and ray.io_rayjobs.yaml of KubeRay
GROUPS = {"cpu", "gpu-small", "gpu-train"}
GPU = "nvidia.com/gpu"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    return found


def cluster_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = read(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield from group["template"]["spec"]["containers"]


# -- Ray's cluster launcher --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ray_cluster.yaml", "ray_cluster.local.yaml"])
def test_ray_takes_the_cluster_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    # `ray up` fills in defaults first; the provider for one machine has none, so its file is whole.
    whole = prepare_config if name == "ray_cluster.yaml" else deepcopy
    validate_config(whole(read(name)))
    damaged = whole(read(name))
    damaged["available_node_types"]["cpu"]["gpus"] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate_config(damaged)


@pytest.mark.parametrize("name", ["ray_cluster.yaml", "ray_cluster.local.yaml"])
def test_the_head_does_no_work_and_every_group_is_a_label(name: str) -> None:
    found = read(name)
    types = found["available_node_types"]
    assert set(types) == GROUPS | {found["head_node_type"]}
    assert types[found["head_node_type"]]["resources"] == {"CPU": 0}
    for group in GROUPS:
        assert types[group]["labels"] == {"fulcrum/group": group}
        assert types[group]["min_workers"] == 0 < types[group]["max_workers"]
        assert ("GPU" in types[group]["resources"]) == group.startswith("gpu")


def test_nothing_of_the_cloud_cluster_is_open_to_the_world() -> None:
    found = read("ray_cluster.yaml")
    assert found["provider"]["use_internal_ips"] is True
    assert "security_group" not in found["provider"]
    for kind in found["available_node_types"].values():
        config = kind["node_config"]
        # Ray opens port 22 to 0.0.0.0/0 in a group that it makes itself, so ours must be given.
        assert config["SecurityGroupIds"]
        assert config["SubnetIds"]
        assert "NetworkInterfaces" not in config
    [head] = [c for c in found["head_start_ray_commands"] if "--head" in c]
    assert "--num-cpus=0" in head
    assert "--dashboard-host=127.0.0.1" in head
    for command in (head, *[c for c in found["worker_start_ray_commands"] if "ray start" in c]):
        assert "RAY_AUTH_MODE=token" in command
        assert "RAY_AUTH_TOKEN=" not in command
    assert any("fulcrum-*.whl" in command and "constraints.txt" in command for command in found["setup_commands"])


# -- KubeRay -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kuberay/raycluster.yaml", "kuberay/rayjob.yaml"])
def test_pods_ask_for_what_they_may_use_and_take_the_token_from_a_secret(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert {g["groupName"] for g in spec["workerGroupSpecs"]} == GROUPS
    for group in spec["workerGroupSpecs"]:
        assert group["labels"] == {"fulcrum/group": group["groupName"]}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        [container] = group["template"]["spec"]["containers"]
        assert (GPU in container["resources"]["limits"]) == group["groupName"].startswith("gpu")
    versions = set()
    for container in containers(spec):
        assert container["resources"]["requests"] == container["resources"]["limits"]
        versions.add(container["image"])
        [token] = [e for e in container["env"] if e["name"] == "RAY_AUTH_TOKEN"]
        assert set(token) == {"name", "valueFrom"}
        assert token["valueFrom"]["secretKeyRef"]["name"] == spec["authOptions"]["secretName"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
    assert len(versions) == 1
    assert spec["rayVersion"] == "2.60.0"
    text = (DEPLOY / name).read_text(encoding="utf-8")
    assert "NodePort" not in text
    assert "LoadBalancer" not in text
    assert "Ingress" not in text


def test_the_job_and_the_cluster_are_of_one_kind_and_the_job_runs_a_pipeline() -> None:
    from pipelines.catalog import BUILT_IN

    job = read("kuberay/rayjob.yaml")
    assert job["spec"]["rayClusterSpec"] == read("kuberay/raycluster.yaml")["spec"]
    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["fulcrum", "run"]
    assert words[2] in BUILT_IN


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The CRD's schema with unknown fields refused, as `kubectl apply` does; without what Kubernetes adds to JSON Schema."""
    schema = {
        k: v for k, v in schema.items() if not (k.startswith("x-kubernetes") and k != "x-kubernetes-int-or-string")
    }
    if schema.pop("x-kubernetes-int-or-string", False):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if "properties" in schema:
        schema["properties"] = {k: closed(v) for k, v in schema["properties"].items()}
        schema.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = closed(schema[key])
    return schema


@pytest.mark.parametrize(("name", "crd"), [("raycluster", "rayclusters"), ("rayjob", "rayjobs")])
def test_the_manifest_passes_kuberays_own_schema(name: str, crd: str) -> None:
    folder = os.environ.get(CRDS)
    if not folder:
        pytest.skip(f"{CRDS} names no folder with KubeRay's CRDs (helm-chart/kuberay-operator/crds of its repository)")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a megabyte of YAML takes the other one a minute
    definition = yaml.load((Path(folder) / f"ray.io_{crd}.yaml").read_text(encoding="utf-8"), loader)
    [version] = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    manifest = read(f"kuberay/{name}.yaml")
    assert manifest["kind"] == definition["spec"]["names"]["kind"]
    jsonschema.validate(manifest, schema)
    damaged = deepcopy(manifest)
    damaged["spec"].get("rayClusterSpec", damaged["spec"])["headGroupSpec"]["raystartParams"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(damaged, schema)

"""What cluster/kubernetes renders to is what Kubernetes and KubeRay take, without a cluster or a network."""

import copy
import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_kustomize import Object, render
from small_manifests import KUBERNETES, OVERLAYS, ROOT, TABLE, differences, faults, is_needed

from blm.pipelines.stages import STAGES

PIPELINES = ("dev", "prod")
MOST_NAME = 47  # characters of a RayJob's or RayService's name, since KubeRay adds to it


@functools.cache
def objects(overlay: str) -> list[Object]:
    return render(KUBERNETES / "overlays" / overlay)


def of_kind(overlay: str, kind: str) -> list[Object]:
    return [one for one in objects(overlay) if one["kind"] == kind]


def clusters(overlay: str) -> Iterator[Object]:
    """Specifications of Ray clusters, wherever they stand."""
    yield from (one["spec"] for one in of_kind(overlay, "RayCluster"))
    yield from (one["spec"]["rayClusterSpec"] for one in of_kind(overlay, "RayJob"))
    yield from (one["spec"]["rayClusterConfig"] for one in of_kind(overlay, "RayService"))


def pods(overlay: str) -> Iterator[Object]:
    """Specifications of pods."""
    yield from (one["spec"]["template"]["spec"] for one in of_kind(overlay, "Deployment"))
    for cluster in clusters(overlay):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            yield group["template"]["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_one_that_kubernetes_takes(overlay: str) -> None:
    assert {one["metadata"]["name"]: found for one in objects(overlay) if (found := faults(one))} == {}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_renders_the_same(overlay: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; tests/small_kustomize.py alone says what is rendered")
    command = [kubectl, "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert by_name(yaml.safe_load_all(done.stdout)) == by_name(objects(overlay))


def by_name(found: Any) -> dict[tuple[str, str], Object]:
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def changed(overlay: str, kind: str, path: str, value: Any) -> Object:
    """The first object of a kind with another value (None: without one) at a dotted path."""
    one = copy.deepcopy(of_kind(overlay, kind)[0])
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = one
    for step in way:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return one


@pytest.mark.parametrize(
    ("kind", "path", "value", "says"),
    [
        ("RayJob", "spec.entryPoint", "blm run", "unknown field 'entryPoint'"),
        ("RayJob", "spec.backoffLimit", "3", "'3' is not of type 'integer'"),
        ("RayJob", "spec.rayClusterSpec.headGroupSpec", None, "headGroupSpec is missing"),
        ("RayJob", "spec.rayClusterSpec.workerGroupSpecs.0.resources.cpu-sim", 1000, "1000 is not of type 'string'"),
        ("RayCluster", "spec.autoscalerOptions.version", "v3", "'v3' is none of ['v1', 'v2']"),
        ("RayCluster", "spec.headGroupSpec.template.spec.containers.0.img", "x", "'img' was unexpected"),
        ("RayCluster", "spec.autoscalerOptions.resources.limit", {}, "'limit' was unexpected"),
        ("RayCluster", "spec.workerGroupSpecs.0.minReplicas", None, "minReplicas is missing"),
        ("RayCluster", "apiVersion", "ray.io/v2", "ray.io/v2 has no RayCluster"),
        ("Deployment", "spec.template.spec.containers.0.ports.0.containerPort", "http", "not of type 'integer'"),
        ("PersistentVolumeClaim", "spec.accessMode", "x", "'accessMode' was unexpected"),
    ],
)
def test_what_kubernetes_would_refuse_is_found(kind: str, path: str, value: Any, says: str) -> None:
    found = faults(changed("prod", kind, path, value))
    assert len(found) == 1
    assert says in found[0]


@pytest.mark.parametrize("overlay", PIPELINES)
def test_every_stage_has_a_job_that_waits_to_be_started(overlay: str) -> None:
    jobs = of_kind(overlay, "RayJob")
    assert [one["metadata"]["labels"]["blm/stage"] for one in jobs] == [*(stage.name for stage in STAGES), "run"]
    for job in jobs:
        assert job["metadata"]["name"] == f"blm-{job['metadata']['labels']['blm/stage']}"
        assert job["spec"]["suspend"]
        assert job["spec"]["shutdownAfterJobFinishes"]  # KubeRay suspends no other
        assert job["spec"]["submissionMode"] == "HTTPMode"  # the entry point's variables are then those of the head
        assert job["spec"]["rayClusterSpec"] == of_kind(overlay, "RayCluster")[0]["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_the_operator_refuses_beyond_its_schemas(overlay: str) -> None:
    for one in objects(overlay):
        assert len(one["metadata"]["name"]) <= MOST_NAME
    for cluster in clusters(overlay):
        assert cluster["rayVersion"] == ray_version()
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert not {"num-cpus", "num-gpus", "memory", "resources", "labels"} & set(group["rayStartParams"])
            assert "restartPolicy" not in group["template"]["spec"]  # the autoscaler wants Never, and KubeRay sets it
        for group in cluster["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert cluster["headGroupSpec"]["resources"] == {"CPU": "0", "GPU": "0"}


def ray_version() -> str:
    (line,) = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if '"ray[' in line]
    return line.partition("==")[2].rstrip('",')


def beside(overlay: str, kind: str) -> list[Object]:
    """Objects of a kind in an overlay's namespace: the server's overlay stands beside the pipeline's."""
    (namespace,) = {one["metadata"]["namespace"] for one in objects(overlay) if one["kind"] != "Namespace"}
    found = [one for other in OVERLAYS for one in of_kind(other, kind)]
    return [one for one in found if one["metadata"]["namespace"] == namespace]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_mount_what_there_is_and_run_as_nobody_in_particular(overlay: str) -> None:
    claims = {one["metadata"]["name"] for one in beside(overlay, "PersistentVolumeClaim")}
    for pod in pods(overlay):
        assert pod["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} == set(volumes)
            assert container["image"] == f"blm:{'gpu' if overlay.startswith('prod') else 'cpu'}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_there_and_secrets_are_told_and_in_no_file(overlay: str) -> None:
    told = (ROOT / "docs" / "cluster.md").read_text()
    assert of_kind(overlay, "Secret") == []
    settings = {one["metadata"]["name"] for one in beside(overlay, "ConfigMap")}
    for pod in pods(overlay):
        secrets = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        for source in [source for container in pod["containers"] for source in container.get("envFrom", [])]:
            if "configMapRef" in source:
                assert source["configMapRef"]["name"] in settings
            else:
                secrets.append(source["secretRef"]["name"])
        for secret in secrets:
            assert f"create secret generic {secret}" in told


@pytest.mark.parametrize("overlay", PIPELINES)
def test_mlflow_is_where_the_settings_say(overlay: str) -> None:
    (settings,) = of_kind(overlay, "ConfigMap")
    (service,) = of_kind(overlay, "Service")
    (deployment,) = of_kind(overlay, "Deployment")
    host, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    assert settings["data"]["MLFLOW_TRACKING_URI"] == f"http://{host}:{port}"
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (allowed,) = [word.partition("=")[2] for word in container["args"] if word.startswith("--allowed-hosts=")]
    assert f"{host}:{port}" in allowed.split(",")


def test_a_renderer_that_does_not_know_something_says_so(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: []\nnameSuffix: -x\n")
    with pytest.raises(ValueError, match="nameSuffix"):
        render(tmp_path)


# ------------------------------------------------------------------------------------- the table of KubeRay's fields


def as_schema(name: Any) -> dict[str, Any]:
    """A type of the table as a custom resource definition writes it."""
    if isinstance(name, list):
        return {"type": "string", "enum": name}
    name = name.rstrip("!")
    if name.endswith("[]"):
        return {"type": "array", "items": as_schema(name[:-2])}
    if name not in TABLE:
        return {"type": "object" if name == "map" or name.startswith("core:") else name}
    fields = TABLE[name]
    needed = [key for key, kind in fields.items() if is_needed(kind)]
    properties = {key: as_schema(kind) for key, kind in fields.items()}
    return {"type": "object", "properties": properties} | ({"required": needed} if needed else {})


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob", "RayService"])
def test_another_version_of_kuberay_shows_where_it_differs(kind: str) -> None:
    version = {"name": "v1", "schema": {"openAPIV3Schema": as_schema(kind)}}
    crd = {"spec": {"names": {"kind": kind}, "versions": [{"name": "v1alpha1"}, version]}}
    assert differences(crd) == []
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]  # type: ignore[index]
    spec["properties"]["novelty"] = {"type": "string"}
    spec["properties"]["managedBy"] = {"type": "boolean"}
    spec["required"] = [*spec.get("required", ()), "novelty"]
    found = differences(crd)
    assert len(found) == 3
    for says in ("novelty: not here", "managedBy: string here, boolean there", "'novelty'] there"):
        assert any(says in line for line in found)

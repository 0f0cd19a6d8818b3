"""Are Kubernetes objects what Kubernetes and KubeRay would take? Without a cluster or a network.

KubeRay's own fields come from kuberay-1.6.2.yaml, everything of Kubernetes itself (pod templates too) from the schemas
in the package kubernetes-validate. Unknown fields are errors.

    python tests/small_manifests.py ray.io_rayclusters.yaml ...      how CRDs differ from that file
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).parent.parent
KUBERNETES = ROOT / "cluster" / "kubernetes"
OVERLAYS = ("dev", "dev/serve", "prod", "prod/serve")
TABLE: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "kuberay-1.6.2.yaml").read_text())
VERSION = "1.34"
"""Of Kubernetes."""

ABOUT = {"apiVersion": "v1", "metadata": {"name": "x"}}
POD = {"containers": [{"name": "x", "image": "x"}]}


def _in_container(**fields: Any) -> dict[str, Any]:
    return {"kind": "Pod", "spec": {"containers": [POD["containers"][0] | fields]}}


WRAPPED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "ObjectMeta": lambda value: {"kind": "Pod", "metadata": value, "spec": POD},
    "PodTemplateSpec": lambda value: {"kind": "PodTemplate", "template": value},
    "Service": lambda value: {"kind": "Service", **value},
    "ResourceRequirements": lambda value: _in_container(resources=value),
    "SecurityContext": lambda value: _in_container(securityContext=value),
    "EnvVar": lambda value: _in_container(env=[value]),
    "EnvVarSource": lambda value: _in_container(env=[{"name": "x", "valueFrom": value}]),
    "EnvFromSource": lambda value: _in_container(envFrom=[value]),
    "VolumeMount": lambda value: _in_container(volumeMounts=[value]),
}
"""Kubernetes' own types -> the least object that one can stand in, for the package judges whole objects."""


def faults(one: dict[str, Any]) -> list[str]:
    """What is wrong with an object, each with its place; empty if nothing is."""
    if str(one.get("apiVersion", "")).startswith("ray.io/"):
        if one["apiVersion"] != "ray.io/v1" or one.get("kind") not in TABLE:
            return [f"{one['apiVersion']} has no {one.get('kind')}"]
        return _of_type(one["kind"], one, one["kind"])
    return _of_kubernetes(json.dumps(one), "")


def _of_type(name: Any, value: Any, where: str) -> list[str]:
    """Faults of a value that the table calls `name`."""
    if isinstance(name, list):
        return [] if value in name else [f"{where}: {value!r} is none of {name}"]
    if name.endswith("[]"):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [fault for i, one in enumerate(value) for fault in _of_type(name[:-2], one, f"{where}[{i}]")]
    if name.startswith("core:"):
        return _of_kubernetes(json.dumps(ABOUT | WRAPPED[name[5:]](value)), where)
    if name in TABLE:
        return _of_object(TABLE[name], value, where)
    schema = {"type": "object", "additionalProperties": {"type": "string"}} if name == "map" else {"type": name}
    return [f"{where}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]


def _of_object(fields: dict[str, Any], value: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no object"]
    found = [f"{where}: unknown field {key!r}" for key in value if key not in fields]
    found += [f"{where}: {key} is missing" for key, name in fields.items() if is_needed(name) and key not in value]
    for key, below in value.items():
        if key in fields:
            name = fields[key]
            found += _of_type(name if isinstance(name, list) else name.rstrip("!"), below, f"{where}.{key}")
    return found


def is_needed(name: Any) -> bool:
    return isinstance(name, str) and name.endswith("!")


@functools.cache
def _of_kubernetes(text: str, where: str) -> list[str]:
    """Faults of an object of Kubernetes' own, as JSON, so that what stands in many manifests is judged once."""
    try:
        kubernetes_validate.validate(json.loads(text), VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{where}.{'.'.join(map(str, error.path))}: {error.message}".lstrip(".")]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [error.message]
    return []


def differences(crd: dict[str, Any]) -> list[str]:
    """How the table differs from a custom resource definition in names, types and requirements of KubeRay's fields."""
    kind = crd["spec"]["names"]["kind"]
    (version,) = [one for one in crd["spec"]["versions"] if one["name"] == "v1"]
    root = version["schema"]["openAPIV3Schema"]["properties"]
    return _differ(TABLE[kind]["spec"].rstrip("!"), root["spec"], f"{kind}.spec")


def _differ(name: Any, schema: dict[str, Any], where: str) -> list[str]:
    if isinstance(name, list):
        return [] if set(name) == set(schema.get("enum", ())) else [f"{where}: {name} there, {schema.get('enum')}"]
    if name.endswith("[]"):
        return _differ(name[:-2], schema.get("items", {}), f"{where}[]")
    if name not in TABLE:
        wanted = "object" if name == "map" or name.startswith("core:") else name
        return [] if schema.get("type") == wanted else [f"{where}: {name} here, {schema.get('type')} there"]
    fields, there = TABLE[name], schema.get("properties", {})
    found = [f"{where}.{key}: not there" for key in fields if key not in there]
    found += [f"{where}.{key}: not here" for key in there if key not in fields]
    needed = {key for key, kind in fields.items() if is_needed(kind)}
    if needed != set(schema.get("required", ())):
        found.append(f"{where}: needs {sorted(needed)} here, {sorted(schema.get('required', ()))} there")
    for key in fields:
        if key in there:
            kind = fields[key]
            found += _differ(kind if isinstance(kind, list) else kind.rstrip("!"), there[key], f"{where}.{key}")
    return found


if __name__ == "__main__":
    for path in sys.argv[1:]:
        for line in differences(yaml.safe_load(Path(path).read_text())):
            print(line)

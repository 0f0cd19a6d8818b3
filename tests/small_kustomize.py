"""Renders the kustomizations of cluster/kubernetes without kubectl: those features that they use, and no others.

What it does not know it refuses, so that nothing is left out unseen; a test compares it with `kubectl kustomize` where
that is installed.
"""

import copy
import json
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

KNOWN = {"apiVersion", "kind", "namespace", "resources", "labels", "images", "patches", "replacements"}


def render(folder: Path) -> list[Object]:
    """The objects of a kustomization, in the order in which they are named. ValueError for what is not known here."""
    file = folder / "kustomization.yaml"
    said = yaml.safe_load(file.read_text())
    if unknown := set(said) - KNOWN:
        raise ValueError(f"{file}: {sorted(unknown)} are not known here")
    objects: list[Object] = []
    for name in said["resources"]:
        path = folder / name
        objects += render(path) if path.is_dir() else _read(path)
    for patch in said.get("patches", []):
        change = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
        for one in _chosen(objects, patch["target"]):
            _patch(one, yaml.safe_load(change))
    for one in objects:
        if "namespace" in said and one["kind"] != "Namespace":
            one["metadata"]["namespace"] = said["namespace"]
        for label in said.get("labels", []):
            one["metadata"].setdefault("labels", {}).update(label["pairs"])
        for image in said.get("images", []):
            _rename_images(one, image)
    for replacement in said.get("replacements", []):
        _replace(objects, replacement)
    return objects


def _read(path: Path) -> list[Object]:
    """Objects of a file; anchors become copies, by way of JSON, which knows none."""
    return [json.loads(json.dumps(one)) for one in yaml.safe_load_all(path.read_text()) if one]


def _chosen(objects: list[Object], target: dict[str, str]) -> list[Object]:
    """The objects that a target names, by kind and perhaps name; at least one."""
    if unknown := set(target) - {"kind", "name"}:
        raise ValueError(f"a target by {sorted(unknown)} is not known here")
    found = [
        one
        for one in objects
        if one["kind"] == target["kind"] and target.get("name") in (None, one["metadata"]["name"])
    ]
    if not found:
        raise ValueError(f"there is no {target}")
    return found


def _patch(one: Object, change: Any) -> None:
    """A list of JSON patch operations, or an object to merge; lists of custom resources are replaced whole."""
    if isinstance(change, dict):
        if not one["apiVersion"].startswith("ray.io/"):
            raise ValueError(f"merging into {one['kind']} goes by rules that are not known here")
        _merge(one, change)
        return
    for operation in change:
        *way, last = operation["path"].removeprefix("/").split("/")
        place: Any = one
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        if operation["op"] == "add" and last == "-":
            place.append(copy.deepcopy(operation["value"]))
            continue
        key = int(last) if isinstance(place, list) else last
        if operation["op"] == "replace":
            assert key in (range(len(place)) if isinstance(place, list) else place), operation
        elif operation["op"] != "add" or isinstance(place, list):
            raise ValueError(f"{operation} is not known here")
        place[key] = copy.deepcopy(operation["value"])


def _merge(into: Object, change: Object) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def _rename_images(value: Any, image: dict[str, str]) -> None:
    """Another name and tag for an image, in lists of containers wherever they stand."""
    if isinstance(value, list):
        for one in value:
            _rename_images(one, image)
    elif isinstance(value, dict):
        for key, below in value.items():
            if key in ("containers", "initContainers"):
                for container in below:
                    if container["image"].partition(":")[0] == image["name"]:
                        container["image"] = f"{image['newName']}:{image['newTag']}"
            _rename_images(below, image)


def _replace(objects: list[Object], replacement: dict[str, Any]) -> None:
    """Copy one field of one object to others."""
    source = dict(replacement["source"])
    (value,) = _chosen(objects, {key: source[key] for key in ("kind", "name")})
    for step in source["fieldPath"].split("."):
        value = value[step]
    for target in replacement["targets"]:
        for one in _chosen(objects, target["select"]):
            for path in target["fieldPaths"]:
                *way, last = path.split(".")
                place = one
                for step in way:
                    place = place[step]
                if last not in place and not target.get("options", {}).get("create"):
                    raise ValueError(f"{one['metadata']['name']} has no {path}")
                place[last] = copy.deepcopy(value)

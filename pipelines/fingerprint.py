"""Identity of a stage's work: a hash of what it was asked (fingerprint) and a hash of the code that did it (code
hash).

The fingerprint names the stage's folder, so a change of configuration never overwrites a result: it gets another
folder. The code hash is only compared: when the code behind a finished folder has changed, a person decides whether
the result still counts.
"""

import ast
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

PLUMBING = (
    "blm.cluster.asks",
    "blm.cluster.claims",
    "blm.cluster.depot",
    "blm.cluster.filesystems",
    "blm.cluster.joining",
    "blm.cluster.mirror",
    "blm.cluster.nodes",
    "blm.cluster.ray_runtime",
    "blm.cluster.stores",
    "blm.model.errors",
    "blm.pipelines.fence",
    "blm.pipelines.fingerprint",
    "blm.pipelines.keeping",
    "blm.pipelines.lock",
    "blm.pipelines.tracking",
    "blm.pipelines.workspace",
    "blm.pipelines.memory",
)
"""Modules that carry results but cannot change them: not part of any stage's code hash."""

PACKAGES = (
    "torch",
    "transformers",
    "diffusers",
    "ray",
    "mani_skill",
    "sapien",
    "roboplan",
    "vllm",
    "numpy",
    "pyarrow",
    "mlflow",
)
"""Packages whose versions a manifest records."""


def fingerprint(*, stage: str, version: int, config: Any, world: Any, seed: int, inputs: Mapping[str, str]) -> str:
    """sha256 (64 hex) over a stage's name, format version, configuration, world, seed and its inputs' fingerprints."""
    identity = {
        "stage": stage,
        "version": version,
        "config": plain(config),
        "world": plain(world),
        "seed": seed,
        "inputs": dict(inputs),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def plain(value: Any) -> Any:
    """A configuration as JSON-able values: dataclasses become mappings, tuples lists, paths strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value


@cache
def code_hash(module: str) -> str:
    """sha256 (64 hex) of a module's source, of its package's modules that it imports, and of `assets` beside them.

    Imports, direct or not, are read off the source, also those inside functions; nothing is imported for it.
    """
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources or name in PLUMBING:
            continue
        source = _source(name)
        if source is None:  # a name imported from a module, or a package without code
            continue
        sources[name] = source
        waiting += _imports(source, module.partition(".")[0])
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(name.encode() + b"\0" + hashlib.sha256(sources[name]).digest())
    for folder in sorted({_folder(name) for name in sources}):
        for path in sorted(p for p in (folder / "assets").rglob("*") if p.is_file()):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _folder(name: str) -> Path:
    """The folder of a module that has a source file."""
    spec = _spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _source(name: str) -> bytes | None:
    """The source of a module, or None if the name is no module with a source file."""
    spec = _spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin).read_bytes()


def _spec(name: str) -> ModuleSpec | None:
    """Where a module lives.

    Only packages are asked, so that nothing but their (empty) `__init__` files is imported.
    """
    parent = name.rpartition(".")[0]
    if parent:
        package = _spec(parent)
        if package is None or package.submodule_search_locations is None:
            return None
    return importlib.util.find_spec(name)


def _imports(source: bytes, root: str) -> Iterable[str]:
    """Names under the top-level package `root` that a source imports (`from a import b` gives both a and a.b)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == root)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == root:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def versions() -> dict[str, str]:
    """Versions of Python, blm and the packages that matter to results; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in ("blm", *PACKAGES):
        for distribution in (package, package.replace("_", "-"), f"{package}-cpu"):
            try:
                found[package] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found

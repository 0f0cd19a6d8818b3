"""What `blm doctor --cluster` asks of one node: facts, found on the node and judged by the driver."""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines import doctor_checks
from blm.pipelines.doctor import Check, run_check
from blm.pipelines.fingerprint import versions

PACKAGES = ("model", "actors", "serve", "pipelines", "cluster")
RENDERER_S = 90.0


class Examiner:
    """One per node, as a Ray actor."""

    def now(self) -> float:
        """This node's clock, seconds since 1970."""
        return time.time()

    def facts(self, *, token: tuple[str, str] | None, gpus: float, renderer: bool) -> dict[str, Any]:
        """What there is. token: a file that the driver wrote where runs live and what it holds, if all nodes should see
        it. gpus: how many Ray believes to be here. renderer: whether to try to draw a picture, which takes a while.
        """
        return {
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "blm": importlib.metadata.version("blm"),
            "versions": versions(),
            "code": package_hash(),
            "assets": _assets(),
            "renderer": _renderer() if renderer else None,
            "storage": storage(token),
            "gpus": _gpus() if gpus else None,
            "free_gb": shutil.disk_usage(os.path.expanduser("~")).free / 1e9,
        }


def package_hash() -> str:
    """sha256 (64 hex) of every source file of blm that is installed here, and of the simulator's descriptions."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = importlib.util.find_spec(f"blm.{package}")
        if spec is None or not spec.submodule_search_locations:
            continue
        root = Path(next(iter(spec.submodule_search_locations))).resolve()
        files = [*root.rglob("*.py"), *root.glob("sim/assets/**/*.urdf"), *root.glob("sim/assets/**/*.srdf")]
        for path in sorted(files):
            digest.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def storage(token: tuple[str, str] | None) -> dict[str, str] | None:
    """Whether runs' files can be reached: the store by a tiny object, a folder by the driver's file in it.

    None if there is neither.
    """
    try:
        if depot.has_store():
            return {"status": "ok", "detail": depot.probe()}
        if token is None:
            return None
        path, content = Path(token[0]), token[1]
        if path.is_file() and path.read_text() == content:
            return {"status": "ok", "detail": f"sees {path.parent}"}
        return {"status": "FAIL", "detail": f"does not see {path.parent}, where the driver's runs are"}
    except (UserError, OSError) as error:
        return {"status": "FAIL", "detail": str(error)}


def _assets() -> dict[str, str]:
    try:
        found = asdict(doctor_checks.robots())
    except Exception as error:  # whatever is wrong with what is installed here is the answer
        return {"status": "FAIL", "detail": f"{type(error).__name__}: {error}"}
    return {"status": str(found["status"]), "detail": str(found["detail"])}


def _renderer() -> dict[str, str]:
    found = run_check(Check(name="renderer", mend="make setup", timeout_s=RENDERER_S))
    return {"status": found.status, "detail": found.detail}


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()

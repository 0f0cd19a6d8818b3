"""Joining a Ray cluster that runs: which addresses there are, what its workers are told, and what a person is told."""

import json
import os
import re
import socket
from collections.abc import Mapping
from typing import Any

from blm.cluster import nodes, ray_corners
from blm.model.errors import UserError

PASSED = (
    "BLM_STORE",
    "BLM_HOME",
    "BLM_STORE_PATIENCE_S",
    "BLM_DEVICE",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "OMP_NUM_THREADS",
    "HF_HUB_OFFLINE",
    "MLFLOW_TRACKING_URI",
)
"""Variables that workers on other nodes get from the driver if it has them. Credentials are not among them, since Ray
shows these to everybody who sees its dashboard, nor is BLM_SCRATCH: each node has its own."""
KNOCK_S = 5.0
"""For the head to accept a connection. Ray itself would try for minutes where nobody listens."""
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:]+\]|[^\s:/]+):\d{1,5}")


def check_address(address: str) -> None:
    """UserError for an address that no driver can join, with what to give instead."""
    cure = "run blm on a machine of the cluster with --address auto, or send it there: ray job submit -- blm run ..."
    if address.startswith("ray://"):
        raise UserError(
            f"address {address} is a Ray Client address, behind which Ray Train and Ray Data drivers do not work;"
            f" {cure}"
        )
    if address.startswith(("http://", "https://")):
        raise UserError(f"address {address} is a dashboard's, where jobs are sent to and no driver joins; {cure}")
    if address != "auto" and not _HOST_AND_PORT.fullmatch(address):
        raise UserError(f"address {address} is neither auto, local nor HOST:PORT of the head, as `ray start` prints it")


def join(address: str, settings: Mapping[str, str], common: dict[str, Any]) -> None:
    """Join a running cluster, give this driver's workers `settings`, and say what there is.

    common: more arguments of `ray.init`. Raises UserError for an address that cannot be reached.
    """
    import ray

    try:
        if address != "auto":
            _knock(address)
        ray.init(address=address, runtime_env={"env_vars": worker_environment(settings)}, **common)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"no Ray cluster can be joined at {address} ({reason}); start one with "
            "`ray start --head`, or leave --address out"
        ) from error
    print(f"[ray] joined {welcome()}", flush=True)


def _knock(address: str) -> None:
    """OSError unless somebody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def worker_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The variables that this driver's workers get. Those that its job was submitted with stay the job's: Ray refuses
    to have them twice, be they the same."""
    said = {name: os.environ[name] for name in (*settings, *PASSED) if name in os.environ}
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    of_job = (job.get("runtime_env") or {}).get("env_vars") or {}
    return {name: value for name, value in said.items() if name not in of_job}


def welcome() -> str:
    """Where the cluster is, what it has, and where its pages are."""
    import ray

    link = dashboard()
    pages = f"; dashboard {link}" if link else "; without a dashboard"
    return f"{ray.get_runtime_context().gcs_address}: {nodes.describe(nodes.there())}{pages}"


def dashboard() -> str | None:
    """Address of the dashboard of the cluster that is connected, if it has one."""
    found = ray_corners.dashboard_address()
    return f"http://{found}" if found else None

"""Who listens on the server's port and passes on to the replicas: HAProxy, or Ray Serve's own proxy.

HAProxy is a process in C between a client and the replica's own web server: bytes pass, nothing is copied into Python,
and a request that a dying replica never answered is asked of another one. Ray Serve's proxy is a Python process that
unpacks every message and sends it on by remote call. HAProxy therefore is the choice wherever it can run: in a Ray that
`blm serve` starts itself, on Linux, with the program that comes with `ray[serve]`. A cluster that runs already has its
choice behind it (RAY_SERVE_ENABLE_HA_PROXY=1 in the environment of its nodes).

Ray reads all of this from the environment when it is imported; `environment` says what must be there.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from blm.cluster.ports import free_ports
from blm.model.errors import UserError
from blm.serve.config import ServeConfig
from blm.serve.drain import SETTLE_S
from blm.serve.guard.haproxy import haproxy, write_wrapper

Front = Literal["haproxy", "ray"]
CHOICE, PROGRAM = "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_HAPROXY_BINARY_PATH"
FOLDER = "blm-"
MOST_CONNECTIONS = 1024
SPARE_S = 2.0
LONGEST_SESSION_S = 24 * 3600
"""HAProxy starts anew whenever replicas come or go; its predecessor goes on with the WebSockets that it has for so long
at most. Ray's default would cut every episode after two minutes."""
RETRIED_BYTES = 2**18
"""Requests up to this size are kept until an answer begins, so that they can be asked of another replica. HAProxy holds
a buffer of this size for each connection that is active."""
AGAIN = 2
"""How often a request is asked of another replica: one that kills its replica must not kill them all."""


def choose(config: ServeConfig, *, joins: bool) -> Front:
    """The front of a server. joins: whether it joins a cluster that runs already. UserError for what cannot be had."""
    if config.front == "ray":
        return "ray"
    if joins:
        chosen: Front = "haproxy" if os.environ.get(CHOICE) == "1" else "ray"
        if config.front == "haproxy" and chosen == "ray":
            raise UserError(f"front is haproxy, which a cluster's nodes must be started with ({CHOICE}=1); or use ray")
        return chosen
    missing = _missing()
    if missing and config.front == "haproxy":
        raise UserError(f"front is haproxy, but {missing}; use auto or ray")
    return "ray" if missing else "haproxy"


def _missing() -> str:
    """What HAProxy lacks here, in words; empty if it can run."""
    if not sys.platform.startswith("linux"):
        return "HAProxy comes for Linux alone"
    own = os.environ.get(PROGRAM)
    if own:
        return "" if os.access(own, os.X_OK) else f"{PROGRAM}={own} is no program"
    try:
        haproxy()
    except UserError as error:
        return str(error)
    return ""


def environment(front: Front, config: ServeConfig) -> dict[str, str]:
    """What must be in the environment before Ray is imported, for a Ray that is started on this machine."""
    if front == "ray":
        return everywhere(front, config)
    folder = _private_folder(config.port)
    statistics, metrics, fallback = free_ports(3)
    return everywhere(front, config) | {
        PROGRAM: os.environ.get(PROGRAM) or str(write_wrapper(folder, config.guard)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(os.cpu_count() or 1, 4)),
    }


def everywhere(front: Front, config: ServeConfig) -> dict[str, str]:
    """The part of it that every node of any cluster must have, a KubeRay one too (cluster/kubernetes/serve/)."""
    common = {
        CHOICE: "1" if front == "haproxy" else "0",
        # Replicas tell how much they have to do every second, not every ten: scaling can be no quicker than that.
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        # Our application blocks nobody, so it needs no thread of its own, from which each message would have to cross
        # over, through a queue that has no bound.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    }
    if front == "ray":
        return common
    return common | {
        # Our replicas count their own requests; HAProxy's log of each request would be parsed in Python.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_MAXCONN": str(MOST_CONNECTIONS),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_SESSION_S),
        # By default a replica's port would not be used again before that time has passed.
        "RAY_SERVE_PORT_QUARANTINE_S": "600",
        # When it is over a leaving replica's web server cuts off what is still open, WebSockets too.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{config.drain_s + SETTLE_S + SPARE_S:g}",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": str(AGAIN),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(RETRIED_BYTES),
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    }


def discard(said: Mapping[str, str]) -> None:
    """Remove what `environment` has made for HAProxy, once it has ended."""
    folder = Path(said.get("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC", "/")).parent
    if folder.name.startswith(FOLDER):
        shutil.rmtree(folder, ignore_errors=True)


def _private_folder(port: int) -> Path:
    """Where HAProxy's administrators' socket lies, out of other users' reach. Short: a socket's path has 107 letters,
    of which Ray adds about 80."""
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{port}-", dir="/tmp"))
    folder.chmod(0o700)
    return folder

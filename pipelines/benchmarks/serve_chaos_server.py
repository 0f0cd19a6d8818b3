"""The server of `blm bench serve-chaos`: how it is set up, its replicas, and what is said about them."""

import time
import urllib.request
from collections.abc import Callable
from typing import Any

import psutil

from blm.model.errors import UserError
from blm.pipelines.benchmarks.serve_processes import REPLICA, Served

CONFIG: dict[str, Any] = {
    "playground": {"enabled": False},
    "logs": {"requests": False},
    "batches": {"max_waiting": 8},
    "guard": {"key_requests": 10_000, "max_requests": 10_000, "key_connections": 10_000, "max_connections": 10_000},
    "model": {"min": 1, "max": 2, "ongoing": 3.0, "more_after_s": 2.0, "fewer_after_s": 4.0},
    "drain_s": 10.0,
}
CHANGE_S = 240.0
"""A replica that has not come or gone by then will not."""


def metrics(server: Served) -> list[str]:
    """The lines of the server's own metrics; none while nobody answers."""
    try:
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as reply:
            return str(reply.read().decode()).splitlines()
    except OSError:
        return []


def replicas(server: Served) -> int:
    """Whole replicas that answer, as the server's own metrics count them; 0 while nobody answers."""
    lines = [line for line in metrics(server) if line.startswith("blm_replica_up{") and 'replica="model-' in line]
    return sum(line.endswith(" 1.0") for line in lines)


def processes(server: Served, deployment: str) -> list[psutil.Process]:
    """The processes of a deployment's replicas, those that are about to go among them."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if words.startswith(REPLICA) and f":{deployment}" in words:
            found.append(process)
    return found


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """How many seconds it took. UserError if it does not come true."""
    began_s = time.perf_counter()
    while not condition():
        if time.perf_counter() > began_s + CHANGE_S:
            raise UserError(f"waited {CHANGE_S:g} s for {what}")
        time.sleep(0.5)
    return round(time.perf_counter() - began_s, 1)


def bad(found: dict[str, Any]) -> int:
    """Requests without a good answer: nothing of this may make a server refuse."""
    return int(found["failed"] + found["refused"])


def told(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """What was found, once it has been said."""
    say(f"{name}: {found}")
    return found


def say(text: str) -> None:
    """Tell the person watching."""
    print(f"[serve-chaos] {text}", flush=True)

"""A Ray cluster of several raylets on this machine, to be broken: a head that does no work, and nodes that do.

Every node has a scratch folder of its own (BLM_SCRATCH), so that with a run in a store no two of them share a disk; a
node that takes the place of a lost one begins with an empty one. Everything ends with the process that started it.
"""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from blm.cluster.depot import SCRATCH
from blm.cluster.ray_runtime import LOCAL_ENVIRONMENT, set_environment
from blm.pipelines.chaos.processes import Victim, kill, workers_below

OBJECT_STORE_BYTES = 256 * 2**20
HEALTH = {"health_check_period_ms": 1000}
"""A raylet that is gone is noticed after some seconds and not after a quarter of a minute. How long one that is merely
busy may take to answer stays as Ray has it: many processes share few cores here."""

START_S = "120"
"""How long a raylet may take to start: while the driver works, there are few cores left for it."""


class Nodes:
    """The cluster. A context manager; to be used by the main thread alone, with whose end the processes end."""

    def __init__(self, *, nodes: int, cpus: int, scratch: Path) -> None:
        """nodes: beside the head, `cpus` logical CPUs each. scratch: where the scratch folders of all nodes are."""
        self._count, self._cpus, self._scratch = nodes, cpus, scratch
        self._made = 0
        self._folder = Path(tempfile.mkdtemp(prefix="blm-chaos-"))  # short: sockets are in it
        self._cluster: Any = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def _start(self) -> None:
        set_environment(LOCAL_ENVIRONMENT)
        os.environ.setdefault("RAY_raylet_start_wait_time_s", START_S)
        os.environ["RAY_TMPDIR"] = str(self._folder)  # also where Ray notes which cluster is the latest
        logging.getLogger("ray").setLevel(logging.ERROR)  # that settings for tests are not for users
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH}
        self._cluster = Cluster(initialize_head=True, head_node_args=head | self._arguments("head"))
        for _ in range(self._count):
            self.add(wait=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._cluster is not None:
            self._cluster.shutdown()  # and not `ray stop`: there may be other clusters on this machine
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Of the cluster, for `--address`."""
        return str(self._cluster.address)

    @property
    def raylets(self) -> list[int]:
        """Process numbers of the raylets of all nodes that live, the head's first."""
        nodes = [self._cluster.head_node, *self._workers()]
        return [_raylet(node) for node in nodes]

    @property
    def alive(self) -> int:
        """Nodes beside the head."""
        return len(self._cluster.worker_nodes)

    def add(self, *, wait: bool = False) -> None:
        """One more node, with an empty disk."""
        self._made += 1
        self._cluster.add_node(wait=wait, num_cpus=self._cpus, **self._arguments(f"node-{self._made}"))

    def kill_node(self, number: int) -> str:
        """SIGKILL of the raylet of a node, the `number`-th modulo how many there are; its workers find out themselves.
        Returns what it was."""
        nodes = self._workers()
        node = nodes[number % len(nodes)]
        kill(psutil.Process(_raylet(node)))
        self._cluster.remove_node(node, allow_graceful=False)
        return "raylet"

    def workers(self) -> list[Victim]:
        """Worker processes on all nodes that have something to do."""
        return workers_below(self.raylets)

    def _workers(self) -> list[Any]:
        return sorted(self._cluster.worker_nodes, key=_raylet)

    def _arguments(self, name: str) -> dict[str, Any]:
        folder = self._scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        return {"object_store_memory": OBJECT_STORE_BYTES, "env_vars": {SCRATCH: str(folder)}}


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)

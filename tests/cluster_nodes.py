"""A cluster of several raylets on this machine, from which nodes are taken away while work goes on.

A program of its own, since a test process may be connected to one Ray only:

    python tests/cluster_nodes.py FOLDER

The head does no work. Prints one JSON object, which the test judges.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ |= {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "4",
    "RAY_AUTH_MODE": "disabled",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "OMP_NUM_THREADS": "1",
}

from cluster_work import Doubler, Sleeper, paced_training, train_alone

from blm.cluster import nodes, ray_runtime
from blm.cluster.asks import OFFER
from blm.cluster.leave import announce
from blm.pipelines import workers
from blm.pipelines.workspace import ResourceConfig

ray_runtime.set_environment()
LIMIT_S = 240.0
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


class Raylets:
    """A head without CPUs, and nodes with one CPU each."""

    def __init__(self, kind: str) -> None:
        from ray.cluster_utils import Cluster

        self._offer = {kind: OFFER}
        self._temporary = tempfile.mkdtemp(prefix="r8-nodes-", dir="/tmp")  # sockets' names must be short
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": 100 << 20,
                "include_dashboard": False,
                "temp_dir": self._temporary,
                "_system_config": QUICK,
            },
        )
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return str(self._cluster.address)

    def add(self) -> None:
        """One more node."""
        self.nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=80 << 20, resources=self._offer))

    def take_away(self) -> None:
        """The last node, at once; returns when the cluster knows."""
        import ray

        node = self.nodes.pop()
        self._cluster.remove_node(node, allow_graceful=False)
        wait_for(lambda: sum(one["Alive"] for one in ray.nodes()) == len(self.nodes) + 1, "the cluster to notice")

    def close(self) -> None:
        """End all of it."""
        ray_runtime.disconnect()
        self._cluster.shutdown()
        shutil.rmtree(self._temporary, ignore_errors=True)


def wait_for(happened: Callable[[], bool], what: str) -> None:
    """Until something is so. RuntimeError if it takes too long."""
    limit_s = time.monotonic() + LIMIT_S
    while not happened():
        if time.monotonic() > limit_s:
            raise RuntimeError(f"waited for {what}")
        time.sleep(0.1)


def look_now() -> None:
    """Ray Train hears of nodes every 20 s; have it hear at once, to spare the test the time."""
    import ray
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    ray.get(get_or_create_autoscaling_coordinator().get_reserved_resources.remote("test", recompute=True))


def beside(work: Callable[[], Any]) -> tuple[threading.Thread, dict[str, Any]]:
    """Work in a thread: nodes are added by the main one."""
    outcome: dict[str, Any] = {}

    def call() -> None:
        try:
            outcome["value"] = work()
        except BaseException as error:
            outcome["error"] = repr(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread, outcome


def training(raylets: Raylets, folder: Path) -> dict[str, Any]:
    """Two workers; one node is announced to go, and goes; later another comes."""
    workers.RESIZE_EVERY_S = 1.0
    config = {"folder": str(folder)}
    resources = ResourceConfig(train_workers=2, least_train_workers=1)
    thread, outcome = beside(lambda: workers.fit(paced_training, config, folder / "toy-1", resources))

    def worlds() -> list[int]:
        lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
        return [json.loads(line)["world"] for line in lines]

    wait_for(lambda: not thread.is_alive() or len(worlds()) > 3, "two workers")
    announce(60, raylets.nodes[-1].node_id)
    wait_for(lambda: not thread.is_alive() or (folder / "checkpoint.pt").exists(), "a checkpoint in time")
    in_time = (folder / "checkpoint.pt").exists()
    raylets.take_away()
    look_now()
    wait_for(lambda: not thread.is_alive() or 1 in worlds(), "training with one worker")
    raylets.add()
    look_now()
    wait_for(lambda: not thread.is_alive() or worlds()[-1] == 2, "training with two workers again")
    (folder / "go").touch()
    thread.join(LIMIT_S)
    return {"worlds": worlds(), "in_time": in_time, "outcome": outcome, "ended": not thread.is_alive()}


def models(raylets: Raylets, folder: Path) -> dict[str, Any]:
    """Three models on two nodes, and then on one."""
    from blm.pipelines.policy_training.fan_out import fan_out

    configs = [{"scope": f"model {i}", "folder": str(folder / f"model-{i}")} for i in range(3)]
    thread, outcome = beside(lambda: fan_out(train_alone, configs, folder, ResourceConfig()))
    wait_for(lambda: not thread.is_alive() or len(list(folder.glob("model-*/began-*"))) >= 2, "two models")
    raylets.take_away()
    thread.join(LIMIT_S)
    return {"outcome": outcome, "done": [(Path(config["folder"]) / "done").exists() for config in configs]}


def items(raylets: Raylets, folder: Path) -> dict[str, Any]:
    """Ten items of Ray Data's actors on two nodes, and then on one."""
    from blm.pipelines.datasets.items import map_items

    given = [{"number": i, "folder": str(folder)} for i in range(10)]
    thread, outcome = beside(lambda: list(map_items(given, Doubler, arguments={}, workers=2)))
    wait_for(lambda: not thread.is_alive() or len({p.name for p in folder.glob("item-*")}) >= 4, "four items")
    raylets.take_away()
    thread.join(LIMIT_S)
    results = sorted(one["double"] for one in outcome.pop("value", []))
    return {"outcome": outcome, "ended": not thread.is_alive(), "results": results}


def pool(raylets: Raylets, folder: Path) -> dict[str, Any]:
    """Eight items of a pool of two actors on two nodes, and then on one."""
    import ray

    from blm.actors.pool import WorkPool

    with WorkPool[int, int](lambda: ray.remote(Sleeper).options(num_cpus=1).remote(), actors=2) as workers_of_pool:
        for number in range(8):
            workers_of_pool.submit(number)
        results = [workers_of_pool.next(timeout_s=LIMIT_S)]
        raylets.take_away()
        while workers_of_pool.pending:
            results.append(workers_of_pool.next(timeout_s=LIMIT_S))
    return {"results": sorted(one.result for one in results if one is not None and one.result is not None)}


def main(folder: Path) -> dict[str, Any]:
    """One after another, each losing a node; all begin with two."""
    raylets = Raylets("gpu-train")
    raylets.add()
    raylets.add()
    ray_runtime.connect(num_cpus=1, address=raylets.address)
    found: dict[str, Any] = {"line": nodes.describe(nodes.there()), "training": training(raylets, folder)}
    for work in (models, items, pool):
        if len(raylets.nodes) < 2:
            raylets.add()
        found[work.__name__] = work(raylets, folder)
    raylets.close()
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))), flush=True)
    os._exit(0)

"""Replicas of the server on the nodes of a cluster: several raylets on this machine, one of which is lost."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from live_server import started
from small_server import Server, action_request

from blm.pipelines.chaos.nodes import Nodes
from blm.pipelines.chaos.processes import workers_below

pytestmark = [pytest.mark.ray, pytest.mark.long]
CONFIG = """
chat: {enabled: false}
playground: {enabled: false}
front: ray
model: {min: 2, max: 2, num_cpus: 2}
"""
LIMIT_S = 180


def wait_for(happened: Callable[[], bool], what: str) -> None:
    """Until something is so."""
    limit_s = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < limit_s, f"waited for {what}"
        time.sleep(0.5)


def with_replica(nodes: Nodes) -> int:
    """How many nodes beside the head have a replica at work."""
    return sum(any("Replica" in one.name for one in workers_below([raylet])) for raylet in nodes.raylets[1:])


class Asker:
    """A robot that asks again and again, each request of a connection of its own."""

    def __init__(self, server: Server) -> None:
        self._server, self._ended = server, threading.Event()
        self.answered, self.failed = 0, 0
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        while not self._ended.is_set():
            try:
                status, _ = self._server.ask("/v1/actions", action_request())
                good = status == 200
            except (OSError, ValueError):  # no connection, or half an answer
                good = False
            self.answered, self.failed = self.answered + good, self.failed + (not good)
            time.sleep(0.1)

    def end(self) -> None:
        """Ask no more."""
        self._ended.set()
        self._thread.join()


def test_replicas_stand_on_different_nodes_and_one_lost_with_its_node_comes_back(
    live_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "serve.yaml").write_text(CONFIG)
    with Nodes(nodes=2, cpus=2, scratch=tmp_path / "scratch") as nodes:
        words = ["--address", nodes.address, "--config", str(tmp_path / "serve.yaml")]
        with started(live_model, tmp_path, words) as server:
            wait_for(lambda: with_replica(nodes) == 2, "a replica on each node")
            asker = Asker(server)
            wait_for(lambda: asker.answered >= 10, "answers")
            assert asker.failed == 0
            nodes.kill_node(0)
            before = asker.answered
            wait_for(lambda: asker.answered >= before + 10, "answers with a node less")
            nodes.add()
            wait_for(lambda: with_replica(nodes) == 2, "a replica on the new node")
            failed, before = asker.failed, asker.answered
            wait_for(lambda: asker.answered >= before + 20, "answers of both")
            asker.end()
            print(f"{asker.answered} answered, {asker.failed} failed")
            assert asker.failed == failed, "nothing fails once the node is replaced"
            assert asker.failed < asker.answered / 2

"""The running server, watched: one page of numbers for all of it, and its playground, from the browser's side."""

import json
import urllib.request
from typing import Any

import pytest
from small_metrics import samples
from small_server import MESSAGES, Server, action_request
from websockets.sync.client import connect

from blm.actors.sim.world import seed_range

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LOOK_S = 120.0
"""The simulator's process imports ManiSkill first."""


def test_the_servers_page_counts_actions_conversations_and_memory(live_server: Server) -> None:
    assert live_server.ask("/v1/actions", action_request())[0] == 200
    body = {"model": "BLM", "messages": MESSAGES, "max_tokens": 4}
    assert live_server.ask("/v1/chat/completions", body)[0] == 200
    assert live_server.ask("/v1/actions", action_request(embodiment="nobody"))[0] == 400
    with urllib.request.urlopen(f"{live_server.url}/metrics", timeout=30) as reply:
        found = samples(reply.read())

    def total(name: str, *labels: str) -> float:
        return sum(value for key, value in found.items() if key[0] == name and set(labels) <= set(key))

    assert total("blm_replica_up", "role=unified") == 1
    assert total("blm_actions_answered_total", "robot=panda") >= 1
    assert total("blm_action_seconds_count", "part=mllm") >= 1
    assert total("blm_action_seconds_sum", "part=mllm") > 0
    assert total("blm_requests_total", "path=/v1/actions", "status=400") >= 1
    assert total("vllm:generation_tokens_total") >= 4
    assert total("process_resident_memory_bytes") > 2**26


def test_the_servers_playground_shows_an_episode_of_the_served_model(live_server: Server) -> None:
    with urllib.request.urlopen(f"{live_server.url}/playground", timeout=30) as reply:
        assert "BLM playground" in reply.read().decode()
    address = f"{live_server.url.replace('http', 'ws')}/playground/live"
    with connect(address, max_size=None) as socket:
        socket.send(json.dumps({"do": "enter", "key": ""}))
        hello = json.loads(socket.recv(60))
        assert (hello["event"], hello["chat"]) == ("hello", True), hello
        robot, seed = hello["robots"][0]["name"], seed_range("evaluate").start
        socket.send(json.dumps({"do": "start", "robot": robot, "task": "PushCube", "seed": seed}))
        event: dict[str, Any] = {}
        while event.get("event") != "look":
            message = socket.recv(LOOK_S)
            if isinstance(message, bytes):
                event = json.loads(message[4 : 4 + int.from_bytes(message[:4], "big")])
            else:
                event = json.loads(message)
            assert event["event"] not in ("over", "trouble"), event
        assert 0 < event["timing"]["mllm_ms"] < event["round_trip_ms"]
        assert [camera for camera, _ in event["pictures"]] == hello["cameras"]

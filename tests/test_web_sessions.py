"""WebSockets of the web application: how conversations end, which observation counts, and which contract."""

import re
import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest
from small_policy_server import observation
from small_web import PLAIN, ask, eventually, serving_web
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from blm.actors.sim.policies import RandomPolicy
from blm.model.wire import pack, unpack
from blm.serve.sessions.vla_eval import envelope


def test_a_server_that_stops_lets_episodes_end_and_takes_no_new_ones() -> None:
    one = observation()
    seen = {"images": {}, "states": one.state, "task_description": "go", "embodiment": "panda"}
    with serving_web() as leaving:
        place = f"ws://127.0.0.1:{leaving.port}"
        idle, episode = connect(f"{place}/blm"), connect(f"{place}/vla-eval")
        idle.send(pack({"protocol": "blm", "version": 1}))
        idle.recv(5)
        episode.send(envelope("episode_start", {"task": {}}, 1))
        episode.send(envelope("observation", seen, 2))
        episode.recv(5)
        draining = leaving.run(lambda: leaving.sessions.drain(10), wait=False)
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv(5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        with pytest.raises(InvalidStatus, match="503"):
            connect(f"{place}/openpi")
        assert httpx.get(f"{leaving.url}/health").status_code == 503
        assert ask(leaving, PLAIN).status_code == 200
        episode.send(envelope("observation", seen, 3))
        assert unpack(episode.recv(5))["type"] == "action"
        assert not draining.done()
        episode.send(envelope("episode_end", {}, 4))
        with pytest.raises(ConnectionClosed):
            episode.recv(5)
        draining.result(5)


def test_a_conversation_that_does_not_end_is_ended() -> None:
    with serving_web() as leaving, connect(f"ws://127.0.0.1:{leaving.port}/openpi") as robot:
        robot.recv(5)
        leaving.run(lambda: leaving.sessions.drain(0.2))
        with pytest.raises(ConnectionClosed):
            robot.recv(5)
        assert leaving.sessions.count == 0


def test_with_latest_the_newest_of_what_came_meanwhile_is_looked_at() -> None:
    gate, states = threading.Semaphore(0), []

    class Gated(RandomPolicy):
        def infer_batch(self, observations: Any, *given: Any) -> Any:
            gate.acquire(timeout=10)
            states.extend(float(one.state[0]) for one in observations)
            return super().infer_batch(observations, *given)

    def question(number: int) -> bytes:
        state = np.full(8, number, np.float32)
        one = {"images": {}, "state": state, "instruction": "go", "embodiment": "panda"}
        return pack({"id": number, "observations": [one], "seeds": [0]})

    with serving_web(Gated()) as web, connect(f"ws://127.0.0.1:{web.port}/blm") as robot:
        robot.send(pack({"protocol": "blm", "version": 1, "latest": True}))
        robot.recv(5)
        robot.send(question(1))
        eventually(lambda: web.service is not None and web.service.passes == 1)
        for number in (2, 3, 4):
            robot.send(question(number))
        time.sleep(0.2)
        gate.release(2)
        first, second = unpack(robot.recv(5)), unpack(robot.recv(5))
    assert (first["id"], first["skipped"]) == (1, 0)
    assert (second["id"], second["skipped"]) == (4, 2)
    assert states == [1.0, 4.0]


@pytest.mark.parametrize("place", ["blm", "vla-eval", ""])
@pytest.mark.parametrize("frame", [b"\x93", "text", pack({"protocol": "blm", "version": 99})])
def test_who_does_not_speak_the_protocol_is_told_so(place: str, frame: bytes | str) -> None:
    with serving_web() as web, connect(f"ws://127.0.0.1:{web.port}/{place}") as stranger:
        stranger.send(frame)
        with pytest.raises(ConnectionClosed) as closed:
            stranger.recv(5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007


@pytest.mark.parametrize(
    ("place", "messages"),
    [
        ("blm", [{"protocol": "blm", "version": 1, "contract": {"control_hz": 5}}]),
        (
            "openpi",
            [{"observation/state": np.zeros(8), "prompt": "go", "embodiment": "panda", "contract": {"chunk": 9}}],
        ),
        ("vla-eval", [{"type": "hello", "payload": {"contract": {"identity": "x"}}, "seq": 1, "timestamp": 0.0}]),
        ("starvla", [{"examples": [{"lang": "go"}], "contract": {"action_units": ["m"], "embodiment": "panda"}}]),
    ],
)
def test_another_contract_is_refused_at_the_handshake(place: str, messages: list[Any]) -> None:
    with (
        serving_web() as web,
        connect(f"ws://127.0.0.1:{web.port}/{place}") as client,
    ):
        if place in ("openpi", "starvla"):
            client.recv(5)
        client.send(pack(messages[0]))
        said = client.recv(5)
        text = said if isinstance(said, str) else repr(unpack(said))
        assert re.search("run your loop|expect chunks|serve the checkpoint|convert them|which robot", text), text

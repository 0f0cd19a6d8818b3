"""The small client: the policy's own answers, deadlines, reconnection, keys, and what it does not load."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from small_policy import SpoiltPolicy
from small_policy_server import NotedPolicy, description_of_random, observation
from small_web import serving_web
from websockets.sync.server import ServerConnection, serve

from blm.actors.sim.policies import RandomPolicy
from blm.model.errors import UserError
from blm.model.types import ActionPrefix
from blm.model.wire import pack, unpack
from blm.serve.client import PolicyClient, act, address
from blm.serve.client_lines import ServerError, ServerTimeoutError

ONE = observation(1)
PARTS = {"queue_ms", "preprocess_ms", "mllm_ms", "denoise_ms", "total_ms", "batch"}


def own(seed: int) -> np.ndarray:
    return RandomPolicy().infer_batch([ONE], [seed])[0].actions


def test_it_is_a_policy_whose_answers_are_those_of_the_policy() -> None:
    with serving_web() as web, PolicyClient(web.url) as client:
        assert client.description == description_of_random()
        assert np.array_equal(client.infer(ONE).actions, own(0))
        assert np.array_equal(client.infer(ONE).actions, own(1))
        client.reset()
        assert np.array_equal(client.infer(ONE).actions, own(0))
        assert np.array_equal(client.infer(ONE, seed=2**62).actions, own(2**62))
        ((chunk, timing),) = client.infer_timed([ONE], [5])
        assert np.array_equal(chunk.actions, own(5))
        assert set(timing) == PARTS
        assert client.infer_batch([], []) == []
        assert np.array_equal(act(web.url, ONE, seed=6).actions, own(6))


def test_pictures_and_chunks_in_execution_arrive_as_they_were_sent() -> None:
    policy, one = NotedPolicy(), observation(0, cameras=("front",), px=64)
    prefix = ActionPrefix(actions=np.full((5, 8), 0.25, np.float32), frozen=3)
    with (
        serving_web(policy, description_of_random(cameras=("front",), image_px=64)) as web,
        PolicyClient(f"127.0.0.1:{web.port}") as client,
    ):
        (chunk,) = client.infer_batch([one], [1], [prefix])
        act(web.url, one)
    assert (chunk.actions[:3] == 0.25).all()
    for (seen,), _, _ in policy.asked:
        assert np.array_equal(seen.images["front"], one.images["front"])


def test_a_server_that_was_started_again_is_asked_again_unless_it_serves_something_else() -> None:
    with serving_web() as web:
        client = PolicyClient(web.url, deadline_s=10)
        client.infer(ONE)
    with serving_web(port=web.port):
        assert np.array_equal(client.infer(ONE, seed=3).actions, own(3))
    with (
        serving_web(description=description_of_random(identity="1a2b"), port=web.port),
        pytest.raises(ServerError, match="serves another model now"),
    ):
        client.infer(ONE)
    client.close()


def test_a_server_that_lets_its_clients_go_costs_no_request() -> None:
    with serving_web() as leaving, PolicyClient(leaving.url, deadline_s=10) as client:
        client.infer(ONE)
        leaving.run(lambda: leaving.sessions.drain(5))
        waiting = threading.Timer(0.5, lambda: setattr(leaving.sessions, "draining", False))  # as its successor would
        waiting.start()
        assert np.array_equal(client.infer(ONE, seed=4).actions, own(4))
        waiting.join()


def test_what_is_refused_or_fails_is_told_in_the_servers_words() -> None:
    bad = observation(1, cameras=("front",))
    description = description_of_random(cameras=("front",), image_px=16)
    with serving_web(SpoiltPolicy("error", ONE.instruction)) as web, PolicyClient(web.url) as client:
        for ask in (lambda: client.infer(ONE), lambda: act(web.url, ONE)):
            with pytest.raises(ServerError, match=r"the policy failed \(PolicyError\)"):
                ask()
    with serving_web(description=description) as web, PolicyClient(web.url) as client:
        for ask in (lambda: client.infer(bad), lambda: act(web.url, bad)):
            with pytest.raises(ServerError, match="send 16x16"):
                ask()
        with pytest.raises(ServerError, match="run your loop at that rate"):
            act(web.url, bad, contract={"control_hz": 5, "embodiment": "panda"})
    with (
        serving_web() as web,
        PolicyClient(web.url, contract={"chunk": 8}) as client,
        pytest.raises(ServerError, match="expect chunks of that length"),
    ):
        client.infer(ONE)


# ------------------------------------------------------------------------------------------------------------- trouble


@contextmanager
def scripted(script: Callable[[ServerConnection], None]) -> Iterator[str]:
    """The address of a server whose conversations are the script's."""
    with serve(script, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(10)


def greet(connection: ServerConnection) -> None:
    from blm.model.description import description_to_wire

    assert unpack(connection.recv())["protocol"] == "blm"
    hello = {"protocol": "blm", "version": 1, "description": description_to_wire(description_of_random())}
    connection.send(pack(hello))


def test_nobody_is_waited_for_beyond_the_deadline() -> None:
    def silent(connection: ServerConnection) -> None:
        greet(connection)
        connection.recv()
        connection.recv()  # which never comes

    with scripted(silent) as url, PolicyClient(url, deadline_s=0.4) as client:
        began_s = time.monotonic()
        with pytest.raises(ServerTimeoutError, match=r"within 0\.4 s"):
            client.infer(ONE)
        assert time.monotonic() - began_s < 3
    with pytest.raises(ServerTimeoutError):
        PolicyClient("ws://127.0.0.1:1", deadline_s=0.2).infer(ONE)
    with pytest.raises(UserError, match="start the server"):
        PolicyClient("ws://127.0.0.1:1", deadline_s=0.2).connect()
    with pytest.raises(ServerError, match="cannot be reached"):
        act("http://127.0.0.1:1", ONE)


def test_a_server_that_takes_its_time_to_wake_is_waited_for_as_long_as_one_says() -> None:
    def sleepy(connection: ServerConnection) -> None:
        time.sleep(0.6)
        greet(connection)

    with scripted(sleepy) as url:
        with PolicyClient(url, connect_s=0.1) as client, pytest.raises(UserError, match=r"within 0\.1 s"):
            client.connect()
        with PolicyClient(url, connect_s=5) as client:
            assert client.connect().name


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("Traceback ...\nValueError: no", "the server says: ValueError: no"),
        (b"\x93", "not a message"),
        (pack({"id": 99, "chunks": []}), "something else"),
        (pack({"id": 1, "chunks": [{"actions": "x"}]}), "a chunk without actions"),
        (pack({"id": 1, "error": "too many"}), "too many"),
    ],
)
def test_a_bad_answer_is_an_error(reply: bytes | str, says: str) -> None:
    def answer(connection: ServerConnection) -> None:
        greet(connection)
        for _ in connection:
            connection.send(reply)

    with scripted(answer) as url, PolicyClient(url) as client, pytest.raises(ServerError, match=says):
        client.infer(ONE)


def test_a_key_is_shown_when_a_connection_is_opened() -> None:
    shown: list[str | None] = []

    def note(connection: ServerConnection) -> None:
        assert connection.request is not None
        shown.append(connection.request.headers.get("Authorization"))
        greet(connection)

    with scripted(note) as url:
        for key in ("k7", ""):
            with PolicyClient(url, key=key) as client:
                assert client.description.chunk == 16
    assert shown == ["Bearer k7", None]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("box", "ws://box:8000/blm"),
        ("blm://box:9000", "ws://box:9000/blm"),
        ("http://box", "ws://box:8000/blm"),
        ("https://box", "wss://box:443/blm"),
        ("ws://[::1]:7/blm", "ws://[::1]:7/blm"),
        ("wss://box/deep/", "wss://box:443/deep/"),
    ],
)
def test_addresses_of_any_kind_are_understood(url: str, place: str) -> None:
    assert address(url, "ws", "/blm") == place


@pytest.mark.parametrize("url", ["", "ftp://box", "ws://", "ws://box:port"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(UserError, match="no address"):
        PolicyClient(url)


def test_it_loads_nothing_heavy() -> None:
    heavy = ("torch", "ray", "vllm", "transformers", "fastapi", "starlette", "pydantic", "PIL", "prometheus_client")
    code = f"import sys, blm.serve.client\nprint(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

"""Clients of policy servers: the same answers as without a network, and what happens when a server does not behave."""

import base64
import hashlib
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_policy import SpoiltPolicy
from small_policy_server import NotedPolicy, description_of_random, observation, serving
from websockets.sync.server import ServerConnection, serve

from blm.actors.remote.references import is_remote, open_remote
from blm.actors.sim.policies import PolicyError, PolicyTimeoutError, RandomPolicy
from blm.model.errors import UserError
from blm.model.types import ActionChunk, ActionPrefix, Observation
from blm.model.wire import pack
from blm.serve.client_lines import Deadline, Line, Lines, ServerTimeoutError

SCHEMES = ("blm", "openpi", "vla-eval")
MANY = [observation(number, robot) for number, robot in enumerate(("panda", "xarm6", "panda"))]


def same(chunks: list[ActionChunk], observations: list[Observation], seeds: list[int], rows: int = 16) -> bool:
    """Whether chunks are bit for bit those of a policy in this process."""
    own = RandomPolicy().infer_batch(observations, seeds)
    return len(chunks) == len(own) and all(
        np.array_equal(far.actions, near.actions[:rows]) and far.control_hz == near.control_hz
        for far, near in zip(chunks, own, strict=True)
    )


# ---------------------------------------------------------------------------------------------------- our own servers


@pytest.mark.parametrize("scheme", SCHEMES)
def test_answers_are_bit_for_bit_those_without_a_network(scheme: str) -> None:
    with serving(RandomPolicy()) as port:
        client = open_remote(f"{scheme}://127.0.0.1:{port}")
        assert client.name == f"{scheme}://127.0.0.1:{port}"
        assert not client.sees
        rows = 8 if scheme == "vla-eval" else 16
        assert same(client.infer_batch(MANY, [1, 2, 3]), MANY, [1, 2, 3], rows)
        again = pickle.loads(pickle.dumps(client))  # as it is sent to an actor
        assert same(again.infer_batch(MANY[:1], [4]), MANY[:1], [4], rows)
        assert again.description == client.description
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(client.infer_batch, MANY, [n, n + 1, n + 2]) for n in range(20)]
            assert all(same(asked[n].result(), MANY, [n, n + 1, n + 2], rows) for n in range(20))
        client.close()
        again.close()


def test_pictures_words_and_chunks_in_execution_arrive_as_they_were_sent() -> None:
    policy = NotedPolicy()
    one = observation(0, cameras=("front", "side"), px=32)
    prefix = ActionPrefix(actions=np.full((5, 8), 0.25, np.float32), frozen=3)
    with serving(policy, description_of_random(cameras=("front", "side"), image_px=32)) as port:
        client = open_remote(f"blm://127.0.0.1:{port}")
        chunks = client.infer_batch([one, one], [7, 2**62], [prefix, None])
        client.close()
    assert client.sees
    assert (chunks[0].actions[:3] == 0.25).all()
    assert not (chunks[1].actions[:3] == 0.25).any()
    (got, _), seeds, prefixes = policy.asked[0]
    assert seeds == [7, 2**62]
    assert prefixes is not None
    assert prefixes[0] is not None
    assert prefixes[1] is None
    assert got.instruction == one.instruction
    assert all(np.array_equal(got.images[camera], one.images[camera]) for camera in ("front", "side"))


@pytest.mark.parametrize("scheme", ["openpi", "vla-eval"])
def test_protocols_without_prefixes_refuse_them(scheme: str) -> None:
    with serving(RandomPolicy()) as port:
        client = open_remote(f"{scheme}://127.0.0.1:{port}")
        with pytest.raises(UserError, match="cannot go on from a chunk"):
            client.infer_batch(MANY[:1], [0], [ActionPrefix(actions=np.zeros((2, 8), np.float32), frozen=1)])
        client.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_the_policy_raises_is_a_failure_of_those_who_asked_and_of_nobody_else(scheme: str) -> None:
    bad = Observation(images={}, state=MANY[0].state, instruction="spoil this", embodiment="panda")
    with serving(SpoiltPolicy("error", "spoil this")) as port:
        client = open_remote(f"{scheme}://127.0.0.1:{port}")
        with pytest.raises(PolicyError, match="PolicyError"):
            client.infer_batch([bad], [0])
        assert same(client.infer_batch(MANY, [1, 2, 3]), MANY, [1, 2, 3], 8 if scheme == "vla-eval" else 16)
        client.close()


def test_a_server_that_was_started_again_goes_on_being_asked_unless_it_serves_something_else() -> None:
    with serving(RandomPolicy()) as port:
        client = open_remote(f"blm://127.0.0.1:{port}", deadline_s=10)
        client.infer_batch(MANY, [1, 2, 3])
    with serving(RandomPolicy(), port=port):
        assert same(client.infer_batch(MANY, [1, 2, 3]), MANY, [1, 2, 3])
    another = description_of_random(identity="1a2b")
    with serving(RandomPolicy(), another, port=port), pytest.raises(PolicyError, match="serves another model now"):
        client.infer_batch(MANY, [1, 2, 3])
    client.close()


def test_what_does_not_fit_the_world_is_said_beforehand() -> None:
    with serving(RandomPolicy(), description_of_random(cameras=("front", "wrist"), image_px=112)) as port:
        for scheme, steps in (("openpi", 16), ("vla-eval", 8)):
            client = open_remote(f"{scheme}://127.0.0.1:{port}")
            good: dict[str, Any] = {
                "cameras": ("wrist", "front", "side"),
                "image_px": 112,
                "robots": ["panda"],
                "execute_steps": steps,
            }
            client.check_world(**good)
            for changes, says in (
                ({"cameras": ("front",)}, "needs camera 'wrist'"),
                ({"image_px": 224}, "world.image_px=112"),
                ({"robots": ["widowx_ai"]}, "not trained for 'widowx_ai'"),
                ({"execute_steps": steps + 1}, f"gives {steps} actions a look"),
            ):
                with pytest.raises(UserError, match=says):
                    client.check_world(**{**good, **changes})
            client.close()


# ------------------------------------------------------------------------------------------------------------- trouble


@contextmanager
def scripted(script: Callable[[ServerConnection], None]) -> Iterator[int]:
    """The port of a server whose conversations are the script's."""
    with serve(script, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join(10)


def greet(connection: ServerConnection) -> None:
    connection.send(pack({"action_horizon": 4}))


MAPPING = (
    "robots: [panda]\npictures: {observation/image: front}\nstate: {observation/state: [0, 1, 2, 3, 4, 5, 6, 7]}\n"
)


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    return tmp_path / "mapping.yaml"


def test_a_server_that_is_silent_is_not_waited_for_beyond_the_deadline(mapping: Path) -> None:
    def silent(connection: ServerConnection) -> None:
        greet(connection)
        connection.recv()
        connection.recv()  # which never comes

    with scripted(silent) as port:
        client = open_remote(f"openpi://127.0.0.1:{port}", mapping, deadline_s=0.5)
        began_s = time.monotonic()
        with pytest.raises(PolicyTimeoutError, match=r"within 0\.5 s"):
            client.infer_batch([observation(cameras=("front",))], [0])
        assert time.monotonic() - began_s < 3
        client.close()


def test_a_server_that_never_says_what_it_is_is_waited_for_as_long_as_for_an_answer(mapping: Path) -> None:
    told = threading.Event()
    with scripted(lambda connection: told.wait(20)) as port:
        began_s = time.monotonic()
        with pytest.raises(UserError, match=r"within 1 s.*start the server, or correct the address"):
            open_remote(f"openpi://127.0.0.1:{port}", mapping, deadline_s=1)
        assert 1 <= time.monotonic() - began_s < 8
        told.set()


def test_a_server_that_does_not_read_is_not_waited_for_either() -> None:
    hold = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as door:

        def deaf() -> None:
            connection, _ = door.accept()
            head = connection.recv(4096).decode()
            key = next(
                line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key")
            )
            accepted = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accepted + b"\r\n\r\n"
            )
            hold.wait(20)
            connection.close()

        thread = threading.Thread(target=deaf)
        thread.start()
        lines = Lines(f"ws://127.0.0.1:{door.getsockname()[1]}", lambda line, deadline: None)

        def exchange(line: Line, deadline: Deadline) -> None:
            line.send(bytes(50_000_000), deadline)

        began_s = time.monotonic()
        with pytest.raises(ServerTimeoutError):
            lines.ask(exchange, Deadline(1.0))
        assert time.monotonic() - began_s < 8
        hold.set()
        thread.join(10)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("Traceback ...\nValueError: no such key", "the server says: ValueError: no such key"),
        (b"\x93", "not a message"),
        (pack([1]), "one msgpack map"),
        (pack({"action": 1}), "without 'actions'"),
        (pack({"actions": "text"}), "expected numbers"),
        (pack({"actions": np.zeros((4, 3))}), "names column 7"),
        (pack({"actions": np.zeros((0, 8))}), "expected numbers"),
        (None, "hangs up"),
    ],
)
def test_a_bad_answer_is_a_policy_error(reply: bytes | str | None, says: str, tmp_path: Path) -> None:
    columns = "actions: {joints: [0, 1, 2, 3, 4, 5, 7], gripper: 6}\n"
    (tmp_path / "mapping.yaml").write_text(MAPPING + columns)

    def answer(connection: ServerConnection) -> None:
        greet(connection)
        for _ in connection:
            if reply is None:
                return
            connection.send(reply)

    with scripted(answer) as port:
        client = open_remote(f"openpi://127.0.0.1:{port}", tmp_path / "mapping.yaml")
        with pytest.raises(PolicyError, match=says):
            client.infer_batch([observation(cameras=("front",))], [0])
        client.close()


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("openpi://", "no address"),
        ("http://somewhere", "no address"),
        ("openpi://host:port", "no address"),
        ("blm://127.0.0.1:1", "start the server"),
    ],
)
def test_an_address_where_nobody_is_found_is_told(reference: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        open_remote(reference, deadline_s=0.3)


def test_a_folder_is_no_address() -> None:
    assert [is_remote(text) for text in ("runs/x/model", "random", "blm://h:1", "vla-eval://h", "C://x")] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_a_server_that_says_nothing_of_itself_needs_a_mapping() -> None:
    with scripted(greet) as port, pytest.raises(UserError, match="mapping file"):
        open_remote(f"openpi://127.0.0.1:{port}")


def test_the_command_serves_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-m", "blm.pipelines.cli", "policy-server", "random", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        try:
            client = open_remote("blm://" + ready.partition("ws://")[2].partition(";")[0])
            assert same(client.infer_batch(MANY, [1, 2, 3]), MANY, [1, 2, 3])
        finally:
            process.send_signal(signal.SIGTERM)
        assert "stopped" in process.stdout.read()
        assert process.wait(20) == 0

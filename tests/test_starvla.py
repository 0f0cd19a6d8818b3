"""starVLA's protocol as its own client speaks it: metadata first, then maps of examples, over a real socket."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from small_policy_server import NotedPolicy, description_of_random, observation, serving
from websockets.sync.client import ClientConnection, connect

from blm.actors.sim.policies import RandomPolicy
from blm.model.types import Observation
from blm.model.wire import pack, unpack

CAMERAS = ("front", "wrist")


@pytest.fixture
def policy() -> NotedPolicy:
    return NotedPolicy()


@pytest.fixture
def robot(policy: NotedPolicy) -> Iterator[ClientConnection]:
    """A connection that was greeted, to a policy that looks through two cameras."""
    with (
        serving(policy, description_of_random(cameras=CAMERAS, image_px=16)) as port,
        connect(f"ws://127.0.0.1:{port}/starvla", compression=None, max_size=None) as connection,
    ):
        yield connection


def example(one: Observation) -> dict[str, Any]:
    return {"image": [one.images[camera] for camera in CAMERAS], "lang": one.instruction, "state": one.state[None]}


def asked(robot: ClientConnection, message: Any) -> Any:
    robot.send(pack(message))
    return unpack(robot.recv(5))


def test_the_metadata_names_chunks_robots_and_the_order_of_pictures(robot: ClientConnection) -> None:
    metadata = unpack(robot.recv(5))
    assert metadata["action_chunk_size"] == 16
    assert metadata["available_unnorm_keys"] == ["panda", "xarm6"]
    assert metadata["default_unnorm_key"] is None
    assert metadata["cameras"] == list(CAMERAS)
    assert metadata["training_obs_image_size"] == [16, 16]
    assert not [value for value in metadata.values() if isinstance(value, np.ndarray)]


def test_examples_are_answered_together_with_the_policys_own_chunks(
    robot: ClientConnection, policy: NotedPolicy
) -> None:
    robot.recv(5)
    ones = [observation(number, cameras=CAMERAS, px=16) for number in range(2)]
    flat = asked(robot, {"examples": [example(one) for one in ones], "unnorm_key": "panda", "do_sample": False})
    assert (flat["status"], flat["ok"], flat["type"]) == ("ok", True, "inference_result")
    own = RandomPolicy().infer_batch(ones, [0, 1])
    assert np.array_equal(flat["data"]["actions"], [chunk.actions for chunk in own])
    assert flat["server_timing"]["batch"] == 2
    typed = {"type": "predict_action", "request_id": "r7", "payload": {"examples": [example(ones[0])], "seeds": [9]}}
    typed["payload"]["unnorm_key"] = "panda"
    reply = asked(robot, typed)
    assert reply["request_id"] == "r7"
    assert np.array_equal(reply["data"]["actions"][0], RandomPolicy().infer_batch(ones[:1], [9])[0].actions)
    (first, _), _, _ = policy.asked[0]
    assert all(np.array_equal(first.images[camera], ones[0].images[camera]) for camera in CAMERAS)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"examples": []}, "a list of 1 to"),
        ({"examples": [3], "unnorm_key": "panda"}, "an example is a map"),
        ({"examples": [{"lang": "go"}]}, "0 pictures; send 2"),
        ({"examples": [{"image": [np.zeros((16, 16, 3), np.uint8)] * 2, "lang": "go"}]}, "which robot"),
        (
            {"examples": [{"image": [np.zeros((8, 8, 3), np.uint8)] * 2, "lang": "go"}], "unnorm_key": "panda"},
            "8x8; send 16x16",
        ),
        ({"type": "kill"}, "send infer"),
        ({"type": "infer", "payload": 3}, "must be a map"),
        ({"examples": [{}], "seeds": [1, 2], "unnorm_key": "panda"}, "one entry an observation"),
        ({"examples": [{}], "unnorm_key": "spot"}, "0 pictures"),
    ],
)
def test_what_is_wrong_is_told_in_the_answer_and_the_conversation_goes_on(
    robot: ClientConnection, message: dict[str, Any], says: str
) -> None:
    robot.recv(5)
    reply = asked(robot, {**message, "request_id": "bad"})
    assert (reply["status"], reply["ok"], reply["request_id"]) == ("error", False, "bad")
    assert says in reply["error"]["message"]
    assert asked(robot, {"type": "ping"}) == {"status": "ok", "ok": True, "type": "ping", "request_id": "default"}

"""What a client may state of itself, and how what differs is told."""

from typing import Any

import numpy as np
import pytest
from small_policy_server import description_of_random

from blm.model.layout import Layout
from blm.serve.sessions.contract import ContractError, check_contract, contract_of, units
from blm.serve.sessions.observations import Reader

TWO = Reader(description=description_of_random(cameras=("front", "wrist"), image_px=112, identity="1a2b"))
FOREIGN = Layout(
    name="pusher",
    state_names=("x", "y"),
    action_names=("x", "y"),
    relative_to=(0, -1),
    lower=(-float("inf"), 0.0),
    upper=(float("inf"), 1.0),
    control_hz=10,
)


@pytest.mark.parametrize(
    "stated",
    [
        None,
        {},
        {"cameras": ["wrist", "side", "front"], "image_px": 112},
        {"embodiment": "panda", "state": 8, "actions": list(TWO.description.layout("panda").action_names)},
        {"embodiment": "xarm6", "state_units": ["rad"] * 6 + ["opening_0_closed_1_open"], "control_hz": 20},
        {"identity": "1a2b", "normalisation": "", "chunk": 16},
    ],
)
def test_what_is_as_it_is_served_is_let_pass(stated: Any) -> None:
    check_contract(stated, TWO)


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ([1], "must be a map"),
        ({"colour": "red"}, "has no 'colour'"),
        ({"cameras": ["front"]}, "add 'wrist'"),
        ({"cameras": "front"}, "add 'front'"),
        ({"image_px": 224}, "resize them to 112x112"),
        ({"embodiment": "spot"}, "not trained for 'spot'"),
        ({"state": 8}, "which robot"),
        ({"embodiment": "panda", "state": 7}, "has 8 numbers, in this order: "),
        ({"embodiment": "panda", "actions": ["a", "b"]}, "has 8 numbers"),
        ({"embodiment": "panda", "actions": np.zeros(8)}, "has 8 numbers"),
        ({"embodiment": "panda", "action_units": ["deg"] * 8}, "convert them"),
        ({"embodiment": "panda", "control_hz": 10}, "run your loop at that rate"),
        ({"chunk": np.zeros(3)}, "expect chunks"),
        ({"identity": "ffff"}, "'1a2b'"),
        ({"normalisation": "ffff"}, "your statistics"),
        ({"identity": "x" * 10_000}, "..."),
        ({"cameras": ["x"] * 10_000}, "a list of 10000"),
    ],
)
def test_what_differs_is_refused_in_one_line(stated: Any, says: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_contract(stated, TWO)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_robot_may_be_known_besides_and_names_of_cameras_are_translated() -> None:
    with pytest.raises(ContractError, match="panda has 8 numbers"):
        check_contract({"state": 7}, TWO, robot="panda")
    renamed = Reader(description=TWO.description, cameras={"agentview": "front"}, resize=True)
    check_contract({"cameras": ["agentview", "wrist"], "image_px": 480}, renamed)


def test_a_robot_of_somebody_else_has_no_units_that_we_know() -> None:
    reader = Reader(description=description_of_random(layouts=(FOREIGN,)))
    assert units(FOREIGN, FOREIGN.state_names) is None
    robot = contract_of(reader.description)["robots"]["pusher"]
    assert (robot["state_units"], robot["lower"], robot["control_hz"]) == (None, [None, 0.0], 10)
    check_contract({"state_units": ["px", "px"], "control_hz": 10}, reader)

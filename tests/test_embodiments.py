"""The table of robots, and the layouts that are made of it."""

import json
import math
from dataclasses import replace

import pytest
from small_policy_batch import PUSHER

from blm.model.embodiments import CONTROL_HZ, EMBODIMENTS, Embodiment, get_embodiment
from blm.model.errors import UserError
from blm.model.layout import ABSOLUTE, layout_from_json, layout_of, layout_to_json


@pytest.mark.parametrize("embodiment", EMBODIMENTS.values(), ids=EMBODIMENTS)
def test_every_tuple_has_an_entry_per_joint_and_the_rest_posture_is_allowed(embodiment: Embodiment) -> None:
    joints = len(embodiment.joint_names)
    for values in (
        embodiment.joint_lower_rad,
        embodiment.joint_upper_rad,
        embodiment.joint_velocity_rad_s,
        embodiment.rest_rad,
    ):
        assert len(values) == joints
    limits = zip(embodiment.joint_lower_rad, embodiment.rest_rad, embodiment.joint_upper_rad, strict=True)
    assert all(lower < rest < upper for lower, rest, upper in limits)
    assert embodiment.control_hz == CONTROL_HZ == 20


@pytest.mark.parametrize(("name", "dim"), [("panda", 8), ("xarm6", 7), ("xarm7", 8), ("widowx_ai", 7)])
def test_state_and_action_are_the_arm_and_one_gripper_value(name: str, dim: int) -> None:
    embodiment = get_embodiment(name)
    assert embodiment.state_dim == embodiment.action_dim == dim
    assert len(embodiment.state_names) == len(set(embodiment.state_names)) == dim
    assert len(embodiment.action_names) == len(set(embodiment.action_names)) == dim
    assert embodiment.state_names[-1].startswith("gripper")


@pytest.mark.parametrize(("typed", "meant"), [("pandas", "panda"), ("Panda", "panda"), ("widowx", "widowx_ai")])
def test_a_misspelt_robot_is_answered_with_the_nearest_name(typed: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        get_embodiment(typed)


@pytest.mark.parametrize("name", EMBODIMENTS)
def test_arms_are_measured_from_their_own_joints_and_grippers_from_nothing(name: str) -> None:
    body, layout = get_embodiment(name), layout_of(name)
    assert layout.relative_to == (*range(body.arm_dof), ABSOLUTE)
    assert (layout.state_names, layout.action_names) == (body.state_names, body.action_names)
    assert layout.lower == (*body.joint_lower_rad, 0.0)
    assert layout.upper == (*body.joint_upper_rad, 1.0)
    assert layout.control_hz == CONTROL_HZ


def test_layouts_survive_json_bounds_that_do_not_exist_too() -> None:
    boundless = replace(PUSHER, lower=(-math.inf, 0.0), upper=(math.inf, math.inf))
    for layout in (layout_of("xarm7"), PUSHER, boundless):
        assert layout_from_json(json.loads(json.dumps(layout_to_json(layout), allow_nan=False))) == layout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "push.t"}, "use letters, digits"),
        ({"action_names": ()}, "at least one"),
        ({"lower": (0.0,)}, "lower has 1 entries for 2 actions"),
        ({"relative_to": (0, 2)}, "relative to state value 2; give 0 to 1, or -1"),
        ({"lower": (600.0, 0.0)}, "give the lower first"),
        ({"upper": (math.nan, 1.0)}, "bounds of x"),
        ({"control_hz": 0}, "control_hz is 0"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(PUSHER, **change)

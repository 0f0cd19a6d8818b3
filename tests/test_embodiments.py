"""The table of robots."""

import pytest

from blm.model.embodiments import CONTROL_HZ, EMBODIMENTS, Embodiment, get_embodiment
from blm.model.errors import UserError


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

"""What strategies answer where a robot's reach or grip asks for another way than usual. Geometry alone."""

import dataclasses

import numpy as np
import pytest

from blm.actors.sim.primitives import Grip, Situation, Stroke, pointing_down, turn_between
from blm.actors.sim.standing import GRIPS, PEG_HALF_LENGTH_M, PEG_HALF_WIDTH_M, TWISTS_RAD, stand_peg
from blm.actors.sim.strategies import pick_cube, push_cube


def _now(**changes: object) -> Situation:
    now = Situation(
        base_m=np.array([-0.3, 0.0, 0.0]),
        tool=pointing_down([0.0, 0.0, 0.17], 0.0),
        gripper=1.0,
        object_m=np.array([0.0, 0.05, 0.02]),
        object_yaw_rad=0.3,
        goal_m=np.array([0.1, 0.05, 0.1]),
        holding=False,
    )
    return dataclasses.replace(now, **changes)  # type: ignore[arg-type]


def _peg(elevation_rad: float, **changes: object) -> Situation:
    c, s = np.cos(elevation_rad), np.sin(elevation_rad)
    rotation = np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    height_m = PEG_HALF_LENGTH_M * s + PEG_HALF_WIDTH_M * c
    return _now(object_m=np.array([0.0, 0.0, height_m]), object_rotation=rotation, **changes)


@pytest.mark.parametrize("seed", range(5))
def test_the_least_rotation_between_two_directions_is_one(seed: int) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, 3))
    first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
    turn = turn_between(first, second)
    np.testing.assert_allclose(turn @ first, second, atol=1e-12)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.arccos((np.trace(turn) - 1.0) / 2.0) == pytest.approx(np.arccos(first @ second))


@pytest.mark.parametrize("holding", [False, True])
def test_a_hand_that_cannot_point_down_high_up_leans_outwards_with_what_it_carries(holding: bool) -> None:
    tool = pointing_down([0.0, 0.052, 0.021], 0.3)
    goal_m = np.array([0.1, 0.05, 0.27])
    leans = []
    for primitives in pick_cube(_now(goal_m=goal_m, lean_above_m=0.15, holding=holding, tool=tool)):
        carry = primitives[-1]
        assert isinstance(carry, Stroke)
        start, end = tool if holding else primitives[0].poses[-1], carry.poses[-1]  # type: ignore[union-attr]
        outwards = (goal_m - [-0.3, 0.0, goal_m[2]]) / np.linalg.norm((goal_m - [-0.3, 0.0, 0.0])[:2])
        leans.append(np.arctan2(end[:3, 2] @ outwards, -end[2, 2]))
        cube_in_hand = start[:3, :3].T @ (np.array([0.0, 0.05, 0.02]) - start[:3, 3])
        np.testing.assert_allclose(end[:3, :3] @ cube_in_hand + end[:3, 3], goal_m, atol=1e-12)
    assert leans[0] == pytest.approx(0.6)
    assert leans == sorted(leans)
    assert len(set(np.round(leans, 6))) == 3


def test_low_goals_and_able_wrists_need_no_lean() -> None:
    for now in (_now(lean_above_m=0.15), _now(goal_m=np.array([0.1, 0.05, 0.3]))):
        carry = pick_cube(now)[0][-1]
        assert isinstance(carry, Stroke)
        np.testing.assert_allclose(carry.poses[-1][:3, 2], [0.0, 0.0, -1.0], atol=1e-12)


def test_a_cube_is_pushed_with_the_gripper_as_far_open_as_the_robot_asks() -> None:
    goal_m = np.array([0.2, 0.05, 0.0])
    for opening in (0.0, 0.3):
        for primitives in push_cube(_now(goal_m=goal_m, slide_gripper=opening)):
            assert {primitive.gripper for primitive in primitives} == {opening}


def test_the_robots_own_way_to_stand_a_peg_comes_first_and_none_is_left_out() -> None:
    for grip_m, pitch, twist in ((0.02, -0.25, 1.0), (-0.04, -0.25, 0.6)):
        plans = stand_peg(_peg(0.0, stand_first=(grip_m, pitch, twist)))
        assert len(plans) == len(GRIPS) * len(TWISTS_RAD)
        reach = plans[0][0]
        assert isinstance(reach, Stroke)
        assert reach.poses[-1][0, 3] == pytest.approx(grip_m)
        assert np.arctan2(reach.poses[-1][0, 2], -reach.poses[-1][2, 2]) == pytest.approx(pitch)


def test_a_heavy_thing_is_turned_as_slowly_as_the_fingers_need() -> None:
    for primitives in stand_peg(_peg(0.0, turn_pace=0.6)):
        assert {one.pace for one in primitives if isinstance(one, Stroke) and one.name == "rotate"} == {0.6}


def test_a_peg_that_almost_stands_is_left_to_settle_and_one_that_leans_far_is_so_at_last() -> None:
    def lets_go(primitives: tuple[Stroke | Grip, ...]) -> bool:
        return isinstance(primitives[0], Grip) and primitives[0].gripper == 1.0

    almost, halfway, lying = (stand_peg(_peg(elevation)) for elevation in (np.pi / 2 - 0.1, 0.8, 0.0))
    assert lets_go(almost[0])
    assert not lets_go(halfway[0])
    assert lets_go(halfway[-1])
    assert not any(lets_go(plan) for plan in lying)

"""Planning: paths, kinematics, collisions, strategies, and the reasons for failure."""

import dataclasses
import itertools

import numpy as np
import pytest

from blm.actors.sim.arm import ArmPlanner, transform
from blm.actors.sim.failures import FailureReason, PlanningError
from blm.actors.sim.planner import CellPlanner, rounded_path
from blm.actors.sim.robots import get_robot
from blm.actors.sim.strategies import (
    Grip,
    Situation,
    Stroke,
    leaning,
    nearest_turn,
    pick_cube,
    pointing_down,
    push_cube,
    tool_yaw,
)
from blm.actors.sim.world import parse_cell

PANDA = get_robot("panda")
BASE = np.array(PANDA.base_position_m)
REST = np.array(PANDA.embodiment.rest_rad)
CUBE = (0.04, 0.04, 0.04)


@pytest.fixture(scope="module")
def arm() -> ArmPlanner:
    return ArmPlanner(PANDA, "lite", CUBE)


@pytest.fixture(scope="module")
def planners() -> dict[str, CellPlanner]:
    return {task: CellPlanner(parse_cell(f"panda/{task}")) for task in ("PushCube", "PickCube")}


def _now(**changes: object) -> Situation:
    now = Situation(
        base_m=BASE,
        tool=pointing_down([0.0, 0.0, 0.17], 0.0),
        gripper=1.0,
        object_m=np.array([0.0, 0.05, 0.02]),
        object_yaw_rad=0.3,
        goal_m=np.array([0.2, 0.05, 0.001]),
        holding=False,
    )
    return dataclasses.replace(now, **changes)  # type: ignore[arg-type]


# ---- paths of the tool


def test_a_rounded_path_starts_beside_its_first_pose_and_meets_its_last() -> None:
    corners = [transform([0, 0, 0.2]), transform([0.1, 0, 0.2]), transform([0.1, 0, 0.05])]
    path = np.stack([pose[:3, 3] for pose in rounded_path(corners)])
    steps = np.linalg.norm(np.diff(np.vstack([corners[0][:3, 3], path]), axis=0), axis=1)
    assert steps.max() < 0.02
    np.testing.assert_allclose(path[-1], corners[-1][:3, 3], atol=1e-12)
    to_corner_m = np.linalg.norm(path - corners[1][:3, 3], axis=1).min()
    assert 0.002 < to_corner_m < 0.03, "the corner is cut, but not by much"


def test_orientation_turns_evenly_along_a_path_and_stays_a_rotation() -> None:
    first, last = pointing_down([0, 0, 0.1], 0.0), pointing_down([0.1, 0, 0.1], 1.0)
    yaws = [tool_yaw(pose) for pose in rounded_path([first, last])]
    np.testing.assert_allclose(np.diff(yaws), yaws[1] - yaws[0], atol=1e-9)
    for pose in rounded_path([first, last]):
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)


def test_nearest_turn_is_within_half_a_period() -> None:
    for angle in np.linspace(-7, 7, 40):
        turned = nearest_turn(angle, 0.2, np.pi / 2)
        assert abs(turned - 0.2) <= np.pi / 4 + 1e-9
        assert np.isclose(np.cos(4 * turned), np.cos(4 * angle))


def test_far_out_the_hand_leans_and_near_it_does_not() -> None:
    near = pointing_down([0.0, 0.1, 0.02], 0.2)
    np.testing.assert_allclose(leaning(near, BASE), near, atol=1e-12)
    far = leaning(pointing_down([0.25, 0.1, 0.02], 0.2), BASE)
    assert far[0, 2] > 0.3, "the fingers point outwards"
    assert np.linalg.det(far[:3, :3]) == pytest.approx(1.0)


# ---- the arm


def test_inverse_kinematics_undoes_forward_kinematics(arm: ArmPlanner) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        pose = arm.tool_pose(REST + rng.uniform(-0.3, 0.3, 7))
        np.testing.assert_allclose(arm.tool_pose(arm.solve_ik(pose, REST)), pose, atol=2e-4)


def test_the_tool_of_the_rest_posture_is_over_the_table(arm: ArmPlanner) -> None:
    np.testing.assert_allclose(arm.tool_pose(REST)[:3, 3], [0.0, 0.0, 0.17], atol=2e-3)


@pytest.mark.parametrize(
    ("name", "height_m", "share"),
    [("panda", 0.3, 1.0), ("xarm6", 0.3, 1.0), ("xarm7", 0.3, 1.0), ("widowx_ai", 0.15, 0.95)],
)
def test_every_robot_points_down_all_over_its_table(name: str, height_m: float, share: float) -> None:
    """The WidowX AI's wrist bends by 90 degrees only: higher up it has to lean."""
    robot = get_robot(name)
    planner = ArmPlanner(robot, "lite", CUBE)
    rest = np.array(robot.embodiment.rest_rad)
    assert planner.collision(rest) is None
    rng = np.random.default_rng(0)
    solved = []
    for _ in range(150):
        position_m = rng.uniform([-0.1, -0.15, 0.02], [0.15, 0.15, height_m])
        pose = pointing_down(position_m, rng.uniform(-np.pi / 2, np.pi / 2))
        try:
            arm_rad = planner.solve_ik(pose, rest)
        except PlanningError:
            solved.append(False)
            continue
        np.testing.assert_allclose(planner.tool_pose(arm_rad), pose, atol=2e-4)
        solved.append(planner.collision(arm_rad) is None)
    assert np.mean(solved) >= share


@pytest.mark.parametrize("name", ["xarm6", "xarm7", "widowx_ai"])
def test_an_open_hand_hits_what_a_closed_one_passes(name: str) -> None:
    robot = get_robot(name)
    planner = ArmPlanner(robot, "lite", (0.02, 0.02, 0.06))
    rest = np.array(robot.embodiment.rest_rad)
    tool = planner.tool_pose(rest)
    beside = tool.copy()
    beside[:3, 3] += 0.5 * robot.embodiment.gripper_stroke_m * tool[:3, 1]
    planner.set_obstacle(beside)
    planner.set_fingers(1.0)
    assert planner.collision(rest) is FailureReason.ENVIRONMENT_COLLISION
    planner.set_fingers(0.0)
    assert planner.collision(rest) is None


def test_a_pose_out_of_reach_is_said_to_be(arm: ArmPlanner) -> None:
    with pytest.raises(PlanningError) as raised:
        arm.solve_ik(pointing_down([1.0, 0.0, 0.1], 0.0), REST)
    assert raised.value.reason is FailureReason.IK_UNREACHABLE


def test_table_object_and_self_are_told_apart(arm: ArmPlanner) -> None:
    assert arm.collision(REST) is None
    into_table = arm.solve_ik(pointing_down([0.0, 0.0, -0.03], 0.0), REST)
    assert arm.collision(into_table) is FailureReason.ENVIRONMENT_COLLISION
    arm.set_obstacle(arm.tool_pose(REST))
    assert arm.collision(REST) is FailureReason.ENVIRONMENT_COLLISION
    arm.set_obstacle(None)
    assert arm.collision(REST) is None
    folded = np.array([0.0, 1.7, 0.0, -3.0, 0.0, 0.0, 0.0])
    assert arm.collision(folded) is FailureReason.SELF_COLLISION


def test_the_search_goes_around_an_object_and_repeats_itself(arm: ArmPlanner) -> None:
    wall = ArmPlanner(PANDA, "lite", (0.2, 0.02, 0.3))
    start = wall.solve_ik(pointing_down([0.0, -0.15, 0.1], 0.0), REST)
    goal = wall.solve_ik(pointing_down([0.0, 0.15, 0.1], 0.0), start)
    wall.set_obstacle(transform([0.0, 0.0, 0.15]))
    with pytest.raises(PlanningError) as raised:
        wall.follow(start, rounded_path([wall.tool_pose(start), wall.tool_pose(goal)]))
    assert raised.value.reason is FailureReason.ENVIRONMENT_COLLISION
    path = wall.search(start, goal, seed=1)
    assert len(path) > 2
    for before, after in itertools.pairwise(path):
        for share in np.linspace(0, 1, 30):
            assert wall.collision(before + share * (after - before)) is None
    np.testing.assert_array_equal(path, wall.search(start, goal, seed=1))


def test_a_search_from_inside_an_object_says_so(arm: ArmPlanner) -> None:
    goal = arm.solve_ik(pointing_down([0.0, 0.1, 0.1], 0.0), REST)
    arm.set_obstacle(arm.tool_pose(REST))
    with pytest.raises(PlanningError) as raised:
        arm.search(REST, goal, seed=0)
    arm.set_obstacle(None)
    assert raised.value.reason is FailureReason.ENVIRONMENT_COLLISION


@pytest.mark.parametrize("speed", [0.3, 1.0])
def test_timed_targets_keep_the_limits_and_end_at_the_end(arm: ArmPlanner, speed: float) -> None:
    points = arm.follow(REST, rounded_path([arm.tool_pose(REST), pointing_down([0.1, 0.1, 0.05], 0.4)]))
    targets = arm.time(points, speed)
    np.testing.assert_allclose(targets[-1], points[-1], atol=1e-3)
    velocity = np.diff(np.vstack([REST, targets]), axis=0) * 20
    assert (np.abs(velocity) <= speed * np.array(PANDA.embodiment.joint_velocity_rad_s) * 1.01).all()
    acceleration = np.diff(np.vstack([np.zeros(7), velocity]), axis=0) * 20
    assert (np.abs(acceleration) <= speed * np.array(PANDA.joint_acceleration_rad_s2) * 1.3).all()
    assert len(arm.time(points, 0.3)) > len(arm.time(points, 1.0))


# ---- strategies and whole plans


@pytest.mark.parametrize("task", ["PushCube", "PickCube"])
def test_a_plan_is_smooth_within_limits_and_the_same_every_time(planners: dict[str, CellPlanner], task: str) -> None:
    planner = planners[task]
    goal = {"PushCube": [0.2, 0.05, 0.001], "PickCube": [-0.05, 0.03, 0.2]}[task]
    now = _now(goal_m=np.array(goal))
    plan = planner.plan(now, REST, seed=0)
    again = CellPlanner(parse_cell(f"panda/{task}")).plan(now, REST, seed=0)
    np.testing.assert_array_equal(plan.actions, again.actions)
    arm_rad = plan.actions[:, :7]
    assert (arm_rad >= PANDA.embodiment.joint_lower_rad).all()
    assert (arm_rad <= PANDA.embodiment.joint_upper_rad).all()
    assert np.abs(np.diff(np.vstack([REST, arm_rad]), axis=0)).max() < 0.15
    assert set(np.unique(plan.actions[:, 7])) <= {0.0, 1.0}
    assert 15 <= len(plan.actions) <= 50


def test_pushing_goes_behind_the_cube_first_and_then_through_it(
    planners: dict[str, CellPlanner], arm: ArmPlanner
) -> None:
    planner = planners["PushCube"]
    now = _now()
    actions = planner.plan(now, REST, seed=0).actions
    tools = np.stack([arm.tool_pose(action[:7].astype(np.float64))[:3, 3] for action in actions])
    low = tools[tools[:, 2] < 0.03]
    assert low[0, 0] < now.object_m[0] - 0.03
    assert low[-1, 0] == pytest.approx(now.goal_m[0] - 0.06, abs=2e-3)
    np.testing.assert_allclose(low[:, 1], now.object_m[1], atol=5e-3)


def test_a_tool_that_is_behind_the_cube_already_pushes_at_once() -> None:
    now = _now(tool=pointing_down([-0.04, 0.05, 0.02], 0.0))
    assert [primitive.name for primitive in push_cube(now)[0] if isinstance(primitive, Stroke)] == ["push"]


def test_a_cube_in_the_middle_of_the_target_is_left_alone() -> None:
    now = _now(object_m=np.array([0.18, 0.06, 0.02]))
    assert push_cube(now) == ((Grip(gripper=0.0, steps=1),),)


@pytest.mark.parametrize("yaw", np.linspace(-3.0, 3.0, 7))
def test_of_equivalent_grasps_the_nearest_comes_first(yaw: float) -> None:
    now = _now(object_yaw_rad=float(yaw), goal_m=np.array([0.0, 0.0, 0.2]))
    turns = []
    for primitives in pick_cube(now):
        reach = primitives[0]
        assert isinstance(reach, Stroke)
        turns.append(tool_yaw(reach.poses[-1]) - tool_yaw(now.tool))
    assert len(turns) == 3
    assert abs(turns[0]) <= np.pi / 4 + 1e-6
    assert np.all(np.diff(np.abs(turns)) >= 0)


def test_a_hand_that_holds_the_cube_only_carries_it() -> None:
    tool = pointing_down([0.0, 0.0, 0.1], 0.2)
    goal_m = np.array([0.05, -0.05, 0.25])
    now = _now(tool=tool, object_m=np.array([0.0, 0.002, 0.101]), goal_m=goal_m, holding=True)
    ((carry,),) = pick_cube(now)
    assert isinstance(carry, Stroke)
    np.testing.assert_allclose(carry.poses[-1][:3, 3], tool[:3, 3] + goal_m - now.object_m)
    np.testing.assert_allclose(carry.poses[-1][:3, :3], tool[:3, :3])


@pytest.mark.parametrize("task", ["PushCube", "PickCube"])
def test_an_object_out_of_reach_is_a_typed_failure(planners: dict[str, CellPlanner], task: str) -> None:
    planner = planners[task]
    far = _now(object_m=np.array([0.9, 0.0, 0.02]), goal_m=np.array([1.2, 0.0, 0.1]))
    with pytest.raises(PlanningError) as raised:
        planner.plan(far, REST, seed=0)
    assert raised.value.reason is FailureReason.IK_UNREACHABLE

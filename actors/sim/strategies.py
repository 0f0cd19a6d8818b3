"""How each task is done: from what is where now to a few primitives. Pure geometry, no simulator, no planner.

A strategy looks only at the present situation, so the same function starts an episode, carries on after a
disturbance and retries after a failure. Given the situation its preference is fixed: a policy that imitates
it should meet one kind of answer to one kind of picture, hence the nearest of equivalent grasps first and
never a random choice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blm.actors.sim.arm import transform

Array = npt.NDArray[np.float64]

CUBE_HALF_M = 0.02
FINGER_HALF_M = 0.01
"""Half the fingers' thickness across the closing direction."""
PUSH_HEIGHT_M = 0.02
PUSH_SHORT_OF_CENTRE_M = 0.03
PUSHED_ENOUGH_M = 0.05
"""An object that near to the centre stays where it is; the task asks for 0.1."""
LEAN_FROM_M, LEAN_SLOPE_RAD_M, LEAN_MOST_RAD = 0.72, 5.0, 0.6
"""Beyond that distance from the base the hand leans outwards, so much per metre, or it does not reach."""
CARRY_LIFT_M = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What is where, in world coordinates."""

    base_m: Array
    """Position of the robot's base, [3]."""
    tool: Array
    """Pose of the tool centre, [4,4]."""
    gripper: float
    """Opening in [0 closed, 1 open]."""
    object_m: Array
    """Position of the object, [3]."""
    object_yaw_rad: float
    """Its turn about the vertical."""
    goal_m: Array
    """Position of the goal, [3]."""
    holding: bool
    """Whether the fingers hold the object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stroke:
    """The tool runs through poses without stopping: straight segments with rounded corners."""

    name: str
    """For messages."""
    poses: tuple[Array, ...]
    """Tool poses [4,4] to pass; the last is reached."""
    gripper: float
    """Gripper command on the way."""
    avoid_object: bool
    """Whether touching the object counts as a collision."""
    detour: bool
    """Whether a searched path may replace the straight one when that is blocked."""
    settle_steps: int = 0
    """Control steps to wait at the end for the arm to catch up with its target."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grip:
    """The arm stays; the gripper is commanded for some steps."""

    gripper: float
    """Gripper command."""
    steps: int
    """Control steps to wait for the fingers."""


Primitive = Stroke | Grip
Strategy = Callable[[Situation], tuple[tuple[Primitive, ...], ...]]


def pointing_down(position_m: npt.ArrayLike, yaw_rad: float) -> Array:
    """Tool pose [4,4] with the fingers straight down; at yaw 0 they close along the world's y."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return transform(position_m, [[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])


def leaning(pose: Array, base_m: Array) -> Array:
    """The tool pose turned about its centre: far from the base, the hand stays behind its fingertips."""
    outwards = (pose[:3, 3] - base_m)[:2]
    distance_m = float(np.linalg.norm(outwards))
    lean = float(np.clip(LEAN_SLOPE_RAD_M * (distance_m - LEAN_FROM_M), 0.0, LEAN_MOST_RAD))
    x, y = outwards / distance_m
    c, s = np.cos(lean), np.sin(lean)
    # Rotation by -lean about the horizontal axis (-y, x, 0).
    about = np.array(
        [
            [c + y * y * (1 - c), -x * y * (1 - c), -x * s],
            [-x * y * (1 - c), c + x * x * (1 - c), -y * s],
            [x * s, y * s, c],
        ]
    )
    return transform(pose[:3, 3], about @ pose[:3, :3])


def tool_yaw(tool: Array) -> float:
    """Yaw of a tool pose that points (nearly) down."""
    return float(np.arctan2(tool[1, 0], tool[0, 0]))


def nearest_turn(angle_rad: float, reference_rad: float, period_rad: float) -> float:
    """The angle that equals `angle_rad` up to whole periods and lies nearest to the reference."""
    return angle_rad + period_rad * round((reference_rad - angle_rad) / period_rad)


def push_cube(now: Situation) -> tuple[tuple[Primitive, ...], ...]:
    """Behind the cube, down, and straight on until it lies in the target. Closed fingers."""
    to_goal = (now.goal_m - now.object_m)[:2]
    distance_m = float(np.linalg.norm(to_goal))
    if distance_m < PUSHED_ENOUGH_M:
        return ((Grip(gripper=0.0, steps=1),),)
    along = to_goal / distance_m
    yaw = nearest_turn(float(np.arctan2(along[1], along[0])), 0.0, np.pi)
    touch = now.object_m[:2] - along * (CUBE_HALF_M + FINGER_HALF_M)
    behind = touch - along * 0.02

    def at(point: Array, height_m: float) -> Array:
        return leaning(pointing_down([*point, height_m], yaw), now.base_m)

    offset = now.tool[:2, 3] - touch
    backward_m = -float(offset @ along)
    sideways_m = abs(float(offset @ np.array([-along[1], along[0]])))
    low = now.tool[2, 3] < PUSH_HEIGHT_M + 0.02
    push = Stroke(
        name="push",
        poses=(at(touch + along * max(distance_m - PUSH_SHORT_OF_CENTRE_M, 0.0), PUSH_HEIGHT_M),),
        gripper=0.0,
        avoid_object=False,
        detour=False,
        settle_steps=2,
    )
    if low and -0.01 < backward_m < 0.06 and sideways_m < 0.01:
        return ((push,),)
    down = (at(behind, 0.09), at(behind, PUSH_HEIGHT_M))
    approach = Stroke(name="approach", poses=down, gripper=0.0, avoid_object=True, detour=True)
    # Second choice, for a tool that leans on the cube already: straight up first.
    aside = now.tool.copy()
    aside[2, 3] = 0.09
    retreat = Stroke(name="retreat", poses=(aside,), gripper=0.0, avoid_object=False, detour=False)
    return ((approach, push), (retreat, approach, push))


def pick_cube(now: Situation) -> tuple[tuple[Primitive, ...], ...]:
    """Over the cube, down, close, to the goal. Alternatives: quarter turns of the grasp, nearest first."""
    yaw_now = tool_yaw(now.tool)
    if now.holding:
        return ((_carry(now, now.tool, now.object_m),),)
    nearest = nearest_turn(now.object_yaw_rad, yaw_now, np.pi / 2)
    turns = sorted((nearest + k * np.pi / 2 for k in (-1, 0, 1)), key=lambda yaw: abs(yaw - yaw_now))
    plans = []
    for yaw in turns:
        grasp = pointing_down([*now.object_m[:2], max(now.object_m[2], 0.015)], yaw)
        above = grasp.copy()
        above[2, 3] += 0.07
        over_it = np.linalg.norm((now.tool - grasp)[:2, 3]) < 0.01 and abs(yaw - yaw_now) < 0.1
        poses = (grasp,) if over_it and now.gripper > 0.8 else (above, grasp)
        plans.append(
            (
                Stroke(name="reach", poses=poses, gripper=1.0, avoid_object=False, detour=True, settle_steps=1),
                Grip(gripper=0.0, steps=4),
                _carry(now, grasp, now.object_m),
            )
        )
    return tuple(plans)


def _carry(now: Situation, grasp: Array, object_m: Array) -> Stroke:
    """From a grasp to the goal, off the table first; the tool keeps its place on the object."""
    lifted, placed = grasp.copy(), grasp.copy()
    placed[:3, 3] += now.goal_m - object_m
    lifted[2, 3] = max(grasp[2, 3], min(grasp[2, 3] + CARRY_LIFT_M, max(placed[2, 3], CUBE_HALF_M + CARRY_LIFT_M)))
    poses = (placed,) if object_m[2] > CUBE_HALF_M + 0.01 else (lifted, placed)
    return Stroke(name="carry", poses=poses, gripper=0.0, avoid_object=False, detour=True, settle_steps=3)


STRATEGIES: dict[str, Strategy] = {"PushCube": push_cube, "PickCube": pick_cube}
"""By the names of `tasks.TASKS`."""

OBJECT_SIZE_M: dict[str, tuple[float, float, float]] = {
    "PushCube": (2 * CUBE_HALF_M,) * 3,
    "PickCube": (2 * CUBE_HALF_M,) * 3,
}
"""Box that stands for a task's object in collision checks."""

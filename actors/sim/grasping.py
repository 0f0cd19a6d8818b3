"""Grasping a small object and taking it somewhere: picking, stacking, placing.

A grasp is tried in every way that is as good as another: quarter turns of a cube, any turn of a ball, an upright hand
or, far from the base, one that leans outwards about its closing direction, from high above or from close above.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from blm.actors.sim.arm import transform
from blm.actors.sim.primitives import (
    LEAN_MOST_RAD,
    Array,
    Grip,
    Primitives,
    Situation,
    Stroke,
    backed_off,
    finger_clearance_m,
    lean_rad,
    nearest_turn,
    pitched,
    pointing_down,
    rise,
    tool_yaw,
    turn_between,
)
from blm.actors.sim.sliding import CUBE_HALF_M

CARRY_LIFT_M = 0.03
BALL_RADIUS_M = 0.02
BIN_HALF_M = 0.025
"""Half the outer side of the bin."""
UP = np.array([0.0, 0.0, 1.0])
GOAL_LEAN_RAD_M, CARRY_LEAN_MOST_RAD = 5.0, 1.0
"""How far a hand that carries leans outwards: so much per metre above where it can still point down, and at most."""
APPROACH_HEIGHTS_M = (0.07, 0.04)
OVER_GOAL_M = 0.035
"""The object passes that high above its place before it is lowered onto it."""
RETREATS_M = (0.07, 0.035)
SAFE_HEIGHT_M = 0.09
"""Lower than this the tool first rises before it crosses the table."""
LEAST_CLEARANCE_M = 0.004
AT_PLACE_M, AT_PLACE_HEIGHT_M = 0.02, 0.006
"""An object this near to its place, across and in height, is there."""


def pick_cube(now: Situation) -> tuple[Primitives, ...]:
    """Over the cube, down, close, to the goal. Alternatives: quarter turns of the grasp, nearest first.

    A hand that cannot point down where the goal is leans outwards on the way there, and the cube with it.
    """
    yaw_now = tool_yaw(now.tool)
    leans = _goal_leans(now)
    if now.holding:
        return tuple((_carry(now, now.tool, lean),) for lean in leans)
    plans = []
    for lean, yaw in itertools.product(leans, _quarter_turns(now.object_yaw_rad, yaw_now)):
        grasp = pointing_down([*now.object_m[:2], max(now.object_m[2], 0.015)], yaw)
        above = grasp.copy()
        above[2, 3] += APPROACH_HEIGHTS_M[0]
        over_it = np.linalg.norm((now.tool - grasp)[:2, 3]) < 0.01 and abs(yaw - yaw_now) < 0.1
        poses = (grasp,) if over_it and now.gripper > 0.8 else (above, grasp)
        plans.append((*_grasp(now, poses), _carry(now, grasp, lean)))
    return tuple(plans)


def _goal_leans(now: Situation) -> tuple[float, ...]:
    """How far the hand may lean at the goal, the least that should do first."""
    if not np.isfinite(now.lean_above_m):
        return (0.0,)
    least = max(0.0, GOAL_LEAN_RAD_M * (float(now.goal_m[2]) - now.lean_above_m))
    return tuple(min(least + more, CARRY_LEAN_MOST_RAD) for more in (0.0, 0.3, 0.6))


def stack_cube(now: Situation) -> tuple[Primitives, ...]:
    """Grasp the cube where the lower one leaves room for the fingers, carry it over that one, set it down, let go."""
    return _put(now, _quarter_turns(now.object_yaw_rad, tool_yaw(now.tool)), CUBE_HALF_M, CUBE_HALF_M, 0.002)


def place_sphere(now: Situation) -> tuple[Primitives, ...]:
    """Grasp the ball as the hand is turned already if the bin leaves room, set it down in the bin, let go."""
    turns = [tool_yaw(now.tool) + k * np.pi / 6 for k in (0, -1, 1, -2, 2, 3)]
    return _put(now, turns, BALL_RADIUS_M, BIN_HALF_M, 0.004)


def _quarter_turns(object_yaw_rad: float, yaw_now: float) -> list[float]:
    nearest = nearest_turn(object_yaw_rad, yaw_now, np.pi / 2)
    return sorted((nearest + k * np.pi / 2 for k in (-1, 0, 1)), key=lambda yaw: abs(yaw - yaw_now))


def _grasp(now: Situation, poses: tuple[Array, ...]) -> Primitives:
    """Open along the poses, then close."""
    return (
        Stroke(name="reach", poses=poses, gripper=1.0, avoid_object=False, detour=True, settle_steps=1),
        Grip(gripper=0.0, steps=now.grip_steps, holds=True),
    )


def _carry(now: Situation, grasp: Array, lean_rad: float) -> Stroke:
    """From a grasp to the goal, off the table first; the tool keeps its place on the object.

    The hand stays turned as it is, or if it is to lean, ends up leaning outwards.
    """
    object_m = now.object_m
    outwards = (now.goal_m - now.base_m) * [1.0, 1.0, 0.0]
    pointing = np.sin(lean_rad) * outwards / np.linalg.norm(outwards) - np.cos(lean_rad) * UP
    turn = turn_between(grasp[:3, 2], pointing) if lean_rad > 0.0 else np.eye(3)
    lifted, placed = grasp.copy(), transform(now.goal_m + turn @ (grasp[:3, 3] - object_m), turn @ grasp[:3, :3])
    lifted[2, 3] = max(grasp[2, 3], min(grasp[2, 3] + CARRY_LIFT_M, max(placed[2, 3], CUBE_HALF_M + CARRY_LIFT_M)))
    poses = (placed,) if object_m[2] > CUBE_HALF_M + 0.01 else (lifted, placed)
    return Stroke(name="carry", poses=poses, gripper=0.0, avoid_object=False, detour=True, settle_steps=3, holds=True)


# ---- putting down


def _put(
    now: Situation, turns: Iterable[float], half_m: float, goal_half_m: float, drop_m: float
) -> tuple[Primitives, ...]:
    """Alternatives for taking an object (half its height: half_m) to its goal and letting go drop_m above it."""
    place_m = now.goal_m + UP * half_m
    release_m = place_m + UP * drop_m
    if now.holding:
        return tuple(_set_down(now, now.tool, release_m, turn) for turn in (0.0, 0.5, -0.5))
    offset_m = now.object_m - place_m
    if np.linalg.norm(offset_m[:2]) < AT_PLACE_M and abs(offset_m[2]) < AT_PLACE_HEIGHT_M:
        return (*((_withdraw(now.tool, way_m),) for way_m in RETREATS_M), (Grip(gripper=1.0, steps=now.grip_steps),))
    plans: list[Primitives] = []
    for grasp, height_m in _grasps(now, list(turns), goal_half_m):
        reach = _grasp(now, (*rise(now, grasp, SAFE_HEIGHT_M), backed_off(grasp, height_m), grasp))
        turn = _bearing_rad(now, place_m) - _bearing_rad(now, now.object_m) if grasp[2, 2] > -0.99 else 0.0
        plans.append((*reach, *_set_down(now, grasp, release_m, turn)))
    return tuple(plans)


def _grasps(now: Situation, turns: list[float], goal_half_m: float) -> Iterator[tuple[Array, float]]:
    """(grasp, approach height) in order of preference: fingers free, little lean, little turn, from high above."""
    down = [pointing_down(now.object_m, yaw) for yaw in turns]
    free_m = [
        finger_clearance_m(grasp, now.gripper_stroke_m, now.goal_m, now.goal_yaw_rad, goal_half_m) for grasp in down
    ]
    roomy = [grasp for grasp, free in zip(down, free_m, strict=True) if free >= LEAST_CLEARANCE_M]
    candidates = roomy or [down[int(np.argmax(free_m))]]
    farthest_m = max(float(np.linalg.norm((point - now.base_m)[:2])) for point in (now.object_m, now.goal_m))
    outwards = (now.object_m - now.base_m)[:2]
    for height_m in APPROACH_HEIGHTS_M:
        for lean in dict.fromkeys((lean_rad(farthest_m, now.lean_from_m), LEAN_MOST_RAD / 2, LEAN_MOST_RAD, 0.0)):
            for grasp in candidates:
                yield pitched(grasp, lean * float(np.sign(grasp[:2, 0] @ outwards))), height_m


def _bearing_rad(now: Situation, point_m: Array) -> float:
    return float(np.arctan2(*(point_m - now.base_m)[1::-1]))


def _set_down(now: Situation, grasp: Array, place_m: Array, turn_rad: float) -> Primitives:
    """From a grasp up, over the place, down to it, open, away. The object turns by turn_rad about the vertical."""
    c, s = np.cos(turn_rad), np.sin(turn_rad)
    about = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    held = grasp[:3, 3] - now.object_m
    placed = transform(place_m + about @ held, about @ grasp[:3, :3])
    above, lifted = placed.copy(), grasp.copy()
    above[2, 3] += OVER_GOAL_M
    lifted[2, 3] = max(grasp[2, 3], above[2, 3])
    over_place = np.linalg.norm((now.object_m - place_m)[:2]) < 0.01
    if over_place and now.object_m[2] > place_m[2] - AT_PLACE_HEIGHT_M:
        poses: tuple[Array, ...] = (placed,)
    elif lifted[2, 3] - grasp[2, 3] < 0.01:
        poses = (above, placed)
    else:
        poses = (lifted, above, placed)
    return (
        Stroke(
            name="place",
            poses=poses,
            gripper=0.0,
            avoid_object=False,
            detour=False,
            settle_steps=3,
            tracking="tool",
            holds=True,
        ),
        Grip(gripper=1.0, steps=now.grip_steps - 1),
        _withdraw(placed, RETREATS_M[0]),
    )


def _withdraw(tool: Array, way_m: float) -> Stroke:
    """Open, and back to where the fingers came from."""
    poses = (backed_off(tool, way_m),)
    return Stroke(name="retreat", poses=poses, gripper=1.0, avoid_object=False, detour=False, settle_steps=1)

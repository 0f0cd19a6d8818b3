"""Pushing and pulling a cube over the table with closed fingers."""

from collections.abc import Callable

import numpy as np

from blm.actors.sim.primitives import (
    Array,
    Grip,
    Primitives,
    Situation,
    Stroke,
    lean_rad,
    leaning,
    nearest_turn,
    pointing_down,
)

CUBE_HALF_M = 0.02
FINGER_HALF_M = 0.01
"""Half the fingers' thickness across the closing direction."""
SLIDE_HEIGHT_M = 0.02
SHORT_OF_CENTRE_M = 0.03
SLID_ENOUGH_M = 0.05
"""An object that near to the centre stays where it is; the task asks for 0.1."""
APPROACH_HEIGHT_M = 0.09


def push_cube(now: Situation) -> tuple[Primitives, ...]:
    """Behind the cube, down, and straight on until it lies in the target. Closed fingers."""
    return _slide(now, "push", CUBE_HALF_M, lambda pose: leaning(pose, now.base_m, now.lean_from_m))


def pull_cube(now: Situation) -> tuple[Primitives, ...]:
    """Beyond the cube, down, and straight back until it lies in the target. Closed fingers.

    Far out a hand that leans outwards leans over the cube and meets its upper edge, so it stays upright as long as it
    reaches.
    """
    beyond_m = float(np.linalg.norm((now.object_m - now.base_m)[:2])) + 0.05
    lean = lean_rad(beyond_m, now.lean_from_m)
    over_m = CUBE_HALF_M + (2 * CUBE_HALF_M - SLIDE_HEIGHT_M) * float(np.tan(lean))
    return (
        *_slide(now, "pull", CUBE_HALF_M, lambda pose: pose),
        *_slide(now, "pull", over_m, lambda pose: leaning(pose, now.base_m, now.lean_from_m)),
    )


def _slide(now: Situation, name: str, contact_m: float, posture: Callable[[Array], Array]) -> tuple[Primitives, ...]:
    """Alternatives of one way to hold the hand. contact_m: from the cube's centre to where the fingers touch."""
    to_goal = (now.goal_m - now.object_m)[:2]
    distance_m = float(np.linalg.norm(to_goal))
    if distance_m < SLID_ENOUGH_M:
        return ((Grip(gripper=now.slide_gripper, steps=1),),)
    along = to_goal / distance_m
    yaw = nearest_turn(float(np.arctan2(along[1], along[0])), 0.0, np.pi)
    touch = now.object_m[:2] - along * (contact_m + FINGER_HALF_M)
    behind = touch - along * 0.02

    def at(point: Array, height_m: float) -> Array:
        return posture(pointing_down([*point, height_m], yaw))

    offset = now.tool[:2, 3] - touch
    backward_m = -float(offset @ along)
    sideways_m = abs(float(offset @ np.array([-along[1], along[0]])))
    low = now.tool[2, 3] < SLIDE_HEIGHT_M + 0.02
    slide = Stroke(
        name=name,
        poses=(at(touch + along * max(distance_m - SHORT_OF_CENTRE_M, 0.0), SLIDE_HEIGHT_M),),
        gripper=now.slide_gripper,
        avoid_object=False,
        detour=False,
        settle_steps=2,
        pace=now.slide_pace,
    )
    if low and -0.01 < backward_m < 0.06 and sideways_m < 0.01:
        return ((slide,),)
    down = (at(behind, APPROACH_HEIGHT_M), at(behind, SLIDE_HEIGHT_M))
    approach = Stroke(name="approach", poses=down, gripper=now.slide_gripper, avoid_object=True, detour=True)
    # Second choice, for a tool that leans on the cube already: straight up first.
    aside = now.tool.copy()
    aside[2, 3] = APPROACH_HEIGHT_M
    retreat = Stroke(name="retreat", poses=(aside,), gripper=now.slide_gripper, avoid_object=False, detour=False)
    return ((approach, slide), (retreat, approach, slide))

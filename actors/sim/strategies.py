"""How each task is done: from what is where now to a few primitives. Pure geometry, no simulator, no planner.

A strategy looks only at the present situation, so the same function starts an episode, carries on after a
disturbance and retries after a failure. Given the situation its preference is fixed: a policy that imitates
it should meet one kind of answer to one kind of picture, hence the nearest of equivalent grasps first and
never a random choice.

This is the table; the strategies are in `sliding`, `grasping` and `standing`, their language in `primitives`.
"""

from blm.actors.sim.grasping import BALL_RADIUS_M, pick_cube, place_sphere, stack_cube
from blm.actors.sim.primitives import Grip, Situation, Strategy, Stroke, leaning, nearest_turn, pointing_down, tool_yaw
from blm.actors.sim.sliding import CUBE_HALF_M, pull_cube, push_cube
from blm.actors.sim.standing import PEG_HALF_LENGTH_M, PEG_HALF_WIDTH_M, stand_peg

__all__ = [
    "OBJECT_SIZE_M",
    "STRATEGIES",
    "Grip",
    "Situation",
    "Strategy",
    "Stroke",
    "leaning",
    "nearest_turn",
    "pick_cube",
    "pointing_down",
    "push_cube",
    "tool_yaw",
]

STRATEGIES: dict[str, Strategy] = {
    "PushCube": push_cube,
    "PickCube": pick_cube,
    "PullCube": pull_cube,
    "StackCube": stack_cube,
    "PlaceSphere": place_sphere,
    "LiftPegUpright": stand_peg,
}
"""By the names of `tasks.TASKS`."""

_CUBE_M = (2 * CUBE_HALF_M,) * 3

OBJECT_SIZE_M: dict[str, tuple[float, float, float]] = {
    "PushCube": _CUBE_M,
    "PickCube": _CUBE_M,
    "PullCube": _CUBE_M,
    "StackCube": _CUBE_M,
    "PlaceSphere": (2 * BALL_RADIUS_M,) * 3,
    "LiftPegUpright": (2 * PEG_HALF_LENGTH_M, 2 * PEG_HALF_WIDTH_M, 2 * PEG_HALF_WIDTH_M),
}
"""Box that stands for a task's object in collision checks."""

"""What the simulator knows about a picture, and what of it the eye can tell: is the object held, is the task done,
which step comes next.

Every judgement has a third answer, None: too close to call. Nothing is asked about it then. Left, right, near and far
are the robot's: it stands at negative x and looks along +x, so left is +y.
"""

from dataclasses import dataclass

import numpy as np

SIDE_MARGIN_M = 0.02
"""Least offset along an axis for left/right and near/far to be asked."""
CLEARLY = 1.4
"""How many times larger than the others the largest offset must be to be called the direction."""
GRASP_NEAR_M, GRASP_FAR_M = 0.015, 0.04
"""Closer, the tool centre is at the object; farther, it is not; in between nothing is asked."""
HOLDING_BELOW, OPEN_ABOVE = 0.65, 0.8
"""Gripper openings of closed-on-a-cube and open."""
DONE_M = {
    "PushCube": (0.092, 0.108),
    "PickCube": (0.02, 0.035),
    "PullCube": (0.092, 0.108),
    "StackCube": (0.02, 0.045),
    "PlaceSphere": (0.006, 0.02),
}
"""Distance of object and goal below which a task is done, and above which it is not, by task. A peg's uprightness is
not among the facts; the simulator's word is taken for it.
"""
SLID = {"PushCube": "push", "PullCube": "pull"}
"""Tasks done with closed fingers over the table, and what that step is called."""
PUT_DOWN = ("StackCube", "PlaceSphere")
"""Tasks whose object is set down on its goal and let go."""
GRASPED = ("PickCube", *PUT_DOWN, "LiftPegUpright")
"""Tasks in which the gripper holds the object."""
HALF_M = 0.02
"""Half the height of what is put down: its centre is that far above the goal."""
PEG_LYING_M, PEG_STANDING_M, PEG_NEAR_M = 0.035, 0.12, 0.13
"""Heights of a peg's middle: below the first it lies, at the second it can stand; a tool farther off than the third
does not hold it.
"""
PEG_OPENINGS = (0.45, 0.75)
"""Gripper openings between which a peg may be held."""


LIKE_TASKS = {"PushCube": "PullCube", "PullCube": "PushCube"}
"""Tasks whose scenes hold the same things: only the side on which the target lies tells them apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneFacts:
    """What the simulator knows about a picture."""

    task: str
    """Key of `blm.actors.sim.tasks.TASKS`."""
    object_positions: tuple[float, ...]
    """Tool centre, object and goal in world metres, 9 numbers."""
    gripper: float
    """Opening in [0 closed, 1 open]."""
    success: bool
    """Whether the simulator calls the task done."""
    color: str | None = None
    """Name of the colour the object was repainted with; None if it has its own, which instructions mention."""

    @property
    def points_m(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tool centre, object, goal, [3] each."""
        tool, thing, goal = np.asarray(self.object_positions, dtype=np.float64).reshape(3, 3)
        return tool, thing, goal


def tells_task(facts: SceneFacts) -> bool:
    """Whether a cube to be slid has its target on the side that goes with the task: pushed on, or pulled back."""
    _, thing, goal = facts.points_m
    onwards_m = float(goal[0] - thing[0]) * (1.0 if facts.task == "PushCube" else -1.0)
    return facts.task not in LIKE_TASKS or onwards_m > SIDE_MARGIN_M


def next_step(facts: SceneFacts) -> str | None:
    """What a demonstration would do now: reach, grasp, move, release, push, pull, rotate or done; None where the eye
    cannot tell.
    """
    finished = done(facts)
    if finished is None:
        return None
    if finished:
        return "done"
    if facts.task in SLID:
        return _slide_step(facts)
    return _peg_step(facts) if facts.task == "LiftPegUpright" else _grasp_step(facts)


def _slide_step(facts: SceneFacts) -> str | None:
    """Push or pull once the fingers are low and behind the cube, as seen from the goal."""
    tool, thing, goal = facts.points_m
    along = (goal - thing)[:2] / max(float(np.linalg.norm((goal - thing)[:2])), 1e-6)
    behind_m = float((thing - tool)[:2] @ along)
    sideways_m = abs(float((thing - tool)[:2] @ np.array([-along[1], along[0]])))
    if tool[2] < 0.035 and 0.01 < behind_m < 0.06 and sideways_m < 0.015:
        return SLID[facts.task]
    if tool[2] > 0.05 or not -0.01 < behind_m < 0.08 or sideways_m > 0.03:
        return "reach"
    return None


def _grasp_step(facts: SceneFacts) -> str | None:
    if holding(facts):
        return _held_step(facts)
    tool, thing, _ = facts.points_m
    distance_m = float(np.linalg.norm(thing - tool))
    if distance_m < GRASP_NEAR_M and facts.gripper > OPEN_ABOVE:
        return "grasp"
    return "reach" if distance_m > GRASP_FAR_M else None


def _held_step(facts: SceneFacts) -> str | None:
    """Move; where the object is to be put down, release once it is there."""
    if facts.task not in PUT_DOWN:
        return "move"
    below_m, above_m = DONE_M[facts.task]
    distance_m = away_m(facts)
    if distance_m < 0.6 * below_m:
        return "release"
    return "move" if distance_m > above_m else None


def _peg_step(facts: SceneFacts) -> str | None:
    """Rotate once the peg is off the table; a lying peg is reached for, or grasped between open fingers."""
    if holding(facts):
        return "rotate"
    tool, thing, _ = facts.points_m
    across_m, above_m = abs(tool[1] - thing[1]), tool[2] - thing[2]
    if thing[2] > PEG_LYING_M or facts.gripper < OPEN_ABOVE:
        return "reach" if np.linalg.norm(tool - thing) > PEG_NEAR_M and thing[2] < PEG_LYING_M else None
    if across_m < GRASP_NEAR_M and above_m < GRASP_NEAR_M and abs(tool[0] - thing[0]) < 0.1:
        return "grasp"
    return "reach" if across_m > GRASP_FAR_M or above_m > GRASP_FAR_M else None


def holding(facts: SceneFacts) -> bool | None:
    """Whether the gripper holds the object; None where the eye cannot tell."""
    tool, thing, _ = facts.points_m
    distance_m = float(np.linalg.norm(thing - tool))
    if facts.task == "LiftPegUpright":
        low, high = PEG_OPENINGS
        if distance_m > PEG_NEAR_M or not low < facts.gripper < high:
            return False
        return True if thing[2] > PEG_LYING_M and not facts.success else None
    if distance_m > GRASP_FAR_M or facts.gripper > OPEN_ABOVE:
        return False
    return True if distance_m < 2 * GRASP_NEAR_M and facts.gripper < HOLDING_BELOW else None


def done(facts: SceneFacts) -> bool | None:
    """Whether the task is done; None where the eye cannot tell."""
    if facts.task == "LiftPegUpright":
        clearly = facts.success or abs(facts.points_m[1][2] - PEG_STANDING_M) > 2 * GRASP_NEAR_M
        return facts.success if clearly else None
    below_m, above_m = DONE_M[facts.task]
    distance_m = away_m(facts)
    if distance_m > above_m:
        return False
    if distance_m > below_m:
        return None
    if facts.task not in PUT_DOWN:
        return True
    held = holding(facts)  # what is to be put down must be let go as well
    return None if held is None else not held


def away_m(facts: SceneFacts) -> float:
    """Distance of the object from where it belongs: over the table for what slides, in space for what is carried."""
    _, thing, goal = facts.points_m
    if facts.task in SLID:
        return float(np.linalg.norm((thing - goal)[:2]))
    rests_m = HALF_M if facts.task in PUT_DOWN else 0.0
    return float(np.linalg.norm(thing - goal - [0.0, 0.0, rests_m]))


def direction(offset_m: np.ndarray) -> str | None:
    """The axis along which the object lies clearly farthest from the gripper."""
    size = np.abs(offset_m)
    axis = int(size.argmax())
    others_m = float(np.delete(size, axis).max())
    if size[axis] < SIDE_MARGIN_M or size[axis] < CLEARLY * others_m:
        return None
    names = (("backward", "forward"), ("right", "left"), ("down", "up"))
    return names[axis][int(offset_m[axis] > 0)]


def clear_side(offset_m: float, positive: str, negative: str) -> str | None:
    """The word for the sign of an offset, if it is large enough."""
    if abs(offset_m) < SIDE_MARGIN_M:
        return None
    return positive if offset_m > 0 else negative

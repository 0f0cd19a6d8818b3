"""What strategies are written in: the situation they start from, the primitives they answer with, tool poses.

World coordinates, metres and radians. A tool pose has z out of the hand and y along the closing direction, so
turning it about its own y axis changes nothing for the pads: any such pitch grips as well as another.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from blm.actors.sim.arm import transform

Array = npt.NDArray[np.float64]

LEAN_FROM_M = 0.72
"""Beyond that distance from its base a Panda's hand leans outwards, or it does not reach."""
LEAN_SLOPE_RAD_M, LEAN_MOST_RAD = 5.0, 0.6
"""So much per metre, and at most."""
FINGER_THICK_M, FINGER_WIDE_M = 0.022, 0.022
"""Room a finger takes along the closing direction and across it."""


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
    object_rotation: Array = field(default_factory=lambda: np.eye(3))
    """Rotation of the object in the world, [3,3]; for objects that do not stay upright."""
    goal_yaw_rad: float = 0.0
    """Turn about the vertical of what marks the goal."""
    gripper_stroke_m: float = 0.08
    """Distance between the open fingers."""
    lean_from_m: float = LEAN_FROM_M
    """Distance from the base beyond which the hand leans outwards."""
    lean_above_m: float = np.inf
    """Height above which a hand that carries something leans outwards."""
    slide_pace: float = 1.0
    """Share of the usual speed at which things are slid: one that is let go too fast slides on."""
    turn_pace: float = 1.0
    """Share of the usual speed at which a heavy object is turned in the air."""
    stand_first: tuple[float, float, float] = (0.02, -0.25, 1.0)
    """How to stand a peg first: grip in m from its middle, pitch of the hand and turn about the vertical in rad."""
    slide_gripper: float = 0.0
    """Opening of the gripper while things are slid."""
    grip_steps: int = 4
    """Control steps the fingers take to close on an object or to open again."""


Tracking = Literal["joint", "tool"]


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
    pace: float = 1.0
    """Share of the usual speed."""
    tracking: Tracking = "joint"
    """What execution follows: the planned joints, or the planned tool poses against load and lag."""
    holds: bool = False
    """Whether the object has to stay in the fingers all the way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grip:
    """The arm stays; the gripper is commanded for some steps."""

    gripper: float
    """Gripper command."""
    steps: int
    """Control steps to wait for the fingers."""
    holds: bool = False
    """Whether the object has to be held at the end."""

    @property
    def name(self) -> str:
        """For messages."""
        return "close" if self.gripper < 0.5 else "open"


Primitive = Stroke | Grip
Primitives = tuple[Primitive, ...]
Strategy = Callable[[Situation], tuple[Primitives, ...]]


def pointing_down(position_m: npt.ArrayLike, yaw_rad: float) -> Array:
    """Tool pose [4,4] with the fingers straight down; at yaw 0 they close along the world's y."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return transform(position_m, [[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])


def leaning(pose: Array, base_m: Array, lean_from_m: float = LEAN_FROM_M) -> Array:
    """The tool pose turned about its centre: far from the base, the hand stays behind its fingertips."""
    outwards = (pose[:3, 3] - base_m)[:2]
    distance_m = float(np.linalg.norm(outwards))
    lean = lean_rad(distance_m, lean_from_m)
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


def turn_between(first: Array, second: Array) -> Array:
    """The least rotation [3,3] that takes one unit vector to another, which is not its opposite."""
    x, y, z = np.cross(first, second)
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + skew + skew @ skew / (1.0 + first @ second)


def tool_yaw(tool: Array) -> float:
    """Yaw of a tool pose that points (nearly) down."""
    return float(np.arctan2(tool[1, 0], tool[0, 0]))


def nearest_turn(angle_rad: float, reference_rad: float, period_rad: float) -> float:
    """The angle that equals `angle_rad` up to whole periods and lies nearest to the reference."""
    return angle_rad + period_rad * round((reference_rad - angle_rad) / period_rad)


def lean_rad(distance_m: float, lean_from_m: float) -> float:
    """How far the hand leans outwards at a distance from the base."""
    return float(np.clip(LEAN_SLOPE_RAD_M * (distance_m - lean_from_m), 0.0, LEAN_MOST_RAD))


def pitched(pose: Array, pitch_rad: float) -> Array:
    """The tool pose turned about its closing direction; positive: the fingertips go towards the tool's own x."""
    c, s = np.cos(pitch_rad), np.sin(pitch_rad)
    return transform(pose[:3, 3], pose[:3, :3] @ np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]))


def backed_off(pose: Array, distance_m: float) -> Array:
    """The tool pose drawn back along the direction in which the fingers point."""
    return transform(pose[:3, 3] - distance_m * pose[:3, 2], pose[:3, :3])


def finger_clearance_m(grasp: Array, stroke_m: float, centre_m: Array, yaw_rad: float, half_m: float) -> float:
    """Free space, seen from above, between the open fingers of a grasp and an upright square box of half a side.

    Negative where they overlap. Exact for parallel sides, else never too large.
    """
    closing = grasp[:2, 1] / np.linalg.norm(grasp[:2, 1])
    across = np.array([-closing[1], closing[0]])
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    sides = (np.array([c, s]), np.array([-s, c]))
    free_m = np.inf
    for sign in (-1.0, 1.0):
        offset = grasp[:2, 3] + sign * (stroke_m + FINGER_THICK_M) / 2 * closing - centre_m[:2]
        # Separating axes of two rectangles: the sides of either.
        gaps = [
            abs(offset @ axis)
            - (abs(closing @ axis) * FINGER_THICK_M + abs(across @ axis) * FINGER_WIDE_M) / 2
            - half_m * sum(abs(side @ axis) for side in sides)
            for axis in (closing, across, *sides)
        ]
        free_m = min(free_m, max(gaps))
    return float(free_m)


def rise(now: Situation, grasp: Array, safe_height_m: float) -> tuple[Array, ...]:
    """Straight up first, for a low tool that is not yet over its grasp: other things stand on the table."""
    if now.tool[2, 3] > safe_height_m or np.linalg.norm((now.tool - grasp)[:2, 3]) < 0.01:
        return ()
    raised = now.tool.copy()
    raised[2, 3] = safe_height_m
    return (raised,)

"""From a situation to timed targets: strategy -> primitives -> tool path -> joint path -> 20 Hz actions.

Every alternative of the strategy is tried in its order and the first that is feasible from end to end is
taken; the reason of the first one's failure is reported if none is.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blm.actors.sim.arm import ArmPlanner, transform
from blm.actors.sim.failures import PlanningError
from blm.actors.sim.robots import get_robot
from blm.actors.sim.strategies import OBJECT_SIZE_M, STRATEGIES, Grip, Situation, Stroke
from blm.actors.sim.world import Cell, Geometry

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

PATH_STEP_M = 0.012
"""Distance between neighbouring points of a tool path."""
PATH_STEP_RAD = 0.08
CORNER_M = 0.03
"""A rounded corner leaves the straight segment this far from the corner, or at its middle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Actions that should do the task from the situation they were planned for."""

    actions: Float32
    """Absolute joint targets and gripper commands at the control rate, [T,A]."""
    alternative: int
    """Which of the strategy's alternatives it is."""
    detours: int
    """How many strokes needed a searched path."""


def _rotate_towards(first: Array, second: Array, share: float) -> Array:
    """Rotation [3,3] that share of the way from one to another, about their common axis."""
    relative = first.T @ second
    angle = np.arccos(np.clip((np.trace(relative) - 1.0) / 2.0, -1.0, 1.0))
    if angle < 1e-7:
        return first
    skew = (relative - relative.T) / (2.0 * np.sin(angle))
    turn = share * angle
    return first @ (np.eye(3) + np.sin(turn) * skew + (1.0 - np.cos(turn)) * skew @ skew)


def rounded_path(poses: list[Array]) -> list[Array]:
    """Dense tool poses through corner poses [4,4], straight in between, corners rounded by parabolas.

    The first pose is left out, the last is met exactly. Orientation turns evenly along each piece.
    """
    knots = [poses[0]]
    for before, corner, after in zip(poses, poses[1:], poses[2:], strict=False):
        knots += [_towards(corner, before), corner, _towards(corner, after)]
    knots.append(poses[-1])
    path: list[Array] = []
    for index in range(0, len(knots) - 1, 3):
        path += _straight(knots[index], knots[index + 1])
        if index + 3 < len(knots):
            path += _parabola(*knots[index + 1 : index + 4])
    return path


def _towards(corner: Array, other: Array) -> Array:
    length_m = float(np.linalg.norm(other[:3, 3] - corner[:3, 3]))
    share = min(0.5, CORNER_M / length_m) if length_m > 1e-9 else 0.5
    return _between(corner, other, share)


def _between(first: Array, second: Array, share: float) -> Array:
    position_m = (1.0 - share) * first[:3, 3] + share * second[:3, 3]
    return transform(position_m, _rotate_towards(first[:3, :3], second[:3, :3], share))


def _pieces(first: Array, second: Array) -> int:
    length_m = np.linalg.norm(second[:3, 3] - first[:3, 3])
    cosine = (np.trace(first[:3, :3].T @ second[:3, :3]) - 1.0) / 2.0
    angle_rad = np.arccos(np.clip(cosine, -1.0, 1.0))
    return int(np.ceil(max(length_m / PATH_STEP_M, angle_rad / PATH_STEP_RAD, 1e-9)))


def _straight(first: Array, second: Array) -> list[Array]:
    count = _pieces(first, second)
    return [_between(first, second, (i + 1) / count) for i in range(count)]


def _parabola(first: Array, corner: Array, last: Array) -> list[Array]:
    count = max(2, _pieces(first, last))
    shares = [(i + 1) / count for i in range(count)]
    return [_between(_between(first, corner, s), _between(corner, last, s), s) for s in shares]


class CellPlanner:
    """Plans one cell's demonstrations. Holds the planning scene; not thread-safe."""

    def __init__(self, cell: Cell, geometry: Geometry = "lite", *, speed: float = 0.8) -> None:
        """`speed` is the share of the joints' velocity and acceleration limits that motions use."""
        self._strategy = STRATEGIES[cell.task]
        self._arm = ArmPlanner(get_robot(cell.robot), geometry, OBJECT_SIZE_M[cell.task])
        self._speed = speed

    def reachable(self, pose: Array, arm_rad: npt.ArrayLike) -> Array:
        """Joints [n] that put the tool at a pose, or the given ones if it cannot get there."""
        start_rad = np.asarray(arm_rad, dtype=np.float64)
        self._arm.set_obstacle(None)
        try:
            return self._arm.follow(start_rad, rounded_path([self._arm.tool_pose(start_rad), pose]))[-1]
        except PlanningError:
            return start_rad

    def plan(self, now: Situation, arm_rad: npt.ArrayLike, seed: int) -> Plan:
        """Actions from arm joints [n] in a situation. PlanningError with the first alternative's reason."""
        start_rad = np.asarray(arm_rad, dtype=np.float64)
        first_error: PlanningError | None = None
        for index, primitives in enumerate(self._strategy(now)):
            try:
                actions, detours = self._plan_one(primitives, now, start_rad, seed)
            except PlanningError as error:
                first_error = first_error or error
                continue
            return Plan(actions=actions, alternative=index, detours=detours)
        assert first_error is not None, "a strategy gave no alternative"
        raise first_error

    def _plan_one(
        self, primitives: tuple[Stroke | Grip, ...], now: Situation, start_rad: Array, seed: int
    ) -> tuple[Float32, int]:
        arm_rad, gripper, detours = start_rad, now.gripper, 0
        pieces: list[Array] = []
        for primitive in primitives:
            if isinstance(primitive, Grip):
                targets, steps = np.empty((0, len(arm_rad))), primitive.steps
            else:
                self._arm.set_fingers(gripper)
                targets, detoured = self._stroke(primitive, now, arm_rad, seed)
                detours += detoured
                arm_rad, steps = targets[-1], primitive.settle_steps
            targets = np.concatenate([targets, np.repeat(arm_rad[None], steps, axis=0)])
            gripper = primitive.gripper
            pieces.append(np.column_stack([targets, np.full(len(targets), gripper)]))
        return np.concatenate(pieces).astype(np.float32), detours

    def _stroke(self, stroke: Stroke, now: Situation, arm_rad: Array, seed: int) -> tuple[Array, bool]:
        c, s = np.cos(now.object_yaw_rad), np.sin(now.object_yaw_rad)
        upright = transform(now.object_m, [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        self._arm.set_obstacle(upright if stroke.avoid_object else None)
        try:
            points = self._arm.follow(arm_rad, rounded_path([self._arm.tool_pose(arm_rad), *stroke.poses]))
            return self._arm.time(points, self._speed), False
        except PlanningError:
            if not stroke.detour:
                raise
        goal_rad = self._arm.solve_ik(stroke.poses[-1], arm_rad)
        points = self._arm.search(arm_rad, goal_rad, seed)
        return self._arm.time(points, self._speed), True

"""From a situation to timed targets: strategy -> primitives -> tool path -> joint path -> 20 Hz actions.

Every alternative of the strategy is tried in its order and the first that is feasible from end to end is
taken; the reason of the first one's failure is reported if none is.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from blm.actors.sim.arm import ArmPlanner, transform
from blm.actors.sim.failures import FailureReason, PlanningError
from blm.actors.sim.primitives import Primitives, Tracking
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
class Piece:
    """One primitive of a plan, timed."""

    name: str
    """The primitive's: `reach`, `close`, `carry`, ..."""
    actions: Float32
    """Absolute joint targets and gripper commands at the control rate, [T,A]."""
    tracking: Tracking = "joint"
    """What execution follows, see `primitives.Stroke`."""
    holds: bool = False
    """Whether the object has to be held: by the end of a grip, all along a stroke."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What should do the task from the situation it was planned for."""

    pieces: tuple[Piece, ...]
    """In the order of execution."""
    alternative: int
    """Which of the strategy's alternatives it is."""
    detours: int
    """How many strokes needed a searched path."""
    rejected: tuple[FailureReason, ...] = ()
    """Why the alternatives before it cannot be done."""

    @property
    def actions(self) -> Float32:
        """Of all pieces, [T,A]."""
        return np.concatenate([piece.actions for piece in self.pieces])


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


def _perturbed(stroke: Stroke, rng: np.random.Generator, noise_m: float) -> Stroke:
    """A free stroke with its passing poses moved at random; what is met exactly stays."""
    if not noise_m or not stroke.detour or len(stroke.poses) < 2:
        return stroke
    moved = [transform(pose[:3, 3] + rng.uniform(-noise_m, noise_m, 3), pose[:3, :3]) for pose in stroke.poses[:-1]]
    return replace(stroke, poses=(*moved, stroke.poses[-1]))


class CellPlanner:
    """Plans one cell's demonstrations. Holds the planning scene; not thread-safe."""

    def __init__(
        self, cell: Cell, geometry: Geometry = "lite", *, speed: float = 0.8, waypoint_noise_m: float = 0.0
    ) -> None:
        """`speed` is the share of the joints' velocity and acceleration limits that motions use.

        `waypoint_noise_m`: key poses that are only passed on the way are moved by up to that along each axis.
        """
        self._strategy = STRATEGIES[cell.task]
        self._arm = ArmPlanner(get_robot(cell.robot), geometry, OBJECT_SIZE_M[cell.task])
        self._speed = speed
        self._waypoint_noise_m = waypoint_noise_m

    @property
    def arm(self) -> ArmPlanner:
        """Kinematics of the robot."""
        return self._arm

    def reachable(self, pose: Array, arm_rad: npt.ArrayLike) -> Array:
        """Joints [n] that put the tool at a pose, or the given ones if it cannot get there."""
        start_rad = np.asarray(arm_rad, dtype=np.float64)
        self._arm.set_obstacle(None)
        try:
            return self._arm.follow(start_rad, rounded_path([self._arm.tool_pose(start_rad), pose]))[-1]
        except PlanningError:
            return start_rad

    def plan(self, now: Situation, arm_rad: npt.ArrayLike, seed: int, *, first_alternative: int = 0) -> Plan:
        """A plan from arm joints [n] in a situation. PlanningError with the first alternative's reason.

        `first_alternative`: where to begin among the strategy's alternatives; those before it come last.
        """
        start_rad = np.asarray(arm_rad, dtype=np.float64)
        alternatives = list(enumerate(self._strategy(now)))
        first = first_alternative % len(alternatives)
        alternatives = alternatives[first:] + alternatives[:first]
        errors: list[PlanningError] = []
        # What perturbed key poses make infeasible is tried as it was meant before it is given up.
        for noise_m in (self._waypoint_noise_m, 0.0) if self._waypoint_noise_m else (0.0,):
            for index, primitives in alternatives:
                try:
                    pieces, detours = self._plan_one(primitives, now, start_rad, seed, noise_m)
                except PlanningError as error:
                    errors.append(error)
                    continue
                rejected = tuple(error.reason for error in errors)
                return Plan(pieces=pieces, alternative=index, detours=detours, rejected=rejected)
        rejected = tuple(error.reason for error in errors)
        raise PlanningError(errors[0].reason, str(errors[0]), rejected) from errors[0]

    def _plan_one(
        self, primitives: Primitives, now: Situation, start_rad: Array, seed: int, noise_m: float
    ) -> tuple[tuple[Piece, ...], int]:
        arm_rad, gripper, detours = start_rad, now.gripper, 0
        pieces: list[Piece] = []
        rng = np.random.default_rng([seed, 2])
        for primitive in primitives:
            tracking: Tracking = "joint"
            if isinstance(primitive, Grip):
                targets, steps = np.empty((0, len(arm_rad))), primitive.steps
            else:
                self._arm.set_fingers(gripper)
                targets, detoured = self._stroke(_perturbed(primitive, rng, noise_m), now, arm_rad, seed)
                detours += detoured
                arm_rad, steps, tracking = targets[-1], primitive.settle_steps, primitive.tracking
            targets = np.concatenate([targets, np.repeat(arm_rad[None], steps, axis=0)])
            gripper = primitive.gripper
            actions = np.column_stack([targets, np.full(len(targets), gripper)]).astype(np.float32)
            pieces.append(Piece(name=primitive.name, actions=actions, tracking=tracking, holds=primitive.holds))
        return tuple(pieces), detours

    def _stroke(self, stroke: Stroke, now: Situation, arm_rad: Array, seed: int) -> tuple[Array, bool]:
        c, s = np.cos(now.object_yaw_rad), np.sin(now.object_yaw_rad)
        upright = transform(now.object_m, [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        self._arm.set_obstacle(upright if stroke.avoid_object else None)
        try:
            points = self._arm.follow(arm_rad, rounded_path([self._arm.tool_pose(arm_rad), *stroke.poses]))
            return self._arm.time(points, self._speed * stroke.pace), False
        except PlanningError:
            if not stroke.detour:
                raise
        goal_rad = self._arm.solve_ik(stroke.poses[-1], arm_rad)
        points = self._arm.search(arm_rad, goal_rad, seed)
        return self._arm.time(points, self._speed * stroke.pace), True

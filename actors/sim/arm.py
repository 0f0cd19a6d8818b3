"""Geometry of one arm: where its tool is, how to get it elsewhere, what it would hit. A face of roboplan.

Everything is in world coordinates (metres, rad) and arm joints [n]; the planner's own scene has the robot's
base at its origin, so positions are shifted on the way in and out. Results depend on the arguments alone: no
clocks, fixed seeds.
"""

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from roboplan import core, rrt, simple_ik, toppra

from blm.actors.sim.descriptions import planning_description
from blm.actors.sim.failures import FailureReason, PlanningError
from blm.actors.sim.robots import RobotSpec
from blm.actors.sim.world import Geometry, control_hz

Array = npt.NDArray[np.float64]

GROUP = "blm_arm"
WORLD = "universe"
OBSTACLE = "object"
TABLE_SIZE_M = (2.0, 2.4, 0.1)
TABLE_CLEARANCE_M = 0.002
FAR_AWAY_M = (0.0, 0.0, -5.0)
MAX_STEP_RAD = 0.35
"""Largest joint change between neighbouring points of a straight segment; more means the arm flips."""
COLLISION_STEP_RAD = 0.05
BLEND_RAD = 0.05
GREY = np.array([0.5, 0.5, 0.5, 1.0])


def transform(position_m: npt.ArrayLike, rotation: npt.ArrayLike | None = None) -> Array:
    """Position [3] and rotation [3,3] (identity if left out) -> homogeneous matrix [4,4]."""
    matrix = np.eye(4)
    matrix[:3, 3] = position_m
    if rotation is not None:
        matrix[:3, :3] = rotation
    return matrix


class ArmPlanner:
    """Kinematics, collisions, paths and timing of one robot standing on the table."""

    def __init__(self, robot: RobotSpec, geometry: Geometry, obstacle_size_m: tuple[float, float, float]) -> None:
        self._robot = robot
        self._base_m = np.asarray(robot.base_position_m)
        self._joints = list(robot.embodiment.joint_names)
        self._lower = np.asarray(robot.embodiment.joint_lower_rad)
        self._upper = np.asarray(robot.embodiment.joint_upper_rad)
        self._bare = self._load(geometry)
        self._scene = self._load(geometry)
        table_centre = (0.6, 0.0, -TABLE_SIZE_M[2] / 2 - TABLE_CLEARANCE_M)
        self._scene.addBoxGeometry("table", WORLD, core.Box(*TABLE_SIZE_M), transform(table_centre), GREY)
        self._scene.setCollisions("table", robot.base_link, False)
        self._scene.addBoxGeometry(OBSTACLE, WORLD, core.Box(*obstacle_size_m), transform(FAR_AWAY_M), GREY)
        options = simple_ik.SimpleIkOptions(
            group_name=GROUP, max_time=10.0, max_restarts=0, check_collisions=False, max_iters=150
        )
        options.max_linear_error_norm = options.max_angular_error_norm = 1e-4
        self._ik = simple_ik.SimpleIk(self._scene, options)
        self._timing = toppra.PathParameterizerTOPPRA(self._bare, GROUP)

    def _load(self, geometry: Geometry) -> core.Scene:
        urdf = planning_description(self._robot.embodiment.name, geometry)
        scene = core.Scene(self._robot.embodiment.name, core.loadUrdfSceneDescription(str(urdf), [str(urdf.parent)]))
        scene.importSrdf(urdf.with_suffix(".srdf").read_text())
        scene.addGroupFromChain(GROUP, self._robot.base_link, self._robot.tcp_link)
        limits = "joint_limits:\n" + "".join(
            f"  {joint}:\n    max_acceleration: [{limit}]\n"
            for joint, limit in zip(self._joints, self._robot.joint_acceleration_rad_s2, strict=True)
        )
        with tempfile.TemporaryDirectory() as folder:  # roboplan reads limits from a file only
            path = Path(folder) / "limits.yaml"
            path.write_text(limits)
            scene.importJointLimitsFromConfig(core.loadJointLimitsConfig(str(path)))
        return scene

    # ---- the scene
    # --------------------------------------------------------------------------------------------

    def set_fingers(self, gripper: float) -> None:
        """Opens the modelled gripper that far (0 closed, 1 open) for later collision checks."""
        for scene in (self._bare, self._scene):
            full = scene.getCurrentJointPositions().copy()
            full[scene.getJointPositionIndices(list(self._robot.finger_joints))] = self._robot.finger_positions(gripper)
            scene.setJointPositions(full)

    def set_obstacle(self, pose: Array | None) -> None:
        """Puts the object to be avoided at a pose [4,4], or takes it away."""
        placed = transform(FAR_AWAY_M) if pose is None else self._to_base(pose)
        self._scene.updateGeometryPlacement(OBSTACLE, WORLD, placed)

    def _to_base(self, pose: Array) -> Array:
        shifted = np.array(pose, dtype=np.float64, order="F")
        shifted[:3, 3] -= self._base_m
        return shifted

    # ---- single configurations
    # --------------------------------------------------------------------------------

    def tool_pose(self, arm_rad: Array) -> Array:
        """Pose [4,4] of the tool centre in the world."""
        pose = np.array(
            self._bare.forwardKinematics(
                self._bare.toFullJointPositions(GROUP, arm_rad), self._robot.tcp_link, self._robot.base_link
            )
        )
        pose[:3, 3] += self._base_m
        return pose

    def solve_ik(self, pose: Array, near_rad: Array) -> Array:
        """Joints [n] that put the tool at a pose, as near to `near_rad` as the solver's descent ends up.

        PlanningError if there are none within reach of that start.
        """
        goal = core.CartesianConfiguration(self._robot.base_link, self._robot.tcp_link, self._to_base(pose))
        solution = core.JointConfiguration()
        if not self._ik.solveIk(goal, core.JointConfiguration(self._joints, near_rad), solution):
            raise PlanningError(FailureReason.IK_UNREACHABLE, f"tool position {np.round(pose[:3, 3], 3)}")
        arm_rad = np.array(solution.positions)
        if (arm_rad < self._lower).any() or (arm_rad > self._upper).any():
            raise PlanningError(FailureReason.JOINT_LIMIT, f"tool position {np.round(pose[:3, 3], 3)}")
        return arm_rad

    def collision(self, arm_rad: Array) -> FailureReason | None:
        """What the arm would hit there: itself, its surroundings, or nothing (None)."""
        if not self._scene.hasCollisions(self._scene.toFullJointPositions(GROUP, arm_rad)):
            return None
        if self._bare.hasCollisions(self._bare.toFullJointPositions(GROUP, arm_rad)):
            return FailureReason.SELF_COLLISION
        return FailureReason.ENVIRONMENT_COLLISION

    # ---- paths
    # ------------------------------------------------------------------------------------------------

    def follow(self, start_rad: Array, poses: list[Array]) -> list[Array]:
        """Joint points through a dense list of tool poses, the start first. PlanningError if that breaks."""
        points = [np.asarray(start_rad, dtype=np.float64)]
        for pose in poses:
            arm_rad = self.solve_ik(pose, points[-1])
            if np.abs(arm_rad - points[-1]).max() > MAX_STEP_RAD:
                raise PlanningError(FailureReason.IK_UNREACHABLE, f"the arm flips at {np.round(pose[:3, 3], 3)}")
            hit = self.collision(arm_rad)
            if hit is not None:
                raise PlanningError(hit, f"at tool position {np.round(pose[:3, 3], 3)}")
            points.append(arm_rad)
        return points

    def search(self, start_rad: Array, goal_rad: Array, seed: int) -> list[Array]:
        """Joint points of a free path found by RRT-Connect and shortened. PlanningError if there is none."""
        for end, arm_rad in (("start", start_rad), ("goal", goal_rad)):
            hit = self.collision(arm_rad)
            if hit is not None:
                raise PlanningError(hit, f"at the {end} of a path")
        options = rrt.RRTOptions(
            group_name=GROUP, max_nodes=2000, rrt_connect=True, collision_check_step_size=COLLISION_STEP_RAD
        )
        search = rrt.RRT(self._scene, options)
        search.setRngSeed(seed)
        ends = [core.JointConfiguration(self._joints, np.asarray(q, np.float64)) for q in (start_rad, goal_rad)]
        try:
            path = search.plan(*ends)
        except RuntimeError as error:
            raise PlanningError(FailureReason.NO_PATH, str(error)) from error
        shortcut = core.PathShortcuttingOptions(group_name=GROUP, max_step_size=COLLISION_STEP_RAD, seed=seed)
        return [np.array(q) for q in core.PathShortcutter(self._scene, shortcut).shortcut(path).positions]

    def time(self, points: list[Array], speed: float) -> Array:
        """Joint targets [T,n] at the control rate that run along the points within the limits times `speed`.

        Corners between points are rounded by at most `BLEND_RAD`. The start itself is left out and the last
        target is the last point.
        """
        path = core.JointPath()
        path.joint_names = self._joints
        path.positions = points
        # Of roboplan's curves this one alone keeps its pace on dense points; its cubics slow down with their
        # number.
        timed = None
        # On rare paths its solver trips over rounding; a slightly different pace is as good and gets past
        # that.
        for pace in (speed, 0.97 * speed, 0.9 * speed):
            options = toppra.TOPPRAOptions(
                dt=1.0 / control_hz,
                mode=toppra.SplineFittingMode.LinearBlend,
                velocity_scale=pace,
                acceleration_scale=pace,
                max_blend_deviation=BLEND_RAD,
            )
            try:
                timed = self._timing.generate(path, options)
            except RuntimeError as error:
                failure = error
            else:
                break
        if timed is None:
            raise PlanningError(FailureReason.NO_PATH, f"timing failed: {failure}")
        targets = np.array(timed.positions)[1:].reshape(-1, len(self._joints))
        if len(targets) == 0 or np.abs(targets[-1] - points[-1]).max() > 1e-3:
            targets = np.concatenate([targets, points[-1][None]])
        return targets

"""Following planned tool poses instead of planned joints: what weighs on the hand must not lead it off its way.

Joint targets are met only as well as a drive is stiff: a load bends an arm off the planned poses by millimetres, and
setting down asks for less than five. The tracker looks at where the tool is, where it should be by now, and shifts
the commanded tool pose against the difference; inverse kinematics gives the joints for it.
"""

import numpy as np
import numpy.typing as npt

from blm.actors.sim.arm import ArmPlanner
from blm.actors.sim.failures import PlanningError
from blm.actors.sim.robots import RobotSpec

Array = npt.NDArray[np.float64]

GAIN = 0.3
"""Share of the error that every control step takes back."""
MOST_M = 0.015
"""The commanded pose is never further than this from the planned one."""


class ToolTracker:
    """Corrects the joint targets [T,n] of one primitive, step by step."""

    def __init__(
        self, arm: ArmPlanner, robot: RobotSpec, start_rad: npt.ArrayLike, targets_rad: npt.ArrayLike, control_hz: int
    ) -> None:
        self._arm = arm
        self._targets = np.asarray(targets_rad, dtype=np.float64)
        # A position drive follows a ramp by damping over stiffness late. That is not an error to be taken back.
        late_steps = robot.arm_damping / robot.arm_stiffness * control_hz
        course = np.concatenate([np.asarray(start_rad, dtype=np.float64)[None], self._targets])
        steps = np.arange(len(course))
        self._expected = np.stack([np.interp(steps - late_steps, steps, joint) for joint in course.T], axis=1)
        self._shift_m = np.zeros(3)

    def target(self, step: int, tool_m: npt.ArrayLike) -> Array:
        """Joint targets [n] for a step (from 0), with the tool centre now at tool_m [3]."""
        error_m = self._arm.tool_pose(self._expected[step])[:3, 3] - np.asarray(tool_m, dtype=np.float64)
        shift_m = self._shift_m + GAIN * error_m
        self._shift_m = shift_m * min(1.0, MOST_M / max(float(np.linalg.norm(shift_m)), 1e-9))
        pose = self._arm.tool_pose(self._targets[step])
        pose[:3, 3] += self._shift_m
        try:
            return self._arm.solve_ik(pose, self._targets[step])
        except PlanningError:  # at the edge of reach there is nothing to correct with
            return self._targets[step]

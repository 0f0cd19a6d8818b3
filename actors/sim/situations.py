"""From a simulator to what planning asks for: what is where, a plan from there, and waiting until things lie still."""

import numpy as np
import numpy.typing as npt

from blm.actors.sim.env import CellEnv
from blm.actors.sim.failures import FailureReason, PlanningError
from blm.actors.sim.planner import CellPlanner, Plan
from blm.actors.sim.primitives import Situation
from blm.actors.sim.robots import get_robot

WORKSPACE_M = 0.6
"""An object further than this from the world's origin, or below the table, is lost."""
SETTLE_STEPS = 10
"""Control steps that things are given to come to rest before a situation is judged."""
RESTING_M = 0.001
"""An object that moves by less in a control step rests."""


def situation(env: CellEnv) -> Situation:
    """What is where in a simulator now."""
    positions = env.object_positions().astype(np.float64)
    robot = get_robot(env.cell.robot)
    return Situation(
        base_m=np.asarray(robot.base_position_m),
        tool=env.tool_pose(),
        gripper=float(env.proprio()[-1]),
        object_m=positions[3:6],
        object_yaw_rad=env.object_yaw_rad(),
        goal_m=positions[6:9],
        holding=env.holding(),
        object_rotation=env.object_rotation(),
        goal_yaw_rad=env.goal_yaw_rad(),
        gripper_stroke_m=env.embodiment.gripper_stroke_m,
        lean_from_m=robot.lean_from_m,
        lean_above_m=robot.lean_above_m,
        turn_pace=robot.turn_pace,
        stand_first=robot.stand_first,
        slide_pace=robot.slide_pace,
        slide_gripper=robot.slide_gripper,
        grip_steps=robot.grip_steps,
    )


def plan_from(env: CellEnv, planner: CellPlanner, now: Situation, seed: int, first_alternative: int = 0) -> Plan:
    """A plan from the simulator's posture in a situation. PlanningError, also if the object is lost."""
    if np.linalg.norm(now.object_m[:2]) > WORKSPACE_M or now.object_m[2] < 0.0:
        raise PlanningError(FailureReason.OBJECT_LOST, f"object at {np.round(now.object_m, 3)}")
    return planner.plan(now, env.proprio()[:-1], seed, first_alternative=first_alternative)


def settle(env: CellEnv, action: npt.ArrayLike) -> bool:
    """Repeats an action until the object rests. False if it still moves after `SETTLE_STEPS`."""
    for _ in range(SETTLE_STEPS):
        before_m = env.object_positions()[3:6]
        env.step(action)
        if np.linalg.norm(env.object_positions()[3:6] - before_m) < RESTING_M:
            return True
    return False

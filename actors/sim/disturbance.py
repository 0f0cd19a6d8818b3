"""Episodes that begin off course: the arm is led astray on purpose, and the demonstration is how it comes back."""

import numpy as np

from blm.actors.sim.env import CellEnv
from blm.actors.sim.failures import PlanningError
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.situations import plan_from, settle, situation

ASTRAY_STEPS = 5
ASTRAY_REACH_M = 0.06
ASTRAY_TURN_RAD = 0.35


def disturb(env: CellEnv, planner: CellPlanner, seed: int, rng: np.random.Generator) -> bool:
    """Carries out part of a plan, then leads the tool astray. False, and nothing done, if it cannot."""
    try:
        actions = plan_from(env, planner, situation(env), seed).actions
    except PlanningError:
        return False
    executed = int(rng.uniform(0.05, 0.85) * len(actions))
    for action in actions[:executed]:
        env.step(action)
    astray = env.tool_pose()
    astray[:3, 3] += rng.uniform(-ASTRAY_REACH_M, ASTRAY_REACH_M, 3)
    astray[2, 3] = max(astray[2, 3], 0.03)
    turn = rng.uniform(-ASTRAY_TURN_RAD, ASTRAY_TURN_RAD)
    c, s = np.cos(turn), np.sin(turn)
    astray[:3, :3] = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ astray[:3, :3]
    now = env.proprio()
    gripper = actions[executed - 1, -1] if env.holding() else np.round(now[-1])
    target = planner.reachable(astray, now[:-1])
    action = np.append(now[:-1], gripper)
    for share in (*np.linspace(0.0, 1.0, ASTRAY_STEPS + 1)[1:], 1.0):
        action = np.append(now[:-1] + share * (target - now[:-1]), gripper).astype(np.float32)
        env.step(action)
    if settle(env, action):
        return True
    env.reset(seed)  # what was set rolling and does not stop is no situation to learn from
    return False

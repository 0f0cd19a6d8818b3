"""Demonstrations: plan, execute, look whether it worked, and if not plan again from what is true now.

What is kept begins at the last (re-)plan, so a demonstration never teaches the steps of a failed attempt.
Some episodes are disturbed on purpose first: the arm is led off its course somewhere on the way, and the
demonstration that is kept is the one that starts there. It shows a policy how to come back from where its own
errors will take it.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from blm.actors.sim.demonstration import Demonstration, DemonstrationConfig
from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode
from blm.actors.sim.failures import FailureReason, PlanningError
from blm.actors.sim.planner import CellPlanner, Plan
from blm.actors.sim.robots import get_robot
from blm.actors.sim.strategies import Situation
from blm.actors.sim.tasks import instruction_for

Float32 = npt.NDArray[np.float32]

WORKSPACE_M = 0.6
"""An object further than this from the world's origin, or below the table, is lost."""
DISTURB_STEPS = 5
DISTURB_REACH_M = 0.06
DISTURB_TURN_RAD = 0.35


@dataclass(slots=True)
class _Tape:
    """Recording of what was executed since the last plan."""

    env: CellEnv
    states: list[Float32] = field(default_factory=list)
    proprio: list[Float32] = field(default_factory=list)
    positions: list[Float32] = field(default_factory=list)
    actions: list[Float32] = field(default_factory=list)
    first_success: int | None = None

    def __post_init__(self) -> None:
        self._look()

    def _look(self) -> None:
        self.states.append(self.env.state())
        self.proprio.append(self.env.proprio())
        self.positions.append(self.env.object_positions())

    def step(self, action: Float32) -> bool:
        done = self.env.step(action)
        self.actions.append(action)
        self._look()
        if done and self.first_success is None:
            self.first_success = len(self.actions)
        return done


def situation(env: CellEnv) -> Situation:
    """What is where in a simulator now."""
    positions = env.object_positions().astype(np.float64)
    return Situation(
        base_m=np.asarray(get_robot(env.cell.robot).base_position_m),
        tool=env.tool_pose(),
        gripper=float(env.proprio()[-1]),
        object_m=positions[3:6],
        object_yaw_rad=env.object_yaw_rad(),
        goal_m=positions[6:9],
        holding=env.holding(),
    )


def _plan(env: CellEnv, planner: CellPlanner, seed: int) -> Plan:
    now = situation(env)
    if np.linalg.norm(now.object_m[:2]) > WORKSPACE_M or now.object_m[2] < 0.0:
        raise PlanningError(FailureReason.OBJECT_LOST, f"object at {np.round(now.object_m, 3)}")
    return planner.plan(now, env.proprio()[:-1], seed)


def _attempt(env: CellEnv, planner: CellPlanner, seed: int, config: DemonstrationConfig) -> tuple[_Tape, Plan]:
    """Plans and executes once. PlanningError with the reason if the task is not done at the end."""
    tape, plan = _Tape(env), _plan(env, planner, seed)
    hold = np.repeat(plan.actions[-1:], config.hold_steps, axis=0)
    steps = np.concatenate([plan.actions, hold])
    if len(steps) > env.cell.task_data.max_steps:
        raise PlanningError(FailureReason.TIMEOUT, f"the plan takes {len(steps)} steps")
    done = False
    for action in steps:
        done = tape.step(action)
    if not done:
        raise PlanningError(FailureReason.EXECUTION_FAILED, "executed, but the task is not done")
    return tape, plan


def disturb(env: CellEnv, planner: CellPlanner, seed: int, rng: np.random.Generator) -> bool:
    """Carries out part of a plan, then leads the tool astray. False, and nothing done, if it cannot."""
    try:
        actions = _plan(env, planner, seed).actions
    except PlanningError:
        return False
    for action in actions[: int(rng.uniform(0.05, 0.85) * len(actions))]:
        env.step(action)
    astray = env.tool_pose()
    astray[:3, 3] += rng.uniform(-DISTURB_REACH_M, DISTURB_REACH_M, 3)
    astray[2, 3] = max(astray[2, 3], 0.03)
    turn = rng.uniform(-DISTURB_TURN_RAD, DISTURB_TURN_RAD)
    c, s = np.cos(turn), np.sin(turn)
    astray[:3, :3] = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ astray[:3, :3]
    now = env.proprio()
    gripper = actions[-1, -1] if env.holding() else np.round(now[-1])
    target = planner.reachable(astray, now[:-1])
    for share in (*np.linspace(0.0, 1.0, DISTURB_STEPS + 1)[1:], 1.0):
        env.step(np.append(now[:-1] + share * (target - now[:-1]), gripper).astype(np.float32))
    return True


def demonstrate(env: CellEnv, planner: CellPlanner, seed: int, config: DemonstrationConfig) -> Demonstration:
    """Makes the demonstration of one seed. The outcome depends on the arguments alone."""
    env.reset(seed)
    rng = np.random.default_rng([seed, 1])
    disturbed = bool(rng.random() < config.disturbed_share) and disturb(env, planner, seed, rng)
    failures: list[FailureReason] = []
    for attempt in range(config.retries + 1):
        try:
            tape, plan = _attempt(env, planner, seed + attempt, config)
        except PlanningError as error:
            failures.append(error.reason)
            if error.reason is FailureReason.OBJECT_LOST:
                break
            continue
        metrics = {
            "attempts": attempt + 1,
            "disturbed": disturbed,
            "alternative": plan.alternative,
            "detours": plan.detours,
            "first_success_step": tape.first_success,
        }
        return Demonstration(
            seed=seed,
            episode=_episode(env, tape, seed, metrics),
            first_plan=not failures,
            failures=tuple(failures),
        )
    return Demonstration(seed=seed, episode=None, first_plan=False, failures=tuple(failures))


def _episode(env: CellEnv, tape: _Tape, seed: int, metrics: dict[str, int | bool | None]) -> Episode:
    return Episode(
        robot=env.cell.robot,
        task=env.cell.task,
        seed=seed,
        geometry=env.geometry,
        instruction=instruction_for(env.cell.task_data, seed),
        control_hz=env.embodiment.control_hz,
        states=np.stack(tape.states),
        proprio=np.stack(tape.proprio),
        actions=np.stack(tape.actions),
        object_positions=np.stack(tape.positions),
        success=True,
        metrics=metrics,
    )

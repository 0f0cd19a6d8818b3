"""Demonstrations: plan, execute, watch, and where something went wrong go on from there or from before it.

An attempt that fails is followed by an adjustment, a new plan from the true state, or, where that cannot be planned or
has been tried, by a rollback to the last state in which all was well and the next best way from there. Both are
bounded. What is kept begins where the last plan began, so a demonstration never teaches the steps of a failed attempt,
and every such beginning is made afresh from its seed and its state: to execute it was to replay it.

Some episodes are disturbed on purpose first: the arm is led off its course somewhere on the way, and the
demonstration that is kept is the one that starts there. It shows a policy how to come back from where its own
errors will take it.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blm.actors.sim.attempt import Attempt, Start
from blm.actors.sim.demonstration import PLANNER_VERSION, Demonstration, DemonstrationConfig
from blm.actors.sim.disturbance import disturb
from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode
from blm.actors.sim.failures import AttemptError, FailureReason
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.situations import plan_from, settle
from blm.actors.sim.tape import Tape
from blm.actors.sim.tasks import instruction_for


def demonstrate(env: CellEnv, planner: CellPlanner, seed: int, config: DemonstrationConfig) -> Demonstration:
    """Makes the demonstration of one seed. The outcome depends on the arguments alone."""
    rng = np.random.default_rng([seed, 1])
    if rng.random() >= config.disturbed_share:
        return _demonstrate(env, planner, seed, config, None)
    made = _demonstrate(env, planner, seed, config, rng)
    if made.episode is not None:
        return made
    # What a disturbance has spoilt for good may still be shown from the start.
    again = _demonstrate(env, planner, seed, config, None)
    rejected = Counter(made.rejected) + Counter(again.rejected)
    return replace(again, first_plan=False, failures=made.failures + again.failures, rejected=dict(rejected))


def _demonstrate(
    env: CellEnv, planner: CellPlanner, seed: int, config: DemonstrationConfig, rng: np.random.Generator | None
) -> Demonstration:
    """Disturbed by what the generator gives, or not at all."""
    env.reset(seed)
    disturbed = rng is not None and disturb(env, planner, seed, rng)
    start = Start.here(env)
    if disturbed:
        env.restart(seed, start.state)
    failures: list[FailureReason] = []
    rejected: Counter[str] = Counter()
    adjustments = rollbacks = alternative = 0
    good: tuple[Start, int] | None = None
    while True:
        attempt: Attempt | None = None
        try:
            plan = plan_from(env, planner, start.now, seed + len(failures), alternative)
            rejected.update(plan.rejected)
            attempt = Attempt(env, planner, plan, Tape(env, start.state))
            attempt.run(config.hold_steps)
        except AttemptError as error:
            failures.append(error.reason)
            rejected.update(getattr(error, "rejected", ()))
        else:
            counts = {"adjustments": adjustments, "rollbacks": rollbacks, "disturbed": disturbed}
            return _kept(attempt, seed, failures, rejected, counts)
        good = (attempt.last_good() if attempt else None) or good
        lost = failures[-1] is FailureReason.OBJECT_LOST
        moved = attempt is not None and bool(attempt.tape.actions)
        if adjustments < config.retries and not lost and (moved or good is None):
            # Also where nothing was executed: the search for a path and the perturbed key poses begin elsewhere.
            adjustments += 1
            start, alternative = (_settled(env) if moved else start), 0
        elif rollbacks < config.rollbacks and good is not None:
            rollbacks += 1
            (start, alternative), good = good, None
        else:
            return Demonstration(
                seed=seed, episode=None, first_plan=False, failures=tuple(failures), rejected=dict(rejected)
            )
        env.restart(seed, start.state)


def _settled(env: CellEnv) -> Start:
    """Where things are once what was dropped has come to rest; the arm stays where it is."""
    now = env.proprio()
    settle(env, np.append(now[:-1], 0.0 if env.holding() else np.round(now[-1])))
    return Start.here(env)


def _kept(
    attempt: Attempt, seed: int, failures: list[FailureReason], rejected: Counter[str], counts: dict[str, Any]
) -> Demonstration:
    tape, env = attempt.tape, attempt.env
    metrics = {
        "attempts": len(failures) + 1,
        **counts,
        "alternative": attempt.plan.alternative,
        "detours": attempt.plan.detours,
        "first_success_step": tape.first_success,
        "phases": tape.phases,
        "planner_version": PLANNER_VERSION,
        **tape.smoothness(),
    }
    episode = Episode(
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
    return Demonstration(
        seed=seed, episode=episode, first_plan=not failures, failures=tuple(failures), rejected=dict(rejected)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What came of executing a kept episode again."""

    success: bool
    """Whether the task is done at the end."""
    exact: bool
    """Whether every state is the kept one, bit for bit."""


def replay(env: CellEnv, episode: Episode) -> Replayed:
    """Executes a kept episode again from its seed and first state."""
    env.restart(episode.seed, episode.states[0])
    success, exact = env.success(), True
    for action, state in zip(episode.actions, episode.states[1:], strict=True):
        success = env.step(action)
        exact = exact and np.array_equal(env.state(), state)
    return Replayed(success=success, exact=exact)

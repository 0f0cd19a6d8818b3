"""From chunks to what a robot executes: plainly, as a mean of several, or going on from the chunk before.

One `Execution` an episode, over any policy; what it gives out follows from the chunks it was given alone. Time is
counted in control steps, and an answer's latency is simulated: what is asked for at step t can be used from step
t + latency on, whose row 0 belongs to step t. Until then the robot goes on with what it has:

    look                look                look
    |--- latency ---|   |--- latency ---|   |
    old old old old old new new new new new newer ...
    0               4   8               12

- `plain`: from the moment a chunk can be used its rows take the place of the old one's, those for steps that have gone
  by left out. That is what happens to a robot whose program ignores latency: the new chunk was made without knowing
  what would be executed meanwhile, and the motion jumps.
- `ensemble`: temporal ensembling (ACT, arXiv 2304.13705): the mean of all chunks that foresee a step, the oldest
  weighing most.
- `real_time`: as plain, but the policy is told what will be executed meanwhile and what the old chunk would do after
  that, and makes the new one go on from there (`blm.model.real_time`).

Where a chunk has run out, its last target is held. The first chunk of an episode finds the robot at rest, where it
stays until there is one: its row 0 is executed first, however late it came.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blm.actors.sim.execution_options import ExecutionConfig
from blm.model.types import ActionPrefix

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Plan:
    """A chunk [H,A], the step that its row 0 belongs to, and the first step at which it can be used."""

    actions: Float32
    origin: int
    usable: int

    def at(self, step: int) -> Float32:
        """Its action for a step [A]; the last one beyond its end."""
        return self.actions[min(step - self.origin, len(self.actions) - 1)]

    def foresees(self, step: int) -> bool:
        """Whether it has a row of its own for the step."""
        return step < self.origin + len(self.actions)


class Execution:
    """What one episode executes.

    if execution.looks:
        execution.take(<the policy's answer, which was given execution.prefix()>)
    env.step(execution.next_action())
    """

    def __init__(self, config: ExecutionConfig, posture: Float32) -> None:
        """posture: the action [A] that keeps the robot where it is; executed until the first chunk can be used."""
        self.config = config
        self._posture = posture
        self._plans: list[_Plan] = []
        self._step = 0
        self._next_look = 0

    @property
    def looks(self) -> bool:
        """Whether the policy is to be asked before the next step."""
        return self._step >= self._next_look

    def prefix(self) -> ActionPrefix | None:
        """What the policy is to go on from, if it looks now; None where there is nothing, or it is not to be told."""
        if self.config.mode != "real_time" or not self._plans:
            return None
        plan, latency = self._plans[-1], self.config.latency_steps
        last = max(plan.origin + len(plan.actions), self._step + latency)
        rows = [plan.at(step) for step in range(self._step, last)]
        return ActionPrefix(actions=np.stack(rows), frozen=latency) if rows else None

    def take(self, actions: Float32) -> None:
        """The answer [H,A] to a look made now. It counts from `latency_steps` on."""
        usable = self._step + self.config.latency_steps
        origin = self._step if self._plans else usable
        self._plans.append(_Plan(actions=actions, origin=origin, usable=usable))
        self._next_look = origin + self.config.period

    def next_action(self) -> Float32:
        """The action [A] of this control step; the next one is asked for afterwards."""
        plans = self._in_use()
        if not plans:
            action = self._posture
        else:
            del self._plans[: self._plans.index(plans[0])]
            action = self._mean([plan.at(self._step) for plan in plans])
        self._step += 1
        return action

    def _in_use(self) -> list[_Plan]:
        """The plans that this step's action is made of, the oldest first."""
        usable = [plan for plan in self._plans if plan.usable <= self._step]
        if self.config.mode == "ensemble":
            return [plan for plan in usable if plan.foresees(self._step)] or usable[-1:]
        return usable[-1:]

    def _mean(self, actions: Sequence[Float32]) -> Float32:
        """Weighted mean of actions [A], the oldest first."""
        if len(actions) == 1:
            return actions[0]
        weights = np.exp(-self.config.ensemble_decay * np.arange(len(actions)))[:, None]
        return ((weights * np.stack(actions)).sum(axis=0) / weights.sum()).astype(np.float32)

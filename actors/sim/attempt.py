"""One attempt at a task: a plan executed primitive by primitive, recorded, and watched at every step."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from blm.actors.sim.env import CellEnv
from blm.actors.sim.failures import ExecutionError, FailureReason, PlanningError
from blm.actors.sim.planner import CellPlanner, Piece, Plan
from blm.actors.sim.primitives import Situation
from blm.actors.sim.robots import get_robot
from blm.actors.sim.situations import situation
from blm.actors.sim.tape import Tape
from blm.actors.sim.tracking import ToolTracker

Float32 = npt.NDArray[np.float32]

SLIPPED_M = 0.04
"""An object that has moved by so much in the hand is not held any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Where an attempt begins. The situation is kept, as a restored state does not tell what the fingers hold."""

    state: Float32
    """Simulator state, [D]."""
    now: Situation
    """What was where in it."""

    @classmethod
    def here(cls, env: CellEnv) -> Self:
        """Where a simulator is now."""
        return cls(state=env.state(), now=situation(env))


@dataclass(slots=True)
class Attempt:
    """A plan being executed."""

    env: CellEnv
    """Where it is executed."""
    planner: CellPlanner
    """Whose plan it is."""
    plan: Plan
    """What is to be done."""
    tape: Tape
    """What was done."""
    good: list[Start] = field(default_factory=list)
    """How things were before every primitive begun."""

    def run(self, hold_steps: int) -> None:
        """Executes everything and holds the last target. AttemptError as soon as something went wrong."""
        actions = self.plan.actions
        if len(actions) + hold_steps > self.env.cell.task_data.max_steps:
            raise PlanningError(FailureReason.TIMEOUT, f"the plan takes {len(actions) + hold_steps} steps")
        for piece in self.plan.pieces:
            self.good.append(Start.here(self.env))
            self._execute(piece)
        done = self.env.success()
        for _ in range(hold_steps):
            done = self.tape.step(actions[-1])
        if not done:
            raise ExecutionError(FailureReason.EXECUTION_FAILED, "executed, but the task is not done")

    def _execute(self, piece: Piece) -> None:
        self.tape.begin(piece.name)
        grips = piece.name in ("close", "open")
        held_m = self._in_hand() if piece.holds and not grips else None
        tracker = self._tracker(piece) if piece.tracking == "tool" else None
        for step, planned in enumerate(piece.actions):
            action = planned
            if tracker is not None:
                arm_rad = tracker.target(step, self.env.object_positions()[:3])
                action = np.append(arm_rad, planned[-1]).astype(np.float32)
            self.tape.step(action)
            if held_m is not None and np.linalg.norm(self._in_hand() - held_m) > SLIPPED_M:
                raise ExecutionError(FailureReason.DROPPED, f"during {piece.name}")
        if piece.holds and grips and not self.env.holding():
            raise ExecutionError(FailureReason.GRASP_MISSED, "the fingers hold nothing")

    def _tracker(self, piece: Piece) -> ToolTracker:
        start_rad = self.tape.actions[-1][:-1] if self.tape.actions else self.env.proprio()[:-1]
        robot, hz = get_robot(self.env.cell.robot), self.env.embodiment.control_hz
        return ToolTracker(self.planner.arm, robot, start_rad, piece.actions[:, :-1], hz)

    def _in_hand(self) -> npt.NDArray[np.float64]:
        """The object's place as the tool sees it, [3]."""
        tool, thing = self.env.tool_pose(), self.env.object_positions()[3:6]
        return tool[:3, :3].T @ (thing - tool[:3, 3])

    def last_good(self) -> tuple[Start, int] | None:
        """One primitive before the one that failed, and the alternative to go on with from there."""
        return (self.good[max(len(self.good) - 2, 0)], self.plan.alternative + 1) if self.good else None

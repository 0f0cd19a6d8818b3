"""How chunks of actions become what a robot executes, as data. `execution.py` does it."""

from dataclasses import dataclass
from typing import Literal

from blm.model.errors import UserError

Mode = Literal["plain", "ensemble", "real_time"]
MODES: tuple[Mode, ...] = ("plain", "ensemble", "real_time")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionConfig:
    """When the policy looks, and which of its actions are executed. See docs/execution.md."""

    mode: Mode = "plain"
    """`plain`: a new chunk takes the place of the old one; `ensemble`: temporal ensembling, the weighted mean of all
    chunks that foresee a moment; `real_time`: the policy is told what is left of the old chunk and goes on from it."""
    execute_steps: int = 8
    """Control steps from one look to the next; more if an answer takes longer."""
    latency_steps: int = 0
    """Control steps that pass from a look until its chunk can be used, simulated. Meanwhile the robot goes on with what
    it has."""
    ensemble_decay: float = 0.01
    """`ensemble` alone: the i-th oldest chunk weighs exp(-decay * i); 0: all the same, more: the oldest counts most."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"execution.mode is {self.mode!r}; give one of {', '.join(MODES)}")
        if self.execute_steps < 1:
            raise UserError(f"execution.execute_steps is {self.execute_steps}; give 1 or more")
        if self.latency_steps < 0:
            raise UserError(f"execution.latency_steps is {self.latency_steps}; give 0 or more")
        if self.ensemble_decay < 0:
            raise UserError(f"execution.ensemble_decay is {self.ensemble_decay}; give 0 or more")

    @property
    def period(self) -> int:
        """Control steps from one look to the next: one request of an episode is under way at a time."""
        return max(self.execute_steps, self.latency_steps)

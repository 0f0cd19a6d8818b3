"""How rollouts are run, what became of each, and why it failed, as far as the simulator can tell. Data only."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

MOVE_M = 0.01
"""An object displaced by less has not been moved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """How episodes are run."""

    execute_steps: int = 8
    """Actions of a chunk that are executed before the policy looks again."""
    max_steps: int = 0
    """Control steps after which an episode has failed; 0: the task's own limit."""
    held_out: bool = False
    """Whether instructions are phrasings kept out of training."""
    record: bool = True
    """Whether simulator states are kept, for videos. Episodes with errors are not."""


class Failure(StrEnum):
    """Why an episode did not succeed. The first three are the policy's doing, the others are errors."""

    NOT_REACHED = "not_reached"
    """Time was up, and the tool never came near the object."""
    NOT_MOVED = "not_moved"
    """Time was up; the tool came near the object but did not move it."""
    NOT_AT_GOAL = "not_at_goal"
    """Time was up; the object was moved, and the task was not done at any control step."""
    BAD_ACTION = "bad_action"
    """The policy answered with a chunk of another shape or with values that are not finite."""
    POLICY_ERROR = "policy_error"
    """The policy could not answer."""
    SIMULATOR_ERROR = "simulator_error"
    """The simulator failed."""
    WORKER_LOST = "worker_lost"
    """The process that ran the episode died, and so did others that tried again."""


ERRORS = frozenset({Failure.BAD_ACTION, Failure.POLICY_ERROR, Failure.SIMULATOR_ERROR, Failure.WORKER_LOST})
"""Failures that are counted apart: they say nothing about what the policy can do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeResult:
    """One episode of an evaluation; as plain values, one line of `episodes.jsonl`."""

    cell: str
    """`robot/Task`."""
    seed: int
    """Scene seed."""
    policy: str
    """Name of the policy."""
    instruction: str
    """The words it was given."""
    success: bool
    """Whether the task was done at some control step; the episode ends there."""
    failure: str | None
    """A `Failure`, None after a success."""
    error: bool
    """Whether the failure is one of `ERRORS`."""
    detail: str = ""
    """What an error said."""
    steps: int = 0
    """Control steps executed."""
    chunks: int = 0
    """Times the policy was asked."""
    closest_m: float | None = None
    """Least distance of tool centre and object; None if nothing was executed."""
    moved_m: float | None = None
    """Greatest displacement of the object."""
    wall_s: float = 0.0
    """Its share of the time of the process that ran it: the three below."""
    physics_s: float = 0.0
    """Stepping the simulator and reading its state."""
    render_s: float = 0.0
    """Drawing pictures."""
    wait_s: float = 0.0
    """Waiting for the policy, divided by the number of episodes that waited together."""


def distances(positions: npt.NDArray[np.float32]) -> tuple[float, float]:
    """(closest_m, moved_m) of an episode's `object_positions` [T+1,9]."""
    tool, thing = positions[:, :3], positions[:, 3:6]
    closest_m = float(np.linalg.norm(tool - thing, axis=1).min())
    moved_m = float(np.linalg.norm(thing - thing[0], axis=1).max())
    return round(closest_m, 4), round(moved_m, 4)


def why_time_was_up(closest_m: float, moved_m: float, reach_m: float) -> Failure:
    """How far an episode came that ended without success or error; reach_m is the task's (`tasks.Task`)."""
    if moved_m >= MOVE_M:
        return Failure.NOT_AT_GOAL
    return Failure.NOT_MOVED if closest_m < reach_m else Failure.NOT_REACHED

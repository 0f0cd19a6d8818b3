"""What is rolled out and how, what became of each episode, and why it failed as far as the simulator can tell.

Data only, and light to import: the driver of an evaluation, which has no simulator, works with these.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from blm.actors.sim.execution_options import ExecutionConfig
from blm.actors.sim.world import Cell

if TYPE_CHECKING:
    from blm.actors.sim.episode import Episode

MOVE_M = 0.01
"""An object displaced by less has not been moved."""
LIFT_M = 0.02
"""An object that rose by as much, near the tool, was lifted: no push tips one of our objects up so far."""

Positions = npt.NDArray[np.float32]
"""`CellEnv.object_positions` of an episode, [T+1,9]: tool centre, object and goal in world metres."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """How episodes are run."""

    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    """When the policy looks, and which of its actions are executed."""
    max_steps: int = 0
    """Control steps after which an episode has failed; 0: the task's own limit."""
    held_out: bool = False
    """Whether instructions are phrasings kept out of training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutItem:
    """One episode that is to be run."""

    cell: Cell
    """Robot and task."""
    seed: int
    """Scene seed."""
    keep: Path | None = None
    """Folder for its states and actions; None: they are not recorded."""


class Failure(StrEnum):
    """Why an episode did not succeed. The first four are the policy's doing, the others are errors."""

    NOT_REACHED = "not_reached"
    """Time was up, and the tool never came near the object."""
    NOT_MOVED = "not_moved"
    """Time was up; the tool came near the object but did not move it."""
    DROPPED = "dropped"
    """Time was up; the object had been lifted, and was not up any more."""
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
    """One episode of an evaluation; as plain values, one line of `episodes.jsonl`.

    Nothing in it tells when, where or how fast it was run: it follows from cell, seed and policy.
    """

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
    time_to_success_s: float | None = None
    """Simulated time until the task was done; None after a failure."""
    closest_m: float | None = None
    """Least distance of tool centre and object; None if nothing was executed."""
    moved_m: float | None = None
    """Greatest displacement of the object."""
    jerk_rad_s3: float | None = None
    """Root mean square jerk of the arm's joints as they moved (`motion.roughness`, the measure of demonstrations): how
    smooth the motion was. None if nothing was executed."""
    backend: str = ""
    """Simulation and geometry: `cpu, lite`, `cpu, official`, `cuda, lite`, ..."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeTiming:
    """What an episode took, which no two runs agree on; one line of `timings.jsonl`."""

    cell: str
    """`robot/Task`."""
    seed: int
    """Scene seed."""
    policy: str
    """Name of the policy."""
    wall_s: float = 0.0
    """Its share of the time of the process that ran it: the three below."""
    physics_s: float = 0.0
    """Stepping the simulator and reading its state."""
    render_s: float = 0.0
    """Drawing pictures."""
    wait_s: float = 0.0
    """Waiting for the policy, divided by the number of episodes that waited together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """An episode that is over."""

    result: EpisodeResult
    """What became of it."""
    timing: EpisodeTiming
    """What it took."""
    episode: "Episode | None" = None
    """Its states and actions, if they were to be kept and it did not end in an error."""


def distances(positions: Positions) -> tuple[float, float]:
    """(closest_m, moved_m) of an episode."""
    tool, thing = positions[:, :3], positions[:, 3:6]
    closest_m = float(np.linalg.norm(tool - thing, axis=1).min())
    moved_m = float(np.linalg.norm(thing - thing[0], axis=1).max())
    return round(closest_m, 4), round(moved_m, 4)


def was_dropped(positions: Positions, reach_m: float) -> bool:
    """Whether the object was up, with the tool near it, and is down again at the end."""
    rise_m = positions[:, 5] - positions[0, 5]
    near = np.linalg.norm(positions[:, :3] - positions[:, 3:6], axis=1) < reach_m
    return bool((near & (rise_m >= LIFT_M)).any() and rise_m[-1] < LIFT_M / 2)


def why_time_was_up(positions: Positions, reach_m: float) -> Failure:
    """How far an episode came that ended without success or error; reach_m is the task's (`tasks.Task`)."""
    closest_m, moved_m = distances(positions)
    if was_dropped(positions, reach_m):
        return Failure.DROPPED
    if moved_m >= MOVE_M:
        return Failure.NOT_AT_GOAL
    return Failure.NOT_MOVED if closest_m < reach_m else Failure.NOT_REACHED

"""Demonstrations gone wrong: a kept episode executed again with one fault, so that failures can be shown and asked
about.

Kept demonstrations all succeed. A question whether something succeeded needs pictures of what did not, and a moment
before the end is only half of that: here the fingers never close, the arm passes beside the object, what is held is
dropped, or the arm stops half way. Whether it really failed is the simulator's to say. Plain object, no Ray.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from blm.actors.sim.episode import Episode

if TYPE_CHECKING:  # the simulator takes seconds to import, and the names of mishaps are wanted without it
    from blm.actors.sim.env import CellEnv

Float32 = npt.NDArray[np.float32]

MISHAPS = ("open", "missed", "dropped", "stopped")
"""Fingers stay open; the arm is turned aside; the fingers open half way; the arm stops half way."""
ASIDE_RAD = 0.2
"""Turn of the base joint with which the tool misses: 12 cm at 0.6 m."""
ASIDE_STEPS = 8
"""Control steps over which it sets in."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Replay:
    """T control steps that were executed; row t precedes step t, row T ends."""

    states: Float32
    """Simulator states, [T+1,D]."""
    object_positions: Float32
    """Tool centre, object and goal in world metres, [T+1,9]."""
    gripper: Float32
    """Opening in [0 closed, 1 open], [T+1]."""
    success: bool
    """Whether the task was done at any step."""


def faulty_actions(episode: Episode, mishap: str, step: int, side: float) -> Float32:
    """The episode's actions [T,A] with a fault. step: where things are dropped or the arm stops; side: +1 or -1, the
    way it misses. ValueError for an unknown mishap.
    """
    actions = episode.actions.copy()
    if mishap == "open":
        actions[:, -1] = 1.0
    elif mishap == "missed":
        share = np.minimum(np.arange(1, len(actions) + 1) / ASIDE_STEPS, 1.0)
        actions[:, 0] += (side * ASIDE_RAD * share).astype(np.float32)
    elif mishap == "dropped":
        actions[step:, -1] = 1.0
    elif mishap == "stopped":
        actions[step:] = actions[step]
    else:
        raise ValueError(f"unknown mishap {mishap!r}; known: {', '.join(MISHAPS)}")
    return actions


def replay(env: "CellEnv", episode: Episode, actions: Float32) -> Replay:
    """Executes actions [T,A] from where the episode began. The outcome depends on the arguments alone."""
    from blm.actors.sim.tape import Tape

    env.restart(episode.seed, episode.states[0])
    tape = Tape(env, env.state())
    for action in actions:
        tape.step(action)
    return Replay(
        states=np.stack(tape.states),
        object_positions=np.stack(tape.positions),
        gripper=np.stack(tape.proprio)[:, -1],
        success=tape.first_success is not None,
    )

"""Composes random scenes of a cell for questions about pictures: the arm anywhere, the object held, pushed or
moved.

A policy meets far more than scenes as they are reset: the arm in every posture of a demonstration, the object
half way. A share of the scenes therefore is a random moment of a kept demonstration, most others get a random
posture and often another place for the object and the goal. Everything follows from the random generator
given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blm.actors.renderer import place_goal, place_object
from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode

POSTURE_SPREAD_RAD = 0.35
"""Standard deviation of each joint round the rest posture."""
POSTURE_TRIES = 20
TOOL_BOX_M = ((-0.25, 0.3), (-0.25, 0.25), (0.02, 0.32))
"""Where the tool centre may be: over the table, within what position words can say."""
OBJECT_BOX_M = ((-0.12, 0.26), (-0.15, 0.15))
"""Where on the table objects and goals are put."""
FINAL_SHARE = 0.15
"""Share of moments taken from the very end of a demonstration, where the task is done."""
HELD_SHARE = 0.25
"""Share of composed scenes of `HELD` in which the object is put between the fingers."""
HELD = ("PickCube", "StackCube", "PlaceSphere")
"""Tasks whose object is grasped and looks the same whichever way it is held."""
HELD_SIZE_M = 0.04
"""Distance of the fingers when they touch such an object."""
SEPARATE = ("StackCube", "PlaceSphere")
"""Tasks whose object and goal are both solid: put elsewhere, they must not meet."""
APART_M = 0.07


@dataclass(frozen=True, kw_only=True, slots=True)
class ComposeConfig:
    """How often each kind of scene occurs."""

    episode_share: float
    """Share taken from demonstrations, where there are any."""
    move_share: float
    """Share of the others in which the arm takes a random posture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Composed:
    """Where a composed scene comes from."""

    seed: int
    """Scene seed: the episode's if it is a moment of a demonstration, else the one reset to."""
    origin: str
    """`episode`, `posture` or `reset`."""


def compose(
    env: CellEnv, *, seed: int, rng: np.random.Generator, episodes: Sequence[Episode], config: ComposeConfig
) -> Composed:
    """Put `env` into a random scene. Reads as `env.object_positions()` and draws as `env.render()` afterwards."""
    if episodes and rng.random() < config.episode_share:
        episode = episodes[int(rng.integers(len(episodes)))]
        last = len(episode.states) - 1
        step = last if rng.random() < FINAL_SHARE else int(rng.integers(last + 1))
        env.set_state(episode.states[step])
        return Composed(seed=episode.seed, origin="episode")
    env.reset(seed)
    if rng.random() >= config.move_share:
        return Composed(seed=seed, origin="reset")
    _random_posture(env, rng)
    if rng.random() < 0.5:
        _scatter(env, rng)
    return Composed(seed=seed, origin="posture")


def _random_posture(env: CellEnv, rng: np.random.Generator) -> None:
    """A posture whose tool centre is over the table; the rest posture if none comes up."""
    embodiment = env.embodiment
    rest = np.asarray(embodiment.rest_rad)
    low, high = np.transpose(TOOL_BOX_M)
    gripper = float(rng.choice([0.0, 1.0, rng.random()]))
    for _ in range(POSTURE_TRIES):
        posture = np.clip(
            rest + rng.normal(0.0, POSTURE_SPREAD_RAD, rest.shape),
            embodiment.joint_lower_rad,
            embodiment.joint_upper_rad,
        )
        env.set_joints(posture, gripper)
        tool = env.object_positions()[:3]
        if (tool >= low).all() and (tool <= high).all():
            return
    env.set_joints(rest, gripper)


def _scatter(env: CellEnv, rng: np.random.Generator) -> None:
    """Other places for the object and, where it lies on the table, the goal; sometimes the object between the
    fingers.
    """
    tool, thing, goal = env.object_positions().reshape(3, 3)
    task, low, high = env.cell.task, *np.transpose(OBJECT_BOX_M)
    spot = np.full(2, np.inf)
    if task in HELD and rng.random() < HELD_SHARE:
        opening = HELD_SIZE_M / env.embodiment.gripper_stroke_m
        env.set_joints(env.proprio()[: env.embodiment.arm_dof], opening)
        place_object(env, tool)
    else:
        spot = rng.uniform(low, high)
        place_object(env, [*spot, thing[2]])
    if goal[2] < thing[2] or task in SEPARATE:
        place_goal(env, [*_goal_spot(spot if task in SEPARATE else None, rng), goal[2]])


def _goal_spot(object_m: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """A random place on the table, [2], apart from the object's if that is given."""
    low, high = np.transpose(OBJECT_BOX_M)
    spot = rng.uniform(low, high)
    while object_m is not None and np.linalg.norm(spot - object_m) < APART_M:
        spot = rng.uniform(low, high)
    return spot

"""Episodes as ManiSkill's own tools know them: named states, flat state observations, its control convention.

A kept episode is replayed from its first state, which also shows that it can be: what is handed on (states,
observations, success at every step) is what the replay gave, including what only contacts tell, whether the object is
held. The Panda is described so that ManiSkill's own agent and tasks take it; there is nothing like our other robots in
ManiSkill, and they keep the names under which `agents.agent_uid` registers them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from mani_skill.envs.utils.observations import parse_obs_mode_to_struct

from blm.actors.sim.agents import CONTROL_MODE, agent_uid
from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode
from blm.actors.sim.world import Cell, Geometry

Float32 = npt.NDArray[np.float32]
OBS_MODE = "state"


@dataclass(frozen=True, kw_only=True, slots=True)
class StockRobot:
    """What an environment of ManiSkill is made with."""

    uid: str
    """`robot_uids`; also the robot's name in states."""
    control_mode: str
    """Absolute joint targets in rad, then the gripper in [-1 closed, 1 open]."""


def stock_robot(cell: Cell, geometry: Geometry) -> StockRobot:
    """ManiSkill's own agent for the Panda, whose joints and drives are ours; the registered one otherwise."""
    if cell.robot == "panda":
        return StockRobot(uid="panda", control_mode="pd_joint_pos")
    return StockRobot(uid=agent_uid(cell.robot, geometry), control_mode=CONTROL_MODE)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StockTrajectory:
    """T control steps in ManiSkill's terms."""

    actions: Float32
    """[T,A], the gripper in [-1, 1]."""
    observations: Float32
    """Flat observations of mode `state`, [T+1,O]."""
    states: dict[str, dict[str, Float32]]
    """`actors` and `articulations`, each by name: [T+1,13] and [T+1,13+2 joints]."""
    success: npt.NDArray[np.bool_]
    """After each step, [T]."""
    exact: bool
    """Whether the replay went through the very states that were kept, from the first step on."""


def replay(env: CellEnv, episode: Episode) -> StockTrajectory:
    """Replays an episode in a simulator of its cell and geometry."""
    env.restart(episode.seed, episode.states[0])
    scene = env._scene
    scene._obs_mode, scene.obs_mode_struct = OBS_MODE, parse_obs_mode_to_struct(OBS_MODE)
    states, observations, success = [env.state()], [_observe(scene)], []
    for action in episode.actions:
        success.append(env.step(action))
        states.append(env.state())
        observations.append(_observe(scene))
    actions = np.array(episode.actions, dtype=np.float32)
    actions[:, -1] = 2.0 * actions[:, -1] - 1.0
    replayed = np.stack(states)
    return StockTrajectory(
        actions=actions,
        observations=np.stack(observations),
        states=_named(env, replayed),
        success=np.array(success, dtype=bool),
        exact=bool(np.array_equal(replayed[1:], episode.states[1:])),  # setting the first one may round it
    )


def _observe(scene: Any) -> Float32:
    return scene.get_obs(scene.evaluate())[0].numpy().astype(np.float32)


def _named(env: CellEnv, states: Float32) -> dict[str, dict[str, Float32]]:
    """Flat states [T+1,D] cut into those of each thing. The table, which ours leave out, is where it always is."""
    uid = stock_robot(env.cell, env.geometry).uid
    table = env._scene.table_scene.table
    fixed = table.get_state().numpy().astype(np.float32)
    named: dict[str, dict[str, Float32]] = {"actors": {table.name: np.repeat(fixed, len(states), axis=0)}}
    first = 0
    for kind, things in env._scene.get_state_dict().items():
        for name, one in things.items():
            size = one.shape[-1]
            named.setdefault(kind, {})[uid if kind == "articulations" else name] = states[:, first : first + size]
            first += size
    assert first == states.shape[1], "a flat state is the named ones, one after the other"
    return named

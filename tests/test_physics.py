"""Our inner loop against ManiSkill's own step and state: the same numbers, bit for bit."""

import numpy as np
import pytest
import torch

from blm.actors.sim.env import CellEnv
from blm.actors.sim.physics import Physics
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.situations import situation
from blm.actors.sim.world import parse_cell


@pytest.mark.parametrize(
    "name", ["panda/PushCube", "panda/StackCube", "xarm6/PickCube", "xarm7/PullCube", "widowx_ai/PushCube"]
)
def test_steps_and_states_are_those_of_maniskill(name: str) -> None:
    cell = parse_cell(name)
    theirs, ours = CellEnv(cell), CellEnv(cell)
    theirs.reset(3)
    ours.reset(3)
    actions = CellPlanner(cell).plan(situation(theirs), theirs.proprio()[:-1], seed=3).actions
    for action in actions:
        command = np.append(action[:-1], 2.0 * action[-1] - 1.0).astype(np.float32)  # theirs: -1 closed, 1 open
        theirs._scene.step(torch.from_numpy(command))
        ours.step(action)
        np.testing.assert_array_equal(theirs._scene.get_state()[0].numpy(), ours.state())


def test_readings_are_those_of_maniskill() -> None:
    env = CellEnv(parse_cell("xarm6/PickCube"))
    env.reset(1)
    agent = env._scene.agent
    physics = Physics(env._scene)
    np.testing.assert_array_equal(physics.joint_positions(), agent.robot.get_qpos()[0].numpy())
    np.testing.assert_array_equal(physics.tool_position(), agent.tcp.pose.p[0].numpy())
    np.testing.assert_allclose(physics.tool_matrix(), agent.tcp.pose.to_transformation_matrix()[0].numpy(), atol=1e-6)

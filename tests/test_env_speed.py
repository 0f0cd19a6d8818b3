"""What makes the simulator fast changes nothing: held against ManiSkill's own way, bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from mani_skill.envs.sapien_env import BaseEnv

from blm.actors.sim.cameras import CAMERAS
from blm.actors.sim.env import CellEnv
from blm.actors.sim.look import Look, LookConfig, draw_look
from blm.actors.sim.overlay import LINE_PX, draw_ring
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.scenes import place, position
from blm.actors.sim.situations import situation
from blm.actors.sim.tasks import TASKS
from blm.actors.sim.viewing import Picture
from blm.actors.sim.world import parse_cell

CELLS = tuple(f"panda/{task}" for task in TASKS)


def _theirs(env: CellEnv) -> bool:
    return bool(env._scene.evaluate()["success"].item())


@pytest.mark.parametrize("name", CELLS)
def test_success_is_what_maniskill_says_at_every_step(name: str) -> None:
    cell = parse_cell(name)
    env = CellEnv(cell)
    env.reset(4)
    actions = CellPlanner(cell).plan(situation(env), env.proprio()[:-1], seed=4).actions
    skipped, found = 0, []
    for action in actions:
        found.append(env.step(action))
        assert found[-1] == _theirs(env)
        skipped += env._scene.surely_undone()
    assert found[-1], "the plan does the task"
    assert skipped > len(actions) // 3, "most steps are far from it"


@pytest.mark.parametrize("name", CELLS)
def test_success_is_what_maniskill_says_near_its_limits(name: str) -> None:
    env = CellEnv(parse_cell(name))
    env.reset(0)
    scene = env._scene
    rng = np.random.default_rng(0)
    middle = position(scene.task_object if scene.task_object is scene.task_goal else scene.task_goal).copy()
    answers = []
    for _ in range(150):
        offset = rng.normal(size=3)
        far = rng.choice([0.0, 0.005, 0.025, 0.033, 0.045, 0.1, 0.2]) + rng.normal(scale=rng.choice([1e-7, 1e-5, 1e-3]))
        lift = rng.choice([0.0, 0.02, 0.0225, 0.04, 0.1])
        place(scene.task_object, middle + far * offset / np.linalg.norm(offset) + [0.0, 0.0, lift])
        answers.append(env.success())
        assert answers[-1] == _theirs(env)
    assert not all(answers)


@pytest.mark.parametrize("rebuild", [True, False])
def test_a_reset_is_that_of_maniskill(rebuild: bool) -> None:
    cell = parse_cell("panda/StackCube")
    ours, theirs = CellEnv(cell), CellEnv(cell)
    before = torch.get_rng_state()
    for seed in (7, 1_000_003):
        ours.reset(seed, rebuild=rebuild)
        BaseEnv.reset(theirs._scene, seed=seed, options={"reconfigure": rebuild})
        np.testing.assert_array_equal(ours.state(), theirs._scene.get_state()[0].numpy())
        targets = [
            [joint._objs[0].drive_target.item() for joint in env._scene.agent.robot.active_joints]
            for env in (ours, theirs)
        ]
        assert targets[0] == targets[1]
    assert torch.equal(torch.get_rng_state(), before), "draws elsewhere go on as if nothing had been"


@pytest.mark.sim
@pytest.mark.parametrize("name", ["panda/PushCube", "panda/PickCube"])
def test_pictures_are_finished_as_arithmetic_says(name: str) -> None:
    env = CellEnv(parse_cell(name), cameras=("front", "side"), image_px=64)
    cameras = [CAMERAS["front"], CAMERAS["side"]]
    looks: list[Look | None] = [None, draw_look(LookConfig(), cell=name, seed=3, variant=1, cameras=cameras)]
    for seed, look in enumerate(looks):
        env.reset(seed)
        if look is not None:
            env.set_look(look)
        for camera, picture in env.render().items():
            np.testing.assert_array_equal(picture, _plainly(env, camera))
            assert picture.flags.c_contiguous


def _plainly(env: CellEnv, camera: str) -> Picture:
    """Ring, background, mean of 2 by 2 pixels, one after the other."""
    viewer: Any = env._viewer
    taken = viewer._cameras[camera]
    picture = np.array(taken.get_picture("Color"))
    ring = env._scene.goal_ring()
    if ring is not None:
        draw_ring(picture, taken.get_extrinsic_matrix(), taken.get_intrinsic_matrix(), *ring, line_px=2 * LINE_PX)
    grey = np.uint8(viewer.look.background_grey)
    drawn = np.where(picture[..., 3:] > 0, picture[..., :3], grey).astype(np.uint16)
    rows = drawn[0::2] + drawn[1::2]
    return ((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)


def test_a_light_table_is_touched_like_the_stock_one() -> None:
    cell = parse_cell("panda/PushCube")
    shapes = []
    for geometry in ("lite", "official"):
        env = CellEnv(cell, geometry=geometry)
        table = env._scene.table_scene
        bodies = [thing._bodies[0] for thing in (table.table, table.ground)]
        shapes.append(
            [(body.pose.p.tolist(), [type(one).__name__ for one in body.collision_shapes]) for body in bodies]
        )
    assert shapes[0] == shapes[1]

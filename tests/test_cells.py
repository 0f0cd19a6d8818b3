"""Every robot on every task: demonstrations come about, and what has been moved for a robot's reach stays in view."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import gymnasium
import mani_skill.envs  # noqa: F401 - registers the stock environments
import numpy as np
import numpy.typing as npt
import pytest

from blm.actors.sim.cameras import CAMERAS, FIXED_CAMERAS, project
from blm.actors.sim.demonstration import DemonstrationConfig
from blm.actors.sim.descriptions import has_official
from blm.actors.sim.env import CellEnv
from blm.actors.sim.execute import demonstrate
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.situations import situation
from blm.actors.sim.spawn import SPAWNS, STOCK, spawn_of
from blm.actors.sim.standing import PEG_HALF_LENGTH_M
from blm.actors.sim.tasks import TASKS
from blm.actors.sim.world import Cell
from blm.model.embodiments import EMBODIMENTS

CELLS = tuple(Cell(robot=robot, task=task) for robot in EMBODIMENTS for task in TASKS)
SEEDS = range(3)
IMAGE_PX = 112
MARGIN_PX = 2
"""Half an object: what a policy is to find must not be cut off."""


@pytest.fixture(scope="module", params=CELLS, ids=lambda cell: cell.name)
def env(request: pytest.FixtureRequest) -> Iterator[CellEnv]:
    one = CellEnv(request.param)
    yield one
    one.close()


def test_every_cell_is_demonstrated_at_the_first_attempt(env: CellEnv) -> None:
    planner = CellPlanner(env.cell)
    for seed in SEEDS:
        one = demonstrate(env, planner, seed, DemonstrationConfig())
        assert one.episode is not None, f"seed {seed}: {one.failures}"
        assert one.first_plan, f"seed {seed}: {one.failures}"
        assert one.episode.success
        assert len(one.episode.actions) <= 0.8 * env.cell.task_data.max_steps, "a policy gets more time"


def test_object_and_goal_of_every_scene_lie_inside_the_picture(env: CellEnv) -> None:
    """The front camera's; where regions were adapted, every fixed camera's."""
    points_m = np.concatenate([_things(env, seed) for seed in range(40)])
    for name in FIXED_CAMERAS if (env.cell.robot, env.cell.task) in SPAWNS else ("front",):
        pixels, depth_m = project(points_m, CAMERAS[name], IMAGE_PX)
        assert (depth_m > 0.0).all()
        assert pixels.min() > MARGIN_PX, name
        assert pixels.max() < IMAGE_PX - MARGIN_PX, name


@pytest.mark.parametrize("task", ["PickCube", "LiftPegUpright"])
@pytest.mark.parametrize("robot", EMBODIMENTS)
def test_robots_of_the_official_meshes_do_it_too(robot: str, task: str) -> None:
    if not has_official(robot):
        pytest.skip(f"no official description of {robot} on this machine (MS_ASSET_DIR)")
    cell = Cell(robot=robot, task=task)
    env, planner = CellEnv(cell, geometry="official"), CellPlanner(cell, "official")
    one = demonstrate(env, planner, 0, DemonstrationConfig())
    assert one.first_plan, one.failures
    env.close()


def _things(env: CellEnv, seed: int) -> npt.NDArray[np.float64]:
    """Object, goal and, where the object is long, its ends, in a scene that is only looked at, [n,3]."""
    env.reset(seed, rebuild=False)
    now = situation(env)
    half_m = PEG_HALF_LENGTH_M if env.cell.task == "LiftPegUpright" else 0.0
    ends = [now.object_m + sign * half_m * now.object_rotation[:, 0] for sign in (-1.0, 1.0)]
    return np.stack([*ends, now.object_m, now.goal_m])


def test_adapted_spawn_regions_are_of_known_cells_and_only_narrower() -> None:
    for (robot, task), spawn in SPAWNS.items():
        assert robot in EMBODIMENTS
        assert task in TASKS
        assert 0.5 <= spawn.spread <= 1.0


@cache
def _stock_scene(task: str) -> Any:
    """ManiSkill's own environment of a task, without a renderer."""
    backends = {"sim_backend": "physx_cpu", "render_backend": "none"}
    return gymnasium.make(TASKS[task].env_id, obs_mode="none", reward_mode="none", **backends).unwrapped


def test_a_scene_is_the_stock_scene_of_its_seed_or_that_one_moved_and_narrowed(env: CellEnv) -> None:
    spawn, stock = spawn_of(env.cell.robot, env.cell.task), _stock_scene(env.cell.task)
    for seed in range(5):
        env.reset(seed, rebuild=False)
        stock.reset(seed=seed)
        for group, centre_m in zip(env._scene.spawned, env._scene.spawn_centres_m, strict=False):
            ours, theirs = (
                np.stack([getattr(scene, name).pose.raw_pose[0].numpy() for name in group])
                for scene in (env._scene, stock)
            )
            away_m = theirs[:, :2].mean(axis=0) - centre_m
            theirs[:, :2] += np.asarray(spawn.shift_m) + (spawn.spread - 1.0) * away_m
            np.testing.assert_allclose(ours, theirs, atol=0.0 if spawn == STOCK else 1e-6)

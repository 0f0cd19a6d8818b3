"""The simulator: repeatable, restorable, and showing what it should."""

import gymnasium
import mani_skill.envs  # noqa: F401 - registers the stock environments
import numpy as np
import numpy.typing as npt
import pytest
import sapien

from blm.actors.sim.cameras import CAMERAS, FIXED_CAMERAS, project
from blm.actors.sim.env import OBJECT_POSITION_NAMES, CellEnv
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.situations import situation
from blm.actors.sim.spawn import Spawn
from blm.actors.sim.tasks import TASKS
from blm.actors.sim.world import parse_cell
from blm.model.errors import UserError

CELLS = tuple(f"panda/{task}" for task in TASKS)
THINGS = {
    "PushCube": ("obj", "goal_region", 0.0),
    "PickCube": ("cube", "goal_site", 0.0),
    "PullCube": ("obj", "goal_region", 0.0),
    "StackCube": ("cubeA", "cubeB", 0.02),
    "PlaceSphere": ("obj", "bin", 0.0025),
    "LiftPegUpright": ("peg", "peg", -0.025),
}
"""What ManiSkill calls a task's object and what marks its goal, and how far above that the goal is."""
PUSH = parse_cell("panda/PushCube")

Float32 = npt.NDArray[np.float32]


def _solve(env: CellEnv, seed: int) -> Float32:
    """Actions that do the task of a seed: contacts in plenty."""
    env.reset(seed)
    return CellPlanner(env.cell).plan(situation(env), env.proprio()[:-1], seed=0).actions


def _roll(env: CellEnv, seed: int, actions: Float32) -> Float32:
    env.reset(seed)
    states = [env.state()]
    for action in actions:
        env.step(action)
        states.append(env.state())
    return np.stack(states)


@pytest.mark.sim
@pytest.mark.parametrize("name", CELLS)
def test_a_rollout_depends_on_seed_and_actions_alone(name: str) -> None:
    env = CellEnv(parse_cell(name))
    actions = _solve(env, 5)
    fresh = _roll(env, 5, actions)
    assert np.abs(fresh[-1][:3] - fresh[0][:3]).max() > 0.05, "this should move the object"
    with_history = CellEnv(parse_cell(name), cameras=("front",))
    for seed in (1, 2, 3):
        _roll(with_history, seed, actions)
    with_history.render()
    np.testing.assert_array_equal(_roll(with_history, 5, actions), fresh)
    np.testing.assert_array_equal(_roll(env, 5, actions), fresh)


@pytest.mark.parametrize("name", CELLS)
def test_scenes_are_those_of_maniskill(name: str) -> None:
    cell = parse_cell(name)
    stock = gymnasium.make(
        cell.task_data.env_id, robot_uids="panda", render_backend="none", obs_mode="none", sim_backend="physx_cpu"
    )
    thing, goal, above_m = THINGS[cell.task]
    ours = CellEnv(cell)
    for seed in (0, 7):
        stock.reset(seed=seed)
        scene = stock.unwrapped
        ours.reset(seed)
        thing_m, goal_m = (getattr(scene, name).pose.p[0].numpy() for name in (thing, goal))
        np.testing.assert_allclose(ours.object_positions()[3:6], thing_m, atol=1e-6)
        np.testing.assert_allclose(ours.object_positions()[6:9], goal_m + np.array([0.0, 0.0, above_m]), atol=1e-6)
        np.testing.assert_allclose(ours.proprio()[:7], scene.agent.robot.get_qpos()[0, :7].numpy(), atol=1e-6)
    stock.close()


def test_an_adapted_spawn_region_moves_what_belongs_together() -> None:
    cell = parse_cell("panda/PullCube")
    env = CellEnv(cell)
    stock, adapted = [], []
    for seed in range(4):
        env.reset(seed, rebuild=False)
        stock.append(env.object_positions()[3:])
    env = CellEnv(cell, spawn=Spawn(shift_m=(0.1, -0.02), spread=0.5))
    for seed in range(4):
        env.reset(seed, rebuild=False)
        adapted.append(env.object_positions()[3:])
    before, after = np.stack(stock), np.stack(adapted)
    np.testing.assert_allclose(after[:, 3:] - after[:, :3], before[:, 3:] - before[:, :3], atol=1e-6)
    np.testing.assert_allclose(np.ptp(after, axis=0)[:2], 0.5 * np.ptp(before, axis=0)[:2], atol=1e-6)
    np.testing.assert_allclose(after[:, 0], 0.5 * before[:, 0] + 0.1, atol=1e-6)
    np.testing.assert_allclose(after[:, 1], 0.5 * before[:, 1] - 0.02, atol=1e-6)


def test_the_goal_of_a_peg_stays_under_its_middle() -> None:
    env = CellEnv(parse_cell("panda/LiftPegUpright"))
    positions = []
    for action in _solve(env, 3):
        env.step(action)
        positions.append(env.object_positions()[3:])
    thing, goal = np.split(np.stack(positions), 2, axis=1)
    np.testing.assert_array_equal(thing[:, :2], goal[:, :2])
    assert not goal[:, 2].any()
    assert np.ptp(goal, axis=0).max() < 0.05, "it is stood up where it lies"
    assert env.object_rotation()[2, 0] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", CELLS)
def test_seeds_differ_and_a_new_scene_is_unsolved(name: str) -> None:
    env = CellEnv(parse_cell(name))
    seen = []
    for seed in range(4):
        env.reset(seed, rebuild=False)
        assert not env.success()
        seen.append(env.object_positions())
    assert len({tuple(positions) for positions in seen}) == 4
    assert seen[0].shape == (len(OBJECT_POSITION_NAMES),) == (9,)


def test_a_cheap_reset_gives_the_same_scene_as_a_full_one() -> None:
    env = CellEnv(PUSH)
    env.reset(3)
    full = env.state()
    env.reset(4)
    env.reset(3, rebuild=False)
    np.testing.assert_array_equal(env.state(), full)


@pytest.mark.sim
@pytest.mark.parametrize("name", CELLS)
def test_a_restored_state_reads_and_looks_as_it_did(name: str) -> None:
    env = CellEnv(parse_cell(name), cameras=("front", "side"))
    for action in _solve(env, 11)[:24]:
        env.step(action)
    state, proprio, positions, pictures = env.state(), env.proprio(), env.object_positions(), env.render()
    other = CellEnv(parse_cell(name), cameras=("front", "side"))
    other.reset(2)
    other.set_state(state)
    np.testing.assert_allclose(other.state(), state, atol=2e-8)
    np.testing.assert_allclose(other.proprio(), proprio, atol=1e-6)
    np.testing.assert_allclose(other.object_positions(), positions, atol=1e-6)
    for camera, picture in other.render().items():
        np.testing.assert_array_equal(picture, pictures[camera])


@pytest.mark.sim
@pytest.mark.parametrize("camera", FIXED_CAMERAS)
def test_projection_agrees_with_the_renderer(camera: str) -> None:
    env = CellEnv(PUSH, cameras=(camera,), image_px=224)
    for seed in (1, 2, 4):
        env.reset(seed)
        env.set_joints([0.0, -0.8, 0.0, -2.2, 0.0, 2.0, 0.8], 1.0)
        picture = env.render()[camera].astype(int)
        rows, columns = np.nonzero((picture[..., 2] > 90) & (picture[..., 0] < 70))
        pixels, _ = project(env.object_positions()[3:6], CAMERAS[camera], 224)
        np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], pixels[0], atol=1.5)


@pytest.mark.sim
def test_the_goal_of_picking_is_in_the_picture() -> None:
    env = CellEnv(parse_cell("panda/PickCube"), cameras=("front", "side"))
    for seed in range(6):
        env.reset(seed)
        for picture in env.render().values():
            red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
            assert ((green > 90) & (red < 60)).sum() > 15, "ball, pole and foot"
            assert ((red > 120) & (green < 60) & (blue < 60)).sum() > 5, "cube"


@pytest.mark.sim
def test_the_goal_of_pushing_is_in_the_picture() -> None:
    env = CellEnv(PUSH, cameras=("front",))
    for seed in range(4):
        env.reset(seed)
        picture = env.render()["front"].astype(int)
        assert ((picture[..., 0] > 170) & (picture[..., 1] < 110)).sum() > 100


@pytest.mark.sim
def test_lower_cube_bin_and_both_halves_of_the_peg_are_in_the_picture() -> None:
    looks = {"StackCube": (1, 0, 60), "PlaceSphere": (0, 2, 25), "LiftPegUpright": (0, 1, 60)}
    for task, (bright, dark, margin) in looks.items():
        env = CellEnv(parse_cell(f"panda/{task}"), cameras=("front",))
        for seed in range(3):
            env.reset(seed)
            env.set_joints(env.embodiment.rest_rad, 1.0)
            picture = env.render()["front"].astype(int)
            if task == "PlaceSphere":
                goal, _ = project(env.object_positions()[6:9], CAMERAS["front"], 112)
                column, row = goal[0].astype(int)
                assert picture[row - 4 : row + 4, column - 4 : column + 4].min(axis=-1).max() > 180, "white bin"
            else:
                assert ((picture[..., bright] - picture[..., dark]) > margin).sum() > 10


@pytest.mark.sim
def test_a_picture_of_a_light_scene_has_few_triangles_to_draw() -> None:
    env = CellEnv(PUSH, cameras=("front",))
    triangles = 0
    for entity in env._scene.scene.sub_scenes[0].entities:
        body = entity.find_component_by_type(sapien.render.RenderBodyComponent)
        for shape in body.render_shapes if body is not None else ():
            triangles += sum(len(part.triangles) for part in shape.parts)
    assert 500 < triangles < 4_000, "the official robot and floor have 157,000"


def test_joints_are_where_they_are_put_and_stay_there() -> None:
    env = CellEnv(PUSH)
    env.reset(0)
    arm = np.array(env.embodiment.rest_rad, np.float32) + 0.1
    env.set_joints(arm, 0.25)
    np.testing.assert_allclose(env.proprio(), [*arm, 0.25], atol=1e-6)
    for _ in range(5):
        env.step([*arm, 0.25])
    np.testing.assert_allclose(env.proprio()[:7], arm, atol=0.01)


def test_the_gripper_follows_its_command() -> None:
    env = CellEnv(PUSH)
    env.reset(0)
    for command in (0.0, 1.0):
        for _ in range(12):
            env.step([*env.embodiment.rest_rad, command])
        assert env.proprio()[-1] == pytest.approx(command, abs=0.03)


@pytest.mark.parametrize("action", [np.zeros(7), np.full(8, np.nan), np.zeros((1, 8))])
def test_an_action_of_another_shape_or_not_finite_is_refused(action: npt.NDArray[np.float64]) -> None:
    env = CellEnv(PUSH)
    env.reset(0)
    with pytest.raises(ValueError, match="8 finite numbers"):
        env.step(action)


def test_targets_beyond_the_joint_limits_are_clipped() -> None:
    env = CellEnv(PUSH)
    env.reset(0)
    for _ in range(20):
        env.step([0.0, -0.5, 0.0, 9.0, 0.0, 2.0, 0.8, 5.0])
    assert env.proprio()[3] <= env.embodiment.joint_upper_rad[3] + 0.01


def test_an_unknown_camera_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="did you mean 'front'"):
        CellEnv(PUSH, cameras=("fornt",))


def test_official_geometry_is_simulated_too() -> None:
    env = CellEnv(PUSH, geometry="official")
    light = CellEnv(PUSH)
    env.reset(1)
    light.reset(1)
    np.testing.assert_allclose(env.object_positions(), light.object_positions(), atol=1e-5)

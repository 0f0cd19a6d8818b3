"""The simulator: repeatable, restorable, and showing what it should."""

import gymnasium
import mani_skill.envs  # noqa: F401 - registers the stock environments
import numpy as np
import numpy.typing as npt
import pytest
import sapien

from blm.actors.sim.cameras import CAMERAS, project
from blm.actors.sim.env import OBJECT_POSITION_NAMES, CellEnv
from blm.actors.sim.execute import situation
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.world import parse_cell
from blm.model.errors import UserError

CELLS = ("panda/PushCube", "panda/PickCube")
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
    stock = gymnasium.make(cell.task_data.env_id, render_backend="none", obs_mode="none", sim_backend="physx_cpu")
    ours = CellEnv(cell)
    for seed in (0, 7):
        stock.reset(seed=seed)
        scene = stock.unwrapped
        thing, goal = (scene.obj, scene.goal_region) if cell.task == "PushCube" else (scene.cube, scene.goal_site)
        ours.reset(seed)
        np.testing.assert_allclose(ours.object_positions()[3:6], thing.pose.p[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(ours.object_positions()[6:9], goal.pose.p[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(ours.proprio()[:7], scene.agent.robot.get_qpos()[0, :7].numpy(), atol=1e-6)
    stock.close()


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
@pytest.mark.parametrize("camera", CAMERAS)
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


def test_what_cannot_be_simulated_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="not yet in the simulator"):
        CellEnv(parse_cell("widowx_ai/PushCube"))
    with pytest.raises(UserError, match="did you mean 'front'"):
        CellEnv(PUSH, cameras=("fornt",))


def test_official_geometry_is_simulated_too() -> None:
    env = CellEnv(PUSH, geometry="official")
    light = CellEnv(PUSH)
    env.reset(1)
    light.reset(1)
    np.testing.assert_allclose(env.object_positions(), light.object_positions(), atol=1e-5)

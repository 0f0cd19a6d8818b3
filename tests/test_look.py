"""Looks: drawn from cell, seed and variant alone, put on and taken off without a trace."""

from dataclasses import fields, replace

import numpy as np
import pytest

from blm.actors.sim.cameras import CAMERAS, CameraSpec, check_camera, project
from blm.actors.sim.env import CellEnv
from blm.actors.sim.look import PLAIN, TEXTURE_PX, Look, LookConfig, draw_look
from blm.actors.sim.viewing import known_camera
from blm.actors.sim.world import parse_cell
from blm.model.embodiments import EMBODIMENTS
from blm.model.errors import UserError

PUSH = parse_cell("panda/PushCube")
FRONT, WRIST = CAMERAS["front"], CAMERAS["wrist"]


def draw(variant: int = 1, *, config: LookConfig | None = None, seed: int = 3, cell: str = PUSH.name) -> Look:
    return draw_look(config or LookConfig(), cell=cell, seed=seed, variant=variant, cameras=[FRONT, WRIST])


def same(one: Look, other: Look) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Look))


def test_a_look_depends_on_cell_seed_and_variant_alone() -> None:
    assert same(draw(), draw())
    for other in (draw(2), draw(seed=4), draw(cell="panda/PickCube")):
        assert not same(draw(), other)
        assert draw().cameras["front"] != other.cameras["front"]
    alone = draw_look(LookConfig(), cell=PUSH.name, seed=3, variant=1, cameras=[WRIST])
    assert alone.cameras["wrist"] == draw().cameras["wrist"], "the other cameras do not matter"


def test_looks_stay_within_their_ranges() -> None:
    config = LookConfig()
    for variant in range(40):
        look = draw(variant)
        moved = np.abs(np.subtract(look.cameras["front"].eye_m, FRONT.eye_m))
        assert moved.max() <= config.eye_jitter_m
        assert np.abs(np.subtract(look.cameras["wrist"].eye_m, WRIST.eye_m)).max() <= config.mount_jitter_m
        assert look.light_direction[2] < 0, "from above"
        assert 90 <= look.background_grey <= 210
        assert look.table is not None
        assert look.table.shape == (TEXTURE_PX, TEXTURE_PX, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eye_jitter_m": -0.1}, "look.eye_jitter_m is -0.1"),
        ({"light": (2.0, 1.0)}, r"look.light is \[2.0, 1.0\]; give \[lowest, highest\]"),
        ({"background": (0.0, 300.0)}, "between 0.0 and 255.0"),
        ({"table_contrast": 1.5}, "look.table_contrast is 1.5"),
        ({"table_textures": ()}, "look.table_textures is empty"),
    ],
)
def test_impossible_looks_are_refused(options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UserError, match=message):
        LookConfig(**options)


@pytest.mark.sim
@pytest.mark.parametrize("name", ["cameras", "ambient_rgb", "light_rgb", "light_direction", "table", "background_grey"])
def test_each_part_of_a_look_is_seen_and_taken_off_again(name: str) -> None:
    env = CellEnv(PUSH, cameras=("front", "wrist"), image_px=56)
    env.reset(1)
    env.set_joints([0.0, -0.8, 0.0, -2.2, 0.0, 2.0, 0.8], 1.0)
    plain, state = env.render(), env.state()
    look = replace(PLAIN, **{name: getattr(draw(2, config=LookConfig(table_textures=("checker",))), name)})
    env.set_look(look)
    changed = env.render()
    np.testing.assert_array_equal(env.state(), state)
    assert not np.array_equal(changed["front"], plain["front"])
    env.set_look(PLAIN)
    for camera, picture in env.render().items():
        np.testing.assert_array_equal(picture, plain[camera])


@pytest.mark.sim
@pytest.mark.parametrize("geometry", ["lite", "official"])
def test_a_look_stays_on_through_rebuilding(geometry: str) -> None:
    env = CellEnv(PUSH, cameras=("front",), image_px=56, geometry=geometry)  # type: ignore[arg-type]
    env.set_look(draw())
    env.reset(1)
    worn = env.render()["front"]
    env.reset(1)
    np.testing.assert_array_equal(env.render()["front"], worn)
    env.set_look(PLAIN)
    assert not np.array_equal(env.render()["front"], worn)


def test_a_simulator_without_cameras_wears_nothing() -> None:
    with pytest.raises(ValueError, match="no looks"):
        CellEnv(PUSH).set_look(PLAIN)


@pytest.mark.sim
@pytest.mark.parametrize("robot", EMBODIMENTS)
def test_the_wrist_camera_sees_below_the_fingers_and_moves_with_them(robot: str) -> None:
    env = CellEnv(parse_cell(f"{robot}/PushCube"), cameras=("wrist",), image_px=112)
    env.reset(1)
    rest = np.array(env.embodiment.rest_rad)
    env.set_joints(rest, 1.0)
    opened = env.render()["wrist"].astype(int)
    env.set_joints(rest, 0.0)
    closed = env.render()["wrist"].astype(int)
    assert (np.abs(opened - closed).max(axis=-1) > 20).sum() > 50, "the fingers are in the picture"
    turned = rest.copy()
    turned[0] += 0.3
    env.set_joints(turned, 0.0)
    assert (np.abs(env.render()["wrist"].astype(int) - closed).max(axis=-1) > 20).sum() > 50, "and so is the table"
    tool = env.tool_pose()
    beneath = np.append(tool[:2, 3], 0.02)
    env.reset(1)
    env._scene.task_object.set_pose(_at(beneath))
    env.set_joints(turned, 0.0)
    blue = env.render()["wrist"].astype(int)
    seen = np.argwhere((blue[..., 2] > 90) & (blue[..., 0] < 70))
    assert len(seen) > 20, "what is below the fingers is seen"
    assert 20 < seen.mean(axis=0)[1] < 92


def _at(position_m: np.ndarray):  # type: ignore[no-untyped-def]
    import sapien

    return sapien.Pose(position_m)


def test_only_fixed_cameras_can_be_projected_to() -> None:
    with pytest.raises(ValueError, match="wrist moves with the hand; only front, side"):
        project([[0.0, 0.0, 0.0]], WRIST, 112)


@pytest.mark.parametrize("spec", CAMERAS.values(), ids=CAMERAS)
def test_known_cameras_see_something(spec: CameraSpec) -> None:
    check_camera(spec)


@pytest.mark.parametrize(
    ("eye_m", "target_m", "message"),
    [
        ((0.1, 0.0, -0.02), (0.0, 0.0, 0.1), "stands inside the table or under it"),
        ((0.1, 0.0, 0.01), (0.0, 0.0, 0.1), "stands inside the table or under it"),
        ((0.1, 0.0, -0.5), (0.0, 0.0, 0.1), "stands inside the table or under it"),
        ((1.5, 0.0, -0.1), (0.0, 0.0, 0.1), "below the table's top"),
        ((0.1, 0.0, 0.9), (0.1, 0.0, 0.0), "straight along its own"),
        ((0.1, 0.0, 0.9), (0.1, 0.0, 0.9), "looks nowhere"),
        ((float("nan"), 0.0, 0.9), (0.1, 0.0, 0.9), "must be finite"),
    ],
)
def test_a_camera_that_would_see_nothing_is_one_clear_line(eye_m, target_m, message: str) -> None:  # type: ignore[no-untyped-def]
    spec = CameraSpec(name="mine", eye_m=eye_m, target_m=target_m, fov_rad=0.7)
    with pytest.raises(UserError, match=f"camera mine.*{message}"):
        CellEnv(PUSH, cameras=(spec,))


def test_a_camera_of_ones_own_is_taken_as_it_is() -> None:
    spec = CameraSpec(name="mine", eye_m=(0.5, 0.5, 0.5), target_m=(0.0, 0.0, 0.1), fov_rad=0.7)
    assert known_camera(spec) is spec
    with pytest.raises(UserError, match="did you mean 'wrist'"):
        known_camera("wirst")

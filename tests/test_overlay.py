"""The ring that keeps a goal in the air visible."""

import numpy as np
import pytest

from blm.actors.sim.cameras import CAMERAS, camera_axes, project
from blm.actors.sim.env import CellEnv
from blm.actors.sim.overlay import RGB, draw_ring
from blm.actors.sim.world import parse_cell

SIDE_PX = 112


def _matrices(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A fixed camera's extrinsic [3,4] and intrinsic [3,3] matrices as OpenCV has them."""
    camera = CAMERAS[name]
    forward, left, up = camera_axes(camera)
    turn = np.stack([-left, -up, forward])
    focal_px = 0.5 * SIDE_PX / np.tan(0.5 * camera.fov_rad)
    intrinsic = np.array([[focal_px, 0, SIDE_PX / 2], [0, focal_px, SIDE_PX / 2], [0, 0, 1]])
    return np.column_stack([turn, -turn @ np.asarray(camera.eye_m)]), intrinsic


@pytest.mark.parametrize("name", ["front", "side"])
def test_the_ring_lies_round_the_place_and_leaves_it_free(name: str) -> None:
    point_m = np.array([0.05, -0.08, 0.2])
    picture = np.zeros((SIDE_PX, SIDE_PX, 4), np.uint8)
    draw_ring(picture, *_matrices(name), point_m, 0.02, line_px=1.5)
    rows, columns = np.nonzero((picture[..., :3] == RGB).all(axis=-1))
    pixels, depths_m = project(point_m, CAMERAS[name], SIDE_PX)
    column, row = pixels[0]
    assert np.allclose([columns.mean() + 0.5, rows.mean() + 0.5], [column, row], atol=0.5)
    away = np.hypot(columns + 0.5 - column, rows + 0.5 - row)
    radius_px = 0.5 * SIDE_PX / np.tan(0.5 * CAMERAS[name].fov_rad) * 0.02 / depths_m[0]
    assert away.min() >= radius_px - 0.01
    assert away.max() <= radius_px + 1.51
    assert (picture[rows, columns, 3] == 255).all()


def test_what_is_behind_the_camera_or_beside_the_picture_is_not_drawn() -> None:
    for point_m in ([2.0, 0.0, 1.0], [0.0, 3.0, 0.2]):
        picture = np.zeros((SIDE_PX, SIDE_PX, 4), np.uint8)
        draw_ring(picture, *_matrices("front"), point_m, 0.02, line_px=1.5)
        assert not picture.any()


def test_a_hand_in_front_of_the_goal_does_not_hide_it() -> None:
    env = CellEnv(parse_cell("panda/PickCube"), cameras=("front",), image_px=SIDE_PX)
    try:
        env.reset(3)
        tool_m = env.object_positions()[:3]
        env._scene.place_goal(tool_m + np.array([-0.03, 0.0, 0.1]))  # inside the hand, seen from the front
        picture = env.render()["front"].astype(int)
        column, row = project(env.object_positions()[6:9], CAMERAS["front"], SIDE_PX)[0][0]
        near = picture[int(row) - 6 : int(row) + 7, int(column) - 6 : int(column) + 7]
        green = (near[..., 1] > near[..., 0] + 80) & (near[..., 1] > near[..., 2] + 80)
        assert green.sum() >= 12
        middle = picture[int(row), int(column)]
        assert not (middle[1] > middle[0] + 80)  # what is inside the ring is seen as it is
    finally:
        env.close()


def test_cells_without_a_goal_in_the_air_have_no_ring() -> None:
    env = CellEnv(parse_cell("panda/PushCube"), cameras=("front",), image_px=SIDE_PX)
    try:
        env.reset(3)
        assert not (env.render()["front"] == RGB).all(axis=-1).any()
    finally:
        env.close()

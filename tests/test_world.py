"""Cells, cameras, tasks and seeds: what can be said without a simulator."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from blm.actors.sim.cameras import CAMERAS, FIXED_CAMERAS, project
from blm.actors.sim.tasks import TASKS, Task, get_task, instruction_for
from blm.actors.sim.world import SEED_RANGES, Cell, WorldConfig, parse_cell, seed_range
from blm.model.embodiments import EMBODIMENTS
from blm.model.errors import UserError


def test_every_combination_of_known_names_is_a_cell() -> None:
    assert len(TASKS) == 6
    assert len(EMBODIMENTS) == 4
    for robot in EMBODIMENTS:
        for task in TASKS:
            cell = parse_cell(f"{robot}/{task}")
            assert cell == Cell(robot=robot, task=task)
            assert cell.name == f"{robot}/{task}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("panda", "written robot/Task"),
        ("panda/", "written robot/Task"),
        ("pandda/PushCube", "did you mean 'panda'"),
        ("panda/PusCube", "did you mean 'PushCube'"),
        ("panda/pushcube", "did you mean 'PushCube'"),
    ],
)
def test_a_wrong_cell_is_one_clear_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        parse_cell(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"cells": ()},
        {"cells": ("panda/PushCube", "panda/PushCube")},
        {"cameras": ("top",)},
        {"cameras": ()},
        {"image_px": 4},
        {"geometry": "pretty"},
    ],
)
def test_a_world_that_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        WorldConfig(**options)  # type: ignore[arg-type]


def test_no_seed_serves_two_purposes() -> None:
    ranges = sorted(SEED_RANGES.values())
    assert all(first < last for first, last in ranges)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ranges))
    assert seed_range("evaluate")[0] == 1_000_000


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_held_out_phrasings_are_not_trained_on(task: Task) -> None:
    assert task.instructions
    assert task.held_out
    assert not set(task.instructions) & set(task.held_out)
    used = {instruction_for(task, seed) for seed in range(12)}
    assert used == set(task.instructions)
    assert instruction_for(task, 5, held_out=True) in task.held_out
    assert len(task.instructions) >= 3
    assert len(task.held_out) >= 2


def test_an_unknown_task_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'PickCube'"):
        get_task("PickCub")


@pytest.mark.parametrize("name", FIXED_CAMERAS)
def test_everything_of_pushing_and_picking_is_inside_the_picture(name: str) -> None:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rim = 0.1 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    targets = [np.array([x, y, 0.0]) + rim for x in (0.1, 0.3) for y in (-0.1, 0.1)]
    balls = np.stack(np.meshgrid([-0.125, 0.125], [-0.125, 0.125], [0.0, 0.345]), axis=-1).reshape(-1, 3)
    pixels, depth_m = project(np.concatenate([*targets, balls]), CAMERAS[name], 112)
    assert (depth_m > 0.05).all()
    assert pixels.min() >= 0
    assert pixels.max() <= 112


def test_everything_any_task_can_show_is_inside_the_front_picture() -> None:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rim = 0.1 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    targets = [np.array([x, y, 0.0]) + rim for x in (-0.3, -0.1) for y in (-0.1, 0.1)]
    cubes = np.stack(np.meshgrid([-0.2, 0.2], [-0.3, 0.3], [0.0, 0.04]), axis=-1).reshape(-1, 3)
    pegs = np.stack(np.meshgrid([-0.22, 0.22], [-0.125, 0.125], [0.0, 0.25]), axis=-1).reshape(-1, 3)
    pixels, depth_m = project(np.concatenate([*targets, cubes, pegs]), CAMERAS["front"], 112)
    assert (depth_m > 0.05).all()
    assert pixels.min() >= 0
    assert pixels.max() <= 112


def test_the_target_of_a_camera_is_the_centre_of_its_picture() -> None:
    for camera in (CAMERAS[name] for name in FIXED_CAMERAS):
        pixels, depth_m = project(camera.target_m, camera, 112)
        np.testing.assert_allclose(pixels, [[56, 56]], atol=1e-9)
        np.testing.assert_allclose(depth_m, [np.linalg.norm(np.subtract(camera.target_m, camera.eye_m))])


def test_the_data_side_of_the_simulator_imports_nothing_heavy() -> None:
    code = (
        "import sys, blm.actors.sim.world, blm.actors.sim.demonstration;"
        "import blm.actors.demonstrator, blm.pipelines.collect;"
        "print([m for m in ('mani_skill', 'sapien', 'torch', 'ray', 'roboplan') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

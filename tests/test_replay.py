"""`blm data replay`: every kept demonstration is executed again, and one that was tampered with is found."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from blm.actors.sim.demonstration import DemonstrationConfig
from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode, collected_folders, write_episodes
from blm.actors.sim.execute import demonstrate
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.world import parse_cell
from blm.model.errors import UserError
from blm.pipelines.replay import ReplayWorker, replay_folder


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    cell = parse_cell("panda/PickCube")
    env, planner = CellEnv(cell), CellPlanner(cell)
    made = [demonstrate(env, planner, seed, DemonstrationConfig(disturbed_share=0.5)).episode for seed in range(4)]
    return [one for one in made if one is not None]


def _write(folder: Path, episodes: list[Episode]) -> Path:
    path = folder / "collect-0000/episodes/panda-PickCube/seeds-0000000-0000009.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_episodes(path, episodes)
    return path


def test_what_was_kept_ends_in_success_bit_for_bit(episodes: list[Episode], tmp_path: Path) -> None:
    done = ReplayWorker()({"source": str(_write(tmp_path, episodes))})
    assert done == {"cell": "panda-PickCube", "episodes": 4, "success": 4, "exact": 4, "failed": "[]"}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_episode_that_does_not_replay_is_named(episodes: list[Episode], tmp_path: Path) -> None:
    actions = episodes[1].actions.copy()
    actions[:, -1] = 1.0  # the gripper never closes
    broken = dataclasses.replace(episodes[1], actions=actions)
    _write(tmp_path, [episodes[0], broken])
    result = replay_folder(tmp_path, workers=1)
    assert (result["episodes"], result["success"], result["exact"]) == (2, 1, 1)
    assert result["cells"]["panda-PickCube"]["failed"] == [broken.seed]


def test_a_folder_without_episodes_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no collected episodes"):
        replay_folder(tmp_path, workers=1)


def test_the_metadata_of_a_rendered_dataset_are_not_taken_for_episodes(episodes: list[Episode], tmp_path: Path) -> None:
    path = _write(tmp_path, episodes)
    meta = tmp_path / "render-0000/lerobot/panda/meta/episodes/chunk-000/file-000.parquet"
    meta.parent.mkdir(parents=True)
    meta.write_bytes(path.read_bytes())
    assert collected_folders(tmp_path) == [tmp_path / "collect-0000"]


def test_states_are_not_what_success_is_read_from(episodes: list[Episode], tmp_path: Path) -> None:
    states = episodes[0].states + np.float32(0.0)
    states[1:] += 0.01
    done = ReplayWorker()({"source": str(_write(tmp_path, [dataclasses.replace(episodes[0], states=states)]))})
    assert (done["success"], done["exact"]) == (1, 0)

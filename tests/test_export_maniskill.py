"""Export to ManiSkill: its own dataset class, replay and stock environments take what we collected."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import h5py
import mani_skill.envs  # noqa: F401 - registers the stock environments
import numpy as np
import pytest
import torch
from mani_skill.trajectory import utils as trajectory_utils
from mani_skill.trajectory.dataset import ManiSkillTrajectoryDataset

from blm.actors.demonstrator import Demonstrator
from blm.actors.sim.agents import agent_uid
from blm.actors.sim.demonstration import DemonstrationConfig, DemonstrationItem
from blm.actors.sim.episode import Episode, read_episodes, write_episodes
from blm.actors.sim.world import parse_cell
from blm.model.errors import UserError
from blm.pipelines.export_maniskill import export_maniskill

CELLS = ("panda/PickCube", "panda/StackCube", "xarm6/PushCube")
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the collect stage leaves it, with real demonstrations; one begins where the arm was led astray."""
    folder = tmp_path_factory.mktemp("collect")
    demonstrator = Demonstrator("lite", DemonstrationConfig(disturbed_share=0.5))
    for name in CELLS:
        cell = parse_cell(name)
        batch = demonstrator.work(DemonstrationItem(cell=cell, seeds=SEEDS))
        episodes = [one.episode for one in batch.demonstrations if one.episode is not None]
        assert len(episodes) == len(SEEDS)
        write_episodes(folder / f"episodes/{cell.slug}/seeds-0000000-0000001.parquet", episodes[:2])
        write_episodes(folder / f"episodes/{cell.slug}/seeds-0000002-0000003.parquet", episodes[2:])
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, collected: Path) -> tuple[Path, dict]:  # type: ignore[type-arg]
    out = tmp_path_factory.mktemp("demos")
    return out, export_maniskill(collected, out)


def kept(collected: Path, cell: str) -> list[Episode]:
    files = sorted((collected / "episodes" / parse_cell(cell).slug).glob("*.parquet"))
    return [episode for file in files for episode in read_episodes(file)]


def stock(folder: Path) -> tuple[gymnasium.Env, dict]:  # type: ignore[type-arg]
    """The environment that the JSON names, made as ManiSkill makes it."""
    about = json.loads((folder / "trajectory.json").read_text())
    info = about["env_info"]
    return gymnasium.make(info["env_id"], render_backend="none", **info["env_kwargs"]), about


def test_every_cell_is_exported_and_replays_exactly(exported: tuple, collected: Path) -> None:  # type: ignore[type-arg]
    out, summary = exported
    assert set(summary) == set(CELLS)
    for cell, counts in summary.items():
        episodes = kept(collected, cell)
        assert (counts["episodes"], counts["exact"], counts["not_reproduced"]) == (3, 3, 0)
        assert counts["steps"] == sum(len(episode.actions) for episode in episodes)
        names = sorted(path.name for path in (out / parse_cell(cell).slug).iterdir())
        assert names == ["trajectory.h5", "trajectory.json"]


def test_maniskills_own_dataset_class_reads_it(exported: tuple, collected: Path) -> None:  # type: ignore[type-arg]
    out, _ = exported
    for cell in CELLS:
        dataset = ManiSkillTrajectoryDataset(str(out / parse_cell(cell).slug / "trajectory.h5"), success_only=True)
        episodes = kept(collected, cell)
        assert len(dataset) == sum(len(episode.actions) for episode in episodes)
        actions = np.concatenate([episode.actions for episode in episodes])
        np.testing.assert_array_equal(dataset.actions[:, :-1], actions[:, :-1])
        np.testing.assert_allclose(dataset.actions[:, -1], 2 * actions[:, -1] - 1, atol=1e-6)
        first = dataset[0]
        np.testing.assert_allclose(
            first["obs"][: episodes[0].proprio.shape[1] - 1], episodes[0].proprio[0, :-1], atol=1e-6
        )
        assert bool(dataset.success[len(episodes[0].actions) - 1])


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.startswith("panda")])
def test_the_stock_environment_agrees_with_every_kept_state(cell: str, exported: tuple) -> None:  # type: ignore[type-arg]
    out, _ = exported
    env, about = stock(out / parse_cell(cell).slug)
    assert about["env_info"]["env_kwargs"]["robot_uids"] == "panda"
    with h5py.File(out / parse_cell(cell).slug / "trajectory.h5") as file:
        for entry in about["episodes"]:
            trajectory = file[f"traj_{entry['episode_id']}"]
            env.reset(**entry["reset_kwargs"])
            states = trajectory_utils.dict_to_list_of_dicts(trajectory["env_states"])
            assert len(states) == entry["elapsed_steps"] + 1
            for state, seen in zip(states[::8], trajectory["obs"][::8], strict=True):
                env.unwrapped.set_state_dict(state)
                differs = np.abs(env.unwrapped.get_obs()[0].numpy() - seen) > 1e-4
                assert differs.sum() <= 1, "but for whether the object is held, which contacts tell"
            env.unwrapped.set_state_dict(states[-1])
            assert bool(env.unwrapped.evaluate()["success"]) == bool(trajectory["success"][-1])
    env.close()


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.startswith("panda")])
def test_our_actions_do_the_task_in_the_stock_environment(cell: str, exported: tuple) -> None:  # type: ignore[type-arg]
    out, _ = exported
    env, about = stock(out / parse_cell(cell).slug)
    done = []
    with h5py.File(out / parse_cell(cell).slug / "trajectory.h5") as file:
        for entry in about["episodes"]:
            trajectory = file[f"traj_{entry['episode_id']}"]
            env.reset(**entry["reset_kwargs"])
            env.unwrapped.set_state_dict(trajectory_utils.index_dict(trajectory["env_states"], 0))
            succeeded = False
            for action in trajectory["actions"]:
                *_, info = env.step(action)
                succeeded = bool(info["success"])
            done.append(succeeded)
    env.close()
    assert sum(done) >= 2, "the official meshes touch a little differently"


@pytest.mark.slow
def test_maniskills_replay_tool_takes_it(exported: tuple, tmp_path: Path) -> None:  # type: ignore[type-arg]
    out, _ = exported
    folder = shutil.copytree(out / "panda-PickCube", tmp_path / "demos")
    command = [sys.executable, "-m", "mani_skill.trajectory.replay_trajectory", "--traj-path", folder / "trajectory.h5"]
    options = ["--use-env-states", "--save-traj", "-o", "state", "-b", "physx_cpu"]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Replayed 3 episodes, 3/3=100.00% demos saved" in done.stdout + done.stderr
    replayed = ManiSkillTrajectoryDataset(str(folder / "trajectory.state.pd_joint_pos.physx_cpu.h5"))
    ours = ManiSkillTrajectoryDataset(str(folder / "trajectory.h5"))
    np.testing.assert_array_equal(replayed.actions, ours.actions)


def test_another_robots_states_go_into_the_stock_task_once_it_is_registered(exported: tuple) -> None:  # type: ignore[type-arg]
    out, _ = exported
    agent_uid("xarm6", "lite")
    env, about = stock(out / "xarm6-PushCube")
    assert "agent_uid('xarm6', 'lite')" in about["env_info"]["robot"]["register"]
    with h5py.File(out / "xarm6-PushCube/trajectory.h5") as file:
        states = trajectory_utils.dict_to_list_of_dicts(file["traj_0/env_states"])
    env.reset(seed=0)
    env.unwrapped.set_state_dict(states[-1])
    assert bool(env.unwrapped.evaluate()["success"])
    uid = about["env_info"]["env_kwargs"]["robot_uids"]
    torch.testing.assert_close(
        env.unwrapped.get_state_dict()["articulations"][uid][0], torch.from_numpy(states[-1]["articulations"][uid])
    )
    env.close()


def test_exporting_again_gives_the_same_bytes(exported: tuple, collected: Path, tmp_path: Path) -> None:  # type: ignore[type-arg]
    out, _ = exported
    export_maniskill(collected, tmp_path)
    for path in sorted(out.glob("*/*")):
        assert path.read_bytes() == (tmp_path / path.relative_to(out)).read_bytes(), path.name


def test_a_folder_without_episodes_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no episodes; name the folder of a finished collect stage"):
        export_maniskill(tmp_path, tmp_path / "out")

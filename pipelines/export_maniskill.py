"""Demonstrations in ManiSkill's own trajectory format, so that its replay tool and baselines take them.

    <out>/<robot>-<Task>/trajectory.h5     traj_<i>: obs, actions, success, terminated, truncated, env_states
    <out>/<robot>-<Task>/trajectory.json   env_info (what to make the environment with) and one entry an episode

The layout is that of ManiSkill's `RecordEpisode` wrapper. States and flat `state` observations are exported, pictures
are not: ManiSkill's `replay_trajectory --use-env-states --save-traj -b physx_cpu -o rgb` draws them. A Panda's
trajectories name ManiSkill's own agent, whose stock tasks its actions solve; those of other robots name ours, and
`env_info.robot` says how to register it.

    blm data export-maniskill runs/tiny/collect-1a2b3c4d demos
"""

import json
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blm.actors.sim.episode import episode_files, read_episodes
from blm.actors.sim.world import Cell, Geometry, parse_cell
from blm.model.errors import UserError
from blm.pipelines.datasets.parquet import temporary_path

if TYPE_CHECKING:  # seconds to import
    import h5py

    from blm.actors.sim.episode import Episode
    from blm.actors.sim.stock import StockTrajectory

SOURCE = "motionplanning"
"""ManiSkill's word for where such trajectories come from."""


def export_maniskill(collect_folder: Path, out: Path) -> dict[str, Any]:
    """Exports every cell of a finished collect stage, replacing what is there.

    Returns {cell: {"folder", "episodes", "steps", "exact", "not_reproduced"}}: `exact` episodes went through the kept
    states bit for bit when replayed; those that did not end in success are left out and counted. UserError if there is
    no episode or a file is damaged.
    """
    files = episode_files(collect_folder)
    if not files:
        raise UserError(f"{collect_folder / 'episodes'} holds no episodes; name the folder of a finished collect stage")
    summary = {}
    for slug, of_cell in groupby(files, key=lambda path: path.parent.name):
        summary[slug.replace("-", "/", 1)] = _export_cell(list(of_cell), out / slug)
    return summary


def _export_cell(files: list[Path], folder: Path) -> dict[str, Any]:
    """One cell's files; the JSON, which comes last, is there only beside a whole h5."""
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    described = folder / "trajectory.json"
    described.unlink(missing_ok=True)
    counts = {"episodes": 0, "steps": 0, "exact": 0, "not_reproduced": 0}
    entries: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    temporary = temporary_path(folder / "trajectory.h5")
    try:
        with h5py.File(temporary, "w") as file:
            for episode, trajectory in _replays(files):
                cell = parse_cell(episode.cell)
                about = about or _describe(cell, episode.geometry)
                if not trajectory.success[-1]:
                    counts["not_reproduced"] += 1
                    continue
                _write(file.create_group(f"traj_{len(entries)}", track_order=True), trajectory)
                entries.append(_entry(len(entries), episode, about["env_info"]["env_kwargs"]["control_mode"]))
                counts["episodes"] += 1
                counts["steps"] += len(trajectory.actions)
                counts["exact"] += trajectory.exact
        os.replace(temporary, folder / "trajectory.h5")
    finally:
        temporary.unlink(missing_ok=True)
    written = temporary_path(described)
    written.write_text(json.dumps(about | {"episodes": entries}, indent=2) + "\n")
    os.replace(written, described)
    return {"folder": str(folder), **counts}


def _replays(files: list[Path]) -> Iterator[tuple["Episode", "StockTrajectory"]]:
    from blm.actors.sim.env import CellEnv
    from blm.actors.sim.stock import replay

    env: CellEnv | None = None
    for episode in (episode for path in files for episode in read_episodes(path)):
        env = CellEnv.of(episode, env)
        yield episode, replay(env, episode)


def _describe(cell: Cell, geometry: Geometry) -> dict[str, Any]:
    """Everything of the JSON but the episodes."""
    from blm.actors.sim.stock import OBS_MODE, stock_robot

    robot = stock_robot(cell, geometry)
    about = {"name": cell.robot, "geometry": geometry}
    if robot.uid != cell.robot:
        call = f"blm.actors.sim.agents.agent_uid({cell.robot!r}, {geometry!r})"
        about["register"] = f"{call} before gymnasium.make; then set the states, as a reset places other robots"
    kwargs = {
        "obs_mode": OBS_MODE,
        "control_mode": robot.control_mode,
        "robot_uids": robot.uid,
        "sim_backend": "physx_cpu",
    }
    return {
        "env_info": {
            "env_id": cell.task_data.env_id,
            "env_kwargs": kwargs,
            "max_episode_steps": cell.task_data.max_steps,
            "robot": about,
        },
        "commit_info": None,
        "source_type": SOURCE,
        "source_desc": f"demonstrations of {cell.name}, planned, executed and verified by blm collect",
    }


def _entry(number: int, episode: "Episode", control_mode: str) -> dict[str, Any]:
    return {
        "episode_id": number,
        "episode_seed": int(episode.seed),
        "control_mode": control_mode,
        "elapsed_steps": len(episode.actions),
        "reset_kwargs": {"seed": int(episode.seed), "options": {}},
        "success": True,
        "instruction": episode.instruction,
    }


def _write(group: "h5py.Group", trajectory: "StockTrajectory") -> None:
    group.create_dataset("obs", data=trajectory.observations)
    group.create_dataset("actions", data=trajectory.actions)
    group.create_dataset("terminated", data=trajectory.success)
    group.create_dataset("truncated", data=np.zeros(len(trajectory.actions), dtype=bool))
    group.create_dataset("success", data=trajectory.success)
    states = group.create_group("env_states", track_order=True)
    for kind, things in trajectory.states.items():
        of_kind = states.create_group(kind, track_order=True)
        for name, values in things.items():
            of_kind.create_dataset(name, data=values)

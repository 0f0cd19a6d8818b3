"""Real demonstrations of a swaying arm, as the collect and the render stage leave them, made without Ray."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode, read_episodes, write_episodes
from blm.actors.sim.world import WorldConfig, parse_cell
from blm.pipelines.datasets.lerobot_writer import write_lerobot
from blm.pipelines.render import RenderConfig
from blm.pipelines.render_frames import dataset_features, render_episode

CELLS = ("panda/PickCube", "panda/PushCube")
WORLD = WorldConfig(cells=CELLS, cameras=("front", "side"), image_px=56)
STEPS, EPISODES = 40, 5
"""Control steps of an episode, episodes of a cell."""


def record(env: CellEnv, seed: int) -> Episode:
    """A real episode of an arm that sways, every joint at its own pace."""
    env.reset(seed)
    rng = np.random.default_rng([seed, CELLS.index(env.cell.name)])
    pace, start = rng.uniform(0.15, 0.3, 8), env.proprio()
    tape: dict[str, list[Any]] = {
        "states": [env.state()],
        "proprio": [start],
        "object_positions": [env.object_positions()],
    }
    actions = []
    for step in range(STEPS):
        action = start + np.float32(0.25) * np.sin(pace * step).astype(np.float32)
        action[-1] = 0.5 + 0.5 * np.cos(pace[-1] * step)
        env.step(action)
        actions.append(action)
        for name, value in zip(tape, (env.state(), env.proprio(), env.object_positions()), strict=True):
            tape[name].append(value)
    arrays = {name: np.stack(values) for name, values in tape.items()}
    return Episode(
        robot=env.cell.robot, task=env.cell.task, seed=seed, geometry="lite", control_hz=20, success=True,
        instruction=env.cell.task_data.instructions[seed % 3], actions=np.stack(actions).astype(np.float32),
        metrics={"attempts": 1 + seed % 2, "disturbed": False}, **arrays,
    )  # fmt: skip


def collect_sways(folder: Path) -> Path:
    """Episodes and outcomes of two cells; one seed failed."""
    for name in CELLS:
        cell = parse_cell(name)
        env = CellEnv(cell)
        episodes = [record(env, seed) for seed in range(EPISODES)]
        env.close()
        write_episodes(folder / "episodes" / cell.slug / "seeds-0000000-0000004.parquet", episodes)
        outcomes = [
            {"seed": one.seed, "steps": STEPS, "first_plan": one.seed % 2 == 0, "failures": []} for one in episodes
        ]
        outcomes.append({"seed": EPISODES, "steps": None, "first_plan": False, "failures": ["timeout"]})
        path = folder / "outcomes" / cell.slug / "seeds-0000000-0000004.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(outcomes))
    return folder


def render_sways(root: Path, collected: Path, config: RenderConfig) -> Path:
    """The dataset of these episodes."""
    frames = []
    for name in CELLS:
        cell = parse_cell(name)
        env = CellEnv(cell, cameras=WORLD.cameras, image_px=WORLD.image_px)
        for path in sorted((collected / "episodes" / cell.slug).glob("*.parquet")):
            frames += [render_episode(env, episode, config) for episode in read_episodes(path)]
        env.close()
    features = dataset_features(parse_cell(CELLS[0]).embodiment, WORLD, config)
    write_lerobot(root, robot_type="panda", fps=config.fps, features=features, episodes=frames)
    return root

"""Who is evaluated: our policy, the baseline and random actions, and which model of each acts in which cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blm.actors.sim.policies import Inference, RandomPolicy
from blm.actors.sim.world import Cell
from blm.model.errors import UserError
from blm.pipelines.policy_training.regimes import model_for, read_models
from blm.pipelines.workspace import StageContext

if TYPE_CHECKING:
    from blm.pipelines.evaluate import EvaluateConfig

OURS = "blm"
BASELINE = "diffusion_policy"
POLICIES = (OURS, BASELINE, RandomPolicy.name)
"""In the order of tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """One model, or what needs none, in the cells where it acts."""

    policy: str
    """Name in results and tables."""
    folder: Path | None
    """Its checkpoint; None: random actions."""
    cells: tuple[Cell, ...]
    """Where it acts."""
    episodes: int
    """In each cell, on the first seeds set aside for evaluation."""


def contestants(config: "EvaluateConfig", context: StageContext) -> list[Contestant]:
    """All models that have something to do, ours first. UserError if a cell has no model."""
    cells = context.world.parsed_cells()
    found = _models(OURS, context.inputs["stage2"], cells, config.episodes_per_cell) if config.episodes_per_cell else []
    trained = context.inputs.get("baseline")
    if config.baseline and config.episodes_per_cell and trained is not None and read_models(trained):
        found += _models(BASELINE, trained, cells, config.episodes_per_cell)
    if config.random_episodes_per_cell:
        found.append(
            Contestant(policy=RandomPolicy.name, folder=None, cells=cells, episodes=config.random_episodes_per_cell)
        )
    return found


def _models(policy: str, stage: Path, cells: Sequence[Cell], episodes: int) -> list[Contestant]:
    """A stage's models, each with the cells it acts in."""
    cells_of: dict[Path, list[Cell]] = {}
    for cell in cells:
        cells_of.setdefault(model_for(stage, cell.name), []).append(cell)
    return [
        Contestant(policy=policy, folder=folder, cells=tuple(mine), episodes=episodes)
        for folder, mine in cells_of.items()
    ]


def load_contestant(folder: Path, *, device: str, dtype: str, euler_steps: int, guidance: float) -> Inference:
    """A model in the process that is to run it. UserError if its files are missing or damaged."""
    import torch

    from blm.model.predictor import load_policy_for

    policy: Inference = load_policy_for(
        folder, device=device, dtype=getattr(torch, dtype), euler_steps=euler_steps, guidance=guidance
    )
    return policy


def check_model(config: "EvaluateConfig", context: StageContext, folder: Path, cells: Sequence[Cell]) -> None:
    """UserError unless the model in `folder` knows the robots of `cells` and sees through the cameras of the world."""
    from blm.model.checkpoint_files import read_folder

    contract: dict[str, Any] = read_folder(folder)
    world, cameras, known = context.world, contract["cameras"], contract["embodiments"]
    if unknown := sorted({cell.robot for cell in cells} - set(known)):
        raise UserError(f"{folder} was not trained for {unknown[0]}; it knows {', '.join(known)}")
    if missing := [camera for camera in cameras if camera not in world.cameras]:
        raise UserError(f"{folder} needs camera {missing[0]!r}; set world.cameras={list(cameras)}")
    if contract["image_px"] != world.image_px:
        raise UserError(
            f"{folder} needs pictures of {contract['image_px']} px; set world.image_px={contract['image_px']}"
        )
    chunk = contract["policy"]["chunk"]
    if config.execute_steps > chunk:
        raise UserError(f"evaluate.execute_steps is {config.execute_steps}; {folder} predicts chunks of {chunk}")

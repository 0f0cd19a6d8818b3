"""Who is evaluated: our policy, the baseline, others and random actions, and which model of each acts in which cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blm.actors.sim.policies import RandomPolicy
from blm.actors.sim.world import Cell, seed_range
from blm.pipelines.evaluation.references import OtherPolicy
from blm.pipelines.policy_training.regimes import model_for, read_models
from blm.pipelines.workspace import StageContext

if TYPE_CHECKING:
    from blm.pipelines.evaluate import EvaluateConfig

OURS = "blm"
BASELINE = "diffusion_policy"
POLICIES = (OURS, BASELINE, RandomPolicy.name)
"""Those that every run may have, in the order of tables; `evaluate.others` stand before random actions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """One model, or what needs none, in the cells where it acts."""

    acting: OtherPolicy
    """Its name in results, and what it is."""
    cells: tuple[Cell, ...]
    """Where it acts."""
    seeds: range
    """Scenes in each cell."""
    keep: Path | None = None
    """Folder for states and actions, one below it for each cell."""

    @property
    def policy(self) -> str:
        """Its name."""
        return self.acting.name


def contestants(config: "EvaluateConfig", context: StageContext) -> list[Contestant]:
    """All models that have something to do, ours first. UserError if a cell has no model."""
    cells = context.world.parsed_cells()
    seeds = _seeds(config.episodes_per_cell)
    found: list[Contestant] = []
    if seeds:
        found = _models(OURS, context.inputs["stage2"], cells, seeds, keep=context.out / "rollouts")
        trained = context.inputs.get("baseline")
        if config.baseline and trained is not None and read_models(trained):
            found += _models(BASELINE, trained, cells, seeds)
        found += [Contestant(acting=other, cells=cells, seeds=seeds) for other in config.others]
    if config.random_episodes_per_cell:
        random = OtherPolicy(name=RandomPolicy.name, policy=RandomPolicy.name)
        found.append(Contestant(acting=random, cells=cells, seeds=_seeds(config.random_episodes_per_cell)))
    return found


def order(config: "EvaluateConfig") -> list[str]:
    """Names of policies in the order of tables."""
    return [OURS, BASELINE, *(other.name for other in config.others), RandomPolicy.name]


def _seeds(episodes: int) -> range:
    """The first scenes set aside for evaluation."""
    return seed_range("evaluate")[:episodes]


def _models(
    policy: str, stage: Path, cells: Sequence[Cell], seeds: range, keep: Path | None = None
) -> list[Contestant]:
    """A stage's models, each with the cells it acts in."""
    cells_of: dict[Path, list[Cell]] = {}
    for cell in cells:
        cells_of.setdefault(model_for(stage, cell.name), []).append(cell)
    return [
        Contestant(acting=OtherPolicy(name=policy, policy=str(folder)), cells=tuple(mine), seeds=seeds, keep=keep)
        for folder, mine in cells_of.items()
    ]

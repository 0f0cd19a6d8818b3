"""Real demonstrations of single seeds, made once for all tests that look at them."""

from functools import cache

from blm.actors.sim.demonstration import DemonstrationConfig
from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode
from blm.actors.sim.execute import demonstrate
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.world import parse_cell
from blm.pipelines.datasets.scene_facts import SceneFacts


@cache
def demonstrated(cell_name: str, seed: int) -> Episode:
    """The demonstration of a seed, undisturbed."""
    cell = parse_cell(cell_name)
    env, planner = CellEnv(cell), CellPlanner(cell)
    episode = demonstrate(env, planner, seed, DemonstrationConfig(disturbed_share=0.0)).episode
    env.close()
    assert episode is not None, f"no demonstration of {cell_name}, seed {seed}"
    return episode


def facts_at(episode: Episode, step: int) -> SceneFacts:
    """What is known of a state; a peg counts as stood from the first success on."""
    first_success = episode.metrics.get("first_success_step") or len(episode.actions)
    return SceneFacts(
        task=episode.task,
        object_positions=tuple(float(value) for value in episode.object_positions[step]),
        gripper=float(episode.proprio[step, -1]),
        success=step >= first_success,
    )

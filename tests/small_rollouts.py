"""Few episodes in the real simulator."""

from collections.abc import Sequence
from pathlib import Path

from blm.actors.sim.outcome import EpisodeResult, Finished, RolloutItem
from blm.actors.sim.policies import Policy
from blm.actors.sim.runner import RolloutRunner
from blm.actors.sim.world import Cell, WorldConfig, parse_cell, seed_range

PUSH, PICK = parse_cell("panda/PushCube"), parse_cell("panda/PickCube")
WORLD = WorldConfig(cells=("panda/PushCube", "panda/PickCube"))
FIRST = seed_range("evaluate").start


def items(seeds: Sequence[int], cell: Cell = PUSH, keep: Path | None = None) -> list[RolloutItem]:
    return [RolloutItem(cell=cell, seed=seed, keep=keep) for seed in seeds]


def run(runner: RolloutRunner, policy: Policy, wanted: Sequence[RolloutItem]) -> list[Finished]:
    runner.change_policy(policy)
    return runner.run(wanted)


def results(finished: Sequence[Finished]) -> list[EpisodeResult]:
    return [one.result for one in finished]

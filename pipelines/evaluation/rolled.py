"""Sides of a comparison that are rolled out for it, as far as it needs them."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from blm.actors.sim.world import WorldConfig, seed_range
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.evaluation.command_options import settings_of, world_of
from blm.pipelines.evaluation.comparison import Finished, Side, shared_scenes
from blm.pipelines.evaluation.paired import Outcomes, label, world_values
from blm.pipelines.evaluation.standalone import evaluate_policy
from blm.pipelines.schema import build
from blm.pipelines.workspace import ResourceConfig

EPISODES = 50
"""Most scenes of each cell, if nobody says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rolled:
    """A policy, and where its episodes go."""

    reference: str
    mapping: Path | None
    world: WorldConfig
    out: Path
    config: EvaluateConfig
    resources: ResourceConfig
    live: bool = True

    def outcomes(self, cells: Sequence[str], seeds: Sequence[int]) -> Outcomes:
        """Roll out what is missing of these scenes. UserError if the policy does not fit the world, or nothing runs."""
        ledger = evaluate_policy(
            self.reference,
            world=self.world,
            cells=cells,
            seeds=range(seeds[0], seeds[-1] + 1),
            out=self.out,
            config=self.config,
            resources=self.resources,
            mapping=self.mapping,
        )
        episodes = {(record["cell"], record["seed"]): record for record in ledger.records}
        return Outcomes(name=label(self.reference), source=self.reference, episodes=episodes)


def live_sides(
    references: Sequence[str],
    found: Sequence[Outcomes | None],
    out: Path,
    arguments: argparse.Namespace,
    stack: ExitStack,
) -> tuple[Side, Side, tuple[str, ...], tuple[int, ...]]:
    """(first, second, cells, seeds), where at least one side is to be rolled out.

    Beside a finished evaluation a policy meets its scenes, in its world. Ray is up until `stack` closes; policies and
    simulators start anew for every look, so that each has the whole machine. UserError if no world is to be had.
    """
    from blm.cluster.ray_runtime import connected

    config, resources = settings_of(arguments)
    there = next((side for side in found if side is not None), None)
    if there is None:
        world = world_of(references, arguments)
        cells, seeds = world.cells, tuple(seed_range("evaluate")[: arguments.episodes or EPISODES])
    else:
        cells, seeds = shared_scenes(tuple(arguments.cells), [there])
        seeds = _unbroken(seeds)
        world = replace(build(WorldConfig, world_values(there), where=there.source), cells=cells)
    stack.enter_context(
        connected(num_cpus=resources.num_cpus, num_gpus=resources.num_gpus, object_store_gb=resources.object_store_gb)
    )
    mappings = (arguments.first_mapping, arguments.second_mapping)
    first, second = (
        Finished(found=side)
        if side is not None
        else Rolled(
            reference=reference,
            mapping=mapping,
            world=world,
            out=out / place,
            config=config,
            resources=resources,
        )
        for reference, side, mapping, place in zip(references, found, mappings, ("first", "second"), strict=True)
    )
    return first, second, cells, seeds


def _unbroken(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds up to the first gap: policies are rolled out on ranges."""
    return tuple(seed for i, seed in enumerate(seeds) if seed == seeds[0] + i)

"""collect: demonstrations, planned and executed in the simulator by parallel actors, kept as simulator states.

A cell's result is defined without regard to how it came about: the first `episodes_per_cell` seeds, in seed order, on
which the planner succeeds. Any number of workers, killed at any moment, leaves the same files, byte for byte.

    episodes/<robot>-<Task>/seeds-<first>-<last>.parquet   successful episodes of a block of seeds
    outcomes/<robot>-<Task>/seeds-<first>-<last>.json      what came of every seed of the block
    failures.json                                          {cell: {reason: seeds}} over the seeds used

A block's episode file is written last, so a block that has one is finished and is not worked on again.

    blm collect --preset tiny
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blm.actors.sim.demonstration import (
    Demonstration,
    DemonstrationBatch,
    DemonstrationConfig,
    DemonstrationItem,
)
from blm.actors.sim.failures import FailureReason
from blm.actors.sim.world import Cell, Geometry, seed_range
from blm.cluster import nodes
from blm.cluster.asks import asked
from blm.model.errors import UserError
from blm.pipelines.collect_cell import CellProgress, Limits
from blm.pipelines.workspace import StageContext, write_json

if TYPE_CHECKING:
    from ray.actor import ActorHandle

VERSION = 2

PROGRESS_EVERY_S = 5.0
CELLS_NAMED = 4
"""With more cells, progress names only those that are under way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectConfig:
    """How many demonstrations are made, and how."""

    episodes_per_cell: int = 150
    """Successful episodes to keep of each cell."""
    first_seed: int = 0
    """First scene seed of every cell; seeds from 1,000,000 on belong to evaluation."""
    seeds_per_item: int = 10
    """Seeds that a worker is given at a time, and that share a file."""
    retries: int = 2
    """How many times a failed attempt is planned anew from where it ended."""
    rollbacks: int = 1
    """How many times, after that, the last good state is restored and another way tried from there."""
    hold_steps: int = 6
    """Control steps for which the last target is held at the end, to teach stopping."""
    disturbed_share: float = 0.3
    """Share of the episodes that start where the arm was led astray, to teach recovery."""
    speed: float = 0.8
    """Share of the joints' velocity and acceleration limits that planned motions use."""
    waypoint_noise_m: float = 0.005
    """Key poses that are only passed on the way are moved by up to that along each axis, for variety."""

    def __post_init__(self) -> None:
        for name in ("episodes_per_cell", "seeds_per_item"):
            if getattr(self, name) < 1:
                raise UserError(f"collect.{name} is {getattr(self, name)}; give 1 or more")
        for name in ("first_seed", "retries", "rollbacks", "hold_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"collect.{name} is {getattr(self, name)}; give 0 or more")
        if not 0.0 <= self.disturbed_share <= 1.0:
            raise UserError(f"collect.disturbed_share is {self.disturbed_share}; give a share from 0 to 1")
        if not 0.05 <= self.speed <= 1.0:
            raise UserError(f"collect.speed is {self.speed}; give a share from 0.05 to 1")
        if not 0.0 <= self.waypoint_noise_m <= 0.05:
            raise UserError(f"collect.waypoint_noise_m is {self.waypoint_noise_m}; give 0 to 0.05")
        if self.first_seed + self.most_seeds > seed_range("collect").stop:
            raise UserError(
                f"collect.first_seed {self.first_seed} with {self.episodes_per_cell} episodes a cell runs into seeds "
                f"of evaluation; stay below {seed_range('collect').stop - self.most_seeds}"
            )

    @property
    def most_seeds(self) -> int:
        """Seeds tried before a cell is given up short of its number."""
        blocks = -(-(5 * self.episodes_per_cell + 50) // self.seeds_per_item)
        return blocks * self.seeds_per_item

    @property
    def demonstration(self) -> DemonstrationConfig:
        """What the workers need of it."""
        return DemonstrationConfig(
            retries=self.retries,
            rollbacks=self.rollbacks,
            hold_steps=self.hold_steps,
            disturbed_share=self.disturbed_share,
            speed=self.speed,
            waypoint_noise_m=self.waypoint_noise_m,
        )


def collect(config: CollectConfig, context: StageContext) -> dict[str, Any]:
    """Collects every cell of the world. Returns the summary; UserError if a cell has no demonstration at all."""
    cells = context.world.parsed_cells()
    context.tracker.log_params({"collect": {name: getattr(config, name) for name in config.__slots__}})
    for leftover in context.out.rglob(".tmp-*"):  # of a process that was killed while it wrote
        leftover.unlink()
    limits = Limits(
        first_seed=config.first_seed,
        block_size=config.seeds_per_item,
        wanted=config.episodes_per_cell,
        most_seeds=config.most_seeds,
    )
    progress = {cell: CellProgress.resume(context.out, cell, limits) for cell in cells}
    began_s = time.perf_counter()
    work = _Work(began_s=began_s)
    if not all(one.finished for one in progress.values()):
        _run(config, context, progress, work)
    for one in progress.values():
        one.trim()
    failures = {cell.name: one.failures() for cell, one in progress.items()}
    write_json(context.out / "failures.json", failures)
    wall_s = time.perf_counter() - began_s
    summary = {
        "cells": {cell.name: one.summary() for cell, one in progress.items()},
        "per_core_minute": {
            cell.name: round(60 * one.made / one.busy_s) for cell, one in progress.items() if one.busy_s
        },
        "episodes": sum(one.kept for one in progress.values()),
        "episodes_per_core_minute": round(60 * work.episodes / work.busy_s, 1) if work.busy_s else None,
        "worker_deaths": work.deaths,
        "wall_s": round(wall_s, 1),
    }
    _report(context, config, summary)
    return summary


@dataclass(slots=True)
class _Work:
    """What this process (not an earlier one that it resumes) has had done."""

    began_s: float
    busy_s: float = 0.0
    episodes: int = 0
    deaths: int = 0
    said_s: float = 0.0


def _run(config: CollectConfig, context: StageContext, progress: Mapping[Cell, CellProgress], work: _Work) -> None:
    # Ray and the actors are imported here and not above: the command line reads CollectConfig on every call.
    import ray

    from blm.actors.demonstrator import Demonstrator
    from blm.actors.pool import WorkPool

    geometry: Geometry = context.world.geometry
    ask = asked("collect", "simulator")

    def demonstrator() -> "ActorHandle":
        actor = ray.remote(Demonstrator).options(**nodes.options(ask))
        return actor.remote(geometry, config.demonstration, context.world.spawn)

    workers = nodes.fitting(context.resources.actors, ask)
    with WorkPool[DemonstrationItem, DemonstrationBatch](demonstrator, actors=workers) as pool:
        while True:
            for one in progress.values():
                while pool.has_room and (item := one.next_item()) is not None:
                    pool.submit(item)
            if not pool.pending:
                break
            outcome = pool.next()
            assert outcome is not None, "waited without a limit"
            one = progress[outcome.item.cell]
            if outcome.result is None:
                context.progress(
                    f"{outcome.item.cell.name}: workers died at seeds {outcome.item.seeds}: {outcome.error}"
                )
                _give_up(one, outcome.item)
            else:
                one.take(outcome.result.demonstrations, outcome.result.busy_s)
                work.busy_s += outcome.result.busy_s
                work.episodes += sum(d.episode is not None for d in outcome.result.demonstrations)
            work.deaths = pool.deaths
            _say(context, config, progress, work)


def _give_up(one: CellProgress, item: DemonstrationItem) -> None:
    """One seed that kills its workers must not take its block along: try the seeds one by one before failing them."""
    if len(item.seeds) > 1:
        one.retry_singly(item)
    else:
        crashed = Demonstration(seed=item.seeds[0], episode=None, first_plan=False, failures=(FailureReason.CRASHED,))
        one.take((crashed,))


def _say(context: StageContext, config: CollectConfig, progress: Mapping[Cell, CellProgress], work: _Work) -> None:
    now_s = time.perf_counter()
    if now_s - work.said_s < PROGRESS_EVERY_S and not all(one.finished for one in progress.values()):
        return
    work.said_s = now_s
    kept = ", ".join(
        f"{cell.name} {one.kept}/{config.episodes_per_cell}"
        for cell, one in progress.items()
        if len(progress) <= CELLS_NAMED or 0 < one.kept < config.episodes_per_cell
    )
    total = sum(one.kept for one in progress.values())
    done = f"{sum(one.finished for one in progress.values())} of {len(progress)} cells, {total} episodes"
    context.progress(f"{done}, {now_s - work.began_s:.0f} s{f' ({kept})' if kept else ''}")
    context.tracker.log_metrics({f"kept/{cell.slug}": one.kept for cell, one in progress.items()}, step=work.episodes)


def _report(context: StageContext, config: CollectConfig, summary: Mapping[str, Any]) -> None:
    """Prints the table; UserError if a cell came out empty."""
    context.progress(
        f"{'cell':<26}{'kept':>6}{'tried':>7}{'first plan':>12}{'after retries':>15}{'steps':>7}"
        f"{'a core-minute':>15}  failures"
    )
    for name, row in summary["cells"].items():
        reasons = ", ".join(f"{reason} {count}" for reason, count in row["failures"].items()) or "none"
        rate = summary["per_core_minute"].get(name, "")
        context.progress(
            f"{name:<26}{row['kept']:>6}{row['tried']:>7}{row['first_plan_rate']:>11.1%} {row['success_rate']:>14.1%} "
            f"{row['median_steps']:>6.0f}{rate:>15}  {reasons}"
        )
        if row["kept"] == 0:
            raise UserError(
                f"{name}: none of {row['tried']} seeds gave a demonstration ({reasons}); {context.out / 'outcomes'} "
                "tells seed by seed; if things lie out of the robot's reach, look at world.spawn_shift_m"
            )
        if row["kept"] < config.episodes_per_cell:
            context.progress(f"{name}: gave up after {row['tried']} seeds with {row['kept']} episodes")
    rate = summary["episodes_per_core_minute"]
    if rate is not None:
        context.progress(f"{summary['episodes']} episodes, {rate:.0f} per core and minute")

"""How far one cell's collection is: blocks of seeds, what came of each, and which of it is kept in the end.

The bookkeeping of `collect`, apart from actors and clocks. Blocks may finish in any order; what is kept is read off in
seed order, so the order of work leaves no trace.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from blm.actors.sim.demonstration import Demonstration, DemonstrationItem
from blm.actors.sim.episode import read_episodes, write_episodes
from blm.actors.sim.failures import FailureReason
from blm.actors.sim.world import Cell
from blm.cluster import depot
from blm.pipelines.workspace import read_json, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Which seeds a cell may use, and for how many episodes."""

    first_seed: int
    """Where to begin."""
    block_size: int
    """Seeds of a work item and of a file."""
    wanted: int
    """Episodes to keep."""
    most_seeds: int
    """Seeds after which the cell is given up; a multiple of the block size."""


@dataclass(slots=True)
class CellProgress:
    """One cell's blocks. `taken` holds every seed with a known outcome, from this process or an earlier one."""

    out: Path
    """The stage's folder."""
    cell: Cell
    """The cell."""
    limits: Limits
    """What is wanted."""
    taken: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Seed -> {"steps" (None if it failed), "first_plan", "failures", "rejected", "jerk_rad_s3"}."""
    busy_s: float = 0.0
    """Time that workers of this process have spent on the cell."""
    made: int = 0
    """Episodes that they made in it."""
    _fresh: dict[int, Demonstration] = field(default_factory=dict)
    _next_seed: int = 0
    _asked: set[int] = field(default_factory=set)
    _single: deque[DemonstrationItem] = field(default_factory=deque)

    @classmethod
    def resume(cls, out: Path, cell: Cell, limits: Limits) -> Self:
        """The state in which an earlier process left the folder; an empty folder is the beginning."""
        one = cls(out, cell, limits)
        one._next_seed = limits.first_seed
        for block in range(limits.first_seed, limits.first_seed + limits.most_seeds, limits.block_size):
            outcomes, episodes = one._files(block)
            if outcomes.exists() and episodes.exists():
                read_episodes(episodes)  # a damaged file is better noticed now
                one.taken |= {row.pop("seed"): row for row in read_json(outcomes)}
        return one

    # ---- what to do next --------------------------------------------------------------------------------------

    def next_item(self) -> DemonstrationItem | None:
        """Seeds to work on now, or None if what is known and under way will probably do."""
        if self._single:
            return self._single.popleft()
        limits = self.limits
        while self._next_seed < limits.first_seed + limits.most_seeds:
            # Only what lies before the next block counts: a gap that a killed process left is filled in any case.
            if self._successes() + len(self._asked) >= limits.wanted:
                return None
            block = range(self._next_seed, self._next_seed + limits.block_size)
            self._next_seed = block.stop
            if block.start not in self.taken:
                self._asked |= set(block)
                return DemonstrationItem(cell=self.cell, seeds=tuple(block))
        return None

    def retry_singly(self, item: DemonstrationItem) -> None:
        """Queues every seed of an item as an item of its own."""
        self._single.extend(DemonstrationItem(cell=item.cell, seeds=(seed,)) for seed in item.seeds)

    def take(self, demonstrations: Iterable[Demonstration], busy_s: float = 0.0) -> None:
        """Results of a worker and the time they took it; blocks that are complete with them are written."""
        self.busy_s += busy_s
        blocks = set()
        for one in demonstrations:
            self.made += one.episode is not None
            self._fresh[one.seed] = one
            blocks.add(self._block(one.seed))
        for block in blocks:
            seeds = range(block, block + self.limits.block_size)
            if all(seed in self._fresh for seed in seeds):
                self._write(block, [self._fresh.pop(seed) for seed in seeds])
                self._asked -= set(seeds)

    def _block(self, seed: int) -> int:
        """First seed of the block that a seed belongs to."""
        return seed - (seed - self.limits.first_seed) % self.limits.block_size

    def _files(self, block: int) -> tuple[Path, Path]:
        name = f"seeds-{block:07d}-{block + self.limits.block_size - 1:07d}"
        slug = self.cell.slug
        return self.out / "outcomes" / slug / f"{name}.json", self.out / "episodes" / slug / f"{name}.parquet"

    def _write(self, block: int, demonstrations: list[Demonstration]) -> None:
        rows = {
            one.seed: {
                "steps": None if one.episode is None else len(one.episode.actions),
                "first_plan": one.first_plan,
                "failures": [str(reason) for reason in one.failures],
                "rejected": one.rejected,
                "jerk_rad_s3": None if one.episode is None else one.episode.metrics.get("jerk_rad_s3"),
            }
            for one in demonstrations
        }
        outcomes, episodes = self._files(block)
        write_json(outcomes, [{"seed": seed, **row} for seed, row in rows.items()])
        write_episodes(episodes, [one.episode for one in demonstrations if one.episode is not None])
        self._keep(block)
        self.taken |= rows

    def _keep(self, block: int) -> None:
        """Both files to the store, the one that says that the block is finished last."""
        for path in self._files(block):
            depot.keep(path)

    # ---- what is there ----------------------------------------------------------------------------------------

    def _successes(self) -> int:
        """Known successes among the seeds gone through so far."""
        return sum(row["steps"] is not None for seed, row in self.taken.items() if seed < self._next_seed)

    def _used(self) -> list[int]:
        """Seeds in order without a gap, up to the one that completes the number wanted."""
        used: list[int] = []
        kept = 0
        seed = self.limits.first_seed
        while seed in self.taken and kept < self.limits.wanted:
            used.append(seed)
            kept += self.taken[seed]["steps"] is not None
            seed += 1
        return used

    @property
    def kept(self) -> int:
        """Episodes that are safe to be part of the result."""
        return sum(self.taken[seed]["steps"] is not None for seed in self._used())

    @property
    def finished(self) -> bool:
        """Whether the result is complete, or the cell is given up."""
        return self.kept >= self.limits.wanted or len(self._used()) >= self.limits.most_seeds

    def trim(self) -> None:
        """Removes what was done beyond the number wanted. Can be interrupted and called again."""
        used = set(self._used())
        for block in sorted({self._block(seed) for seed in self.taken}, reverse=True):
            seeds = [seed for seed in range(block, block + self.limits.block_size) if seed in self.taken]
            outcomes, episodes = self._files(block)
            if not used.intersection(seeds):
                depot.drop(episodes)
                depot.drop(outcomes)
            elif not used.issuperset(seeds):
                write_episodes(episodes, [one for one in read_episodes(episodes) if one.seed in used])
                write_json(outcomes, [{"seed": seed, **self.taken[seed]} for seed in seeds if seed in used])
                self._keep(block)
        self.taken = {seed: row for seed, row in self.taken.items() if seed in used}

    def failures(self) -> dict[str, int]:
        """How often each reason was final, over the seeds used."""
        rows = [self.taken[seed] for seed in self._used()]
        counts = Counter(row["failures"][-1] for row in rows if row["steps"] is None)
        return {str(reason): counts[reason] for reason in FailureReason if counts[reason]}

    def summary(self) -> dict[str, Any]:
        """Numbers of this cell over the seeds used."""
        rows = [self.taken[seed] for seed in self._used()]
        steps = [row["steps"] for row in rows if row["steps"] is not None]
        jerks = [row["jerk_rad_s3"] for row in rows if row["jerk_rad_s3"] is not None]
        tried = max(len(rows), 1)
        return {
            "kept": len(steps),
            "tried": len(rows),
            "first_plan_rate": round(sum(row["first_plan"] for row in rows) / tried, 4),
            "success_rate": round(len(steps) / tried, 4),
            "median_steps": float(np.median(steps)) if steps else 0.0,
            "median_jerk_rad_s3": float(np.median(jerks)) if jerks else None,
            "failures": self.failures(),
            "failed_attempts": dict(Counter(reason for row in rows for reason in row["failures"]).most_common()),
            "rejected_alternatives": dict(sum((Counter(row["rejected"]) for row in rows), Counter()).most_common()),
        }

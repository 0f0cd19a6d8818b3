"""An evaluation whose processes are killed: episodes without a simulator, and somebody with SIGKILL.

Run by itself it is a driver that can be killed too: `python small_kills.py FOLDER EPISODES ROUND_S`, in the Ray cluster
of RAY_ADDRESS.
"""

import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from blm.actors.leases import Leases, Progress
from blm.actors.rollout import Ended
from blm.actors.sim.outcome import EpisodeResult, EpisodeTiming, RolloutItem
from blm.actors.sim.world import parse_cell
from blm.pipelines.evaluation.books import EPISODES, Books

CELLS = tuple(parse_cell(name) for name in ("panda/PushCube", "xarm6/PushCube", "panda/PickCube"))
SLOTS = 3


def items_of(episodes: int) -> list[RolloutItem]:
    """As many episodes in each cell."""
    return [RolloutItem(cell=cell, seed=seed) for cell in CELLS for seed in range(episodes)]


def outcome(item: RolloutItem) -> EpisodeResult:
    """What becomes of an episode, by its cell and seed alone."""
    rng = random.Random(f"{item.cell.name} {item.seed}")
    return EpisodeResult(
        cell=item.cell.name,
        seed=item.seed,
        policy="toy",
        instruction="go",
        success=(success := rng.random() < 0.5),
        failure=None if success else "not_moved",
        error=False,
        steps=rng.randrange(100),
        closest_m=round(rng.random(), 4),
    )


class ToyWorker:
    """As `RolloutWorker`, with episodes of one to four rounds, each of which takes a while."""

    def __init__(self, round_s: float) -> None:
        self._round_s = round_s
        self._backlog: list[RolloutItem] = []
        self._left: dict[RolloutItem, int] = {}

    def begin(self, start: object) -> int:
        self._backlog, self._left = [], {}
        return os.getpid()

    def advance(self, items: Sequence[RolloutItem]) -> Progress[RolloutItem, Ended]:
        self._backlog += items
        while self._backlog and len(self._left) < SLOTS:
            item = self._backlog.pop(0)
            self._left[item] = 1 + item.seed % 4
        time.sleep(self._round_s)
        self._left = {item: left - 1 for item, left in self._left.items()}
        over = [item for item, left in self._left.items() if not left]
        for item in over:
            del self._left[item]
        done = [(item, (outcome(item), timing(item, time.time()))) for item in over]
        return Progress(done=done, looks=len(self._left) + len(over), work_s=self._round_s)


def timing(item: RolloutItem, wall_s: float) -> EpisodeTiming:
    """What an episode took."""
    return EpisodeTiming(cell=item.cell.name, seed=item.seed, policy="toy", wall_s=wall_s)


def evaluate_toys(folder: Path, episodes: int, *, actors: int, round_s: float) -> int:
    """What is missing of so many episodes a cell, to the files of an evaluation. Returns the deaths of actors."""
    import ray

    from blm.actors.lease_pool import LeasePool

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # worker processes do not find this file
    actor = ray.remote(ToyWorker).options(num_cpus=0.1)
    pool: LeasePool[RolloutItem, Ended] = LeasePool(
        lambda: actor.remote(round_s), actors=actors, slots=SLOTS, limit_s=30
    )
    with Books(folder) as books, pool:
        missing = [item for item in items_of(episodes) if (item.cell.name, item.seed, "toy") not in books.episodes]
        for batch in pool.run(None, Leases(missing, group=lambda item: item.cell)):
            assert not batch.lost, "nothing kills what it is given to do"
            books.add(ended for _, ended in batch.done)
        books.complete(lambda record: (record["cell"], record["seed"]))
        return pool.deaths


def lines_of(folder: Path) -> int:
    """Outcomes on disk."""
    path = folder / EPISODES
    return path.read_bytes().count(b"\n") if path.exists() else 0


class Killer(threading.Thread):
    """Kills random processes of one kind below this one, as an evaluation gets on: evenly over its first part, so that
    each meets work and the end is left in peace.
    """

    def __init__(self, kind: str, folder: Path, *, kills: int, episodes: int, seed: int = 0) -> None:
        """kind: class of the actors. folder: of the evaluation, which has so many episodes in all."""
        super().__init__(daemon=True)
        self._kind, self._folder, self._rng = kind, folder, random.Random(seed)
        self._at = [round(episodes * 0.75 * (k + 1) / kills) for k in range(kills)]
        self.killed = 0

    def run(self) -> None:
        """Until all kills are done."""
        for line in self._at:
            while lines_of(self._folder) < line or not (found := list(self._processes())):
                time.sleep(0.02)
            self._rng.choice(found).kill()
            self.killed += 1

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.Process().children(recursive=True):
            try:
                if f"ray::{self._kind}" in " ".join(process.cmdline()):
                    yield process
            except psutil.Error:  # it ended meanwhile
                continue


if __name__ == "__main__":
    from blm.cluster.ray_runtime import connected

    with connected(num_cpus=2, address=os.environ["RAY_ADDRESS"]):
        evaluate_toys(Path(sys.argv[1]), int(sys.argv[2]), actors=2, round_s=float(sys.argv[3]))

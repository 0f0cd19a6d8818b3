"""Batches with pictures, decoded by Ray Data: for the model in the loop, and for policies that look for themselves.

Which rows a step has follows from seed and step alone, so a task needs to be told no more than the numbers of a few
steps: it decodes the pictures of those rows and no others, and Ray Data hands them on in order. States and actions
never travel; they are in the trainer's memory. Tasks ask for no CPU: they run beside trainers that hold them all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blm.cluster import depot, nodes
from blm.cluster.asks import asked
from blm.model.normalize import EmbodimentStatistics
from blm.model.policy_batch import PolicyGroup
from blm.pipelines.ahead import ahead
from blm.pipelines.windows.dataset import RobotDataset
from blm.pipelines.windows.feed import AHEAD, policy_group
from blm.pipelines.windows.index import Share, WindowIndex

DECODER = asked("baseline", "pictures")
BLOCK_ROWS = 256
"""Rows that a task decodes, about: whole steps."""
SEGMENT_BLOCKS = 256
"""Pieces of work of one Ray Data execution; a long training has several, one after the other."""
STORE_BYTES = 256 * 2**20
"""Decoded pictures that wait in Ray's object store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureBatch:
    """B rows: groups one after another, and in the same order their pictures."""

    groups: tuple[PolicyGroup, ...]
    """Normalised states and actions, on the CPU."""
    pictures: np.ndarray
    """uint8 [B, C, px, px, 3]."""
    future_pictures: np.ndarray | None
    """The same one chunk later, if asked for."""
    instructions: tuple[str, ...]
    """What the robot is told in each row."""
    place: torch.Tensor
    """int64 [B]: where each row stands in the whole step's batch, over all workers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What a task must know to decode the pictures of any step."""

    share: Share
    starts: np.ndarray
    folders: tuple[str, ...]
    cameras: tuple[str, ...]
    horizon: int
    future: bool


class PictureFeed:
    """Batches of normalised windows with their pictures."""

    def __init__(
        self,
        index: WindowIndex,
        statistics: Mapping[str, EmbodimentStatistics],
        datasets: Mapping[str, Path],
        cameras: Sequence[str],
        *,
        future: bool = False,
        tasks: int = 2,
    ) -> None:
        """future: whether the pictures one chunk later come along. tasks: Ray Data tasks at a time (Ray must run); 0: a
        thread of this process decodes."""
        self.index = index
        self._statistics, self._cameras, self._future, self._tasks = dict(statistics), tuple(cameras), future, tasks
        self._folders = tuple(str(datasets[robot.name]) for robot in index.windows)
        self._opened = _open(self._folders)

    def batch(self, rows: np.ndarray, place: np.ndarray | None = None) -> PictureBatch:
        """The windows numbered `rows` int64 [B], rows of one robot together, decoded in this process."""
        place = np.arange(len(rows)) if place is None else place
        pictures = _decode(self._opened, self.index.starts, rows, self._cameras, self._horizon, self._future)
        return self._assembled(rows, place, *pictures)

    def steps(self, share: Share, first: int, last: int) -> Iterator[PictureBatch]:
        """A worker's share of each of the steps first..last - 1."""
        if self._tasks == 0:
            made = (partial(self.batch, share.rows(step), share.place) for step in range(first, last))
            return ahead(made, depth=AHEAD)
        plan = _Plan(
            share=share,
            starts=self.index.starts,
            folders=self._folders,
            cameras=self._cameras,
            horizon=self._horizon,
            future=self._future,
        )
        decoded = _streamed(plan, first, last, self._tasks)

        def assembled(step: int) -> PictureBatch:
            return self._assembled(share.rows(step), share.place, *next(decoded))

        return ahead((partial(assembled, step) for step in range(first, last)), depth=AHEAD)

    @property
    def _horizon(self) -> int:
        return self.index.windows[0].chunk.shape[1]

    def _assembled(
        self, rows: np.ndarray, place: np.ndarray, pictures: np.ndarray, future: np.ndarray | None
    ) -> PictureBatch:
        robots, frames = self.index.locate(rows)
        order = np.argsort(robots, kind="stable")
        groups, instructions = [], []
        for robot in np.unique(robots):
            windows, here = self.index.windows[robot], frames[robots == robot]
            groups.append(policy_group(windows, self._statistics[windows.name], here))
            instructions += self._opened[robot].instruction_of(here)
        return PictureBatch(
            groups=tuple(groups),
            pictures=pictures,
            future_pictures=future,
            instructions=tuple(instructions),
            place=torch.from_numpy(place[order]),
        )


def _decode(
    datasets: Sequence[RobotDataset],
    starts: np.ndarray,
    rows: np.ndarray,
    cameras: Sequence[str],
    horizon: int,
    future: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pictures of rows, and those one chunk later, rows of one robot together."""
    robots = np.searchsorted(starts, rows, side="right") - 1
    present, later = [], []
    for robot in np.unique(robots):
        frames = rows[robots == robot] - starts[robot]
        wanted = np.concatenate([frames, datasets[robot].futures(frames, horizon)]) if future else frames
        pictures = datasets[robot].pictures(wanted, cameras)
        present.append(pictures[: len(frames)])
        later.append(pictures[len(frames) :])
    return np.concatenate(present), np.concatenate(later) if future else None


# ----------------------------------------------------------------------------------------------------------- Ray Data


def _streamed(plan: _Plan, first: int, last: int, tasks: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Decoded pictures of every step, in order. A UserError raised by a task comes out as that UserError."""
    import ray
    import ray.data

    from blm.cluster.ray_runtime import cause_of

    rows = len(plan.share.place)
    per_block = max(1, BLOCK_ROWS // rows)
    reference = ray.put(plan)
    for start in range(first, last, per_block * SEGMENT_BLOCKS):
        end = min(last, start + per_block * SEGMENT_BLOCKS)
        blocks = -(-(end - start) // per_block)
        items = ray.data.from_items([{"id": i} for i in range(blocks)], override_num_blocks=blocks)  # takes no task
        dataset = items.map_batches(
            _decode_steps,
            fn_kwargs={"reference": [reference], "start": start, "end": end, "per_block": per_block},
            batch_size=None,
            **nodes.options(DECODER),
            compute=ray.data.TaskPoolStrategy(size=tasks),
        )
        options = dataset.context.execution_options
        options.preserve_order = True
        options.resource_limits = ray.data.ExecutionResources.for_limits(object_store_memory=STORE_BYTES)
        try:
            for found in dataset.iter_batches(batch_size=rows, batch_format="numpy", prefetch_batches=1):
                future = found.get("future")  # copied, so that the store has its memory back and PyTorch may write
                yield found["pictures"].copy(), None if future is None else future.copy()
        except Exception as error:
            cause = cause_of(error)
            if cause is None:
                raise
            raise cause from None


def _decode_steps(
    block: dict[str, np.ndarray], *, reference: list[Any], start: int, end: int, per_block: int
) -> dict[str, np.ndarray]:
    """In a task: the pictures of the steps of a block, one behind the other."""
    plan, datasets = _known(reference[0])
    first = start + int(block["id"][0]) * per_block
    steps = range(first, min(end, first + per_block))
    rows = [plan.share.rows(step) for step in steps]
    robots = [np.searchsorted(plan.starts, one, side="right") for one in rows]
    grouped = [one[np.argsort(robot, kind="stable")] for one, robot in zip(rows, robots, strict=True)]
    wanted = np.concatenate(grouped)
    # All steps at once, so that an episode is read once; then back into the order of the steps.
    together = np.argsort(np.concatenate([np.sort(robot) for robot in robots]), kind="stable")
    present, later = _decode(datasets, plan.starts, wanted[together], plan.cameras, plan.horizon, plan.future)
    back = np.argsort(together)
    decoded = {"pictures": present[back]}
    return decoded if later is None else decoded | {"future": later[back]}


def _open(folders: Sequence[str]) -> list[RobotDataset]:
    """The datasets in `folders`, on whichever node this is."""
    return [RobotDataset.open(depot.here(Path(folder))) for folder in folders]


_plans: dict[str, tuple[_Plan, list[RobotDataset]]] = {}
"""In a worker process: plans that it was given, with their datasets opened; the last few."""


def _known(reference: Any) -> tuple[_Plan, list[RobotDataset]]:
    import ray

    key = reference.hex()
    if key not in _plans:
        plan = ray.get(reference)
        if len(_plans) >= 4:
            del _plans[next(iter(_plans))]
        _plans[key] = (plan, _open(plan.folders))
    return _plans[key]

"""Which windows a training step sees, over all robots: a pure function of seed and step.

Windows are numbered through all robots. A resumed run, or one with another number of workers, sees the rows it would
have seen: every worker asks for the whole step and takes its share.

    temperature 1   shuffled epochs over all windows: a group counts by how many it has
    temperature 0   every group (cell) alike, however few demonstrations it has
    between         shares proportional to n ** temperature
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blm.model.embodiments import suggest
from blm.model.errors import UserError
from blm.pipelines.mixture import MixtureEntry, Stream, row_order
from blm.pipelines.windows.windows import RobotWindows


class StepOrder:
    """The rows of every step. Small beside the windows, and picklable: tasks that decode pictures have it too."""

    def __init__(self, rows: np.ndarray, groups: np.ndarray) -> None:
        """rows: int64, what may be drawn. groups: int32, the group of each."""
        self.rows = rows
        """int64, ascending."""
        self._groups = groups
        self._streams: dict[tuple[int, float], Stream] = {}

    def __call__(self, step: int, batch: int, seed: int, temperature: float = 1.0) -> np.ndarray:
        """As `WindowIndex.step_rows`."""
        if not 0 <= temperature <= 1:
            raise UserError(f"temperature is {temperature}; give a number from 0 (groups alike) to 1 (windows alike)")
        if temperature == 1:
            return self.rows[row_order(len(self.rows), step * batch, batch, seed)]
        key = (seed, temperature)
        if key not in self._streams:
            names = [str(group) for group in self._groups.tolist()]
            found, counts = np.unique(self._groups, return_counts=True)
            weights = (counts / counts.max()) ** temperature
            entries = [MixtureEntry(source=str(n), weight=float(w)) for n, w in zip(found, weights, strict=True)]
            self._streams[key] = Stream(names, entries, seed)
        return self.rows[self._streams[key].rows(step * batch, batch)]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_streams": {}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one worker takes of every step of a training. Small, and picklable."""

    order: StepOrder
    """The rows of every step."""
    batch: int
    """Rows a step, over all workers."""
    seed: int
    """Decides the order."""
    temperature: float = 1.0
    """As for `WindowIndex.step_rows`."""
    rank: int = 0
    """Which worker this is."""
    world: int = 1
    """How many there are."""

    @property
    def place(self) -> np.ndarray:
        """Where this worker's rows stand in a step, int64 [b]."""
        return np.arange(self.rank, self.batch, self.world)

    def rows(self, step: int) -> np.ndarray:
        """This worker's rows of a step, int64 [b]."""
        return self.order(step, self.batch, self.seed, self.temperature)[self.place]


class WindowIndex:
    """The windows of several robots, or those of some cells."""

    def __init__(self, windows: Sequence[RobotWindows], cells: Sequence[str] = ()) -> None:
        """UserError for a cell without windows, and if nothing is left to train on."""
        self.windows = list(windows)
        """The robots, in order of their rows."""
        self.starts = np.cumsum([0, *(len(robot) for robot in windows)])
        """int64 [robots + 1]: where the rows of each begin."""
        self.group_names: tuple[str, ...] = tuple(sorted({name for robot in windows for name in robot.group_names}))
        """Groups of all robots."""
        missing = sorted(set(cells) - set(self.group_names))
        if missing:
            raise UserError(f"there are no demonstrations of {missing[0]!r}; {suggest(missing[0], self.group_names)}")
        place = {name: i for i, name in enumerate(self.group_names)}
        translated = [np.array([place[name] for name in robot.group_names], dtype=np.int32) for robot in windows]
        self.group_of = np.concatenate([table[robot.group] for table, robot in zip(translated, windows, strict=True)])
        """int32 [windows]: place of each window's group in `group_names`."""
        usable = np.concatenate([robot.usable for robot in windows])
        if cells:
            usable &= np.isin(self.group_of, [place[name] for name in cells])
        held_out = np.concatenate([robot.held_out for robot in windows])
        self.train_rows = np.flatnonzero(usable & ~held_out)
        """int64, ascending."""
        self.validation_rows = np.flatnonzero(usable & held_out)
        """int64, ascending: windows of held-out episodes."""
        if len(self.train_rows) == 0:
            raise UserError("there are no windows to train on; collect demonstrations, or lower stage2.min_actions")
        self.order = StepOrder(self.train_rows, self.group_of[self.train_rows])
        """The rows of every step, without the windows."""

    def step_rows(self, step: int, batch: int, seed: int, temperature: float = 1.0) -> np.ndarray:
        """Rows of a step over all workers, int64 [batch]. UserError for a temperature outside of 0 to 1."""
        return self.order(step, batch, seed, temperature)

    def share(self, *, batch: int, seed: int, temperature: float = 1.0, rank: int = 0, world: int = 1) -> Share:
        """What the worker `rank` of `world` takes of every step."""
        return Share(order=self.order, batch=batch, seed=seed, temperature=temperature, rank=rank, world=world)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place of the robot in `windows`, frame of its dataset) of each row, int64 [n] both."""
        robots = np.searchsorted(self.starts, rows, side="right") - 1
        return robots, rows - self.starts[robots]

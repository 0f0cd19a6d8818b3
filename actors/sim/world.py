"""What is simulated: cells (a robot on a task), cameras, picture size, geometry, and which seeds serve what.

Seeds are split by purpose so that no scene a policy is trained on can come back in an evaluation: a purpose
owns a half-open range, the same one for every cell, and `seed_range` is the only place that knows it.
"""

from dataclasses import dataclass
from typing import Literal

from blm.actors.sim.cameras import CAMERAS
from blm.actors.sim.tasks import TASKS, Task, get_task
from blm.model.embodiments import CONTROL_HZ, EMBODIMENTS, Embodiment, get_embodiment, suggest
from blm.model.errors import UserError

Geometry = Literal["lite", "official"]

SEED_RANGES: dict[str, tuple[int, int]] = {
    "collect": (0, 1_000_000),
    "evaluate": (1_000_000, 2_000_000),
    "corpora_train": (2_000_000, 3_000_000),
    "corpora_test": (3_000_000, 4_000_000),
}
"""First (inclusive) and last (exclusive) scene seed of each purpose, in every cell."""

SIMULATED_ROBOTS = ("panda",)
"""Robots for which this version has a simulator description."""

control_hz = CONTROL_HZ
"""Control steps per second everywhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One robot on one task: the unit in which demonstrations are collected and success is reported."""

    robot: str
    """Key of `blm.model.embodiments.EMBODIMENTS`."""
    task: str
    """Key of `blm.actors.sim.tasks.TASKS`."""

    @property
    def name(self) -> str:
        """As written in configuration: `panda/PushCube`."""
        return f"{self.robot}/{self.task}"

    @property
    def slug(self) -> str:
        """As written in folder names: `panda-PushCube`."""
        return f"{self.robot}-{self.task}"

    @property
    def embodiment(self) -> Embodiment:
        """The robot's dimensions, names and limits."""
        return EMBODIMENTS[self.robot]

    @property
    def task_data(self) -> Task:
        """Instructions and time limit of the task."""
        return TASKS[self.task]


def parse_cell(text: str) -> Cell:
    """`robot/Task` -> Cell, both halves checked by name. UserError names the nearest known word."""
    robot, slash, task = text.partition("/")
    if not slash or not robot or not task:
        raise UserError(f"a cell is written robot/Task, for example panda/PushCube, not {text!r}")
    return Cell(robot=get_embodiment(robot).name, task=get_task(task).name)


def require_simulated(cell: Cell) -> None:
    """UserError unless this version can simulate the cell, with what it can simulate."""
    tasks = tuple(task.name for task in TASKS.values() if task.available)
    can = f"this version simulates {', '.join(SIMULATED_ROBOTS)} on {', '.join(tasks)}"
    if cell.robot not in SIMULATED_ROBOTS:
        raise UserError(f"cell {cell.name}: robot {cell.robot} is known but not yet in the simulator; {can}")
    if cell.task not in tasks:
        raise UserError(f"cell {cell.name}: task {cell.task} is known but not yet in the simulator; {can}")


def seed_range(purpose: str) -> range:
    """Scene seeds that belong to a purpose (a key of `SEED_RANGES`)."""
    return range(*SEED_RANGES[purpose])


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """What every stage that touches the simulator must agree on."""

    cells: tuple[str, ...] = ("panda/PushCube", "panda/PickCube")
    """Cells, each written robot/Task."""
    cameras: tuple[str, ...] = ("front",)
    """Keys of `blm.actors.sim.cameras.CAMERAS`; the order in which pictures are given to the model."""
    image_px: int = 112
    """Width and height of every picture."""
    geometry: Geometry = "lite"
    """`lite`: our own light primitives; `official`: the robot maker's meshes."""

    def __post_init__(self) -> None:
        if not self.cells:
            raise UserError("world.cells is empty; name at least one cell, for example panda/PushCube")
        if len(set(self.cells)) != len(self.cells):
            raise UserError(f"world.cells names a cell twice: {', '.join(self.cells)}")
        for text in self.cells:
            parse_cell(text)
        if not self.cameras:
            raise UserError(f"world.cameras is empty; known: {', '.join(CAMERAS)}")
        for camera in self.cameras:
            if camera not in CAMERAS:
                raise UserError(f"world.cameras: unknown camera {camera!r}; {suggest(camera, CAMERAS)}")
        if not 16 <= self.image_px <= 1024:
            raise UserError(f"world.image_px is {self.image_px}; give a size from 16 to 1024")
        if self.geometry not in ("lite", "official"):
            raise UserError(f"world.geometry is {self.geometry!r}; give 'lite' or 'official'")

    def parsed_cells(self) -> tuple[Cell, ...]:
        """The cells as objects, in order."""
        return tuple(parse_cell(text) for text in self.cells)

"""What is simulated: cells (a robot on a task), cameras, picture size, geometry, and which seeds serve what.

Seeds are split by purpose so that no scene a policy is trained on can come back in an evaluation: a purpose
owns a half-open range, the same one for every cell, and `seed_range` is the only place that knows it.
"""

from dataclasses import dataclass
from typing import Literal

from blm.actors.sim.cameras import CAMERAS
from blm.actors.sim.spawn import Spawn
from blm.actors.sim.tasks import TASKS, Task, get_task
from blm.model.embodiments import CONTROL_HZ, EMBODIMENTS, Embodiment, get_embodiment, suggest
from blm.model.errors import UserError

Geometry = Literal["lite", "official"]

SEED_RANGES: dict[str, tuple[int, int]] = {
    "collect": (0, 1_000_000),
    "evaluate": (1_000_000, 2_000_000),
    "corpora_train": (2_000_000, 3_000_000),
    "corpora_test": (3_000_000, 4_000_000),
    "validate": (5_000_000, 6_000_000),
}
"""First (inclusive) and last (exclusive) scene seed of each purpose, in every cell."""

MOST_SHIFT_M = 0.5
"""Further than that from where ManiSkill puts them, things fall off the table."""

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
    spawn_shift_m: tuple[float, float] = (0.0, 0.0)
    """By how much everything that a scene puts on the table is moved along x and y, in every cell."""
    spawn_spread: float = 1.0
    """Width of the regions in which things are put, as a share of the cell's."""

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
        if not all(abs(shift_m) <= MOST_SHIFT_M for shift_m in self.spawn_shift_m):
            raise UserError(f"world.spawn_shift_m is {self.spawn_shift_m}; the table allows {MOST_SHIFT_M} m each way")
        if not 0.0 <= self.spawn_spread <= 2.0:
            raise UserError(f"world.spawn_spread is {self.spawn_spread}; give a share from 0 to 2")

    @property
    def spawn(self) -> Spawn:
        """The spawn options as one."""
        return Spawn(shift_m=self.spawn_shift_m, spread=self.spawn_spread)

    def parsed_cells(self) -> tuple[Cell, ...]:
        """The cells as objects, in order."""
        return tuple(parse_cell(text) for text in self.cells)

"""What stays of an episode after it was read, and what its values are called."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blm.model.embodiments import EMBODIMENTS
from blm.pipelines.inspection.track import STATE


@dataclass(kw_only=True, slots=True)
class Facts:
    """What stays of an episode."""

    label: str
    number: int
    cell: str
    robot: str
    task: str
    length: int
    seconds: float
    extra: dict[str, Any]
    digest: str = ""
    spans: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """How far each state value moved."""
    roughness: float = 0.0
    """Root mean square jerk of the state, per second cubed."""
    lag_frames: float | None = None
    object_start_m: tuple[float, ...] | None = None
    goal_start_m: tuple[float, ...] | None = None


def by_cell(facts: Iterable[Facts]) -> dict[str, list[Facts]]:
    """The episodes of every cell, in order."""
    cells: dict[str, list[Facts]] = defaultdict(list)
    for one in facts:
        cells[one.cell].append(one)
    return dict(sorted(cells.items()))


@dataclass(frozen=True, slots=True)
class ValueNames:
    """What the values of states and actions are called: as the dataset says, else as we call them."""

    given: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, column: str, dimension: int, robot: str = "") -> str:
        """One value's name."""
        names = self.given.get(column, ())
        if not names and robot in EMBODIMENTS:
            names = EMBODIMENTS[robot].state_names if column == STATE else EMBODIMENTS[robot].action_names
        return names[dimension] if dimension < len(names) else f"{column}[{dimension}]"

    def is_gripper(self, dimension: int, robot: str = "") -> bool:
        """Whether a state value is a gripper's, which may rest for a whole episode."""
        return "gripper" in self.of(STATE, dimension, robot).lower()

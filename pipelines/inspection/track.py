"""What an inspection looks at, whatever it was read from: a source of episodes, and an episode as arrays."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blm.model.embodiments import EMBODIMENTS, Embodiment

STATE, ACTION = "observation.state", "action"
POSITIONS = "privileged.object_positions"
"""Tool centre, object and goal in metres, [N,9]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Track:
    """One episode's numbers."""

    label: str
    """As findings name it."""
    number: int
    """Place in its source; of a dataset, `episode_index`."""
    cell: str
    """`robot/Task`, or the task in words where there are no cells."""
    task: str
    """The instruction."""
    fps: float
    """Frames per second."""
    robot: str = ""
    """Name of the robot, if it is known."""
    values: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Numeric columns, [N, ...] each; actions may be one shorter than states."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else its source says of it: `seed`, `variant`, `success`, `first_plan`, `disturbed` ..."""

    @property
    def length(self) -> int:
        """Frames, or control steps where only states are kept."""
        key = ACTION if ACTION in self.values else next(iter(self.values), "")
        return len(self.values[key]) if key else 0

    @property
    def embodiment(self) -> Embodiment | None:
        """The robot's limits, if it is one of ours and its values have the dimensions of ours."""
        body = EMBODIMENTS.get(self.robot)
        for name, size in ((STATE, body.state_dim), (ACTION, body.action_dim)) if body else ():
            values = self.values.get(name)
            if values is not None and values.shape[1:] != (size,):
                return None
        return body

    def matrix(self, name: str) -> npt.NDArray[Any] | None:
        """A column of floats as [N,D], or None if it is not there or not of that form."""
        values = self.values.get(name)
        return values if values is not None and values.ndim == 2 and values.dtype.kind == "f" else None


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a source is, for headings."""

    path: Path
    """Its folder."""
    kind: str
    """In words."""
    fps: float = 0.0
    """Frames per second; 0 if that is not known."""
    cameras: tuple[str, ...] = ()
    """Names of picture features."""
    size_bytes: int = 0
    """Of all its files."""


def numbers(column: pa.ChunkedArray) -> npt.NDArray[Any] | None:
    """A column of numbers, of lists or of lists of lists of them as an array [N, ...]; scalars come as [N].

    None if it holds something else, or lists of different lengths. Missing values become NaN, missing integers None.
    """
    array = column.combine_chunks()
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    sizes = [len(array)]
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        flat, rows = array.flatten(), math.prod(sizes)
        if rows and (array.null_count or len(flat) % rows or len(np.unique(array.value_lengths())) > 1):
            return None
        sizes.append(len(flat) // rows if rows else 0)
        array = flat
    kind = array.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return None
    if array.null_count and not pa.types.is_floating(kind):
        return None
    return array.to_numpy(zero_copy_only=False).reshape(sizes)


def folder_bytes(folder: Path) -> int:
    """Size of everything in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

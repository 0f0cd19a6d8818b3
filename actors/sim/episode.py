"""One demonstration or rollout as kept on disk: simulator states and actions, no pictures.

A state is 57 numbers where a picture is 37,632, and pictures can be drawn from states at any time, from any
camera. Files are Parquet, one row an episode, written to a temporary name first so that a file that exists is
whole.
"""

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from blm.actors.sim.world import Geometry
from blm.model.errors import UserError

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Episode:
    """T control steps of one cell. Row t of states, proprio and object_positions precedes action t; row T ends."""

    robot: str
    """Key of `blm.model.embodiments.EMBODIMENTS`."""
    task: str
    """Key of `blm.actors.sim.tasks.TASKS`."""
    seed: int
    """Scene seed."""
    geometry: Geometry
    """Which robot description it was simulated with."""
    instruction: str
    """The task in words."""
    control_hz: int
    """Control steps per second."""
    states: Float32
    """Simulator states, [T+1,D]."""
    proprio: Float32
    """Proprioception, [T+1,S]."""
    actions: Float32
    """Absolute joint targets in rad and gripper commands, [T,A]."""
    object_positions: Float32
    """Tool centre, object and goal in world metres, [T+1,9]."""
    success: bool
    """Whether the task was done in the last state."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Whatever else is worth keeping; JSON-able."""

    def __post_init__(self) -> None:
        steps = len(self.actions)
        for name in _ARRAYS:
            array = getattr(self, name)
            expected = steps if name == "actions" else steps + 1
            if array.ndim != 2 or len(array) != expected or array.dtype != np.float32:
                raise ValueError(f"{name} must be float32 [{expected}, ...], not {array.dtype} {array.shape}")

    @property
    def cell(self) -> str:
        """`robot/Task`."""
        return f"{self.robot}/{self.task}"


_ARRAYS = ("states", "proprio", "actions", "object_positions")
_SCALARS: dict[str, pa.DataType] = {
    "robot": pa.string(),
    "task": pa.string(),
    "seed": pa.int64(),
    "geometry": pa.string(),
    "instruction": pa.string(),
    "control_hz": pa.int32(),
    "success": pa.bool_(),
}
SCHEMA = pa.schema(
    [
        *(pa.field(name, kind) for name, kind in _SCALARS.items()),
        *(pa.field(name, pa.list_(pa.list_(pa.float32()))) for name in _ARRAYS),
        pa.field("metrics", pa.string()),
    ]
)


def _nested(arrays: list[Float32]) -> pa.Array:
    rows = np.concatenate([np.full(len(a), a.shape[1], np.int32) for a in arrays]) if arrays else np.empty(0, np.int32)
    values = np.concatenate([a.ravel() for a in arrays]) if arrays else np.empty(0, np.float32)
    inner = pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(rows)]).astype(np.int32), pa.array(values))
    outer = np.cumsum([0, *(len(a) for a in arrays)]).astype(np.int32)
    return pa.ListArray.from_arrays(outer, inner)


def _matrix(cell: pa.ListScalar) -> Float32:
    rows = cell.values
    values = rows.flatten().to_numpy(zero_copy_only=False)
    return np.array(values, dtype=np.float32).reshape(len(rows), -1)


def episode_files(collected: Path, slug: str = "*") -> list[Path]:
    """Files of episodes in a collect stage's folder, in order: of one cell (`Cell.slug`), or of all."""
    # A dot begins an unfinished file.
    return sorted(path for path in (collected / "episodes").glob(f"{slug}/*.parquet") if not path.name.startswith("."))


def collected_folders(folder: Path) -> list[Path]:
    """Folders at or below a folder in which demonstrations were collected, in order. UserError if there is none."""
    # A LeRobot dataset has a folder of that name too: meta/episodes.
    roots = {path.parent for path in folder.rglob("episodes") if path.parent.name != "meta"}
    found = sorted(root for root in roots if episode_files(root))
    if not found:
        raise UserError(
            f"{folder} holds no collected episodes (episodes/*/*.parquet); give a run's folder or its collect folder, "
            "or run `blm collect` first"
        )
    return found


def write_episodes(path: Path | str, episodes: Sequence[Episode]) -> None:
    """Writes a whole file at once; an existing one is replaced. The same episodes give the same bytes."""
    path = Path(path)
    columns = {name: pa.array([getattr(e, name) for e in episodes], kind) for name, kind in _SCALARS.items()}
    columns |= {name: _nested([getattr(e, name) for e in episodes]) for name in _ARRAYS}
    columns["metrics"] = pa.array([json.dumps(e.metrics, sort_keys=True) for e in episodes], pa.string())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_episodes(path: Path | str) -> list[Episode]:
    """The episodes of a file, in the order written. UserError if it is missing or damaged."""
    path = Path(path)
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except FileNotFoundError:
        raise UserError(f"no episode file at {path}; run `blm collect` to make it") from None
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read episodes from {path} ({reason}); delete it and run collect again") from error
    missing = [name for name in SCHEMA.names if table[name].null_count]
    if missing:
        raise UserError(f"{path} is not an episode file: nothing in {', '.join(missing)}; delete it and collect again")
    episodes = []
    for index in range(table.num_rows):
        values = {name: table[name][index].as_py() for name in _SCALARS}
        values |= {name: _matrix(table[name][index]) for name in _ARRAYS}
        episodes.append(Episode(**values, metrics=json.loads(table["metrics"][index].as_py())))
    return episodes

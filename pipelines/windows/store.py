"""Windows of all robots on disk: made once by a streaming pass over the episodes, mapped into memory by every trainer.

Ray Data hands blocks of episodes to tasks. A task reads states and actions (no pictures), checks them, writes its rows
into the arrays and, last, a file with the sketches of what it has seen, which also says that it is done: a pass that
was killed goes on with the blocks that are left.

    <out>/<robot>/state.npy chunk.npy is_pad.npy future.npy usable.npy     one row a frame
    <out>/<robot>/block-00000.npz ...                                      sketches, a block each
    <out>/<robot>/windows.json                                             written last: what the arrays are

Where nodes do not share their disks a task writes its rows to a file of their own, `rows-00000.npz`; the driver puts
them into the arrays, and these into the store.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.parquet import temporary_path
from blm.pipelines.ingest.arrays import write_arrays
from blm.pipelines.windows.dataset import RobotDataset
from blm.pipelines.windows.statistics import Sketch
from blm.pipelines.windows.windows import EpisodeWindows, RobotWindows, held_out, windows_of
from blm.pipelines.workspace import read_json, read_json_if_there, write_json

INDEX, PLAN, ROWS = "windows.json", "plan.json", "rows-"
BLOCK_FRAMES, MOST_BLOCKS = 4096, 64
"""Frames of a piece of work, in whole episodes; more, where there would be too many sketches to add up."""
ARRAYS = tuple(field.name for field in fields(EpisodeWindows))
KINDS = ("state", "action")


def prepare_windows(
    datasets: Mapping[str, Path],
    out: Path,
    *,
    chunk: int,
    min_actions: int = 1,
    workers: int,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write the windows of all robots below `out`, unless they are there. Ray must run, but for 0 workers.

    UserError for data that cannot be trained on: NaN, another number of dimensions than the robot has, a robot without
    demonstrations, missing columns, stored chunks shorter than `chunk`, no window with `min_actions` actions.
    """
    opened = {name: RobotDataset.open(folder) for name, folder in datasets.items()}
    for name, dataset in opened.items():
        plan = {"chunk": chunk, "min_actions": min_actions, "frames": dataset.n_frames, "folder": str(datasets[name])}
        there = all((out / name / f"{array}.npy").is_file() for array in ARRAYS)
        if read_json_if_there(out / name / PLAN) != plan or not there:
            depot.drop(out / name)
            _allocate(dataset, out / name, chunk)
            write_json(out / name / PLAN, plan)
    items = [
        {"folder": str(datasets[name]), "out": str(out / name), "chunk": chunk, "min_actions": min_actions, **block}
        for name, dataset in opened.items()
        if not (out / name / INDEX).is_file()
        for block in _blocks(dataset)
        if not _done(out / name, block["block"]).is_file()
    ]
    for _ in map_items(items, WindowWorker, arguments={}, workers=workers, light=True, reads=("folder",)):
        pass
    for name, dataset in opened.items():
        if depot.has_store():
            _gather(out / name)
        if not (out / name / INDEX).is_file():
            _complete(dataset, out / name, min_actions)
        depot.keep(out / name)
    if progress is not None and items:
        progress(", ".join(f"{name}: {dataset.n_frames} frames" for name, dataset in opened.items()))


def _blocks(dataset: RobotDataset) -> list[dict[str, int]]:
    """Episodes in blocks of about BLOCK_FRAMES frames."""
    size = max(BLOCK_FRAMES, -(-dataset.n_frames // MOST_BLOCKS))
    owner = np.array([episode.first_frame for episode in dataset.episodes]) // size
    firsts = np.flatnonzero(np.diff(owner, prepend=-1))
    ends = [*firsts[1:].tolist(), len(dataset.episodes)]
    return [{"block": i, "first": int(a), "end": b} for i, (a, b) in enumerate(zip(firsts, ends, strict=True))]


def _done(folder: Path, block: int) -> Path:
    return folder / f"block-{block:05d}.npz"


def _allocate(dataset: RobotDataset, folder: Path, chunk: int) -> None:
    """Arrays of the right size, which take no room on disk before they are written."""
    folder.mkdir(parents=True, exist_ok=True)
    n, layout = dataset.n_frames, dataset.layout
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "state": ((n, layout.state_dim), np.float32),
        "chunk": ((n, chunk, layout.action_dim), np.float32),
        "is_pad": ((n, chunk), np.bool_),
        "future": ((n,), np.int64),
        "usable": ((n,), np.bool_),
    }
    for name in ARRAYS:
        shape, dtype = shapes[name]
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape).flush()


class WindowWorker:
    """Ray Data worker: the windows of a block of episodes. Works as well without Ray."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """item: `folder` (dataset), `out`, `chunk`, `min_actions`, and `block`, `first`, `end` of the episodes."""
        dataset, out = _opened(item["folder"]), depot.place(Path(item["out"]))
        episodes = dataset.episodes[item["first"] : item["end"]]
        found = [windows_of(dataset, one, item["chunk"], item["min_actions"]) for one in episodes]
        rows = slice(episodes[0].first_frame, episodes[-1].first_frame + episodes[-1].length)
        arrays = {name: np.concatenate([getattr(one, name) for one in found]) for name in ARRAYS}
        if depot.has_store():
            path = out / f"{ROWS}{item['block']:05d}.npz"
            write_arrays(path, arrays | {"first": np.array(rows.start)})
            depot.keep(path)
        else:
            _put(out, rows.start, arrays)
        kept = held_out(dataset)[item["first"] : item["end"]]
        train = [(one.group, w) for one, w, held in zip(episodes, found, kept, strict=True) if not held]
        _save_sketches(_done(out, item["block"]), train)
        depot.keep(_done(out, item["block"]))
        return {"block": item["block"], "frames": rows.stop - rows.start}


def _put(folder: Path, first: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the rows from `first` on into the whole arrays."""
    for name in ARRAYS:
        array = np.lib.format.open_memmap(folder / f"{name}.npy", mode="r+")
        array[first : first + len(arrays[name])] = arrays[name]
        array.flush()


def _gather(folder: Path) -> None:
    """Put what tasks on other nodes wrote into the whole arrays."""
    depot.here(folder)
    for path in sorted(folder.glob(f"{ROWS}*.npz")):
        with np.load(path) as arrays:
            _put(folder, int(arrays["first"]), arrays)
        depot.drop(path)


_kept: dict[str, RobotDataset] = {}
"""In a worker process: the one dataset it opened last."""


def _opened(folder: str) -> RobotDataset:
    if folder not in _kept:
        _kept.clear()
        _kept[folder] = RobotDataset.open(folder)
    return _kept[folder]


def _save_sketches(path: Path, episodes: Sequence[tuple[str, EpisodeWindows]]) -> None:
    """One sketch a group and kind; a group's name stands in its keys."""
    arrays: dict[str, np.ndarray] = {}
    for group in sorted({name for name, _ in episodes}):
        here = [one for name, one in episodes if name == group]
        chunks = np.concatenate([one.chunk[one.usable] for one in here])
        real = np.repeat(~np.concatenate([one.is_pad[one.usable] for one in here]), chunks.shape[2], axis=1)
        sketches = {
            "state": Sketch.of(np.concatenate([one.state[one.usable] for one in here])),
            "action": Sketch.of(chunks.reshape(len(chunks), real.shape[1]), real),
        }
        for kind in KINDS:
            arrays |= {f"{kind}\n{part.name}\n{group}": getattr(sketches[kind], part.name) for part in fields(Sketch)}
    temporary = temporary_path(path)
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


def _load_sketches(path: Path, found: dict[tuple[str, str], list[Sketch]]) -> None:
    with np.load(path) as arrays:
        parts: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        for key in arrays.files:
            kind, part, group = key.split("\n", 2)
            parts.setdefault((group, kind), {})[part] = arrays[key]
    for name, sketch in parts.items():
        found.setdefault(name, []).append(Sketch(**sketch))


def _complete(dataset: RobotDataset, folder: Path, min_actions: int) -> None:
    """Check the whole, and write the index. UserError if there is no window."""
    if not np.load(folder / "usable.npy", mmap_mode="r").any():
        raise UserError(
            f"{dataset.name} has no window with {min_actions} actions; collect demonstrations, or lower"
            " stage2.min_actions"
        )
    write_json(folder / INDEX, {"frames": dataset.n_frames, "blocks": len(_blocks(dataset))})


def open_windows(out: Path, datasets: Mapping[str, Path]) -> list[RobotWindows]:
    """What `prepare_windows` wrote, in the order of `datasets`; arrays are mapped into memory, and copied nowhere."""
    return [_open(out / name, RobotDataset.open(folder)) for name, folder in datasets.items()]


def _open(folder: Path, dataset: RobotDataset) -> RobotWindows:
    index = read_json(folder / INDEX)
    found: dict[tuple[str, str], list[Sketch]] = {}
    for block in range(index["blocks"]):
        _load_sketches(_done(folder, block), found)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    empty = {
        "state": arrays["state"][:0],
        "action": arrays["chunk"][:0].reshape(0, math.prod(arrays["chunk"].shape[1:])),
    }
    names = dataset.groups
    lengths = [episode.length for episode in dataset.episodes]
    return RobotWindows(
        layout=dataset.layout,
        **arrays,
        held_out=np.repeat(held_out(dataset), lengths),
        group=np.repeat(np.array([names.index(e.group) for e in dataset.episodes], dtype=np.int32), lengths),
        group_names=names,
        sketches={
            (group, kind): Sketch.joined(found.get((group, kind)) or [Sketch.of(empty[kind])])
            for group in names
            for kind in KINDS
        },
    )

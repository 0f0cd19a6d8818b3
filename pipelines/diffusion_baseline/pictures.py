"""Pictures of small datasets decoded once, to files that training workers map into memory.

Taking a hundred small PNGs apart costs about as much as a step of a network that two CPU cores can train on them. Where
all pictures fit on the disk decoded, each is taken apart once; where they do not, Ray Data does it as they are needed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from blm.cluster import depot, nodes
from blm.cluster.asks import asked
from blm.model.errors import UserError
from blm.model.normalize import EmbodimentStatistics
from blm.pipelines.datasets.parquet import temporary_path
from blm.pipelines.windows.dataset import RobotDataset
from blm.pipelines.windows.index import WindowIndex
from blm.pipelines.windows.picture_feed import PictureFeed

FRAMES_A_TASK = 512
"""Frames of a file, which one task makes."""


class DecodedDataset(RobotDataset):
    """A dataset whose pictures come from the files of `decode_once`."""

    _decoded: list[np.ndarray]

    @classmethod
    def opened(cls, folder: Path, pictures: Path) -> "DecodedDataset":
        """The dataset in `folder`, with its decoded pictures below `pictures` mapped into memory."""
        made = cls.open(folder)
        assert isinstance(made, cls)
        made._decoded = [np.load(path, mmap_mode="r") for path in sorted(pictures.glob("*.npy"))]
        if sum(map(len, made._decoded)) != made.n_frames:
            raise UserError(f"{pictures} is not of {folder}; delete it and run the stage again")
        return made

    def pictures(self, frames: np.ndarray, cameras: Sequence[str]) -> np.ndarray:
        """uint8 [n, C, px, px, 3] of frames int64 [n], in any order. cameras: as many as were decoded."""
        assert self._decoded[0].shape[1] == len(cameras), "the cameras that were decoded"
        found = np.empty((len(frames), *self._decoded[0].shape[1:]), dtype=np.uint8)
        files, rows = np.divmod(frames, FRAMES_A_TASK)
        for file in np.unique(files):
            found[files == file] = self._decoded[file][rows[files == file]]
        return found


class DecodedFeed(PictureFeed):
    """A feed of datasets whose pictures are decoded already: a thread of the trainer fetches them."""

    def __init__(
        self,
        index: WindowIndex,
        statistics: Mapping[str, EmbodimentStatistics],
        datasets: Mapping[str, Path],
        cameras: Sequence[str],
        decoded: Mapping[str, Path],
    ) -> None:
        super().__init__(index, statistics, datasets, cameras, tasks=0)
        names = [robot.name for robot in index.windows]
        self._opened = [DecodedDataset.opened(datasets[name], decoded[name]) for name in names]


def decode_once(
    datasets: Mapping[str, Path], cameras: Sequence[str], folder: Path, *, most_gb: float, say: Callable[[str], None]
) -> dict[str, Path]:
    """The folder of decoded pictures of each robot, made by Ray tasks where they are not there yet; {} if all together
    would take more than `most_gb`.
    """
    import ray

    opened = {robot: RobotDataset.open(path) for robot, path in datasets.items()}
    shapes = {
        robot: (dataset.n_frames, *dataset.pictures(np.zeros(1, np.int64), cameras).shape[1:])
        for robot, dataset in opened.items()
    }
    total_gb = sum(np.prod(shape, dtype=float) for shape in shapes.values()) / 1e9
    if total_gb > most_gb:
        say(f"pictures take {total_gb:.1f} GB decoded, more than baseline.decoded_gb; they are decoded in every step")
        return {}
    fill = ray.remote(_fill).options(**nodes.options(asked("baseline", "data")))
    for robot, (frames, *_) in shapes.items():
        files = {first: _file(folder / robot, first) for first in range(0, frames, FRAMES_A_TASK)}
        missing = [first for first, path in files.items() if not path.exists()]
        if missing:
            say(f"decoding {frames} frames of {robot} once, {total_gb:.1f} GB in all")
        ray.get([fill.remote(datasets[robot], tuple(cameras), files[first], first) for first in missing])
    return {robot: folder / robot for robot in datasets}


def _file(folder: Path, first: int) -> Path:
    """Where the frames from `first` on are."""
    return folder / f"{first // FRAMES_A_TASK:05d}.npy"


def _fill(dataset: Path, cameras: tuple[str, ...], path: Path, first: int) -> None:
    """Decode the frames from `first` on into a file."""
    opened, path = RobotDataset.open(depot.here(dataset)), depot.place(path)
    frames = np.arange(first, min(first + FRAMES_A_TASK, opened.n_frames))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    with temporary.open("wb") as file:
        np.save(file, opened.pictures(frames, cameras))
    temporary.rename(path)
    depot.keep(path)

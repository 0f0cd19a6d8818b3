"""Reads LeRobotDataset v3.0 with pyarrow, an episode at a time; pictures may be in Parquet or in MP4 files.

Written by `lerobot_writer` or by the `lerobot` package, from which the names are taken; that package itself
is not needed (it pins other versions of half of this project's dependencies). An episode is read by its row
group where every row group is one episode, as the format's writers make them, and by a filter on
`episode_index` where it is not. Files stay open: a footer that describes hundreds of episodes takes longer to read
than an episode.

    dataset = LeRobotDataset("runs/tiny/render-1a2b3c4d/lerobot/panda")
    for episode in dataset.episodes:
        frames = dataset.read(episode, ["observation.state", "action"])      # pyarrow table, one row a frame
        actions = dataset.values(frames, "action")                           # float32 [N, A]
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from blm.model.errors import UserError
from blm.pipelines.datasets import lerobot_schema as schema
from blm.pipelines.datasets.lerobot_schema import Feature, column_pictures, column_values, image_array
from blm.pipelines.datasets.lerobot_video import decode_frames
from blm.pipelines.datasets.parquet import open_parquet, read_table, row_groups_with

_OWN_COLUMNS = {"episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index"}
_OPEN_FILES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeMeta:
    """One episode's row of metadata."""

    index: int
    """`episode_index`."""
    task: str
    """The instruction (the first, if there are several)."""
    length: int
    """Number of frames."""
    first_frame: int
    """Global `index` of the first frame."""
    path: Path
    """Data file."""
    row_group: int
    """Place among the episodes of that file."""
    videos: dict[str, tuple[Path, float]] = field(default_factory=dict)
    """Video features: the MP4 file, and where in it the episode begins, in seconds."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Columns beyond the format's own, for example `cell`, `seed` and `geometry`."""


class LeRobotDataset:
    """A dataset folder opened for reading. Metadata is read at once, frames on demand. Cheap to open; picklable."""

    def __init__(self, root: str | Path, episodes: Sequence[int] | None = None) -> None:
        """`episodes` keeps only those episode indices. UserError if the folder is not a complete v3 dataset."""
        self.root = Path(root)
        self._files: OrderedDict[Path, pq.ParquetFile] = OrderedDict()
        self._names: dict[Path, set[str]] = {}
        self._lock = threading.Lock()
        self.info = self._read_json(schema.INFO_PATH)
        if self.info.get("codebase_version") != schema.CODEBASE_VERSION:
            raise UserError(
                f"{self.root} is a LeRobotDataset {self.info.get('codebase_version')}, not {schema.CODEBASE_VERSION};"
                " convert it with lerobot's own script"
            )
        self.fps = int(self.info["fps"])
        self.robot_type: str = self.info.get("robot_type") or ""
        self.features = {
            name: Feature(dtype=spec["dtype"], shape=tuple(spec["shape"]), names=_names(spec.get("names")))
            for name, spec in self.info["features"].items()
        }
        every = self._read_episodes()
        if episodes is not None:
            unknown = sorted(set(episodes) - set(range(len(every))))
            if unknown:
                raise UserError(f"{self.root} has {len(every)} episodes; there is no episode {unknown[0]}")
            every = [every[i] for i in episodes]
        self.episodes = every

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_files", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_files": OrderedDict(), "_lock": threading.Lock()}

    @property
    def n_frames(self) -> int:
        """Frames in the kept episodes."""
        return sum(episode.length for episode in self.episodes)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, in the dataset's order."""
        prefix = "observation.images."
        return tuple(
            name.removeprefix(prefix) for name, f in self.features.items() if f.is_picture and name.startswith(prefix)
        )

    def stats(self) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """Global statistics: feature -> statistic name -> array."""
        stats = self._read_json(schema.STATS_PATH)
        return {name: {stat: np.asarray(value) for stat, value in entry.items()} for name, entry in stats.items()}

    def read(self, episode: EpisodeMeta, columns: Sequence[str] | None = None) -> pa.Table:
        """The frames of one episode, in order. UserError naming the file if it is damaged or lacks a column.

        Frames of videos are decoded and come as a column of pictures, like those that are kept as images.
        """
        wanted = list(self.features) if columns is None else list(columns)
        table = self.read_columns(episode, [name for name in wanted if name not in episode.videos])
        for name in wanted:
            if name in episode.videos:
                path, from_timestamp = episode.videos[name]
                frames = decode_frames(path, from_timestamp=from_timestamp, length=episode.length, fps=self.fps)
                table = table.append_column(name, image_array([_png(frame) for frame in frames]))
        return table.select(wanted)

    def read_columns(self, episode: EpisodeMeta, wanted: Sequence[str]) -> pa.Table:
        """Columns that are kept in Parquet, and `episode_index`, of the frames of one episode. UserError as `read`."""
        with self._lock:
            file = self._open(episode.path)
            if missing := sorted(set(wanted) - self._names[episode.path]):
                raise UserError(f"{episode.path} has no column {', '.join(missing)}")
            columns = [*wanted, "episode_index"]
            try:
                if episode.row_group < file.num_row_groups:
                    table = file.read_row_group(episode.row_group, columns=columns, use_threads=False)
                    if (
                        table.num_rows == episode.length
                        and pc.all(pc.equal(table["episode_index"], episode.index)).as_py()
                    ):
                        return table
                table = file.read_row_groups(row_groups_with(file, "episode_index", episode.index), columns=columns)
            except (pa.ArrowException, OSError) as error:
                raise UserError(
                    f"{episode.path} is not a readable Parquet file ({str(error).splitlines()[0]})"
                ) from error
        table = table.filter(pc.equal(table["episode_index"], episode.index))
        if table.num_rows != episode.length:
            raise UserError(
                f"{episode.path} holds {table.num_rows} frames of episode {episode.index}, not {episode.length}"
            )
        return table

    def _open(self, path: Path) -> pq.ParquetFile:
        """A data file; the last few stay open."""
        if path not in self._files:
            self._files[path] = open_parquet(path, memory_map=False)
            self._names[path] = set(self._files[path].schema_arrow.names)
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]

    def values(self, frames: pa.Table, name: str) -> npt.NDArray[Any]:
        """A numeric column of a table from `read`, [N, *shape]; scalars come as [N, 1]."""
        return column_values(self.features[name], frames[name])

    def encoded_pictures(self, frames: pa.Table, camera: str) -> list[bytes]:
        """One camera's pictures as they are stored; as PNG if they were frames of a video."""
        return column_pictures(frames[f"observation.images.{camera}"])

    def pictures(self, frames: pa.Table, camera: str) -> npt.NDArray[np.uint8]:
        """One camera's pictures decoded, uint8 [N, H, W, 3]."""
        return np.stack([decode_picture(encoded) for encoded in self.encoded_pictures(frames, camera)])

    def _read_episodes(self) -> list[EpisodeMeta]:
        paths = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not paths:
            raise UserError(f"{self.root} has no meta/episodes; it is not a complete LeRobotDataset")
        episodes: list[EpisodeMeta] = []
        seen_in_file: dict[Path, int] = {}
        for path in paths:
            with open_parquet(path) as file:
                names = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
            for row in read_table(path, names).to_pylist():
                data = self.info["data_path"].format(
                    chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
                )
                data_path = self.root / data
                seen_in_file[data_path] = seen_in_file.get(data_path, -1) + 1
                episodes.append(
                    EpisodeMeta(
                        index=row["episode_index"],
                        task=row["tasks"][0],
                        length=row["length"],
                        first_frame=row["dataset_from_index"],
                        path=data_path,
                        row_group=seen_in_file[data_path],
                        videos=self._video_places(row),
                        extra={k: v for k, v in row.items() if k not in _OWN_COLUMNS and "/" not in k},
                    )
                )
        return episodes

    def _video_places(self, row: dict[str, Any]) -> dict[str, tuple[Path, float]]:
        places = {}
        for name, feature in self.features.items():
            if feature.is_video:
                path = self.info["video_path"].format(
                    video_key=name,
                    chunk_index=row[f"videos/{name}/chunk_index"],
                    file_index=row[f"videos/{name}/file_index"],
                )
                places[name] = (self.root / path, float(row[f"videos/{name}/from_timestamp"]))
        return places

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.root / name
        try:
            return json.loads(path.read_text())
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist; {self.root} is not a complete LeRobotDataset v3.0") from error
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error})") from error


def decode_picture(encoded: bytes) -> npt.NDArray[np.uint8]:
    """PNG or JPEG bytes -> uint8 [H, W, 3]."""
    return np.asarray(Image.open(BytesIO(encoded)).convert("RGB"))


def _png(picture: npt.NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _names(names: Any) -> tuple[str, ...] | None:
    """Some writers nest names in a dictionary ({"motors": [...]}) or leave them out."""
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    return tuple(names) if names else None

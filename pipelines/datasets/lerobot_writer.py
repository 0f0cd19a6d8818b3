"""Writes LeRobotDataset v3.0 with nothing but pyarrow: folders that the `lerobot` package opens, indexes and
trains from.

The format is written in full: one row group an episode, data files of at most 100 MB, per-episode and global
statistics, the task string as index of the tasks table. The folder is made under a temporary name,
`meta/info.json` comes last, and a rename publishes it, so a folder that exists is complete (the `lerobot`
package's own writer, killed, leaves files that nothing can read). Min and max are doubles for every feature,
which lets `lerobot` concatenate and merge files.
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from blm.pipelines.datasets import lerobot_schema as schema
from blm.pipelines.datasets.lerobot_schema import DEFAULT_FEATURES, Feature
from blm.pipelines.datasets.lerobot_stats import STAT_NAMES, Histogram, Stats, picture_stats, vector_stats
from blm.pipelines.datasets.lerobot_video import VideoFiles, video_info
from blm.pipelines.datasets.parquet import temporary_path


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeFrames:
    """One episode as it goes into a dataset; N frames."""

    task: str
    """The instruction."""
    values: dict[str, npt.NDArray[Any]]
    """Numeric features, [N, *shape] each."""
    pictures: dict[str, list[bytes]]
    """Image features, N encoded pictures each."""
    histograms: dict[str, Histogram]
    """`lerobot_stats.picture_histogram` of every picture feature."""
    videos: dict[str, bytes] = field(default_factory=dict)
    """Video features, a segment of N frames each (`lerobot_video.encode_segment`)."""
    extra: dict[str, str | int | float] = field(default_factory=dict)
    """Columns added to the episode's metadata; the same keys for every episode of a dataset."""

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(next(iter(self.values.values())))


def write_lerobot(
    root: Path, *, robot_type: str, fps: int, features: dict[str, Feature], episodes: Iterable[EpisodeFrames]
) -> dict[str, Any]:
    """Write a dataset to `root`, replacing what is there, and return its info.json.

    `features` are the columns before the five default ones. Episodes are numbered in the order they come in.
    ValueError if an episode's columns do not fit the features or there is no episode.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(root)
    try:
        writer = _Writer(temporary, fps=fps, features=features | DEFAULT_FEATURES)
        for episode in episodes:
            writer.add(episode)
        info = writer.finish(robot_type)
        if root.exists():
            shutil.rmtree(root)
        os.replace(temporary, root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return info


class _Writer:
    def __init__(self, root: Path, *, fps: int, features: dict[str, Feature]) -> None:
        self.root = root
        self.fps = fps
        self.features = features
        columns = [(name, feature.arrow_type) for name, feature in features.items() if not feature.is_video]
        self.arrow_schema = pa.schema(columns)
        self.videos = {name: VideoFiles(root, name, fps) for name, feature in features.items() if feature.is_video}
        self.tasks: dict[str, int] = {}
        self.n_frames = 0
        self.episode_rows: list[dict[str, Any]] = []
        self.kept_values: dict[str, list[npt.NDArray[Any]]] = {}
        self.kept_histograms: dict[str, Histogram] = {}
        self.file_number = -1
        self.file: pq.ParquetWriter | None = None
        self.sink: pa.NativeFile | None = None

    def add(self, episode: EpisodeFrames) -> None:
        n = episode.length
        task_index = self.tasks.setdefault(episode.task, len(self.tasks))
        frame_index = np.arange(n)
        values = episode.values | {
            "timestamp": (frame_index / self.fps).astype(np.float32),
            "frame_index": frame_index,
            "episode_index": np.full(n, len(self.episode_rows)),
            "index": frame_index + self.n_frames,
            "task_index": np.full(n, task_index),
        }
        given = values.keys() | episode.pictures.keys() | episode.videos.keys()
        if given != self.features.keys():
            raise ValueError(f"episode has columns {sorted(given)}, the dataset {sorted(self.features)}")
        arrays = []
        for name in self.arrow_schema.names:
            feature = self.features[name]
            array = (
                schema.image_array(episode.pictures[name])
                if feature.is_picture
                else schema.numeric_array(feature, values[name])
            )
            if len(array) != n:
                raise ValueError(f"{name} has {len(array)} frames in an episode of {n}")
            arrays.append(array)
        self._roll_file()
        assert self.file is not None
        self.file.write_table(pa.Table.from_arrays(arrays, schema=self.arrow_schema), row_group_size=n)
        self._describe(episode, values)
        self.n_frames += n

    def _roll_file(self) -> None:
        """Open the next data file when there is none yet or the present one is full."""
        if self.sink is not None and self.sink.tell() < schema.DATA_FILES_SIZE_MB * 2**20:
            return
        self._close_file()
        self.file_number += 1
        path = self.root / schema.DATA_PATH.format(**self._file_indices())
        path.parent.mkdir(parents=True, exist_ok=True)
        self.sink = pa.OSFile(str(path), "wb")
        self.file = pq.ParquetWriter(self.sink, self.arrow_schema, compression="snappy")

    def _close_file(self) -> None:
        if self.file is not None and self.sink is not None:
            self.file.close()
            self.sink.close()

    def _file_indices(self) -> dict[str, int]:
        chunk, file = divmod(self.file_number, schema.CHUNKS_SIZE)
        return {"chunk_index": chunk, "file_index": file}

    def _describe(self, episode: EpisodeFrames, values: dict[str, npt.NDArray[Any]]) -> None:
        """Keep the episode's row of metadata, and what the global statistics need of it."""
        row: dict[str, Any] = {
            "episode_index": len(self.episode_rows),
            "tasks": [episode.task],
            "length": episode.length,
            **{f"data/{name}": value for name, value in self._file_indices().items()},
            "dataset_from_index": self.n_frames,
            "dataset_to_index": self.n_frames + episode.length,
        }
        for name, files in self.videos.items():
            row |= files.add(episode.videos[name], episode.length)
        row |= episode.extra
        for name, feature in self.features.items():
            if feature.is_picture:
                histogram = episode.histograms[name]
                stats = picture_stats(histogram, episode.length)
                self.kept_histograms[name] = self.kept_histograms.get(name, 0) + histogram
            else:
                # A scalar's statistics are lists of one number.
                column = values[name].reshape(episode.length, *feature.shape)
                stats = vector_stats(column)
                self.kept_values.setdefault(name, []).append(column)
            row |= {f"stats/{name}/{stat}": stats[stat] for stat in STAT_NAMES}
        self.episode_rows.append(row)

    def finish(self, robot_type: str) -> dict[str, Any]:
        if not self.episode_rows:
            raise ValueError("a dataset needs at least one episode")
        self._close_file()
        for files in self.videos.values():
            files.close()
        self._write_episodes()
        _write_tasks(self.root / schema.TASKS_PATH, list(self.tasks))
        _write_json(self.root / schema.STATS_PATH, self._global_stats())
        info = {
            "codebase_version": schema.CODEBASE_VERSION,
            "robot_type": robot_type,
            "total_episodes": len(self.episode_rows),
            "total_frames": self.n_frames,
            "total_tasks": len(self.tasks),
            "chunks_size": schema.CHUNKS_SIZE,
            "data_files_size_in_mb": schema.DATA_FILES_SIZE_MB,
            "video_files_size_in_mb": schema.VIDEO_FILES_SIZE_MB,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self.episode_rows)}"},
            "data_path": schema.DATA_PATH,
            "video_path": schema.VIDEO_PATH if self.videos else None,
            "features": {name: self._feature_json(feature) for name, feature in self.features.items()},
        }
        _write_json(self.root / schema.INFO_PATH, info)
        return info

    def _feature_json(self, feature: Feature) -> dict[str, Any]:
        about = {"info": video_info(feature.shape[0], self.fps)} if feature.is_video else {}
        return feature.to_json() | about

    def _write_episodes(self) -> None:
        place = {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        path = self.root / schema.EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row | place for row in self.episode_rows]), path)

    def _global_stats(self) -> dict[str, Stats]:
        stats = {}
        for name, feature in self.features.items():
            if feature.is_picture:
                stats[name] = picture_stats(self.kept_histograms[name], self.n_frames)
            else:
                stats[name] = vector_stats(np.concatenate(self.kept_values[name]))
        return stats


def _write_tasks(path: Path, tasks: list[str]) -> None:
    """Row i is task i; readers take the task's text from the pandas index, which this metadata declares."""
    column = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **column, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {"name": "task", "field_name": "task", **column},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n")

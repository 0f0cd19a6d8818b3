"""A LeRobotDataset v3.0 folder read to be judged: whatever is wrong with it becomes a finding, and reading goes on.

The reader that training uses (`datasets.lerobot`) refuses a damaged dataset at the first fault; this one streams every
data file in batches, an episode at a time, and needs of the metadata only `info.json`. Any features are welcome.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from blm.pipelines.datasets import lerobot_schema as schema
from blm.pipelines.inspection.findings import Findings
from blm.pipelines.inspection.track import About, Track, folder_bytes, numbers

BATCH_FRAMES = 4096
LABEL_LENGTH = 60

Damage = (pa.ArrowException, OSError)


class DatasetFolder:
    """A dataset to be inspected."""

    def __init__(self, root: Path, info: dict[str, Any], findings: Findings) -> None:
        self.root = root
        self.info = info
        self.findings = findings
        self.features: dict[str, dict[str, Any]] = info.get("features") or {}
        self.fps = float(info.get("fps") or 0.0)
        self.robot = str(info.get("robot_type") or "")
        self.files = sorted(path for path in (root / "data").rglob("*.parquet") if not path.name.startswith("."))
        self.damaged: set[Path] = set()
        self.rows: dict[int, tuple[Path, int, int]] = {}
        """Where the frames of an episode are: file, first row there, number of rows. Filled by `tracks`."""
        self.tasks = self._read_tasks()
        self.meta = {int(row["episode_index"]): row for row in self._read_meta()}

    @property
    def picture_names(self) -> dict[str, str]:
        """Picture features: name -> `image` or `video`."""
        return {n: f["dtype"] for n, f in self.features.items() if f.get("dtype") in ("image", "video")}

    def about(self) -> About:
        """For the heading."""
        return About(
            path=self.root,
            kind=f"LeRobotDataset {self.info.get('codebase_version', 'of no version')}"
            + (f" of {self.robot}" if self.robot else ""),
            fps=self.fps,
            cameras=tuple(name.removeprefix("observation.images.") for name in self.picture_names),
            size_bytes=folder_bytes(self.root),
        )

    def names(self, feature: str) -> tuple[str, ...]:
        """What the values of a feature are called, or their numbers."""
        given = self.features.get(feature, {}).get("names")
        while isinstance(given, dict) and given:
            given = next(iter(given.values()))
        size = (self.features.get(feature, {}).get("shape") or [0])[-1]
        return (
            tuple(map(str, given)) if isinstance(given, list) and len(given) == size else tuple(map(str, range(size)))
        )

    # ---- metadata

    def _read_meta(self) -> Iterator[dict[str, Any]]:
        paths = sorted((self.root / "meta/episodes").rglob("*.parquet"))
        if not paths:
            self.findings.error("files", "meta/episodes is missing; no reader opens the dataset without it")
        for path in paths:
            try:
                with pq.ParquetFile(path) as file:
                    wanted = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
                    yield from file.read(columns=wanted).to_pylist()
            except Damage:
                self._is_damaged(path)

    def _read_tasks(self) -> dict[int, str]:
        path = self.root / schema.TASKS_PATH
        if not path.exists():
            self.findings.error("files", f"{schema.TASKS_PATH} is missing")
            return {}
        try:
            table = pq.read_table(path)
        except Damage:
            self._is_damaged(path)
            return {}
        text = next((name for name in table.column_names if pa.types.is_string(table[name].type)), None)
        if text is None or "task_index" not in table.column_names:
            self.findings.error("schema", f"{schema.TASKS_PATH} lacks the column task_index or the tasks' text")
            return {}
        if b"pandas" not in (table.schema.metadata or {}):
            self.findings.error(
                "schema", f"{schema.TASKS_PATH} has no pandas index: readers take a task's number for its text"
            )
        if table[text].null_count:
            self.findings.error("schema", f"{schema.TASKS_PATH} has tasks without text")
        return dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))

    def _is_damaged(self, path: Path) -> None:
        self.damaged.add(path)
        self.findings.error(
            "files", "not readable as Parquet (cut short or overwritten)", str(path.relative_to(self.root))
        )

    # ---- frames

    def tracks(self) -> Iterator[Track]:
        """Every episode of the data files, in the order in which it is stored."""
        for path in self.files:
            try:
                with pq.ParquetFile(path, memory_map=True) as file:
                    pictures = set(self.picture_names)
                    columns = [name for name in file.schema_arrow.names if name not in pictures]
                    batches = file.iter_batches(batch_size=BATCH_FRAMES, columns=columns)
                    row = 0
                    for track in self._episodes(_arrays(pa.Table.from_batches([batch])) for batch in batches):
                        n_rows = len(next(iter(track.values.values())))
                        self.rows[track.number] = (path, row, n_rows)
                        row += n_rows
                        yield track
            except Damage:
                self._is_damaged(path)

    def pictures(self, number: int, name: str) -> list[bytes | None]:
        """Encoded pictures of an episode, from Parquet."""
        path, first, n_rows = self.rows[number]
        with pq.ParquetFile(path, memory_map=True) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            groups = [g for g in range(len(sizes)) if starts[g] < first + n_rows and starts[g + 1] > first]
            table = file.read_row_groups(groups, columns=[name]).slice(first - int(starts[groups[0]]), n_rows)
        return [None if one is None else one["bytes"] for one in table[name].to_pylist()]

    def video_place(self, number: int, name: str) -> tuple[Path, float] | None:
        """File of an episode's frames, and the time in it at which they begin; None if the metadata do not tell."""
        row = self.meta.get(number, {})
        keys = [f"videos/{name}/{key}" for key in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]
        pattern = self.info.get("video_path")
        if not pattern or any(row.get(key) is None for key in keys):
            return None
        path = pattern.format(video_key=name, chunk_index=row[keys[0]], file_index=row[keys[1]])
        return self.root / path, float(row[keys[2]])

    def _episodes(self, batches: Iterator[dict[str, npt.NDArray[Any]]]) -> Iterator[Track]:
        """Cuts batches of frames where the episode changes; an episode may span several batches."""
        waiting: dict[str, npt.NDArray[Any]] = {}
        for batch in batches:
            frames = _joined(waiting, batch) if waiting else batch
            episode = frames.get("episode_index", np.zeros(len(next(iter(frames.values()), ())), np.int64))
            cuts = [0, *(np.flatnonzero(np.diff(episode)) + 1).tolist()]
            for start, stop in pairwise(cuts):
                yield self._track({name: values[start:stop] for name, values in frames.items()})
            waiting = {name: values[cuts[-1] :] for name, values in frames.items()}
        if waiting and len(next(iter(waiting.values()))):
            yield self._track(waiting)

    def _track(self, values: dict[str, npt.NDArray[Any]]) -> Track:
        number = int(values["episode_index"][0]) if "episode_index" in values else 0
        row = self.meta.get(number, {})
        task = (row.get("tasks") or [""])[0]
        if not task and "task_index" in values:
            task = str(self.tasks.get(int(values["task_index"][0]), ""))
        extra = {key: value for key, value in row.items() if "/" not in key and not isinstance(value, list)}
        if "next.success" in values and len(values["next.success"]):
            extra["success"] = bool(np.asarray(values["next.success"]).reshape(-1)[-1])
        return Track(
            label=f"episode {number}",
            number=number,
            cell=str(row.get("cell") or task[:LABEL_LENGTH] or "all"),
            task=str(task),
            fps=self.fps,
            robot=str(row.get("cell") or self.robot).partition("/")[0],
            values=values,
            extra=extra,
        )


def read_info(root: Path, findings: Findings) -> dict[str, Any] | None:
    """`info.json`, or None and a finding if it cannot be used."""
    try:
        info = json.loads((root / schema.INFO_PATH).read_text())
    except (ValueError, OSError) as error:
        findings.error("files", f"{schema.INFO_PATH} is not readable JSON ({error})")
        return None
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        findings.error("schema", f"{schema.INFO_PATH} declares no features")
        return None
    sound = {name: feature for name, feature in info["features"].items() if _is_feature(feature)}
    for name in info["features"].keys() - sound.keys():
        findings.error("schema", f"{schema.INFO_PATH}: a feature without dtype or shape", name)
    for name in ("fps", "total_frames", "total_episodes", "total_tasks"):
        if not isinstance(info.get(name, 0), (int, float)):
            findings.error("schema", f"{schema.INFO_PATH}: {name} is {info[name]!r}, no number")
            info[name] = 0
    return info | {"features": sound}


def _is_feature(feature: Any) -> bool:
    shape = feature.get("shape") if isinstance(feature, dict) else None
    numbers_alone = isinstance(shape, list) and all(isinstance(size, int) for size in shape)
    return numbers_alone and isinstance(feature.get("dtype"), str)


def _arrays(table: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """The columns that are numbers of one shape."""
    found = {name: numbers(table[name]) for name in table.column_names}
    return {name: values for name, values in found.items() if values is not None}


def _joined(
    first: Mapping[str, npt.NDArray[Any]], second: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """Two batches, one after the other; columns whose shape changes between them are left out."""
    return {
        name: np.concatenate([values, second[name]])
        for name, values in first.items()
        if name in second and values.shape[1:] == second[name].shape[1:]
    }
